//! Pod networks: the agent's own, and failing plugins.

use std::os::unix::fs::PermissionsExt;

use podbay::proto::runtime::v1 as cri;

use crate::rig::{Rig, SOON};
use crate::support::containerd::Line;
use crate::support::env::{Networking, TestEnv};
use crate::support::wait_until;

pub async fn own_bridge_serves_a_fresh_machine(line: Line) {
    let rig = Rig::start_in(TestEnv::start_with(line, Networking::Default).await).await;
    let one = rig.run(rig.pod_spec("one")).await;
    let two = rig.run(rig.pod_spec("two")).await;
    let id = rig.launch_waiting(&one, "c").await;
    let (mine, other) = (rig.pod_ip(&one.id).await, rig.pod_ip(&two.id).await);
    let prefix = format!("{}.", rig.env().subnet_prefix());
    assert!(mine.starts_with(&prefix) && other.starts_with(&prefix) && mine != other);
    rig.exec(&id, &format!("ping -c 1 -w 5 {other}")).await;
    rig.exec(&id, &format!("ping -c 1 -w 5 {prefix}1")).await;
    assert_eq!(
        rig.exec(&id, "cat /sys/class/net/lo/operstate /sys/class/net/eth0/operstate").await,
        "unknown\nup"
    );
    rig.finish().await;
}

/// A plugin of our own: ADD fails after the bridge was made, DEL fails while a file is there.
const BROKEN: &str = r#"#!/bin/sh
case "$CNI_COMMAND" in
ADD) echo '{"cniVersion":"0.4.0","code":11,"msg":"the cable is cut"}'; exit 1 ;;
DEL) test ! -e "$(dirname "$0")/no-del" || { echo '{"code":11,"msg":"no way back"}'; exit 1; } ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]}' ;;
esac
"#;

pub async fn failed_plugins_leave_nothing(line: Line) {
    let rig = Rig::start(line).await;
    let bin = rig.env().extra_bin_dir();
    std::fs::create_dir_all(&bin).expect("a folder");
    std::fs::write(bin.join("broken"), BROKEN).expect("a plugin");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bin.join("broken"), mode).expect("its mode");
    let list = rig.env().cni_conf_dir().join("10-test.conflist");
    let good = std::fs::read_to_string(&list).expect("the configuration");
    let mut broken: serde_json::Value = serde_json::from_str(&good).expect("JSON");
    broken["plugins"][1] = serde_json::json!({"type": "broken"});
    replace(&list, &broken.to_string());

    let spec = rig.pod_spec("victim");
    let failed = rig.try_run(&spec).await.expect_err("a broken plugin");
    for word in ["connect the pod to its network", "broken", "the cable is cut"] {
        assert!(failed.message().contains(word), "{word:?} is not in {failed}");
    }
    assert!(rig.pods(cri::PodSandboxFilter::default()).await.is_empty());
    rig.agent.assert_clean().await;

    // What cannot be taken down is listed, and taken down once that works.
    std::fs::write(bin.join("no-del"), "").expect("a file");
    rig.try_run(&spec).await.expect_err("a broken plugin");
    let left = rig.pods(cri::PodSandboxFilter::default()).await;
    let states: Vec<_> = left.iter().map(|pod| pod.state()).collect();
    assert_eq!(states, [cri::PodSandboxState::SandboxNotready]);
    std::fs::remove_file(bin.join("no-del")).expect("the file");
    wait_until(SOON, "the undo is tried again", async || {
        rig.pods(cri::PodSandboxFilter::default()).await.is_empty()
    })
    .await;
    rig.agent.assert_clean().await;

    // Or when the caller asks for it.
    std::fs::write(bin.join("no-del"), "").expect("a file");
    rig.try_run(&spec).await.expect_err("a broken plugin");
    let left = rig.pods(cri::PodSandboxFilter::default()).await;
    std::fs::remove_file(bin.join("no-del")).expect("the file");
    rig.stop_pod(&left[0].id).await;
    rig.remove_pod(&left[0].id).await;
    rig.agent.assert_clean().await;

    // A plugin's name is never a path.
    broken["plugins"][1]["type"] = "../../../../bin/sh".into();
    replace(&list, &broken.to_string());
    let refused = rig.try_run(&spec).await.expect_err("a path for a plugin");
    assert!(refused.message().contains("type"), "{refused}");
    replace(&list, "no JSON");
    rig.try_run(&spec).await.expect_err("no configuration");
    rig.agent.assert_clean().await;
    replace(&list, &good);
    rig.run(spec).await;
    rig.finish().await;
}

fn replace(path: &std::path::Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("a file");
    std::fs::rename(new, path).expect("a rename");
}
