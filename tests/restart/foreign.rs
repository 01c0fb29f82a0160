//! Resources are removed externally: stop and remove still work.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{ContainerState, PodSandboxState, Rig, SOON};
use crate::support::containerd::Line;
use crate::support::{parts, wait_until};

pub async fn what_foreign_hands_take_away_is_not_missed(line: Line) {
    let mut rig = Rig::start(line).await;
    tasks_and_records(&rig).await;
    parts_of_a_pod(&rig).await;
    while_nobody_looks(&mut rig).await;
    image(&rig).await;
}

async fn tasks_and_records(rig: &Rig) {
    let pod = rig.pod("ctr");
    let id = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &id, &rig.waiting("main")).await;
    ctr(rig, &["tasks", "delete", "--force", &main]);
    wait_until(SOON, "its end is seen", async || {
        rig.status(&main).await.state() == ContainerState::ContainerExited
    })
    .await;
    assert_ne!(rig.status(&main).await.exit_code, 0);
    ctr(rig, &["containers", "delete", &main]);
    rig.stop_container(&main, 0).await.expect("stop");
    rig.remove_container(&main).await.expect("remove");

    let created = rig.create(&pod, &id, &rig.waiting("created")).await.expect("create");
    ctr(rig, &["containers", "delete", &created]);
    assert!(rig.begin(&created).await.is_err(), "its record is gone");
    ctr(rig, &["tasks", "delete", "--force", &id]);
    ctr(rig, &["containers", "delete", &id]);
    rig.stop(&id).await.expect("stop");
    rig.remove(&id).await.expect("remove");
    rig.agent.assert_clean().await;
}

async fn parts_of_a_pod(rig: &Rig) {
    let pod = rig.pod("parts");
    let id = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &id, &rig.waiting("main")).await;
    take_away(rig, &id);
    wait_until(SOON, "it is not ready", async || {
        rig.pod_status(&id).await.state() == PodSandboxState::SandboxNotready
    })
    .await;
    assert_eq!(rig.pod_status(&id).await.network.map(|network| network.ip), Some(String::new()));
    rig.stop_container(&main, 5).await.expect("stop");
    rig.stop(&id).await.expect("stop");
    rig.remove(&id).await.expect("remove");
    rig.agent.assert_clean().await;
}

async fn while_nobody_looks(rig: &mut Rig) {
    let pod = rig.pod("away");
    let id = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &id, &rig.waiting("main")).await;
    rig.agent.kill9();
    take_away(rig, &id);
    ctr(rig, &["tasks", "delete", "--force", &main]);
    ctr(rig, &["containers", "delete", &main]);
    rig.agent.restart().await;
    assert_eq!(rig.pod_status(&id).await.state(), PodSandboxState::SandboxNotready);
    assert_ne!(rig.ended(&main).await.0, 0);
    rig.stop(&id).await.expect("stop");
    rig.remove(&id).await.expect("remove");
    rig.agent.assert_clean().await;
}

async fn image(rig: &Rig) {
    let pod = rig.pod("image");
    let id = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &id, &rig.waiting("main")).await;
    ctr(rig, &["images", "delete", "--sync", &rig.image]);
    assert_eq!(rig.exec(&main, "echo hello").await.expect("exec"), "hello\n");
    rig.stop(&id).await.expect("stop");
    rig.remove(&id).await.expect("remove");
    assert!(rig.pods().await.is_empty() && rig.containers().await.is_empty());
}

/// `ip netns del` and `umount`, without their help.
fn take_away(rig: &Rig, pod: &str) {
    let netns = std::fs::read_dir(rig.agent.env.netns_dir()).expect("the folder of namespaces");
    let netns: Vec<PathBuf> = netns
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(pod))
        .collect();
    assert_eq!(netns.len(), 1);
    unmount(&netns[0]);
    std::fs::remove_file(&netns[0]).expect("remove the namespace's file");
    unmount(&rig.agent.env.state().join("pods").join(pod).join("shm"));
}

fn unmount(path: &Path) {
    let done = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
    done.unwrap_or_else(|error| panic!("unmount {}: {error}", path.display()));
}

fn ctr(rig: &Rig, args: &[&str]) {
    let env = &rig.agent.env;
    let program = match env.line {
        Line::V1 => PathBuf::from("/usr/bin/ctr"),
        Line::V2 => parts().join("ctr"),
    };
    let mut command = Command::new(program);
    command.arg("--address").arg(env.containerd.address()).args(["--namespace", env.namespace()]);
    let output = command.args(args).output().expect("ctr runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    // ctr asks the shim once more after the shim has ended with its last task.
    let late = complaint.contains("ttrpc: closed");
    assert!(output.status.success() || late, "ctr {args:?}: {complaint}");
}
