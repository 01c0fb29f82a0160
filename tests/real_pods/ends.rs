//! Ends, restarts and probes.

use std::time::Instant;

use podbay::proto::podbay::v1::Phase;
use podbay::proto::podbay::v1::container_state::State;
use serde_json::json;

use crate::rig::{Rig, container, is_true, pod};
use crate::support::containerd::Line;

pub async fn deletion_is_graceful(line: Line) {
    let rig = Rig::start(line).await;
    let kind = "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done";
    rig.apply(&pod("kind", &[rig.script("a", kind)], json!({}))).await;
    let deaf = "trap '' TERM; echo up; while true; do sleep 0.1; done";
    rig.apply(&pod("deaf", &[rig.script("a", deaf)], json!({}))).await;
    for name in ["kind", "deaf"] {
        rig.log_has(name, "a", "up").await;
    }
    let begin = Instant::now();
    rig.delete("deaf", Some(3)).await;
    rig.delete("kind", Some(30)).await;
    let ending = rig.get("deaf").await.expect("it is there");
    assert!(ending.deletion_deadline.is_some());
    rig.gone("kind").await;
    rig.gone("deaf").await;
    assert!(begin.elapsed().as_secs() >= 3, "killed before its time");
    rig.agent.assert_clean().await;
}

pub async fn a_crash_is_told_and_restarted(line: Line) {
    let rig = Rig::start(line).await;
    let script = "echo -n so it ends > /dev/termination-log; exit 7";
    rig.apply(&pod("crash", &[rig.script("a", script)], json!({}))).await;
    let pod = rig
        .until("crash", "in back-off", |pod| {
            matches!(container(pod, "a").state.as_ref().and_then(|s| s.state.as_ref()),
                Some(State::Waiting(waiting)) if waiting.reason == "CrashLoopBackOff")
        })
        .await;
    let shown = container(&pod, "a");
    assert_eq!((pod.phase(), shown.restarts), (Phase::Running, 1));
    let last = shown.last_state.as_ref().and_then(|state| state.state.as_ref());
    let Some(State::Terminated(end)) = last else { panic!("{shown:#?}") };
    assert_eq!(
        (end.exit_code, end.reason.as_str(), end.message.as_str()),
        (7, "Error", "so it ends")
    );
    rig.delete("crash", None).await;
    rig.gone("crash").await;
    rig.agent.assert_clean().await;
}

pub async fn probes_decide(line: Line) {
    let rig = Rig::start(line).await;
    let mut probed = rig.script("a", "sleep 1; touch /tmp/ready; sleep 600");
    probed["readinessProbe"] =
        json!({ "exec": { "command": ["test", "-e", "/tmp/ready"] }, "periodSeconds": 1 });
    probed["livenessProbe"] = json!({ "exec": { "command": ["test", "!", "-e", "/tmp/ill"] },
                                      "periodSeconds": 1, "failureThreshold": 1 });
    rig.apply(&pod("probed", &[probed], json!({}))).await;
    let early = rig.phase("probed", Phase::Running).await;
    assert!(!is_true(&early, "Ready"), "{early:#?}");
    let ready = rig.until("probed", "ready", |pod| is_true(pod, "Ready")).await;
    assert_eq!(container(&ready, "a").restarts, 0);
    let id = &container(&ready, "a").container_id;
    let id = id.strip_prefix("containerd://").unwrap_or(id).to_owned();
    let ill = podbay::proto::runtime::v1::ExecSyncRequest {
        container_id: id,
        cmd: vec!["touch".into(), "/tmp/ill".into()],
        timeout: 10,
    };
    rig.agent.runtime().exec_sync(ill).await.expect("it is ill now");
    let again = rig.until("probed", "restarted", |pod| container(pod, "a").restarts == 1).await;
    assert!(!is_true(&again, "Ready") || container(&again, "a").ready);
    rig.delete("probed", None).await;
    rig.gone("probed").await;
    rig.agent.assert_clean().await;
}
