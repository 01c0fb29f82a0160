//! Config maps and secrets applied without a pod.

use podbay::pod::{Apply, Change, Delete, Error, Face, Manner, ObjectKey, ObjectKind};
use serde_json::{Value, json};

use crate::rig::{Rig, container, key, named, pod, quick, state};

fn map(value: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "map" },
            "data": { "KEY": value } })
}

/// A pod whose variables come from the map.
fn user(name: &str) -> Value {
    let mut container = container("a", &["run"]);
    container["envFrom"] = json!([{ "configMapRef": { "name": "map" } }]);
    pod(name, &[container], json!({}))
}

async fn give(rig: &Rig<'_>, object: &Value) {
    let request = Apply { manifest: object.to_string(), ..Apply::default() };
    let applied = rig.try_apply(request).await.expect("applied");
    assert_eq!(applied.warnings, [""; 0]);
}

#[tokio::test]
async fn a_config_map_may_come_before_its_pod() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    give(&rig, &map("one")).await;
    agent.kill().await;

    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&user("early")).await;
    rig.phase("early", "Running").await;
    // What is kept is replaced, and the next pod has it too.
    give(&rig, &map("two")).await;
    rig.apply(&user("late")).await;
    rig.phase("late", "Running").await;
    let value = |name: &str| {
        let all = agent.rooms.sandboxes.containers(&Default::default());
        let uid = rig.get(name).and_then(|pod| pod.metadata.uid).expect("a uid");
        let of = all.into_iter().find(|it| it.config.labels.values().any(|label| *label == uid));
        let env = of.expect("a container").config.envs.clone();
        env.into_iter().find(|(key, _)| key == "KEY").map(|(_, value)| value)
    };
    assert_eq!((value("early").as_deref(), value("late").as_deref()), (Some("one"), Some("two")));
    // A pod that goes leaves it; who takes it away leaves the pods.
    rig.delete("early", None).await;
    rig.gone("early").await;
    let object = ObjectKey { kind: ObjectKind::ConfigMap, name: key("map") };
    let request = Delete { objects: vec![object], ..Delete::default() };
    assert!(rig.try_delete(request).await.expect("deleted").is_empty());
    assert_eq!(state(&rig.get("late").expect("there"), "a"), "running");
    rig.apply(&user("after")).await;
    rig.until("after", "without it", |pod| state(pod, "a") == "CreateContainerConfigError").await;
    // What is missing comes: the pod that waits for it goes on.
    give(&rig, &map("three")).await;
    rig.phase("after", "Running").await;
    rig.remove_all(&["late", "after"]).await;
    assert!(rig.pods().list(&named("map")).expect("a list").pods.is_empty());
    world.clean().await;
}

#[tokio::test]
async fn what_comes_with_its_pod_goes_with_it() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let both = json!({ "apiVersion": "v1", "kind": "List", "items": [map("one"), user("first")] });
    give(&rig, &both).await;
    rig.phase("first", "Running").await;
    rig.apply(&user("second")).await;
    rig.until("second", "without it", |pod| state(pod, "a") == "CreateContainerConfigError").await;
    rig.remove_all(&["first", "second"]).await;
    world.clean().await;
}

#[tokio::test]
async fn an_object_is_created_once_and_replaced_only_if_it_is_there() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let send = async |object: &Value, manner| {
        let request = Apply { manifest: object.to_string(), manner, ..Apply::default() };
        rig.try_apply(request).await.map(|applied| applied.objects)
    };
    let own = ObjectKey { kind: ObjectKind::ConfigMap, name: key("map") };
    let absent = send(&map("one"), Manner::Replace).await.expect_err("absent");
    assert!(matches!(&absent, Error::NoObject(key) if *key == own), "{absent}");
    let changed = |change| vec![(own.clone(), change)];
    let created = send(&map("one"), Manner::Create).await.expect("created");
    assert_eq!(created, changed(Change::Created));
    for again in ["one", "two"] {
        let there = send(&map(again), Manner::Create).await.expect_err("there");
        assert!(matches!(&there, Error::ObjectExists(key) if *key == own), "{there}");
    }
    assert_eq!(send(&map("one"), Manner::Apply).await.expect("same"), changed(Change::Unchanged));
    let replaced = send(&map("two"), Manner::Replace).await.expect("replaced");
    assert_eq!(replaced, changed(Change::Configured));
    let request = Delete { objects: vec![own.clone()], ..Delete::default() };
    rig.try_delete(request).await.expect("deleted");
    // One that comes with its pod is its own, and others with the same one may follow.
    let with = |name: &str, value: &str| json!({ "apiVersion": "v1", "kind": "List", "items": [map(value), user(name)] });
    let first = send(&with("first", "one"), Manner::Create).await.expect("created");
    assert_eq!(first, changed(Change::Created));
    let second = send(&with("second", "one"), Manner::Create).await.expect("created");
    assert_eq!(second, changed(Change::Unchanged));
    let third = send(&with("third", "two"), Manner::Create).await.expect_err("another");
    assert!(matches!(third, Error::ObjectExists(_)), "{third}");
    assert!(rig.get("third").is_none());
    let applied = send(&map("two"), Manner::Apply).await.expect("applied");
    assert_eq!(applied, changed(Change::Configured), "the pods have a copy");
    for name in ["first", "second"] {
        rig.delete(name, None).await;
        rig.gone(name).await;
    }
    world.clean().await;
}
