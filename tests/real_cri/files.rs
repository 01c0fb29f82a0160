//! Mounts, anonymous volumes, devices.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use podbay::proto::runtime::v1 as cri;

use crate::rig::Rig;
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::images::ImageBuilder;

pub async fn mounts_are_as_asked(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("mounts")).await;
    let at = |name: &str| rig.env().file(name).display().to_string();
    let write = |name: &str| {
        std::fs::create_dir_all(at(name)).expect("a folder");
        std::fs::write(rig.env().file(name).join("file"), name).expect("a file");
    };
    ["rw", "ro", "real", "deep"].iter().for_each(|name| write(name));
    std::os::unix::fs::symlink(at("real"), at("link")).expect("a link");
    let container = Container::waiting("c", &rig.image)
        .mount(&at("deep"), "/ro/deep", false)
        .mount(&at("rw"), "/rw", false)
        .mount(&at("ro"), "/ro", true)
        .mount(&at("link"), "/link", false)
        .mount(&at("new/folder"), "/new", false)
        .mount("/etc/hostname", "/etc/resolv.conf", true);
    std::fs::create_dir_all(rig.env().file("ro/deep")).expect("a mount point");
    let id = rig.launch(&pod, &container).await;
    assert_eq!(
        rig.exec(&id, "cat /rw/file /ro/file /link/file /ro/deep/file").await,
        "rwrorealdeep"
    );
    rig.exec(&id, "echo new >/rw/file; echo x >/new/file; ! touch /ro/file 2>/dev/null").await;
    assert_eq!(std::fs::read_to_string(rig.env().file("rw/file")).expect("the file"), "new\n");
    let made = std::fs::metadata(rig.env().file("new/folder")).expect("the folder");
    assert_eq!((made.is_dir(), made.mode() & 0o777), (true, 0o755));
    let hostname = std::fs::read_to_string("/etc/hostname").expect("/etc/hostname");
    assert_eq!(rig.exec(&id, "cat /etc/resolv.conf").await, hostname.trim(), "ours is replaced");
    let told = rig.status(&id).await.mounts;
    let link = told.iter().find(|mount| mount.container_path == "/link").expect("the mount");
    assert_eq!(link.host_path, at("link"), "mounts are told as they were asked for");

    // Propagation wants a source that has it.
    let private = rig.env().file("private");
    std::fs::create_dir_all(&private).expect("a folder");
    mount(&["-t", "tmpfs", "none"], &private);
    mount(&["--make-private"], &private);
    let with = |name: &str, propagation: cri::MountPropagation| {
        let mut container = Container::waiting(name, &rig.image);
        container.config.mounts.push(cri::Mount {
            container_path: "/p".into(),
            host_path: private.display().to_string(),
            propagation: propagation.into(),
            ..Default::default()
        });
        container
    };
    use cri::MountPropagation::{PropagationBidirectional, PropagationHostToContainer};
    for propagation in [PropagationHostToContainer, PropagationBidirectional] {
        let refused = rig.create(&pod, &with("refused", propagation)).await.expect_err("private");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("mounts[0].propagation"), "{refused}");
    }
    mount(&["--make-shared"], &private);
    let id = rig.launch(&pod, &with("slave", PropagationHostToContainer)).await;
    let later = private.join("later");
    std::fs::create_dir(&later).expect("a folder");
    mount(&["-t", "tmpfs", "none"], &later);
    std::fs::write(later.join("file"), "seen").expect("a file");
    assert_eq!(rig.exec(&id, "cat /p/later/file").await, "seen");
    rig.stop(&id, 0).await;
    for path in [&later, &private] {
        run(Command::new("umount").arg(path));
    }
    rig.finish().await;
}

fn mount(options: &[&str], at: &std::path::Path) {
    run(Command::new("mount").args(options).arg(at));
}

fn run(command: &mut Command) {
    let status = command.status().expect("a program");
    assert!(status.success(), "{command:?}: {status}");
}

pub async fn image_volumes_are_filled(line: Line) {
    let mut rig = Rig::start(line).await;
    let image = ImageBuilder::busybox()
        .dir("/data", 0o750, 1000, 1000)
        .file("/data/seed", b"seed", 0o644)
        .symlink("/away", "/etc")
        .volume("/data")
        .volume("/../../volume")
        .volume("/away");
    let image = rig.add_image("volumes", image).await;
    let pod = rig.run(rig.pod_spec("volumes")).await;
    let id = rig.launch(&pod, &Container::waiting("one", &image)).await;
    assert_eq!(
        rig.exec(&id, "cat /data/seed; echo; stat -c '%u %g %a' /data").await,
        "seed\n1000 1000 750"
    );
    rig.exec(&id, "echo mine >/data/seed; touch /volume/x").await;
    let passwd = rig.exec(&id, "cat /away/passwd").await;
    assert!(passwd.contains("worker"), "only bytes of the image: {passwd}");
    let other = rig.launch(&pod, &Container::waiting("two", &image)).await;
    assert_eq!(rig.exec(&other, "cat /data/seed").await, "seed", "each has its own");
    let covered = Container::waiting("three", &image).mount(
        &rig.env().file("mine").display().to_string(),
        "/data/",
        false,
    );
    let covered = rig.launch(&pod, &covered).await;
    assert_eq!(rig.exec(&covered, "ls /data | wc -l").await, "0", "a mount covers a volume");
    rig.finish().await;
}

pub async fn devices_are_given(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("devices")).await;
    let mut container = Container::waiting("c", &rig.image);
    let device = |host: &str, inside: &str, permissions: &str| cri::Device {
        container_path: inside.into(),
        host_path: host.into(),
        permissions: permissions.into(),
    };
    let folder = rig.env().file("nodes");
    std::fs::create_dir_all(&folder).expect("a folder");
    run(Command::new("mknod").arg(folder.join("one")).args(["c", "1", "5"]));
    run(Command::new("mknod").arg(folder.join("two")).args(["c", "1", "3"]));
    container.config.devices = vec![
        device("/dev/null", "/dev/nothing", "rw"),
        device(&folder.display().to_string(), "/dev/nodes", "rwm"),
    ];
    let id = rig.launch(&pod, &container).await;
    assert_eq!(
        rig.exec(&id, "stat -c '%t %T' /dev/nothing /dev/nodes/one /dev/nodes/two").await,
        "1 3\n1 5\n1 3"
    );
    rig.exec(&id, "echo x >/dev/nothing && head -c 4 /dev/nodes/one | wc -c").await;
    for node in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"] {
        rig.exec(&id, &format!("test -e /dev/{node}")).await;
    }
    // Of the host's other devices none can be used, even when a node is made.
    let opened = "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg >/dev/null 2>&1 && echo opened || echo denied";
    assert_eq!(rig.exec(&id, opened).await, "denied");
    rig.finish().await;
}

/// The file system of the agent's run-time directory is in memory.
pub async fn what_containers_write_is_on_the_disk(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("shared")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let facts = rig.info(&id).await;
    for mount in facts["runtimeSpec"]["mounts"].as_array().expect("mounts") {
        let source = mount["source"].as_str().unwrap_or_default();
        // Its size is limited.
        let shm = mount["destination"] == "/dev/shm";
        let below_state = std::path::Path::new(source).starts_with(rig.env().state());
        assert!(shm || !below_state, "{mount}");
    }
    let files = rig.env().root().join("sandboxes").join(&pod.id);
    for name in ["hosts", "resolv.conf", "hostname"] {
        rig.exec(&id, &format!("echo '# mine' >>/etc/{name}")).await;
        let text = std::fs::read_to_string(files.join(name)).expect(name);
        assert!(text.ends_with("# mine\n"), "{name}: {text}");
    }
    rig.finish().await;
}
