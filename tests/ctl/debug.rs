//! `debug`: an additional container in a running pod.

use podbay::proto::podbay::v1::*;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::agent::{Agent, Done, pod};

/// An agent with the pod `web`, in which the container of this name is so.
async fn with(name: &str, state: container_state::State) -> Agent {
    let agent = Agent::start().await;
    let mut web = pod("default", "web", Phase::Running, true);
    let mut object: Value = serde_json::from_str(&web.object).expect("an object");
    object["metadata"]["resourceVersion"] = "41".into();
    web.object = object.to_string();
    web.containers.push(Container {
        name: name.to_owned(),
        kind: ContainerKind::Ephemeral.into(),
        state: Some(ContainerState { state: Some(state) }),
        ..Container::default()
    });
    agent.state(|state| {
        state.pods = vec![web];
        state.change = Change::Configured;
        state.log = b"it said\n".to_vec();
    });
    agent
}

fn running() -> container_state::State {
    container_state::State::Running(ContainerRunning::default())
}

/// The manifest that came last.
fn manifest(agent: &Agent) -> Value {
    let text = agent.state(|state| state.manifests.last().cloned()).expect("a manifest");
    serde_json::from_str(&text).expect("JSON")
}

fn asked(agent: &Agent, call: &str) -> Vec<String> {
    agent.state(|state| state.asked.iter().filter(|it| it.starts_with(call)).cloned().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_adds_a_container_and_joins_it() {
    let agent = with("look", running()).await;
    let args = [
        "debug",
        "pod/web",
        "-i",
        "--image=tools:1",
        "-c",
        "look",
        "--target",
        "app",
        "--env=A=b=c",
        "--image-pull-policy",
        "Never",
        "--",
        "sh",
        "-c",
        "ls",
    ];
    let Done { code, out, err } = agent.run_with(&args, b"hello\n").await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "HELLO\n", ""));
    let sent = manifest(&agent);
    assert_eq!(
        sent["spec"]["ephemeralContainers"],
        json!([{
            "name": "look", "image": "tools:1", "stdin": true, "command": ["sh", "-c", "ls"],
            "env": [{"name": "A", "value": "b=c"}], "targetContainerName": "app",
            "imagePullPolicy": "Never",
        }])
    );
    assert_eq!(sent["spec"]["containers"][0]["name"], "app", "the pod as it is");
    assert_eq!(sent.get("status"), None);
    let applied = asked(&agent, "Apply").remove(0);
    for part in ["Apply (Apply, false", "uid: \"uid-web\", resource_version: \"41\""] {
        assert!(applied.contains(part), "{part} in {applied}");
    }
    let attached = asked(&agent, "Attach").remove(0);
    assert!(attached.contains("container: \"look\", stdin: true"), "{attached}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_i_it_is_only_added_under_a_made_up_name() {
    let agent = with("look", running()).await;
    let Done { code, out, err } = agent.run(&["debug", "web", "--image", "tools:1"]).await;
    assert_eq!((code, out.as_str()), (0, ""));
    let name = err.strip_prefix("Defaulting debug container name to ").expect("it is told");
    let name = name.trim_end().trim_end_matches('.');
    assert!(name.starts_with("debugger-") && name.len() == 14, "{name}");
    let sent = manifest(&agent);
    let wanted = json!([{"name": name, "image": "tools:1"}]);
    assert_eq!(sent["spec"]["ephemeralContainers"], wanted);
    assert_eq!(asked(&agent, "Attach"), [""; 0]);
    assert_eq!(asked(&agent, "Watch"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_ended_already_leaves_its_log() {
    let ended = container_state::State::Terminated(ContainerTerminated::default());
    let agent = with("look", ended).await;
    let done = agent.run(&["debug", "web", "-i", "--image=tools:1", "-c", "look"]).await;
    assert_eq!(done.good(), "it said\n");
    assert_eq!(asked(&agent, "Attach"), [""; 0]);
    assert!(agent.asked().contains("container: \"look\""), "{}", agent.asked());
}

/// That what it wrote is shown although nothing of it was heard, since an attach came too late.
async fn ends_unheard(refusal: Option<Status>) {
    let agent = with("look", running()).await;
    agent.state(|state| state.refusals.extend(refusal.map(|status| ("Attach", status))));
    let debug = agent.run(&["debug", "web", "-i", "--image=tools:1", "-c", "look"]);
    // Its end is published after the attach.
    let ends = async {
        while asked(&agent, "Attach").is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let ended = container_state::State::Terminated(ContainerTerminated::default());
        agent.state(|state| {
            let containers = state.pods[0].containers.iter_mut();
            let look = containers.rev().find(|container| container.name == "look").expect("look");
            look.state = Some(ContainerState { state: Some(ended) });
        });
    };
    let (done, ()) = tokio::join!(debug, ends);
    assert_eq!(done.good(), "it said\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ends_before_it_is_heard_leaves_its_log() {
    ends_unheard(Some(Status::unknown("cannot attach: it is exited"))).await;
    ends_unheard(None).await;
    let agent = with("look", running()).await;
    let refusal = Status::permission_denied("not allowed");
    agent.state(|state| state.refusals.insert("Attach", refusal));
    let done = agent.run(&["debug", "web", "-i", "--image=tools:1", "-c", "look"]).await;
    assert_eq!(done.bad(1), "error: not allowed\n");
    assert_eq!(asked(&agent, "Logs"), [""; 0], "nothing else is tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_changes_meanwhile_is_read_again_and_refusals_are_told() {
    let agent = with("look", running()).await;
    let mut details = ErrorDetails::new();
    details.set_error_info("PRECONDITION_FAILED", "podbay", std::collections::HashMap::new());
    let status = Status::with_error_details(Code::FailedPrecondition, "it is \"42\"", details);
    agent.state(|state| state.refusals.insert("Apply", status));
    let add = ["debug", "web", "--image=tools:1", "-c", "look"];
    assert_eq!(agent.run(&add).await.bad(1), "error: it is \"42\"\n");
    assert_eq!((asked(&agent, "Get").len(), asked(&agent, "Apply").len()), (20, 20));
    let refused = Status::failed_precondition("pod default/web is static");
    agent.state(|state| state.refusals.insert("Apply", refused));
    assert_eq!(agent.run(&add).await.bad(1), "error: pod default/web is static\n");
    assert_eq!(asked(&agent, "Apply").len(), 21, "once is enough");
    agent.run(&["debug", "gone", "--image=tools:1", "-c", "look"]).await.bad(3);
    for args in [
        &["debug", "web"][..],
        &["debug", "--image=tools:1"],
        &["debug", "web", "--image=tools:1", "-t"],
        &["debug", "web", "--image=tools:1", "--env=A"],
        &["debug", "deploy/web", "--image=tools:1"],
    ] {
        agent.run(args).await.bad(2);
    }
}
