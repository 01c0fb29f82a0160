//! Pods are ended before the host shuts down, as announced by systemd-logind.

use std::time::Duration;

use podbay::proto::podbay::v1::Phase;
use serde_json::json;

use crate::rig::{Rig, SOON, is_true, pod};
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::images::ImageBuilder;
use crate::support::logind::{Bus, Logind};
use crate::support::wait_until;

pub async fn pods_end_before_the_host_does(line: Line) {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = Bus::start(folder.path()).await;
    let logind = Logind::serve(&bus, Duration::from_secs(120)).await;
    let mut env = TestEnv::start(line).await;
    env.set_variable("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
    env.set_pods("eviction = []\nshutdown_grace = \"60s\"\nshutdown_grace_critical = \"30s\"");
    let rig = Rig::start_in(env, ImageBuilder::busybox()).await;
    wait_until(SOON, "held up", async || logind.held().len() == 1).await;
    let polite = "trap 'sleep 1; echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let critical = json!({ "priorityClassName": "system-cluster-critical",
                           "terminationGracePeriodSeconds": 20 });
    rig.apply(&pod("high", &[rig.script("a", polite)], critical)).await;
    let patient = json!({ "terminationGracePeriodSeconds": 20 });
    rig.apply(&pod("low", &[rig.script("a", polite)], patient)).await;
    for name in ["high", "low"] {
        rig.log_has(name, "a", "up").await;
    }
    logind.say(true).await;
    let low = rig.phase("low", Phase::Failed).await;
    assert_eq!(low.reason, "Terminated");
    assert_eq!(low.message, "Pod was terminated in response to imminent node shutdown.");
    assert!(is_true(&low, "DisruptionTarget"), "{low:#?}");
    assert!(!rig.node_is("Ready").await);
    rig.apply(&pod("late", &[rig.script("a", "sleep 600")], json!({}))).await;
    let late = rig.get("late").await.expect("it is there");
    assert_eq!((late.phase(), late.reason.as_str()), (Phase::Failed, "NodeShutdown"));
    let high = rig.phase("high", Phase::Failed).await;
    let when = |pod: &podbay::proto::podbay::v1::Pod| {
        let target = pod.conditions.iter().find(|it| it.r#type == "DisruptionTarget");
        target.and_then(|target| target.last_transition).map(|at| at.seconds)
    };
    assert!(when(&low) < when(&high), "{low:#?}{high:#?}");
    wait_until(SOON, "let go", async || logind.held().is_empty()).await;
    for name in ["high", "low"] {
        assert!(rig.log(name, "a").await.ends_with("bye\n"), "{name} was not let end");
    }
    logind.say(false).await;
    wait_until(SOON, "ready again", async || rig.node_is("Ready").await).await;
    wait_until(SOON, "held up again", async || logind.held().len() == 1).await;
    for name in ["high", "low", "late"] {
        rig.delete(name, None).await;
        rig.gone(name).await;
    }
    rig.agent.assert_clean().await;
}
