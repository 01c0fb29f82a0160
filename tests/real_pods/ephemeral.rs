//! A container added to a running pod.

use podbay::proto::podbay::v1 as api;
use podbay::proto::runtime::v1 as cri;
use serde_json::json;

use crate::rig::{Rig, container, is_true, pod};
use crate::support::containerd::Line;

fn exit_code(pod: &api::Pod, name: &str) -> Option<i32> {
    let found = pod.containers.iter().find(|container| container.name == name)?;
    match found.state.as_ref()?.state.as_ref()? {
        api::container_state::State::Terminated(ended) => Some(ended.exit_code),
        _ => None,
    }
}

fn runs(pod: &api::Pod, name: &str) -> bool {
    let found = pod.containers.iter().find(|container| container.name == name);
    let state = found.and_then(|found| found.state.as_ref()?.state.as_ref());
    matches!(state, Some(api::container_state::State::Running(_)))
}

pub async fn a_debugger_looks_at_its_target_and_outlives_the_agent(line: Line) {
    let mut rig = Rig::start(line).await;
    let mut manifest = pod("seen", &[rig.script("a", "exec sleep 4321")], json!({}));
    rig.apply(&manifest).await;
    let before = rig.phase("seen", api::Phase::Running).await;
    // It reads what only the target's PID namespace shows, and lives on until it is told to end.
    let look =
        "tr '\\0' ' ' < /proc/1/cmdline; echo; until [ -e /tmp/end ]; do sleep 0.1; done; exit 7";
    let mut debugger = rig.script("look", look);
    debugger["targetContainerName"] = "a".into();
    manifest["spec"]["ephemeralContainers"] = json!([debugger]);
    rig.apply(&manifest).await;
    let log = rig.log_has("seen", "look", "\n").await;
    assert_eq!(log, "sleep 4321 \n");
    let looked = rig.until("seen", "looked at", |pod| runs(pod, "look")).await;
    assert_eq!(container(&looked, "look").kind(), api::ContainerKind::Ephemeral);
    assert!(is_true(&looked, "Ready"), "{looked:#?}");
    assert_eq!(container(&looked, "a"), container(&before, "a"));
    let touch = cri::ExecSyncRequest {
        container_id: container(&looked, "look")
            .container_id
            .trim_start_matches("containerd://")
            .into(),
        cmd: ["touch", "/tmp/end"].map(str::to_owned).to_vec(),
        timeout: 0,
    };
    rig.agent.runtime().exec_sync(touch).await.expect("it may end");
    rig.agent.kill9();
    rig.agent.restart().await;
    let after = rig.until("seen", "looked at", |pod| exit_code(pod, "look") == Some(7)).await;
    assert_eq!(container(&after, "look").restarts, 0);
    assert_eq!(container(&after, "a").container_id, container(&before, "a").container_id);
    assert_eq!(rig.log("seen", "look").await, "sleep 4321 \n");
    rig.delete("seen", Some(1)).await;
    rig.gone("seen").await;
    rig.agent.assert_clean().await;
}
