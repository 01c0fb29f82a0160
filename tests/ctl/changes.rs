//! Changing pods: create, apply, replace, delete, and waiting for the results.

use podbay::proto::podbay::v1::*;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::agent::{Agent, PATIENCE, pod};

const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n";

async fn with_web(phase: Phase, ready: bool) -> Agent {
    let agent = Agent::start().await;
    agent.state(|state| state.pods = vec![pod("default", "web", phase, ready)]);
    std::fs::write(agent.dir.path().join("web.yaml"), MANIFEST).expect("manifest");
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_go_to_the_agent_as_they_are() {
    let agent = with_web(Phase::Pending, false).await;
    agent.state(|state| state.warnings = vec!["spec.x: unknown field".to_owned()]);
    let done = agent.run(&["create", "-f", "web.yaml", "--lenient", "-n", "mine"]).await;
    assert_eq!(done.out, "pod/web created\n");
    assert_eq!(done.err, "warning: spec.x: unknown field\n");
    assert_eq!(agent.state(|state| state.manifests.pop()).as_deref(), Some(MANIFEST));
    let asked = agent.asked();
    assert!(asked.contains("Create") && asked.contains("\"mine\", true, None"), "{asked}");
    agent.state(|state| (state.warnings, state.change) = (vec![], Change::Configured));
    let args = ["apply", "-f", "-", "--dry-run", "--uid", "u", "--resource-version", "8"];
    assert_eq!(agent.run_with(&args, b"kind: Pod").await.good(), "pod/web configured (dry run)\n");
    assert_eq!(agent.state(|state| state.manifests.pop()).as_deref(), Some("kind: Pod"));
    assert!(agent.asked().contains("uid: \"u\", resource_version: \"8\""), "{}", agent.asked());
    agent.state(|state| state.objects = vec![("ConfigMap", "settings"), ("Secret", "token")]);
    assert_eq!(
        agent.run(&["apply", "-f", "web.yaml"]).await.good(),
        "configmap/settings configured\nsecret/token configured\npod/web configured\n"
    );
    agent.state(|state| (state.change, state.objects) = (Change::Replaced, Vec::new()));
    let replaced = agent.run(&["replace", "-f", "web.yaml", "--grace-period", "3"]).await.good();
    assert_eq!(replaced, "pod/web replaced\n");
    assert!(agent.asked().contains("Replace") && agent.asked().contains("seconds: 3"));
    let object =
        agent.run(&["apply", "-f", "web.yaml", "-o", "jsonpath={.metadata.uid}"]).await.good();
    assert_eq!(object, "uid-web");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_several_manifests_are_those_of_their_files() {
    let agent = with_web(Phase::Pending, false).await;
    std::fs::write(agent.dir.path().join("more.yaml"), "kind: Pod\n").expect("manifest");
    let fault = "Pod \"web\" is invalid: x: unknown field (line 4, column 1)";
    agent.state(|state| state.refusals.insert("Apply", Status::invalid_argument(fault)));
    let one = agent.run(&["apply", "-f", "web.yaml"]).await.bad(1);
    assert_eq!(one, format!("error: {fault}\n"));
    let both = agent.run(&["apply", "-f", "more.yaml,web.yaml"]).await;
    assert_eq!(both.bad(1), format!("line 4 is line 2 of web.yaml\nerror: {fault}\n"));
    agent.state(|state| {
        state.refusals.clear();
        state.warnings = vec!["y: unknown field (line 3, column 1)".to_owned()];
    });
    let done = agent.run(&["apply", "-f", "more.yaml", "-f", "web.yaml"]).await;
    assert!(done.err.ends_with("(line 3, column 1)\nline 3 is line 1 of web.yaml\n"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_their_fields() {
    let agent = with_web(Phase::Pending, false).await;
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("spec.containers[0].image", "must be set");
    details.add_bad_request_violation("spec.nodeNam", "unknown field");
    let status =
        Status::with_error_details(Code::InvalidArgument, "Pod \"web\" is invalid", details);
    agent.state(|state| state.refusals.insert("Apply", status));
    let fault = agent.run(&["apply", "-f", "web.yaml"]).await.bad(1);
    assert_eq!(
        fault,
        "error: Pod \"web\" is invalid\n  spec.containers[0].image: must be set\n  spec.nodeNam: unknown field\n"
    );
    let fault = agent.run(&["apply", "-f", "absent.yaml"]).await.bad(2);
    assert!(fault.starts_with("error: read absent.yaml: "), "{fault}");
    agent.run(&["apply"]).await.bad(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_readiness_end_one_way_or_another() {
    let agent = with_web(Phase::Running, true).await;
    assert_eq!(agent.run(&["apply", "-f", "web.yaml", "--wait"]).await.good(), "pod/web created\n");
    agent.state(|state| state.pods = vec![pod("default", "web", Phase::Failed, false)]);
    let fault = agent.run(&["apply", "-f", "web.yaml", "--wait"]).await.bad(1);
    assert!(fault.starts_with("error: pod default/web has failed: "), "{fault}");
    agent.state(|state| {
        state.pods = vec![pod("default", "web", Phase::Pending, false)];
        state.watch_on = true;
    });
    let fault = agent.run(&["apply", "-f", "web.yaml", "--wait", "--timeout", "50ms"]).await.bad(5);
    assert_eq!(fault, "error: after 50ms: waiting for web to be ready\n");
    agent.state(|state| state.asked.clear());
    let waiting = agent.command(&["apply", "-f", "web.yaml", "--wait"]).spawn().expect("spawn");
    agent.until_watched().await;
    agent.fake.tell(WatchEventType::Modified, pod("default", "web", Phase::Running, true));
    let done = tokio::time::timeout(PATIENCE, waiting.wait_with_output()).await.expect("in time");
    assert!(done.expect("wait").status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_replaced_pod_is_for_the_one_that_follows() {
    let agent = with_web(Phase::Running, true).await;
    let mut old = pod("default", "web", Phase::Running, true);
    old.deletion_deadline = Some(prost_types::Timestamp::default());
    agent.state(|state| {
        (state.watch_on, state.change, state.pods) = (true, Change::Replaced, vec![old.clone()]);
    });
    agent.state(|state| state.asked.clear());
    let waiting = agent.command(&["replace", "-f", "web.yaml", "--wait"]).spawn().expect("spawn");
    agent.until_watched().await;
    old.phase = Phase::Failed.into();
    agent.fake.tell(WatchEventType::Modified, old.clone());
    agent.fake.tell(WatchEventType::Deleted, old);
    let mut new = pod("default", "web", Phase::Pending, false);
    new.uid = "new".to_owned();
    agent.fake.tell(WatchEventType::Added, new.clone());
    new.phase = Phase::Succeeded.into();
    agent.fake.tell(WatchEventType::Modified, new);
    let done = tokio::time::timeout(PATIENCE, waiting.wait_with_output()).await.expect("in time");
    let done = done.expect("wait");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_name_what_they_mean() {
    let agent = with_web(Phase::Running, true).await;
    let gone = async |args: &[&str]| agent.run(args).await.good();
    let args = ["delete", "pod", "web", "--grace-period=0", "--force"];
    assert_eq!(gone(&args).await, "pod \"web\" force deleted\n");
    let asked = agent.asked();
    assert!(asked.contains("seconds: 0") && asked.contains("force: true"), "{asked}");
    assert_eq!(gone(&["delete", "pods", "--all", "--wait=false"]).await, "pod \"web\" deleted\n");
    assert!(agent.asked().contains("all: true"));
    gone(&["delete", "pods", "-l", "app=web", "--wait=false"]).await;
    assert!(agent.asked().contains("labels: \"app=web\"") && agent.asked().contains("all: false"));
    gone(&["delete", "-f", "web.yaml", "--wait=false"]).await;
    gone(&["-n", "default", "delete", "pod", "web", "--now", "--wait=false"]).await;
    assert!(agent.asked().contains("grace: Some(Duration { seconds: 1,"), "{}", agent.asked());
    gone(&["delete", "pod", "web", "--grace-period=-1", "--force=false", "--wait=false"]).await;
    assert!(agent.asked().contains("grace: None, force: false"), "{}", agent.asked());
    assert!(agent.asked().contains("namespace: \"default\", name: \"web\""), "{}", agent.asked());
    let done = agent.run(&["delete", "pod", "gone", "web", "--wait=false"]).await;
    assert_eq!(done.out, "pod \"web\" deleted\n", "one that is not there spares no other");
    assert_eq!(done.bad(3), "error: pod default/gone is not found\n");
    agent.run(&["delete", "pod", "gone", "--ignore-not-found"]).await;
    for args in [
        &["delete", "pods"][..],
        &["delete"],
        &["delete", "pod", "web", "--all"],
        &["delete", "pod", "web", "-f", "web.yaml"],
        &["delete", "node", "host"],
        &["delete", "pod", "web", "--grace-period=-2"],
        &["delete", "pod", "web", "--grace-period=soon"],
        &["delete", "pod", "web", "--now", "--force"],
    ] {
        agent.run(args).await.bad(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_waits_until_the_pod_is_gone() {
    let agent = with_web(Phase::Running, true).await;
    agent.state(|state| state.watch_on = true);
    let args = ["delete", "pod", "web", "--timeout=50ms"];
    let fault = agent.run(&args).await.bad(5);
    assert_eq!(fault, "error: after 50ms: waiting for web to be gone\n");
    agent.state(|state| state.asked.clear());
    let waiting = agent.command(&["delete", "pod/web"]).spawn().expect("spawn");
    agent.until_watched().await;
    agent.fake.tell(WatchEventType::Deleted, pod("default", "web", Phase::Running, true));
    let done = tokio::time::timeout(PATIENCE, waiting.wait_with_output()).await.expect("in time");
    assert!(done.expect("wait").status.success());
}
