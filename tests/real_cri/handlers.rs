//! Several runtime handlers side by side.

use std::path::Path;
use std::process::Command;

use futures::future::join_all;
use podbay::proto::runtime::v1 as cri;
use tonic::{Code, Status};

use crate::rig::{LivePod, Rig, image_spec};
use crate::support::builders::{Container, Pod};
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::parts;

/// OCI runtimes of this machine, by handler.
const RUNTIMES: [(&str, &str); 3] =
    [("crun", "/usr/bin/crun"), ("debian", "/usr/bin/runc"), ("newest", "PARTS/runc")];

async fn start(line: Line) -> Rig {
    offer_hugetlb_to_crun();
    let parts = parts().display().to_string();
    let mut env = TestEnv::start(line).await;
    for (name, binary) in RUNTIMES {
        let binary = binary.replace("PARTS", &parts);
        let state = env.file(&format!("oci-{name}")).display().to_string();
        env.add_config(&format!(
            "[runtimes.handlers.{name}]\nbinary = {binary:?}\nroot = {state:?}\n\
             pod_annotations = [\"com.example/*\"]\ncontainer_annotations = [\"own.example/x\"]"
        ));
    }
    env.add_config("[runtimes.handlers.plain]\nsnapshotter = \"native\"");
    env.add_config("[runtimes.handlers.bare]\nprivileged_without_host_devices = true");
    Rig::start_in(env).await
}

async fn run_with(rig: &Rig, spec: Pod, handler: &str) -> Result<LivePod, Status> {
    let request = cri::RunPodSandboxRequest { runtime_handler: handler.into(), ..spec.run() };
    let answer = rig.runtime().run_pod_sandbox(request).await?;
    Ok(LivePod { spec, id: answer.into_inner().pod_sandbox_id })
}

pub async fn handlers_run_side_by_side(line: Line) {
    let rig = start(line).await;
    let told = rig.runtime().status(cri::StatusRequest::default()).await.expect("Status");
    let handlers: Vec<_> = told.into_inner().runtime_handlers;
    let names: Vec<_> = handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(names, ["", "bare", "crun", "debian", "newest", "plain", "runc"]);
    let rro = |name: &str| {
        let handler = handlers.iter().find(|handler| handler.name == name).expect(name);
        handler.features.expect("features").recursive_read_only_mounts
    };
    assert!(rro("newest"), "features are those of the runtime itself");
    assert_eq!(rro("debian"), runc_has_rro("/usr/bin/runc"));

    let refused =
        run_with(&rig, rig.pod_spec("none"), "none").await.err().expect("no such handler");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("\"none\""), "{refused}");

    let lives = RUNTIMES.iter().map(|(name, _)| {
        let rig = &rig;
        async move {
            let mut spec = rig.pod_spec(name);
            for (key, value) in
                [("com.example/a", "1"), ("com.example/a/b", "2"), ("own.example/x", "3")]
            {
                spec.config.annotations.insert(key.into(), value.into());
            }
            let pod = run_with(rig, spec, name).await.expect(name);
            let mut container = Container::waiting("c", &rig.image);
            container.config.annotations.insert("own.example/x".into(), "4".into());
            let id = rig.launch(&pod, &container).await;
            assert_eq!(rig.exec(&id, "echo $((6 * 7))").await, "42", "{name}");
            // The state of each runtime is where its handler says.
            let state = rig.env().file(&format!("oci-{name}")).join(rig.env().namespace());
            assert!(state.join(&id).exists(), "{name}: nothing in {}", state.display());
            let info = rig.info(&id).await;
            let passed = &info["runtimeSpec"]["annotations"];
            assert_eq!(passed["com.example/a"], "1", "{name}");
            assert_eq!(passed["own.example/x"], "4", "{name}");
            assert!(passed.get("com.example/a/b").is_none(), "{passed}");
            let sandbox = rig.pod_info(&pod.id).await;
            assert_eq!(sandbox["runtimeHandler"], **name);
            assert_eq!(sandbox["runtimeSpec"]["annotations"]["com.example/a"], "1");
            assert!(sandbox["runtimeSpec"]["annotations"].get("own.example/x").is_none());
            assert_eq!(rig.pod_status(&pod.id).await.runtime_handler, **name);
            rig.stop(&id, 5).await;
            assert_eq!(rig.status(&id).await.exit_code, 0, "{name}");
        }
    });
    join_all(lives).await;

    // Privileged, but with no device that was not asked for.
    let mut privileged = rig.pod_spec("bare");
    let linux = privileged.config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = run_with(&rig, privileged, "bare").await.expect("bare");
    let id = rig.launch(&pod, &Container::waiting("c", &rig.image).privileged()).await;
    assert_eq!(rig.exec(&id, "test -e /dev/kmsg; echo $?").await, "1");
    rig.exec(&id, "mknod /dev/loopX b 7 200; dd if=/dev/loopX count=1 2>&1 | grep -q permitted")
        .await;
    rig.finish().await;
}

pub async fn a_handler_has_its_own_snapshotter(line: Line) {
    let rig = start(line).await;
    let image = |handler: &str| cri::ImageSpec {
        runtime_handler: handler.into(),
        ..image_spec(&rig.image)
    };
    let status = async |handler: &str| {
        let request = cri::ImageStatusRequest { image: Some(image(handler)), verbose: true };
        rig.images().image_status(request).await.map(|answer| answer.into_inner())
    };
    let known = status("").await.expect("ImageStatus").image.expect("the image");
    assert!(status("plain").await.expect("ImageStatus").image.is_none(), "not unpacked there yet");
    assert_eq!(status("none").await.expect_err("no such handler").code(), Code::InvalidArgument);
    let pull = async |handler: &str| {
        let request = cri::PullImageRequest { image: Some(image(handler)), ..Default::default() };
        rig.images().pull_image(request).await.map(|answer| answer.into_inner().image_ref)
    };
    assert_eq!(pull("none").await.expect_err("no such handler").code(), Code::InvalidArgument);
    assert_eq!(pull("plain").await.expect("the pull"), known.id);
    let found = status("plain").await.expect("ImageStatus");
    assert_eq!(found.image.expect("the image").id, known.id);
    let info: serde_json::Value = serde_json::from_str(&found.info["info"]).expect("JSON");
    assert_eq!(info["imageSpec"]["config"]["Cmd"][0], "sh");
    assert!(info["imageSpec"]["rootfs"]["diff_ids"].is_array());

    let pod = run_with(&rig, rig.pod_spec("plain"), "plain").await.expect("plain");
    let id = rig.launch(&pod, &Container::waiting("c", &rig.image)).await;
    assert_eq!(rig.exec(&id, "echo here").await, "here");
    assert_eq!(rig.info(&id).await["snapshotter"], "native");
    let usage = rig.images().image_fs_info(cri::ImageFsInfoRequest {}).await.expect("ImageFsInfo");
    let usage = usage.into_inner().image_filesystems;
    let place = |n: usize| usage[n].fs_id.as_ref().expect("a place").mountpoint.clone();
    assert_eq!(usage.len(), 2);
    assert!(place(0).ends_with("overlayfs") && place(1).ends_with("native"), "{usage:?}");
    assert!(usage[1].used_bytes.expect("bytes").value > 0);
    rig.remove_pod(&pod.id).await;
    // All names go, and with them what both snapshotters have of it.
    rig.remove_image(&rig.image).await;
    rig.pull(&rig.image).await.expect("the pull");
    assert!(status("plain").await.expect("ImageStatus").image.is_none());
    rig.finish().await;
}

fn runc_has_rro(binary: &str) -> bool {
    let output = Command::new(binary).arg("features").output().expect("features");
    String::from_utf8_lossy(&output.stdout).contains("\"rro\"")
}

/// On a hybrid host crun refuses to work while a controller is left to the unified hierarchy.
pub fn offer_hugetlb_to_crun() {
    let folder = Path::new("/sys/fs/cgroup/hugetlb");
    let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    let mounts = || std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
    if hybrid && !mounts().contains(" /sys/fs/cgroup/hugetlb ") {
        let _ = std::fs::create_dir(folder);
        let done = Command::new("mount")
            .args(["-t", "cgroup", "-o", "hugetlb", "cgroup"])
            .arg(folder)
            .status();
        let done = done.expect("mount").success();
        // Another test may have been faster.
        assert!(done || mounts().contains(" /sys/fs/cgroup/hugetlb "), "hugetlb is not mounted");
    }
}
