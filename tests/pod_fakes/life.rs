//! From a manifest to a running pod.

use std::time::Duration;

use podbay::pod::{Apply, Change, Error, Face, Manner};
use serde_json::json;

use crate::rig::{Rig, container, is_true, key, phase, pod, quick, state, status, uid};
use crate::world::World;

#[tokio::test]
async fn a_pod_with_init_containers_runs_and_goes_without_a_trace() {
    let world = World::new();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let inits = json!({ "initContainers": [container("first", &["sleep", "0.05"]),
                                           container("second", &["exit", "0"])] });
    let apps = [container("web", &["run"]), container("side", &["run"])];
    let applied = rig.apply(&pod("slice", &apps, inits)).await;
    assert_eq!(phase(&applied.pod), "Pending");
    let running = rig.phase("slice", "Running").await;
    for condition in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"] {
        assert!(is_true(&running, condition), "{condition}: {running:#?}");
    }
    assert_eq!(state(&running, "first"), "exit 0");
    assert_eq!(state(&running, "web"), "running");
    assert!(status(&running, "second").ready && status(&running, "web").ready);
    let shown = running.status.expect("a status");
    assert_eq!(shown.host_ip.as_deref(), Some("192.0.2.10"));
    assert!(shown.pod_ip.is_some());
    assert_eq!(shown.qos_class.as_deref(), Some("BestEffort"));
    // Strictly one after the other.
    let started: Vec<_> =
        rig.events("slice").await.into_iter().filter(|e| e.0 == "Started").collect();
    assert_eq!([&*started[0].1, &*started[1].1], ["first", "second"]);
    assert!(rig.pods().explain(&key("slice")).expect("explained").waits.is_empty());

    let deleted = rig.delete("slice", None).await;
    assert!(deleted.pod.metadata.deletion_timestamp.is_some());
    rig.gone("slice").await;
    world.clean().await;
    assert!(agent.rows().is_empty());
}

#[tokio::test]
async fn what_is_shown_of_a_pod_can_be_applied() {
    let world = World::new();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("web", &[container("a", &["run"])], json!({}))).await;
    let running = rig.phase("web", "Running").await;
    let mut shown = serde_json::to_value(&running).expect("json");
    shown["apiVersion"] = "v1".into();
    shown["kind"] = "Pod".into();
    assert!(shown["spec"]["nodeName"].is_string() && shown["status"].is_object());
    let again = Apply { manifest: shown.to_string(), ..Apply::default() };
    let applied = rig.try_apply(again).await.expect("applied").pods.remove(0);
    assert_eq!(applied.1, Change::Unchanged);
    shown["metadata"]["labels"] = json!({ "tier": "front" });
    assert_eq!(uid(&rig.apply(&shown).await.pod), uid(&running));
    assert_eq!(rig.get("web").expect("a pod").metadata.labels.expect("labels")["tier"], "front");
    shown["spec"]["nodeName"] = "another".into();
    let elsewhere = Apply { manifest: shown.to_string(), ..Apply::default() };
    let Err(Error::Immutable { paths, .. }) = rig.try_apply(elsewhere).await else {
        panic!("a pod went to another node");
    };
    assert_eq!(paths, ["spec.nodeName"]);
}

#[tokio::test]
async fn phases_follow_the_restart_policy() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let never = json!({ "restartPolicy": "Never" });
    rig.apply(&pod("good", &[container("a", &["exit", "0"])], never.clone())).await;
    rig.apply(&pod("bad", &[container("a", &["exit", "3"])], never.clone())).await;
    let on_failure = json!({ "restartPolicy": "OnFailure" });
    rig.apply(&pod("once", &[container("a", &["exit", "0"])], on_failure)).await;
    let failing =
        json!({ "restartPolicy": "Never", "initContainers": [container("i", &["exit", "9"])] });
    rig.apply(&pod("init", &[container("a", &["run"])], failing)).await;
    rig.phase("good", "Succeeded").await;
    rig.phase("once", "Succeeded").await;
    let bad = rig.phase("bad", "Failed").await;
    assert_eq!(state(&bad, "a"), "exit 3");
    let init = rig.phase("init", "Failed").await;
    assert_eq!(state(&init, "i"), "exit 9");
    assert!(!is_true(&init, "Ready"));
    rig.remove_all(&["good", "bad", "once", "init"]).await;
    world.clean().await;
}

#[tokio::test]
async fn sidecars_begin_before_apps_and_end_after_them() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let mut sidecar = container("proxy", &["run"]);
    sidecar["restartPolicy"] = json!("Always");
    let more = json!({ "restartPolicy": "Never", "initContainers": [sidecar, container("i", &["exit", "0"])] });
    rig.apply(&pod("mesh", &[container("job", &["sleep", "0.1"])], more)).await;
    let done = rig.phase("mesh", "Succeeded").await;
    assert_eq!(state(&done, "job"), "exit 0");
    assert!(state(&done, "proxy").starts_with("exit"), "{done:#?}");
    let started: Vec<_> =
        rig.events("mesh").await.into_iter().filter(|e| e.0 == "Started").map(|e| e.1).collect();
    assert_eq!(started, ["proxy", "i", "job"]);
    rig.delete("mesh", None).await;
    rig.gone("mesh").await;
    world.clean().await;
}

#[tokio::test]
async fn changes_are_made_in_place_or_refused_by_name() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let first = pod("web", &[container("a", &["run"])], json!({}));
    let made = rig.apply(&first).await;
    rig.phase("web", "Running").await;
    let apply = |pod: &serde_json::Value, manner| Apply {
        manifest: pod.to_string(),
        manner,
        ..Apply::default()
    };
    let same = rig.try_apply(apply(&first, Manner::Apply)).await.expect("applied");
    assert_eq!(same.pods[0].1, Change::Unchanged);
    let mut labelled = first.clone();
    labelled["metadata"]["labels"] = json!({ "tier": "front" });
    let set = rig.try_apply(apply(&labelled, Manner::Apply)).await.expect("applied");
    assert_eq!(set.pods[0].1, Change::Configured);
    assert_eq!(uid(&set.pods[0].0.pod), uid(&made.pod));
    let other = pod("web", &[container("a", &["cat"])], json!({}));
    let refused = rig.try_apply(apply(&other, Manner::Apply)).await.expect_err("immutable");
    assert!(
        matches!(&refused, Error::Immutable { paths, .. } if paths[0].contains("command")),
        "{refused}"
    );
    let twice = rig.try_apply(apply(&first, Manner::Create)).await.expect_err("there");
    assert!(matches!(twice, Error::AlreadyExists(_)));
    let missing = pod("none", &[container("a", &["run"])], json!({}));
    let missing = rig.try_apply(apply(&missing, Manner::Replace)).await.expect_err("not there");
    assert!(matches!(missing, Error::NotFound(_)));
    let replaced = rig.try_apply(apply(&other, Manner::Replace)).await.expect("replaced");
    assert_eq!(replaced.pods[0].1, Change::Replaced);
    let old = uid(&made.pod).to_owned();
    rig.until("web", "replaced", |pod| uid(pod) != old && phase(pod) == "Running").await;
    rig.delete("web", None).await;
    rig.gone("web").await;
    world.clean().await;
}

#[tokio::test]
async fn one_hung_call_holds_up_one_pod_only() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    world.fakes.steps.hang("attach");
    rig.apply(&pod("stuck", &[container("a", &["run"])], json!({}))).await;
    let free = json!({ "hostNetwork": true });
    rig.apply(&pod("free", &[container("a", &["run"])], free)).await;
    rig.phase("free", "Running").await;
    assert_eq!(phase(&rig.get("stuck").expect("it is there")), "Pending");
    let waits = rig.pods().explain(&key("stuck")).expect("explained").waits;
    assert_eq!(waits[0].step, "make the pod sandbox");
    world.fakes.steps.release("attach");
    rig.phase("stuck", "Running").await;
    for name in ["stuck", "free"] {
        rig.delete(name, Some(Duration::from_secs(1))).await;
        rig.gone(name).await;
    }
    world.clean().await;
}

/// A pod as it is shown, to be sent as a manifest.
fn as_shown(pod: &k8s_openapi::api::core::v1::Pod) -> serde_json::Value {
    let mut shown = serde_json::to_value(pod).expect("json");
    shown["apiVersion"] = "v1".into();
    shown["kind"] = "Pod".into();
    shown
}

fn replace(manifest: &serde_json::Value) -> Apply {
    Apply { manifest: manifest.to_string(), manner: Manner::Replace, ..Apply::default() }
}

#[tokio::test]
async fn a_pod_made_from_a_shown_one_is_another_pod() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("web", &[container("a", &["run"])], json!({}))).await;
    let first = rig.phase("web", "Running").await;
    let mut shown = as_shown(&first);
    // Copies with another name, two in one manifest.
    let copy = |name: &str| {
        let mut copy = shown.clone();
        copy["metadata"]["name"] = name.into();
        copy
    };
    let both = json!({ "apiVersion": "v1", "kind": "List", "items": [copy("b"), copy("c")] });
    let both = Apply { manifest: both.to_string(), ..Apply::default() };
    let copies = rig.try_apply(both).await.expect("applied").pods;
    let mut uids: Vec<_> = copies.iter().map(|(view, _)| uid(&view.pod).to_owned()).collect();
    uids.push(uid(&first).to_owned());
    uids.sort();
    uids.dedup();
    assert_eq!(uids.len(), 3, "{uids:?}");
    rig.phase("b", "Running").await;
    assert_eq!(uid(&rig.get("web").expect("it is there")), uid(&first));
    // Its successor.
    shown["spec"]["containers"][0]["command"] = json!(["cat"]);
    let replaced = rig.try_apply(replace(&shown)).await.expect("replaced").pods.remove(0);
    assert_eq!(replaced.1, Change::Replaced);
    assert_ne!(uid(&replaced.0.pod), uid(&first));
    let second = rig
        .until("web", "replaced", |pod| uid(pod) != uid(&first) && phase(pod) == "Running")
        .await;
    // The manifest is that of an earlier pod by now.
    for manner in [Manner::Apply, Manner::Replace] {
        let late = rig.try_apply(Apply { manner, ..replace(&shown) }).await.expect_err("another");
        assert!(
            matches!(&late, Error::Conflict { message, .. } if message.contains("uid")),
            "{late}"
        );
    }
    // After a forced deletion the old one still ends when the new one begins.
    rig.try_delete(podbay::pod::Delete {
        selector: crate::rig::named("web"),
        force: true,
        grace: Some(Duration::ZERO),
        ..Default::default()
    })
    .await
    .expect("deleted");
    let third = rig.apply(&as_shown(&second)).await;
    assert_ne!(uid(&third.pod), uid(&second));
    rig.phase("web", "Running").await;
    for name in ["web", "b", "c"] {
        rig.delete(name, None).await;
        rig.gone(name).await;
    }
    world.clean().await;
}

#[tokio::test]
async fn a_replace_is_refused_if_the_pod_has_changed_since_it_was_shown() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("web", &[container("a", &["run"])], json!({}))).await;
    let mut stale = as_shown(&rig.phase("web", "Running").await);
    stale["metadata"]["labels"] = json!({ "tier": "front" });
    let set = rig.try_apply(replace(&stale)).await.expect("replaced").pods.remove(0);
    assert_eq!(set.1, Change::Configured);
    stale["metadata"]["labels"] = json!({ "tier": "back" });
    let refused = rig.try_apply(replace(&stale)).await.expect_err("stale");
    assert!(
        matches!(&refused, Error::Conflict { message, .. } if message.contains("by now")),
        "{refused}"
    );
    // An apply does not look at it, nor a replace that is told so, nor one without it.
    rig.apply(&stale).await;
    let any = Apply { any_version: true, ..replace(&stale) };
    rig.try_apply(any).await.expect("replaced");
    stale["metadata"].as_object_mut().expect("an object").remove("resourceVersion");
    rig.try_apply(replace(&stale)).await.expect("replaced");
    rig.delete("web", None).await;
    rig.gone("web").await;
    world.clean().await;
}
