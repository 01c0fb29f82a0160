//! Information about pods and the node: events, logs, conditions.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use podbay::backend::{NetworkReadiness, Process};
use podbay::board::StateName;
use podbay::pod::{Event, Face, LogOptions, Selector};
use serde_json::json;

use crate::rig::{Rig, container, is_true, key, named, pod, quick, state, status};
use crate::world::{IMAGE, World, eventually};

/// A registry that nobody is.
const ABSENT: &str = "127.0.0.1:1/absent:1";

async fn messages(rig: &Rig<'_>, fields: &str) -> Vec<String> {
    let selector = Selector { fields: fields.to_owned(), ..Selector::default() };
    let events = rig.pods().events(selector, false).expect("events");
    let events: Vec<Event> = events.map(|event| event.expect("an event")).collect().await;
    events.into_iter().map(|event| format!("{} {}", event.reason, event.message)).collect()
}

#[tokio::test]
async fn a_pull_that_fails_is_told_and_another_image_does_not_wait_for_it() {
    let mut world = World::new();
    // Nobody would live to see the next try.
    world.backoff.first = Duration::from_secs(3600);
    world.backoff.longest = Duration::from_secs(3600);
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let mut absent = container("a", &["run"]);
    absent["image"] = json!(ABSENT);
    let absent = pod("absent", &[absent], json!({}));
    rig.apply(&absent).await;
    rig.until("absent", "told", |pod| state(pod, "a") == "ErrImagePull").await;
    let told = eventually("all events", async || {
        let told = messages(&rig, "involvedObject.name=absent,type=Warning,reason=Failed").await;
        (told.len() >= 2).then_some(told)
    });
    let told = told.await;
    assert!(told[0].starts_with(&format!("Failed Failed to pull image {ABSENT:?}: ")), "{told:?}");
    assert_eq!(told[1], "Failed Error: ErrImagePull");
    let mut right = absent.clone();
    right["spec"]["containers"][0]["image"] = json!(IMAGE);
    rig.apply(&right).await;
    rig.phase("absent", "Running").await;
    assert_eq!(rig.get("absent").expect("there").metadata.generation, Some(2));
    rig.delete("absent", None).await;
    rig.gone("absent").await;
    world.clean().await;
}

#[tokio::test]
async fn a_pull_that_waits_is_told_as_a_back_off() {
    let mut world = quick();
    world.backoff.first = Duration::from_millis(400);
    world.backoff.longest = Duration::from_secs(3600);
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let mut absent = container("a", &["run"]);
    absent["image"] = json!(ABSENT);
    rig.apply(&pod("absent", &[absent], json!({}))).await;
    rig.until("absent", "waiting", |pod| state(pod, "a") == "ImagePullBackOff").await;
    let expected = [
        format!("BackOff Back-off pulling image {ABSENT:?}"),
        "Failed Error: ImagePullBackOff".into(),
    ];
    eventually("both events", async || {
        let told = messages(&rig, "involvedObject.name=absent").await;
        expected.iter().all(|one| told.contains(one)).then_some(())
    })
    .await;
    rig.delete("absent", None).await;
    rig.gone("absent").await;
    world.clean().await;
}

#[tokio::test]
async fn a_container_that_failed_once_is_not_told_to_wait_when_it_succeeds() {
    let world = World::new();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let on_failure = json!({ "restartPolicy": "OnFailure" });
    rig.apply(&pod("once", &[container("a", &["run"])], on_failure)).await;
    for (restarts, code) in [(0, 1), (1, 0)] {
        let again = |pod: &_| status(pod, "a").restart_count == restarts;
        rig.until("once", "running", |pod| again(pod) && state(pod, "a") == "running").await;
        let all = agent.rooms.sandboxes.containers(&Default::default());
        let running = all.iter().find(|it| it.state.name() == StateName::Running);
        let id = running.expect("a container").id.to_string();
        world.fakes.runtime.end(Process::init(&id), code);
    }
    rig.phase("once", "Succeeded").await;
    let told = messages(&rig, "involvedObject.name=once,reason=BackOff").await;
    assert_eq!(told, [""; 0]);
    rig.delete("once", None).await;
    rig.gone("once").await;
    world.clean().await;
}

#[tokio::test]
async fn the_log_before_is_that_of_the_last_state() {
    let world = World::new();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("crash", &[container("a", &["exit", "7"])], json!({}))).await;
    let looping = rig.until("crash", "waiting", |pod| state(pod, "a") == "CrashLoopBackOff").await;
    let last = status(&looping, "a").last_state.and_then(|last| last.terminated);
    let last = last.and_then(|last| last.container_id).expect("an id");
    for found in agent.rooms.sandboxes.containers(&Default::default()) {
        let is_last = last.ends_with(found.id.as_str());
        let text = if is_last { "last" } else { "older" };
        let line = format!("2026-01-01T00:00:00.000000000Z stdout F {text}\n");
        std::fs::write(found.log_path.as_ref().expect("a log"), line).expect("written");
    }
    let pods = rig.pods();
    let read = agent.inside(async move {
        let options = LogOptions { previous: true, ..LogOptions::default() };
        let lines = pods.logs(&key("crash"), options).await.expect("a log");
        let lines: Vec<_> = lines.map(|piece| piece.expect("a piece")).collect().await;
        lines.concat()
    });
    assert_eq!(read.await.expect("no panic"), b"last\n");
    let told = messages(&rig, "reason=BackOff").await;
    let uid = looping.metadata.uid.expect("a uid");
    let expected =
        format!("BackOff Back-off restarting failed container a in pod crash_default({uid})");
    assert_eq!(told, [expected]);
    rig.delete("crash", None).await;
    rig.gone("crash").await;
    world.clean().await;
}

#[tokio::test]
async fn whoever_opens_a_readiness_gate_applies_it() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let gates = json!({ "readinessGates": [{ "conditionType": "example.org/up" }] });
    let plain = pod("gated", &[container("a", &["run"])], gates);
    rig.apply(&plain).await;
    let gated = rig.phase("gated", "Running").await;
    assert!(is_true(&gated, "ContainersReady") && !is_true(&gated, "Ready"));
    let mut open = plain.clone();
    open["status"] = json!({ "conditions": [
        { "type": "example.org/up", "status": "True" }, { "type": "Ready", "status": "False" },
    ] });
    rig.apply(&open).await;
    rig.until("gated", "ready", |pod| is_true(pod, "Ready")).await;
    // Who says nothing of it leaves it, and so does a new agent.
    let mut labelled = plain.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    rig.apply(&labelled).await;
    agent.kill().await;
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let ready = rig.until("gated", "ready", |pod| is_true(pod, "Ready")).await;
    assert!(is_true(&ready, "example.org/up") && ready.metadata.labels.is_some());
    rig.delete("gated", None).await;
    rig.gone("gated").await;
    world.clean().await;
}

async fn node(rig: &Rig<'_>) -> Node {
    let pods = rig.pods();
    let asked = rig.0.inside(async move { pods.node().await });
    asked.await.expect("no panic").expect("a node").node
}

fn ready(node: &Node) -> NodeCondition {
    let status = node.status.clone().expect("a status");
    let mut all = status.conditions.expect("conditions").into_iter();
    all.find(|condition| condition.type_ == "Ready").expect("told")
}

#[tokio::test]
async fn the_node_is_what_it_was_and_ready_when_it_can_run_pods() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let first = node(&rig).await;
    let info = first.status.as_ref().and_then(|status| status.node_info.clone()).expect("told");
    assert_eq!(info.container_runtime_version, "containerd://2.0.0-fake");
    assert_eq!(first.metadata.labels.as_ref().expect("labels")["kubernetes.io/os"], "linux");
    let before = ready(&first);
    assert_eq!(before.status, "True");
    agent.kill().await;

    let agent = world.agent().await;
    let rig = Rig(&agent);
    let again = node(&rig).await;
    assert_eq!(again.metadata, first.metadata);
    assert_eq!(ready(&again).last_transition_time, before.last_transition_time);
    world.fakes.network.set_readiness(NetworkReadiness::NotReady("no CNI".into()));
    let without = ready(&node(&rig).await);
    assert_eq!(without.status, "False");
    assert!(without.message.expect("a message").ends_with("message:no CNI"));
    world.fakes.network.set_readiness(NetworkReadiness::Ready);
    world.fakes.set_away(true);
    let away = ready(&node(&rig).await);
    assert!(away.message.expect("a message").starts_with("container runtime is down: "));
    world.fakes.set_away(false);
    assert_eq!(ready(&node(&rig).await).status, "True");
    assert!(rig.pods().list(&named("none")).expect("a list").pods.is_empty());
    world.clean().await;
}

#[tokio::test]
async fn a_failed_hook_is_told_without_what_the_application_said() {
    let world = World::new();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let mut hooked = container("a", &["run"]);
    hooked["lifecycle"] = json!({ "postStart": { "exec": { "command": ["exit", "1"] } } });
    rig.apply(&pod("hooked", &[hooked], json!({ "restartPolicy": "Never" }))).await;
    rig.phase("hooked", "Failed").await;
    let told = messages(&rig, "involvedObject.name=hooked").await;
    let killed: Vec<_> = told.iter().filter(|told| told.starts_with("Killing")).collect();
    assert_eq!(killed, ["Killing FailedPostStartHook"], "{told:?}");
    rig.delete("hooked", None).await;
    rig.gone("hooked").await;
    world.clean().await;
}

#[tokio::test]
async fn the_logs_of_a_pod_none_of_whose_containers_has_started_are_refused() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    world.fakes.steps.hang("attach");
    rig.apply(&pod("web", &[container("a", &["run"]), container("b", &["run"])], json!({}))).await;
    for follow in [false, true] {
        let pods = rig.pods();
        let options = LogOptions { all_containers: true, follow, ..LogOptions::default() };
        let read = agent.inside(async move { pods.logs(&key("web"), options).await.map(drop) });
        let refused = read.await.expect("no panic").expect_err("no log").to_string();
        assert_eq!(refused, "container \"a\" of pod default/web: it is waiting to start");
    }
    world.fakes.steps.release("attach");
    rig.phase("web", "Running").await;
    rig.delete("web", None).await;
    rig.gone("web").await;
    world.clean().await;
}
