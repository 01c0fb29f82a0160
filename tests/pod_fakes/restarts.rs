//! Restarts: of containers, of sandboxes, of the agent.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use podbay::pod::{Apply, Delete, Error, Face, Manner, Preconditions};
use serde_json::{Value, json};

use crate::rig::{Rig, container, key, named, phase, pod, quick, state, status, uid};
use crate::world::World;

#[tokio::test]
async fn a_crashing_container_is_restarted_with_back_off() {
    let world = World::new();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("crash", &[container("a", &["exit", "7"])], json!({}))).await;
    // The first restart comes at once, the second has to wait for ten seconds.
    let looping =
        rig.until("crash", "in back-off", |pod| state(pod, "a") == "CrashLoopBackOff").await;
    assert_eq!(phase(&looping), "Running");
    let shown = status(&looping, "a");
    assert_eq!(shown.restart_count, 1);
    let waiting = shown.state.expect("a state").waiting.expect("waiting");
    let message = waiting.message.expect("a message");
    assert!(message.starts_with("back-off 10s restarting failed container=a pod=crash_default("));
    let last = shown.last_state.expect("a last state").terminated.expect("an end");
    assert_eq!((last.exit_code, last.reason.as_deref()), (7, Some("Error")));
    let waits = rig.pods().explain(&key("crash")).expect("explained").waits;
    assert!(waits[0].step == "wait for back-off" && waits[0].next_try.is_some(), "{waits:#?}");
    // A caller can have it at once.
    let pods = rig.pods();
    agent
        .inside(async move { pods.restart_container(&key("crash"), "a").await })
        .await
        .expect("no panic")
        .expect("restarted");
    rig.until("crash", "restarted", |pod| status(pod, "a").restart_count == 2).await;
    rig.delete("crash", None).await;
    rig.gone("crash").await;
    world.clean().await;
}

#[tokio::test]
async fn rules_by_exit_code_come_before_the_policy() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let ruled = |code: &str| {
        let mut container = container("a", &["exit", code]);
        container["restartPolicy"] = json!("Never");
        let codes = json!({ "operator": "In", "values": [42] });
        container["restartPolicyRules"] = json!([{ "action": "Restart", "exitCodes": codes }]);
        container
    };
    rig.apply(&pod("again", &[ruled("42")], json!({ "restartPolicy": "Never" }))).await;
    rig.apply(&pod("once", &[ruled("43")], json!({}))).await;
    let again = rig.until("again", "restarted", |pod| status(pod, "a").restart_count >= 2).await;
    assert_eq!(phase(&again), "Running");
    let once = rig.phase("once", "Failed").await;
    assert_eq!((state(&once, "a").as_str(), status(&once, "a").restart_count), ("exit 43", 0));
    rig.remove_all(&["again", "once"]).await;
    world.clean().await;
}

#[tokio::test]
async fn a_dead_pause_container_restarts_the_pod() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let inits = json!({ "initContainers": [container("init", &["exit", "0"])] });
    rig.apply(&pod("pausing", &[container("a", &["run"])], inits)).await;
    rig.phase("pausing", "Running").await;
    let pause = rig.pods().sandbox(&key("pausing")).expect("a sandbox");
    world.fakes.runtime.lose_task(pause.as_str());
    let again = rig
        .until("pausing", "made anew", |pod| {
            status(pod, "init").restart_count == 1
                && status(pod, "a").restart_count == 1
                && status(pod, "a").ready
        })
        .await;
    assert_eq!(phase(&again), "Running");
    let other = rig.pods().sandbox(&key("pausing")).expect("a sandbox");
    assert_ne!(pause, other);
    rig.delete("pausing", None).await;
    rig.gone("pausing").await;
    world.clean().await;
}

#[tokio::test]
async fn a_killed_agent_leaves_everything_as_it_was() {
    let world = World::new();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let inits = json!({ "initContainers": [container("init", &["exit", "0"])] });
    rig.apply(&pod("kept", &[container("a", &["run"])], inits)).await;
    rig.apply(&pod("crash", &[container("a", &["exit", "7"])], json!({}))).await;
    let before = rig.phase("kept", "Running").await;
    rig.until("crash", "in back-off", |pod| state(pod, "a") == "CrashLoopBackOff").await;
    let ids = rig.ids("a");
    agent.kill().await;

    let agent = world.agent().await;
    let rig = Rig(&agent);
    let after = rig.phase("kept", "Running").await;
    assert_eq!(uid(&after), uid(&before));
    assert_eq!(after.status, before.status);
    let crash = rig.get("crash").expect("it is there");
    assert_eq!(state(&crash, "a"), "CrashLoopBackOff");
    assert_eq!(status(&crash, "a").restart_count, 1);
    assert_eq!(rig.ids("a"), ids);
    rig.remove_all(&["kept", "crash"]).await;
    world.clean().await;
}

#[tokio::test]
async fn a_deletion_goes_on_under_the_next_agent() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("leaving", &[container("a", &["ignore-term"])], json!({}))).await;
    rig.phase("leaving", "Running").await;
    rig.delete("leaving", Some(Duration::from_secs(600))).await;
    agent.kill().await;
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let there = rig.phase("leaving", "Running").await;
    assert!(there.metadata.deletion_timestamp.is_some());
    // Shorter is heard, longer is not.
    rig.delete("leaving", Some(Duration::from_secs(1))).await;
    let shown = rig.delete("leaving", Some(Duration::from_secs(900))).await;
    assert_eq!(shown.pod.metadata.deletion_grace_period_seconds, Some(1));
    rig.gone("leaving").await;
    world.clean().await;
}

#[tokio::test]
async fn deletions_are_checked() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("a", &[container("a", &["ignore-term"])], json!({}))).await;
    rig.phase("a", "Running").await;
    let empty = rig.try_delete(Delete::default()).await.expect_err("empty");
    assert!(matches!(empty, Error::Argument { field: "selector", .. }));
    let force = Delete { selector: named("a"), force: true, ..Delete::default() };
    let force = rig.try_delete(force).await.expect_err("with grace");
    assert!(matches!(force, Error::Argument { field: "force", .. }));
    let missing = Delete { selector: named("b"), ..Delete::default() };
    assert!(matches!(rig.try_delete(missing).await.expect_err("none"), Error::NotFound(_)));
    let mut uid = Delete { selector: named("a"), ..Delete::default() };
    uid.preconditions.uid = Some("other".into());
    assert!(matches!(rig.try_delete(uid).await.expect_err("another"), Error::Conflict { .. }));
    let now = Delete {
        selector: named("a"),
        force: true,
        grace: Some(Duration::ZERO),
        ..Delete::default()
    };
    rig.try_delete(now).await.expect("forced");
    assert!(rig.get("a").is_none(), "gone at once");
    world.clean().await;
}

#[tokio::test]
async fn a_container_is_not_ended_because_its_shim_is_slow_at_a_restart() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("web", &[container("a", &["run"])], json!({}))).await;
    rig.phase("web", "Running").await;
    let ids = rig.ids("a");
    agent.kill().await;
    world.fakes.runtime.set_mute(&ids[0], true);
    world.fakes.steps.forget();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.until("web", "running", |pod| state(pod, "a") == "running").await;
    // The ends of both processes are waited for again, and meanwhile the pod was looked at.
    world.fakes.steps.called("wait", 2).await;
    world.fakes.runtime.set_mute(&ids[0], false);
    let pod = rig.until("web", "running", |pod| state(pod, "a") == "running").await;
    assert_eq!((rig.ids("a"), status(&pod, "a").restart_count), (ids, 0));
    assert_eq!((world.fakes.steps.count("kill"), world.fakes.steps.count("delete_task")), (0, 0));
    rig.delete("web", None).await;
    rig.gone("web").await;
    world.clean().await;
}

#[tokio::test]
async fn an_address_that_a_failed_sandbox_has_is_not_forgotten() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    world.fakes.steps.lose_answer("attach", podbay::backend::ErrorKind::Other, 1);
    world.fakes.steps.fail("detach", podbay::backend::ErrorKind::Other, 3);
    rig.apply(&pod("web", &[container("a", &["run"])], json!({}))).await;
    rig.phase("web", "Running").await;
    assert!(world.fakes.steps.count("detach") > 3);
    let attached = || world.leftovers().iter().filter(|it| it.starts_with("attachment")).count();
    crate::world::eventually("one address", async || (attached() == 1).then_some(())).await;
    rig.delete("web", None).await;
    rig.gone("web").await;
    world.clean().await;
}

/// Replaces the pod by this one; returns its uid.
async fn replace(rig: &Rig<'_>, pod: &Value) -> String {
    let manifest = pod.to_string();
    let request = Apply { manifest, manner: Manner::Replace, ..Apply::default() };
    uid(&rig.try_apply(request).await.expect("replaced").pods[0].0.pod).to_owned()
}

#[tokio::test]
async fn a_deletion_also_ends_the_pod_that_waits_to_replace_the_deleted_one() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let of = |command: &str| pod("web", &[container("a", &[command])], json!({}));
    for force in [false, true] {
        rig.apply(&of("ignore-term")).await;
        rig.phase("web", "Running").await;
        replace(&rig, &of("run")).await;
        let grace = force.then_some(Duration::ZERO);
        let delete = Delete { selector: named("web"), force, grace, ..Delete::default() };
        rig.try_delete(delete).await.expect("deleted");
        if force {
            assert!(rig.get("web").is_none(), "gone at once");
        }
        rig.gone("web").await;
        crate::world::eventually("all gone", async || agent.rows().is_empty().then_some(())).await;
        assert!(rig.get("web").is_none(), "nothing came");
    }
    world.clean().await;
}

#[tokio::test]
async fn a_deletion_by_uid_leaves_the_pod_that_waits() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let slow = json!({ "terminationGracePeriodSeconds": 600 });
    let of = |command: &str| pod("web", &[container("a", &[command])], slow.clone());
    let first = uid(&rig.apply(&of("ignore-term")).await.pod).to_owned();
    rig.phase("web", "Running").await;
    replace(&rig, &of("run")).await;
    let last = replace(&rig, &of("cat")).await;
    // The first one is shown until it is gone, also by the next agent.
    agent.kill().await;
    let agent = world.agent().await;
    let rig = Rig(&agent);
    assert_eq!(uid(&rig.get("web").expect("it is there")), first);
    let only = Delete {
        selector: named("web"),
        grace: Some(Duration::from_secs(1)),
        preconditions: Preconditions { uid: Some(first.clone()), ..Preconditions::default() },
        ..Delete::default()
    };
    rig.try_delete(only).await.expect("deleted");
    rig.until("web", "the last one", |pod| uid(pod) == last && phase(pod) == "Running").await;
    let events = rig.pods().events(named("web"), false).expect("events");
    let events: Vec<_> = events.map(|event| event.expect("an event")).collect().await;
    let started = events.iter().filter(|event| event.reason == "Started" && event.uid != first);
    let started: BTreeSet<_> = started.map(|event| event.uid.clone()).collect();
    assert_eq!(started, BTreeSet::from([last]), "the one between them never began");
    rig.delete("web", Some(Duration::from_secs(1))).await;
    rig.gone("web").await;
    world.clean().await;
}
