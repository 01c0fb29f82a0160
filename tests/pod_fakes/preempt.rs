//! Critical pods for which the node lacks resources.

use k8s_openapi::api::core::v1::Pod;
use podbay::pod::{Apply, Face};
use serde_json::{Value, json};

use crate::rig::{Rig, container, is_true, key, phase, pod, quick, state, uid};
use crate::world::eventually;

/// A pod that asks for so many of the node's 64 CPUs.
fn asking(name: &str, command: &str, cpu: &str, more: Value) -> Value {
    let mut app = container("a", &[command]);
    app["resources"] = json!({ "requests": { "cpu": cpu } });
    pod(name, &[app], more)
}

fn critical(cpu: &str) -> Value {
    asking("critical", "run", cpu, json!({ "priorityClassName": "system-node-critical" }))
}

fn reason(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.reason.as_deref()).unwrap_or_default()
}

#[tokio::test]
async fn a_critical_pod_has_the_cheapest_pods_end() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    // Only SIGKILL ends it, so there is time to look.
    rig.apply(&asking("low", "ignore-term", "40", json!({}))).await;
    rig.apply(&asking("lower", "run", "20", json!({}))).await;
    rig.apply(&asking("idle", "run", "0", json!({}))).await;
    for name in ["low", "lower", "idle"] {
        rig.phase(name, "Running").await;
    }
    let applied = rig.apply(&critical("30")).await;
    assert_eq!(phase(&applied.pod), "Pending");
    let waits = rig.pods().explain(&key("critical")).expect("explained").waits;
    assert!(waits.iter().all(|wait| wait.step == "the pods that it preempts end"), "{waits:#?}");
    let ended = rig.phase("low", "Failed").await;
    assert_eq!(reason(&ended), "Preempting");
    let status = ended.status.clone().expect("a status");
    assert_eq!(status.message.as_deref(), Some("Preempted in order to admit critical pod"));
    let conditions = status.conditions.expect("conditions");
    let target = conditions.iter().find(|it| it.type_ == "DisruptionTarget").expect("a target");
    assert_eq!(target.reason.as_deref(), Some("TerminationByKubelet"));
    let told = target.message.as_deref().unwrap_or_default();
    assert_eq!(told, "Pod was preempted by Kubelet to accommodate a critical pod.");
    let events = rig.events("low").await;
    assert_eq!(events.iter().filter(|event| event.0 == "Preempting").count(), 1, "{events:?}");
    let running = rig.phase("critical", "Running").await;
    // Not before what had its room was gone.
    let finished = status.container_statuses.expect("containers").remove(0).state;
    let finished = finished.and_then(|state| state.terminated).and_then(|end| end.finished_at);
    assert!(running.status.expect("a status").start_time >= finished);
    for name in ["lower", "idle"] {
        assert_eq!(state(&rig.get(name).expect("there"), "a"), "running", "{name}");
    }
    rig.remove_all(&["low", "lower", "idle", "critical"]).await;
    world.clean().await;
}

#[tokio::test]
async fn an_agent_killed_while_it_makes_room_goes_on() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&asking("low", "ignore-term", "40", json!({}))).await;
    rig.phase("low", "Running").await;
    let applied = rig.apply(&critical("30")).await;
    agent.kill().await;
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let found = rig.get("critical").expect("it was accepted");
    assert_eq!(uid(&found), uid(&applied.pod));
    rig.phase("critical", "Running").await;
    let ended = rig.phase("low", "Failed").await;
    assert_eq!(reason(&ended), "Preempting");
    assert!(is_true(&ended, "DisruptionTarget"));
    rig.remove_all(&["low", "critical"]).await;
    world.clean().await;
}

#[tokio::test]
async fn a_critical_pod_that_is_deleted_while_it_waits_goes_at_once() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let slow = json!({ "terminationGracePeriodSeconds": 600 });
    rig.apply(&asking("low", "ignore-term", "40", slow)).await;
    rig.phase("low", "Running").await;
    rig.apply(&critical("30")).await;
    eventually("it waits", async || {
        let waits = rig.pods().explain(&key("critical")).expect("explained").waits;
        waits.iter().any(|wait| wait.step == "the pods that it preempts end").then_some(())
    })
    .await;
    rig.delete("critical", None).await;
    rig.gone("critical").await;
    assert_eq!(state(&rig.get("low").expect("it ends in its time"), "a"), "running");
    rig.delete("low", Some(std::time::Duration::from_secs(1))).await;
    rig.gone("low").await;
    world.clean().await;
}

#[tokio::test]
async fn nobody_ends_in_vain() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&asking("low", "run", "40", json!({}))).await;
    rig.phase("low", "Running").await;
    let plain = asking("plain", "run", "30", json!({}));
    // Who is not critical, who asks for more than there is, and who may not run here anyway.
    let mut elsewhere = critical("30");
    elsewhere["metadata"]["name"] = json!("elsewhere");
    elsewhere["spec"]["nodeSelector"] = json!({ "disk": "none" });
    for (pod, wanted) in
        [(plain, "OutOfcpu"), (critical("65"), "OutOfcpu"), (elsewhere, "OutOfcpu")]
    {
        let refused = rig.apply(&pod).await;
        assert_eq!((phase(&refused.pod), reason(&refused.pod)), ("Failed", wanted));
    }
    assert_eq!(state(&rig.get("low").expect("there"), "a"), "running");
    let would = Apply { manifest: critical("30").to_string(), ..Apply::default() };
    let pods = rig.pods();
    let told = agent.inside(async move { pods.admit(would).await }).await.expect("no panic");
    assert!(told.expect("an answer")[0].reasons.is_empty());
    assert_eq!(state(&rig.get("low").expect("there"), "a"), "running");
    rig.remove_all(&["low", "plain", "critical", "elsewhere"]).await;
    world.clean().await;
}

#[tokio::test]
async fn the_pods_of_one_manifest_share_the_node() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let [one, two] = ["one", "two"].map(|name| asking(name, "run", "40", json!({})));
    let manifest = format!("{one}\n---\n{two}\n");
    let applied = rig.try_apply(Apply { manifest, ..Apply::default() }).await.expect("applied");
    let reasons: Vec<_> = applied.pods.iter().map(|(view, _)| reason(&view.pod)).collect();
    assert_eq!(reasons, ["", "OutOfcpu"]);
    rig.phase("one", "Running").await;
    // A static pod is critical whatever its class.
    let fixed = asking("fixed", "run", "30", json!({}));
    rig.set_static(&[fixed]).await;
    rig.phase("fixed", "Running").await;
    assert_eq!(reason(&rig.phase("one", "Failed").await), "Preempting");
    rig.set_static(&[]).await;
    rig.gone("fixed").await;
    rig.remove_all(&["one", "two"]).await;
    world.clean().await;
}
