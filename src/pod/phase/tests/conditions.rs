//! Conditions and QoS class.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Value, json};

use super::*;

fn condition(stage: &mut Stage, kind: &str) -> PodCondition {
    let conditions = stage.status().conditions.expect("conditions");
    conditions.into_iter().find(|condition| condition.type_ == kind).expect("the condition")
}

/// Status and reason of a condition.
fn says(stage: &mut Stage, kind: &str) -> String {
    let found = condition(stage, kind);
    format!("{} {}", found.status, found.reason.unwrap_or_default()).trim_end().to_owned()
}

fn all(stage: &mut Stage) -> [String; 4] {
    ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"]
        .map(|kind| says(stage, kind))
}

const UNREADY: &str = "False ContainersNotReady";
const UNINITIALIZED: &str = "False ContainersNotInitialized";

#[test]
fn they_become_true_one_after_the_other() {
    let app =
        json!({"name": "app", "image": "app:1", "readinessProbe": {"tcpSocket": {"port": 1}}});
    let inits = json!([{"name": "init", "image": "init:1"}]);
    let mut stage = Stage::new(json!({"containers": [app], "initContainers": inits}));
    assert_eq!(says(&mut stage, "PodScheduled"), "True");
    assert_eq!(all(&mut stage), ["False", UNINITIALIZED, UNREADY, UNREADY]);
    stage.play();
    assert_eq!(all(&mut stage), ["True", UNINITIALIZED, UNREADY, UNREADY]);
    let message = condition(&mut stage, "Initialized").message;
    assert_eq!(message.as_deref(), Some("containers with incomplete status: [init]"));
    stage.exit("init", 0);
    stage.play();
    assert_eq!(all(&mut stage), ["True", "True", UNREADY, UNREADY]);
    let message = condition(&mut stage, "Ready").message;
    assert_eq!(message.as_deref(), Some("containers with unready status: [app]"));
    stage.probe("app", true, true);
    stage.look();
    assert_eq!(all(&mut stage), ["True"; 4]);
    stage.probe("app", true, false);
    stage.look();
    assert_eq!(all(&mut stage), ["True", "True", UNREADY, UNREADY]);
}

#[test]
fn a_pod_that_has_ended_is_not_ready() {
    let table = [
        (0, ["False", "True PodCompleted", "False PodCompleted", "False PodCompleted"]),
        (1, ["False", "True", "False PodFailed", "False PodFailed"]),
    ];
    for (code, expected) in table {
        let mut stage = Stage::new(json!({"restartPolicy": "Never"}));
        stage.play();
        stage.exit("app", code);
        stage.play();
        assert_eq!(all(&mut stage), expected, "{code}");
    }
}

#[test]
fn sidecars_have_to_be_ready_too() {
    let side = json!({
        "name": "side", "image": "side:1", "restartPolicy": "Always",
        "readinessProbe": {"tcpSocket": {"port": 1}},
    });
    let mut stage = Stage::new(json!({"initContainers": [side]}));
    stage.play();
    stage.probe("side", true, false);
    stage.look();
    assert_eq!(all(&mut stage), ["True", "True", UNREADY, UNREADY]);
    let message = condition(&mut stage, "ContainersReady").message;
    assert_eq!(message.as_deref(), Some("containers with unready status: [side]"));
}

#[test]
fn a_startup_probe_comes_before_readiness() {
    let app = json!({"name": "app", "image": "app:1", "startupProbe": {"tcpSocket": {"port": 1}}});
    let mut stage = Stage::new(json!({"containers": [app]}));
    stage.play();
    let status = stage.status();
    assert_eq!((super::app(&status).started, super::app(&status).ready), (Some(false), false));
    stage.probe("app", true, true);
    stage.look();
    let status = stage.status();
    assert_eq!((super::app(&status).started, super::app(&status).ready), (Some(true), true));
}

#[test]
fn readiness_gates_are_asked_when_all_containers_are_ready() {
    let gate = json!({"readinessGates": [{"conditionType": "example.org/up"}]});
    let table: [(Value, &str, Option<&str>); 3] = [
        (
            json!([]),
            "False ReadinessGatesNotReady",
            Some(
                "corresponding condition of pod readiness gate \"example.org/up\" does not exist.",
            ),
        ),
        (
            json!([{"type": "example.org/up", "status": "False"}]),
            "False ReadinessGatesNotReady",
            Some("the status of pod readiness gate \"example.org/up\" is not \"True\", but False"),
        ),
        (json!([{"type": "example.org/up", "status": "True"}]), "True", None),
    ];
    for (conditions, expected, message) in table {
        let mut stage = Stage::new(gate.clone());
        let mut pod = Pod::clone(&stage.life.given.pod);
        pod.status = serde_json::from_value(json!({"conditions": conditions})).expect("a status");
        stage.life.given.pod = Arc::new(pod);
        assert_eq!(says(&mut stage, "Ready"), UNREADY);
        stage.play();
        assert_eq!(says(&mut stage, "ContainersReady"), "True");
        assert_eq!(says(&mut stage, "Ready"), expected);
        assert_eq!(condition(&mut stage, "Ready").message.as_deref(), message);
    }
}

#[test]
fn their_times_change_with_their_status_alone() {
    let mut stage = Stage::new(json!({}));
    let at = |stage: &mut Stage| {
        let time = condition(stage, "Ready").last_transition_time.expect("a time");
        time.0.as_second() - DAWN / SECOND
    };
    assert_eq!(at(&mut stage), 0);
    stage.after(5);
    assert_eq!(at(&mut stage), 0);
    stage.play();
    assert_eq!(at(&mut stage), 5);
    stage.after(5);
    stage.agent_restarts();
    stage.look();
    assert_eq!(at(&mut stage), 5, "it is remembered");
}

#[test]
fn a_pod_that_the_node_took_away_says_so() {
    let mut stage = Stage::new(json!({}));
    stage.play();
    stage.life.judge(Verdict {
        succeeded: false,
        reason: "Evicted".to_owned(),
        message: "The node was low on resource: memory.".to_owned(),
        at: stage.now,
        deadline: stage.now,
        disrupted: true,
    });
    // While it still runs, it is told by an event alone.
    stage.look();
    let status = stage.status();
    let mut conditions = status.conditions.iter().flatten();
    assert!(conditions.all(|condition| condition.type_ != "DisruptionTarget"));
    let told = (status.phase.as_deref(), status.reason, status.message);
    assert_eq!(told, (Some("Running"), None, None));
    stage.play();
    assert_eq!(stage.status().reason.as_deref(), Some("Evicted"));
    let found = condition(&mut stage, "DisruptionTarget");
    assert_eq!(
        (found.status.as_str(), found.reason.as_deref()),
        ("True", Some("TerminationByKubelet"))
    );
    assert_eq!(found.message.as_deref(), Some("The node was low on resource: memory."));
}

#[test]
fn an_initialized_pod_stays_so_while_its_apps_run() {
    let inits = json!([
        {"name": "init", "image": "init:1"},
        {"name": "side", "image": "side:1", "restartPolicy": "Always"},
    ]);
    let mut stage = Stage::new(json!({"initContainers": inits}));
    stage.play();
    stage.exit("init", 0);
    stage.play();
    assert_eq!(says(&mut stage, "Initialized"), "True");
    stage.exit("side", 1);
    stage.look();
    assert_eq!(says(&mut stage, "Initialized"), "True");
}

#[test]
fn the_class_of_service_is_told() {
    let both = json!({"cpu": "1", "memory": "1Gi"});
    let table = [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"requests": both, "limits": both}), "Guaranteed"),
    ];
    for (resources, expected) in table {
        let app = json!({"name": "app", "image": "app:1", "resources": resources});
        let mut stage = Stage::new(json!({"containers": [app]}));
        assert_eq!(stage.status().qos_class.as_deref(), Some(expected));
    }
}
