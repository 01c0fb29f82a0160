//! Resizing running pods.

use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use podbay::backend::MemoryUse;
use podbay::board::Container;
use podbay::pod::{Apply, Change, Error, Face, Waits};
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
async fn resources_are_told_when_they_are_in_force() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&limited("500m", "64Mi")).await;
    let before = rig.phase("sized", "Running").await;
    assert!(in_progress(&before).is_none());
    let steps = &world.fakes.steps;
    let updates = steps.count("update_resources");
    steps.hang("update_resources");
    let mut more = limited("250m", "128Mi");
    more["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("200m");
    rig.apply(&more).await;
    let told = |pod: &Pod| {
        let status = status(pod, "a");
        let resources = status.resources.expect("resources");
        let (requests, limits) =
            (resources.requests.expect("both"), resources.limits.expect("both"));
        let allocated = status.allocated_resources.expect("allocated");
        [allocated["cpu"].0.clone(), requests["cpu"].0.clone(), limits["memory"].0.clone()]
    };
    let under_way = rig.until("sized", "in progress", |pod| in_progress(pod).is_some()).await;
    let condition = in_progress(&under_way).expect("the condition");
    assert_eq!((condition.status.as_str(), condition.reason), ("True", None));
    assert_eq!(told(&under_way), ["200m", "100m", "64Mi"]);
    steps.called("update_resources", updates + 1).await;
    steps.release("update_resources");
    let after = rig.until("sized", "done", |pod| in_progress(pod).is_none()).await;
    assert_eq!(told(&after), ["200m", "200m", "128Mi"]);
    rig.delete("sized", None).await;
    rig.gone("sized").await;
    world.clean().await;
}

#[tokio::test]
async fn resources_of_the_pod_are_told_when_they_are_in_force() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let whole = |memory: &str| {
        let resources = json!({
            "limits": { "cpu": "1", "memory": memory },
            "requests": { "cpu": "100m", "memory": "16Mi" },
        });
        pod("sized", &[container("a", &["run"])], json!({ "resources": resources }))
    };
    let told = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let limits = status.resources.and_then(|it| it.limits).unwrap_or_default();
        let allocated = status.allocated_resources.unwrap_or_default();
        [&limits["memory"], &allocated["memory"]].map(|it| it.0.clone())
    };
    rig.apply(&whole("64Mi")).await;
    let before = rig.phase("sized", "Running").await;
    assert!(in_progress(&before).is_none());
    assert_eq!(told(&before), ["64Mi", "16Mi"]);
    // The container's own resources are the same.
    let steps = &world.fakes.steps;
    let cgroups = steps.count("make_cgroup");
    steps.hang("make_cgroup");
    rig.apply(&whole("128Mi")).await;
    let under_way = rig.until("sized", "in progress", |pod| in_progress(pod).is_some()).await;
    let condition = in_progress(&under_way).expect("the condition");
    assert_eq!((condition.status.as_str(), condition.reason), ("True", None));
    assert_eq!(told(&under_way), ["64Mi", "16Mi"]);
    steps.called("make_cgroup", cgroups + 1).await;
    steps.release("make_cgroup");
    let after = rig.until("sized", "done", |pod| in_progress(pod).is_none()).await;
    assert_eq!(told(&after), ["128Mi", "16Mi"]);
    rig.delete("sized", None).await;
    rig.gone("sized").await;
    world.clean().await;
}

/// A pod that asks for so many of the node's 64 CPUs.
fn asking(name: &str, cpu: &str) -> Value {
    let mut container = container("a", &["run"]);
    container["resources"] = json!({ "requests": { "cpu": cpu } });
    pod(name, &[container], json!({}))
}

/// Reason of the wait for resources, the CPUs that are wanted, and those that are given.
fn resize(pod: &Pod) -> (Option<String>, String, String) {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let pending = conditions.into_iter().flatten().find(|it| it.type_ == "PodResizePending");
    let wanted = pod.spec.as_ref().and_then(|spec| spec.containers[0].resources.clone());
    let wanted = wanted.and_then(|it| it.requests).expect("requests")["cpu"].0.clone();
    let given = status(pod, "a").allocated_resources.expect("allocated")["cpu"].0.clone();
    (pending.and_then(|it| it.reason.clone()), wanted, given)
}

#[tokio::test]
async fn a_resize_that_finds_no_room_waits_for_it() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    for (name, cpu) in [("large", "40"), ("small", "20")] {
        rig.apply(&asking(name, cpu)).await;
        rig.phase(name, "Running").await;
    }
    let is = |reason: Option<&str>, wanted: &str, given: &str| {
        let expected = (reason.map(str::to_owned), wanted.to_owned(), given.to_owned());
        move |pod: &Pod| resize(pod) == expected
    };
    rig.apply(&asking("small", "65")).await;
    let never = rig.until("small", "refused", is(Some("Infeasible"), "65", "20")).await;
    let told = never.status.and_then(|status| status.conditions).expect("conditions");
    let told = told.into_iter().find(|it| it.type_ == "PodResizePending").expect("told");
    let expected = "Node didn't have enough capacity: cpu, requested: 65000, capacity: 64000";
    assert_eq!(told.message.as_deref(), Some(expected));
    rig.apply(&asking("small", "30")).await;
    rig.until("small", "waiting", is(Some("Deferred"), "30", "20")).await;
    // It is as wanted: the same again changes nothing, and a new agent waits on.
    let same = Apply { manifest: asking("small", "30").to_string(), ..Apply::default() };
    let applied = rig.try_apply(same).await.expect("applied");
    assert_eq!(applied.pods[0].1, Change::Unchanged);
    agent.kill().await;
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.until("small", "waiting", is(Some("Deferred"), "30", "20")).await;
    rig.delete("large", None).await;
    rig.gone("large").await;
    let grown = rig.until("small", "given", is(None, "30", "30")).await;
    assert_eq!(status(&grown, "a").restart_count, 0);
    assert_eq!(grown.metadata.generation, Some(3));
    rig.delete("small", None).await;
    rig.gone("small").await;
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
        // It is started again although it ends well, and has its hook before.
        pod["spec"]["restartPolicy"] = json!("OnFailure");
        let hook = json!({ "preStop": { "exec": { "command": ["exit", "1"] } } });
        pod["spec"]["containers"][0]["lifecycle"] = hook;
        pod
    };
    rig.apply(&with("64Mi")).await;
    rig.phase("sized", "Running").await;
    rig.apply(&with("32Mi")).await;
    rig.until("sized", "restarted", |pod| {
        status(pod, "a").restart_count == 1 && status(pod, "a").ready
    })
    .await;
    let events = rig.events("sized").await;
    let told = |reason: &str| events.iter().any(|event| event.0 == reason);
    assert!(told("Killing") && told("FailedPreStopHook") && !told("BackOff"), "{events:?}");
    let found = agent.rooms.sandboxes.containers(&Default::default());
    let limit = found.iter().map(|found| found.resources.memory_limit).min();
    assert_eq!(limit, Some(32 << 20));
    let mut never = with("32Mi");
    never["spec"]["restartPolicy"] = json!("Never");
    let refused = Apply { manifest: never.to_string(), ..Apply::default() };
    let refused = rig.try_apply(refused).await.expect_err("never").to_string();
    assert!(refused.contains("must be 'NotRequired' when `restartPolicy` is 'Never'"), "{refused}");
    rig.delete("sized", None).await;
    rig.gone("sized").await;
    world.clean().await;
}

fn in_progress(pod: &Pod) -> Option<PodCondition> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().find(|it| it.type_ == "PodResizeInProgress").cloned()
}

#[tokio::test]
async fn memory_does_not_fall_below_what_is_in_use() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&limited("500m", "64Mi")).await;
    rig.phase("sized", "Running").await;
    let of_pod = Path::new("/sys/fs/cgroup/fake");
    let uses = |cgroup: &Path, mib: u64| {
        let memory = MemoryUse { used: mib << 20, limit: 64 << 20 };
        world.fakes.host.set_memory(cgroup, memory);
    };
    uses(&of_pod.join(rig.ids("a").remove(0)), 40);
    let steps = &world.fakes.steps;
    let done = || (steps.count("update_resources"), steps.count("make_cgroup"));
    let before = done();
    let refused = async |what: &'static str, message: &'static str| {
        let is_told = |pod: &Pod| {
            let told = in_progress(pod).filter(|told| told.reason.as_deref() == Some("Error"));
            told.and_then(|told| told.message).is_some_and(|told| told == message)
        };
        rig.until("sized", what, is_told).await;
    };
    rig.apply(&limited("250m", "32Mi")).await;
    let message = "cannot decrease memory limits: attempting to set container \"a\" memory limit \
                   (33554432) below current usage (41943040)";
    refused("refused", message).await;
    uses(&of_pod.join(rig.ids("a").remove(0)), 1);
    uses(of_pod, 32);
    let message = "cannot decrease memory limits: attempting to set pod memory limit (33554432) \
                   below current usage (33554432)";
    refused("refused for the pod", message).await;
    assert_eq!(done(), before, "nothing was changed");
    // A limit that stays may be reached.
    rig.apply(&limited("250m", "64Mi")).await;
    uses(of_pod, 64);
    rig.until("sized", "not lowered", |pod| in_progress(pod).is_none()).await;
    rig.apply(&limited("250m", "32Mi")).await;
    uses(of_pod, 31);
    eventually("other limits", async || {
        let found = agent.rooms.sandboxes.containers(&Default::default()).remove(0);
        let limits = (found.resources.cpu_quota, found.resources.memory_limit);
        (limits == (25_000, 32 << 20)).then_some(())
    })
    .await;
    rig.until("sized", "done", |pod| in_progress(pod).is_none()).await;
    rig.delete("sized", None).await;
    rig.gone("sized").await;
    world.clean().await;
}

#[tokio::test]
async fn a_class_weighs_what_its_living_pods_do() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let weighs = async |milli_cpu: u64| {
        let is = || {
            let class = Path::new("/kubepods/burstable");
            let limits = world.fakes.host.limits(class).map(|limits| limits.cpu_shares);
            (limits == Some(milli_cpu * 1024 / 1000)).then_some(())
        };
        eventually("the weight", async || is()).await;
    };
    rig.apply(&asking("large", "40")).await;
    rig.phase("large", "Running").await;
    weighs(40_000).await;
    // One that the node rejects has no part of it.
    rig.apply(&asking("late", "30")).await;
    rig.phase("late", "Failed").await;
    let mut short = asking("short", "10");
    short["spec"]["restartPolicy"] = json!("Never");
    short["spec"]["containers"][0]["command"] = json!(["exit", "0"]);
    rig.apply(&short).await;
    rig.phase("short", "Succeeded").await;
    weighs(40_000).await;
    rig.apply(&asking("small", "20")).await;
    rig.phase("small", "Running").await;
    weighs(60_000).await;
    for (name, left) in [("large", 20_000), ("late", 20_000), ("short", 20_000)] {
        rig.delete(name, None).await;
        rig.gone(name).await;
        weighs(left).await;
    }
    rig.delete("small", None).await;
    rig.gone("small").await;
    let empty = || world.fakes.host.limits(Path::new("/kubepods/burstable")).expect("the class");
    eventually("nothing left", async || (empty().cpu_shares == 2).then_some(())).await;
    world.clean().await;
}

#[tokio::test]
async fn a_resize_that_fails_holds_up_nothing_else() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let with = |memory: &str| {
        let mut pod = limited("500m", memory);
        pod["spec"]["volumes"] = json!([{ "name": "v", "configMap": { "name": "map" } }]);
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "map" } });
        json!({ "apiVersion": "v1", "kind": "List", "items": [map, pod] })
    };
    rig.apply(&with("64Mi")).await;
    rig.phase("sized", "Running").await;
    let cgroup = Path::new("/sys/fs/cgroup/fake").join(rig.ids("a").remove(0));
    let memory = MemoryUse { used: 40 << 20, limit: 64 << 20 };
    world.fakes.host.set_memory(&cgroup, memory);
    let fills = world.fakes.steps.count("write_volume");
    rig.apply(&with("32Mi")).await;
    let failed = |pod: &Pod| in_progress(pod).is_some_and(|it| it.reason.is_some());
    rig.until("sized", "refused", failed).await;
    assert!(world.fakes.steps.count("write_volume") > fills, "its volumes are up to date");
    let pods = rig.pods();
    let again = agent.inside(async move { pods.restart_container(&key("sized"), "a").await });
    again.await.expect("no panic").expect("it is restarted");
    let goes_on = |pod: &Pod| status(pod, "a").restart_count == 1 && status(pod, "a").ready;
    rig.until("sized", "restarted", goes_on).await;
    rig.delete("sized", None).await;
    rig.gone("sized").await;
    world.clean().await;
}
