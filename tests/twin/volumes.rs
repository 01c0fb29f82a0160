//! Mounts: host paths of all kinds, propagation, and refused requests.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Map, Value, json};

use crate::compare::scenarios;
use crate::facts::code;
use crate::rig::Rig;
use crate::support::builders::Container;

scenarios! {
    "runtime should support starting container with volume" => volume,
    "starting container with volume when host path is a symlink" => symlink,
    "starting container with volume when host path doesn't exist" => missing,
    "mount propagation: private, from host, both ways" => propagation,
    "mount with 'rprivate' on a private mount point" => private_source,
    "mounts in mounts, files, doubles and covers" => shapes,
    "runtime should support recursive read-only mounts" => recursive_readonly,
    "image volumes" => image_volumes,
}

async fn volume(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("volume")).await;
    let host = rig.env().file("volume");
    std::fs::create_dir_all(&host).expect("a folder");
    std::fs::write(host.join("flag"), "data").expect("a file");
    let at = host.display().to_string();
    let spec = Container::waiting("c", &rig.image).mount(&at, "/rw", false).mount(&at, "/ro", true);
    let id = rig.launch(&pod, &spec).await;
    let said = rig.exec(&id, "cat /rw/flag; touch /rw/new && echo rw; touch /ro/x || echo ro; ls /ro; grep -E ' /r[wo] ' /proc/mounts | cut -d' ' -f2-4 | cut -c1-20").await;
    json!({"said": said, "made": host.join("new").exists(), "seen": super::containers::seen(&rig, &id).await})
}

async fn symlink(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("symlink")).await;
    let (real, link) = (rig.env().file("symlink-real"), rig.env().file("symlink-link"));
    std::fs::create_dir_all(&real).expect("a folder");
    std::fs::write(real.join("flag"), "data").expect("a file");
    std::os::unix::fs::symlink(&real, &link).expect("a link");
    let spec =
        Container::waiting("c", &rig.image).mount(&link.display().to_string(), "/mnt", false);
    let id = rig.launch(&pod, &spec).await;
    let said = rig.exec(&id, "cat /mnt/flag").await;
    json!({"said": said, "seen": super::containers::seen(&rig, &id).await})
}

async fn missing(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("missing")).await;
    let host = rig.env().file("missing/host/path");
    let spec =
        Container::waiting("c", &rig.image).mount(&host.display().to_string(), "/mnt", false);
    let id = rig.launch(&pod, &spec).await;
    let said = rig.exec(&id, "ls -ld /mnt | cut -c1-10").await;
    let dangling = rig.env().file("dangling");
    std::os::unix::fs::symlink("/no/such/target", &dangling).expect("a link");
    let spec =
        Container::waiting("d", &rig.image).mount(&dangling.display().to_string(), "/mnt", false);
    let relative = Container::waiting("r", &rig.image).mount("some/relative", "/mnt", false);
    let empty = Container::waiting("e", &rig.image).mount("", "/mnt", false);
    json!({
        "said": said, "made": host.is_dir(), "dangling": code(&rig.create(&pod, &spec).await),
        "relative": code(&rig.create(&pod, &relative).await), "empty": code(&rig.create(&pod, &empty).await),
    })
}

fn mount(options: &[&str], at: &Path) {
    let status = Command::new("mount").args(options).arg(at).status().expect("mount");
    assert!(status.success(), "mount {options:?}: {status}");
}

fn spec_with(rig: &Rig, name: &str, at: &Path, propagation: cri::MountPropagation) -> Container {
    let mut spec = Container::waiting(name, &rig.image).privileged();
    spec.config.mounts.push(cri::Mount {
        container_path: "/p".into(),
        host_path: at.display().to_string(),
        propagation: propagation.into(),
        ..Default::default()
    });
    spec
}

use cri::MountPropagation::{
    PropagationBidirectional, PropagationHostToContainer, PropagationPrivate,
};

const MODES: [(&str, cri::MountPropagation); 3] = [
    ("private", PropagationPrivate),
    ("from-host", PropagationHostToContainer),
    ("both-ways", PropagationBidirectional),
];

async fn propagation(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("propagation").privileged()).await;
    let mut found = Map::new();
    for (name, mode) in MODES {
        let base = rig.env().file(&format!("propagation-{name}"));
        std::fs::create_dir_all(&base).expect("a folder");
        mount(&["-t", "tmpfs", "none"], &base);
        mount(&["--make-shared"], &base);
        let id = rig.launch(&pod, &spec_with(&rig, name, &base, mode)).await;
        let (by_host, by_container) = (base.join("host"), base.join("container"));
        std::fs::create_dir(&by_host).expect("a folder");
        mount(&["-t", "tmpfs", "none"], &by_host);
        std::fs::write(by_host.join("file"), "").expect("a file");
        let sees = rig.exec(&id, "ls /p/host").await;
        rig.exec(&id, "mkdir /p/container; mount -t tmpfs x /p/container; touch /p/container/file")
            .await;
        let seen = by_container.join("file").exists();
        let table = rig.exec(&id, "grep ' /p ' /proc/self/mountinfo").await;
        let tags = ["shared:", "master:"].map(|tag| table.contains(tag));
        found.insert(name.into(), json!({"container sees": sees, "host sees": seen, "tags": tags}));
        rig.stop(&id, 0).await;
    }
    found.into()
}

async fn private_source(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("private-source").privileged()).await;
    let base = rig.env().file("private-source");
    std::fs::create_dir_all(&base).expect("a folder");
    mount(&["-t", "tmpfs", "none"], &base);
    let mut found = Map::new();
    for kind in ["private", "slave"] {
        mount(&[&format!("--make-{kind}")], &base);
        for (name, mode) in MODES {
            let name = format!("{kind}-{name}");
            let created = rig.create(&pod, &spec_with(&rig, &name, &base, mode)).await;
            let facts = match created {
                Ok(id) => json!({"start": code(&rig.start_created(&id).await)}),
                Err(_) => json!("refused at creation"),
            };
            found.insert(name, facts);
        }
        mount(&["--make-shared"], &base);
    }
    found.into()
}

async fn shapes(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("shapes")).await;
    let folder = |name: &str| {
        let at = rig.env().file(&format!("shapes-{name}"));
        std::fs::create_dir_all(&at).expect("a folder");
        std::fs::write(at.join(name), "").expect("a file");
        at.display().to_string()
    };
    let file = rig.env().file("shapes-file");
    std::fs::write(&file, "content").expect("a file");
    let file = file.display().to_string();
    let spec = Container::waiting("c", &rig.image)
        .mount(&folder("inner"), "/outer/in/ner", false)
        .mount(&folder("outer"), "/outer", false)
        .mount(&folder("first"), "/double", false)
        .mount(&folder("second"), "/double", false)
        .mount(&file, "/etc/some-file", true)
        .mount(&file, "/etc/hosts", false)
        .mount(&folder("shm"), "/dev/shm", false)
        .mount(&folder("slash"), "/slash//../slash2/", false);
    let id = match rig.create(&pod, &spec).await {
        Ok(id) => id,
        Err(e) => return json!({"code": format!("{:?}", e.code())}),
    };
    if let Err(e) = rig.start_created(&id).await {
        return json!({"start": format!("{:?}", e.code())});
    }
    let said = rig
        .exec(&id, "find /outer; ls /double; cat /etc/some-file /etc/hosts; ls /dev/shm /slash2")
        .await;
    json!({"said": said, "seen": super::containers::seen(&rig, &id).await["status"]["status"]["mounts"]})
}

async fn recursive_readonly(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("rro")).await;
    let base = rig.env().file("rro");
    std::fs::create_dir_all(&base).expect("a folder");
    mount(&["-t", "tmpfs", "none"], &base);
    std::fs::create_dir(base.join("sub")).expect("a folder");
    mount(&["-t", "tmpfs", "none"], &base.join("sub"));
    let mut found = Map::new();
    for (name, recursive, readonly, mode) in [
        ("plain", false, true, PropagationPrivate),
        ("recursive", true, true, PropagationPrivate),
        ("writable", true, false, PropagationPrivate),
        ("propagated", true, true, PropagationHostToContainer),
    ] {
        let mut spec = spec_with(&rig, name, &base, mode);
        spec.security().privileged = false;
        spec.config.mounts[0].readonly = readonly;
        spec.config.mounts[0].recursive_read_only = recursive;
        let facts = match rig.create(&pod, &spec).await {
            Ok(id) => {
                rig.start_created(&id).await.expect("StartContainer");
                json!(rig.exec(&id, "touch /p/x || echo ro; touch /p/sub/x || echo sub ro").await)
            }
            Err(e) => json!({"refused": format!("{:?}", e.code())}),
        };
        found.insert(name.into(), facts);
    }
    found.into()
}

async fn image_volumes(rig: Arc<Rig>) -> Value {
    let builder = crate::support::images::ImageBuilder::empty()
        .dir("/deep", 0o755, 0, 0)
        .file("/deep/file", b"inside", 0o644)
        .file("/top", b"top", 0o644);
    let image = rig.registry.push(&builder.build(), "volume-image", "1").await;
    rig.pull(&image).await.expect("PullImage");
    let pod = rig.run(rig.pod_spec("image-volumes")).await;
    let mut found = Map::new();
    for (name, image, path, readonly) in [
        ("whole", image.as_str(), "", true),
        ("sub-path", &image, "deep", true),
        ("escape", &image, "../..", true),
        ("missing-path", &image, "nosuch", true),
        ("file", &image, "top", true),
        ("absolute", &image, "/deep", true),
        ("writable", &image, "", false),
        ("missing-image", "localhost/nosuch:1", "", true),
    ] {
        let mut spec = Container::waiting(name, &rig.image);
        spec.config.mounts.push(cri::Mount {
            container_path: "/v".into(),
            image: Some(crate::rig::image_spec(image)),
            image_sub_path: path.into(),
            readonly,
            ..Default::default()
        });
        let facts = match rig.create(&pod, &spec).await {
            Ok(id) => {
                rig.start_created(&id).await.expect("StartContainer");
                let said = rig
                    .exec(
                        &id,
                        "find /v | sort; touch /v/x 2>/dev/null && echo writable || echo readonly",
                    )
                    .await;
                json!({"said": said, "mounts": super::containers::seen(&rig, &id).await["status"]["status"]["mounts"]})
            }
            Err(e) => json!({"refused": format!("{:?}", e.code())}),
        };
        found.insert(name.into(), facts);
    }
    found.into()
}
