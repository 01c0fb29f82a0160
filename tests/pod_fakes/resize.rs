//! Pods that get other limits while they run.

use podbay::board::Container;
use podbay::pod::{Apply, Error, Face, Waits};
use serde_json::{Value, json};

use crate::rig::{Rig, container, key, pod, quick, status};
use crate::world::eventually;

fn limited(cpu: &str, memory: &str) -> Value {
    let mut container = container("a", &["run"]);
    container["resources"] = json!({
        "limits": { "cpu": cpu, "memory": memory },
        "requests": { "cpu": "100m", "memory": "16Mi" },
    });
    pod("sized", &[container], json!({}))
}

#[tokio::test]
async fn a_running_container_gets_other_limits() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&limited("500m", "64Mi")).await;
    let before = rig.phase("sized", "Running").await;
    let now = || {
        let found = agent.rooms.sandboxes.containers(&Default::default()).remove(0);
        (found.resources.cpu_quota, found.resources.memory_limit)
    };
    assert_eq!(now(), (50_000, 64 << 20));
    // One figure grows, one shrinks.
    rig.apply(&limited("250m", "128Mi")).await;
    eventually("other limits", async || (now() == (25_000, 128 << 20)).then_some(())).await;
    let after = rig
        .until("sized", "shown so", |pod| {
            let resources = status(pod, "a").resources.unwrap_or_default();
            resources.limits.is_some_and(|limits| limits["memory"].0 == "128Mi")
        })
        .await;
    assert_eq!(status(&after, "a").container_id, status(&before, "a").container_id);
    assert_eq!(status(&after, "a").restart_count, 0);

    // What would be another class, or another cgroup, or no limit, is no change in place.
    let mut lifted = limited("250m", "128Mi");
    let limits = &mut lifted["spec"]["containers"][0]["resources"]["limits"];
    limits.as_object_mut().expect("limits").remove("cpu");
    let request = Apply { manifest: lifted.to_string(), ..Apply::default() };
    let refused = rig.try_apply(request).await.expect_err("a limit is lifted");
    assert!(matches!(refused, Error::Immutable { .. }), "{refused}");
    rig.delete("sized", None).await;
    rig.gone("sized").await;
    world.clean().await;
}

#[tokio::test]
async fn a_container_that_starts_meanwhile_gets_them_too() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&limited("500m", "64Mi")).await;
    let before = rig.phase("sized", "Running").await;
    // It is begun with the old figures, and runs when the others have been prepared.
    let steps = &world.fakes.steps;
    let (starts, cgroups) = (steps.count("start"), steps.count("make_cgroup"));
    steps.hang("start");
    let pods = rig.pods();
    let again = agent.inside(async move { pods.restart_container(&key("sized"), "a").await });
    again.await.expect("no panic").expect("it is restarted");
    steps.called("start", starts + 1).await;
    rig.apply(&limited("250m", "128Mi")).await;
    steps.called("make_cgroup", cgroups + 3).await;
    eventually("prepared", async || {
        let waits = rig.pods().explain(&key("sized")).expect("explained").waits;
        let prepares = |wait: &Waits| wait.step == "prepare cgroup and volumes";
        (!waits.iter().any(prepares)).then_some(())
    })
    .await;
    steps.release("start");
    eventually("other limits", async || {
        let all = agent.rooms.sandboxes.containers(&Default::default());
        let limits = |found: &Container| (found.resources.cpu_quota, found.resources.memory_limit);
        all.iter().any(|found| limits(found) == (25_000, 128 << 20)).then_some(())
    })
    .await;
    let after = rig.until("sized", "running", |pod| status(pod, "a").ready).await;
    assert_ne!(status(&after, "a").container_id, status(&before, "a").container_id);
    rig.delete("sized", None).await;
    rig.gone("sized").await;
    world.clean().await;
}

#[tokio::test]
async fn a_container_may_ask_for_a_restart() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let with = |memory: &str| {
        let mut pod = limited("500m", memory);
        let policy = json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
        pod["spec"]["containers"][0]["resizePolicy"] = policy;
        pod
    };
    rig.apply(&with("64Mi")).await;
    rig.phase("sized", "Running").await;
    rig.apply(&with("32Mi")).await;
    rig.until("sized", "restarted", |pod| {
        status(pod, "a").restart_count == 1 && status(pod, "a").ready
    })
    .await;
    rig.delete("sized", None).await;
    rig.gone("sized").await;
    world.clean().await;
}
