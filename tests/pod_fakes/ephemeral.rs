//! Containers added to a running pod.

use k8s_openapi::api::core::v1::Pod;
use podbay::model::security::NamespaceMode;
use podbay::pod::{Apply, Change, Error, Face, LogOptions, Manner};
use serde_json::{Value, json};

use crate::rig::{Rig, container, is_true, key, phase, pod, quick, state, status};

fn with(pod: &Value, debuggers: &[Value]) -> Value {
    let mut pod = pod.clone();
    pod["spec"]["ephemeralContainers"] = json!(debuggers);
    pod
}

fn looking(name: &str, target: &str, command: &[&str]) -> Value {
    let mut container = container(name, command);
    container["targetContainerName"] = target.into();
    container
}

/// Whether an ephemeral container is so; one that was just added has no status yet.
fn is(pod: &Pod, name: &str, wanted: &str) -> bool {
    let all = pod.status.as_ref().and_then(|status| status.ephemeral_container_statuses.as_ref());
    let there = all.into_iter().flatten().any(|status| status.name == name);
    there && state(pod, name) == wanted
}

async fn refused(rig: &Rig<'_>, pod: &Value, manner: Manner) -> Error {
    let request = Apply { manifest: pod.to_string(), manner, ..Apply::default() };
    rig.try_apply(request).await.expect_err("refused")
}

#[tokio::test]
async fn a_debugger_comes_into_a_running_pod_and_outlives_the_agent() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let plain = pod("web", &[container("a", &["run"])], json!({}));
    rig.apply(&plain).await;
    let before = rig.phase("web", "Running").await;
    let debuggers = [looking("look", "a", &["run"]), container("other", &["exit", "7"])];
    rig.apply(&with(&plain, &debuggers)).await;
    rig.until("web", "looked at", |pod| is(pod, "look", "running") && is(pod, "other", "exit 7"))
        .await;
    // It sees the processes of its target, and the other one those that all see.
    let found = |name: &str| {
        let all = agent.rooms.sandboxes.containers(&Default::default());
        all.into_iter().find(|it| it.config.metadata.name == name).expect("a container")
    };
    let namespaces = found("look").config.security.namespaces.clone();
    assert_eq!(namespaces.pid, NamespaceMode::Target);
    assert_eq!(namespaces.target_id, found("a").id.as_str());
    assert_eq!(found("other").config.security.namespaces.pid, NamespaceMode::Container);
    // By its name it can be reached as any container, but not be started again.
    let pods = rig.pods();
    assert_eq!(
        pods.target(&key("web"), Some("look")).expect("it runs").container,
        found("look").id
    );
    assert!(pods.target(&key("web"), Some("other")).is_err(), "it has ended");
    let options = LogOptions { container: Some("other".into()), ..LogOptions::default() };
    let logs = agent.inside(async move { pods.logs(&key("web"), options).await.map(drop) });
    logs.await.expect("no panic").expect("its log");
    let pods = rig.pods();
    let again = agent.inside(async move { pods.restart_container(&key("web"), "look").await });
    let again = again.await.expect("no panic").expect_err("never again").to_string();
    assert!(again.ends_with("an ephemeral container is never restarted"), "{again}");
    agent.kill().await;

    let agent = world.agent().await;
    let rig = Rig(&agent);
    let after = rig.until("web", "as it was", |pod| is(pod, "look", "running")).await;
    assert_eq!(state(&after, "other"), "exit 7");
    assert_eq!(status(&after, "a"), status(&before, "a"));
    assert!(is_true(&after, "Ready") && phase(&after) == "Running");
    rig.delete("web", None).await;
    rig.gone("web").await;
    world.clean().await;
}

#[tokio::test]
async fn its_end_is_not_the_pods_and_the_pods_end_is_its_own() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let never = json!({ "restartPolicy": "Never" });
    let plain = pod("job", &[container("a", &["sleep", "0.5"])], never);
    rig.apply(&plain).await;
    rig.phase("job", "Running").await;
    rig.apply(&with(&plain, &[container("look", &["run"])])).await;
    let ended = rig.phase("job", "Succeeded").await;
    assert_eq!(
        (state(&ended, "a").as_str(), state(&ended, "look").as_str()),
        ("exit 0", "exit 143")
    );
    let events = rig.events("job").await;
    for reason in ["Created", "Started", "Killing"] {
        let wanted = (reason.to_owned(), "look".to_owned());
        assert!(events.contains(&wanted), "{wanted:?} in {events:?}");
    }
    rig.delete("job", None).await;
    rig.gone("job").await;
    world.clean().await;
}

#[tokio::test]
async fn they_are_only_ever_added() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let plain = pod("web", &[container("a", &["run"])], json!({}));
    let look = container("look", &["run"]);
    for manner in [Manner::Apply, Manner::Create] {
        let told = refused(&rig, &with(&plain, &[look.clone()]), manner).await.to_string();
        assert!(
            told.contains("spec.ephemeralContainers: Forbidden: cannot be set on create"),
            "{told}"
        );
    }
    rig.apply(&plain).await;
    rig.apply(&with(&plain, &[look.clone()])).await;
    rig.until("web", "looked at", |pod| is(pod, "look", "running")).await;
    let mut other = look.clone();
    other["command"] = json!(["exit", "1"]);
    for (list, path) in [
        (vec![other], "spec.ephemeralContainers[0].command[0]"),
        (vec![container("new", &["run"])], "spec.ephemeralContainers[0].name"),
    ] {
        let error = refused(&rig, &with(&plain, &list), Manner::Apply).await;
        let Error::Immutable { paths, .. } = &error else { panic!("{error}") };
        assert!(paths.iter().any(|found| path.starts_with(found.as_str())), "{path}: {paths:?}");
        // What cannot be changed in place would be a pod that begins with them.
        let error = refused(&rig, &with(&plain, &list), Manner::Replace).await.to_string();
        assert!(error.contains("cannot be set on create"), "{error}");
    }
    // A manifest that says nothing of them leaves them alone, and so does a change of the rest.
    for manner in [Manner::Apply, Manner::Replace] {
        let request = Apply { manifest: plain.to_string(), manner, ..Apply::default() };
        let applied = rig.try_apply(request).await.expect("applied");
        assert_eq!(applied.pods[0].1, Change::Unchanged);
    }
    let mut labelled = plain.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    rig.apply(&labelled).await;
    let kept = rig.until("web", "labelled", |pod| pod.metadata.labels.is_some()).await;
    let spec = kept.spec.as_ref().expect("a spec");
    let names = spec.ephemeral_containers.iter().flatten().map(|it| it.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["look"]);
    assert_eq!(state(&kept, "look"), "running");
    rig.delete("web", None).await;
    rig.gone("web").await;
    world.clean().await;
}
