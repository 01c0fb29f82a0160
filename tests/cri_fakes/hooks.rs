//! NRI plugins: the events they get and their order, and the effects of refusing or hanging.

use std::time::Duration;

use podbay::backend::nri::proto::{ConfigureResponse, ContainerState, Event, FailurePolicy};
use podbay::proto::runtime::v1 as cri;
use tokio::sync::watch;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::plugin::{Heard, Plugin, Reply, subscribed, with};
use super::world::{Agent, World, eventually};

pub fn world() -> World {
    World::with_plugins(|_| {})
}

/// With an answer to one call; all others are answered with nothing.
pub fn answering(
    call: &'static str,
    answer: impl Fn(&Heard) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Heard) -> Reply + Send + Sync + 'static {
    move |heard| if heard.call == call { answer(heard) } else { Reply::Done }
}

/// Waits until exactly these plugins have joined.
pub async fn joined(agent: &Agent, names: &[&str]) {
    let nri = agent.rooms.nri.as_ref().expect("plugins");
    eventually("plugins join and leave", async || (nri.plugins() == names).then_some(())).await;
}

#[tokio::test]
async fn a_life_is_told_in_order() {
    let world = world();
    let agent = world.agent().await;
    let plugin = Plugin::listening(&world.nri_socket(), "10", "listener").await;
    let mut config = pod(&world, "web");
    config.labels.insert("app".into(), "web".into());
    let id = agent.run(&config).await.unwrap();
    let sleeper = agent.launch(&id, "app", &["run"]).await;
    let never = agent.create(&id, &container("never", &["run"])).await.unwrap();
    agent.stop(&sleeper, 1).await.unwrap();
    agent.stop(&sleeper, 1).await.unwrap();
    agent.remove(&sleeper).await.unwrap();
    agent.stop_pod(&id).await.unwrap();
    agent.stop_pod(&id).await.unwrap();
    agent.remove_pod(&id).await.unwrap();
    let heard = plugin.heard();
    let told: Vec<_> = heard[2..]
        .iter()
        .map(|heard| match heard.container_name() {
            "" => heard.call.clone(),
            name => format!("{} {name}", heard.call),
        })
        .collect();
    assert_eq!(
        told,
        [
            "RunPodSandbox",
            "CreateContainer app",
            "ValidateContainerAdjustment app",
            "PostCreateContainer app",
            "StartContainer app",
            "PostStartContainer app",
            "CreateContainer never",
            "ValidateContainerAdjustment never",
            "PostCreateContainer never",
            "StopContainer app",
            "RemoveContainer app",
            "StopContainer never",
            "StopPodSandbox",
            "RemoveContainer never",
            "RemovePodSandbox",
        ]
    );
    for heard in &heard[2..] {
        let shown = heard.pod.as_ref().unwrap();
        assert_eq!((&shown.id, shown.labels["app"].as_str()), (&id, "web"), "{}", heard.call);
    }
    world.clean().await;
    assert_ne!(never, sleeper);
}

#[tokio::test]
async fn pods_and_containers_are_shown_whole() {
    let world = world();
    let agent = world.agent().await;
    let plugin = Plugin::listening(&world.nri_socket(), "10", "listener").await;
    let mut config = pod(&world, "web");
    config.annotations.insert("note".into(), "pod".into());
    let pod_id = agent.run(&config).await.unwrap();
    let shown = plugin.hears("RunPodSandbox", 1).await.pod.unwrap();
    assert_eq!(
        (shown.name.as_str(), shown.namespace.as_str(), shown.uid.as_str()),
        ("web", "test", "uid-web")
    );
    assert_eq!(shown.annotations["note"], "pod");
    assert!(shown.pid > 0 && !shown.ips.is_empty(), "{shown:?}");
    let linux = shown.linux.unwrap();
    assert!(linux.namespaces.iter().any(|namespace| namespace.r#type == "network"));

    let mut wanted = container("app", &["run", "word"]);
    wanted.annotations.insert("note".into(), "container".into());
    wanted.labels.insert("tier".into(), "front".into());
    let key_value = cri::KeyValue { key: "KEY".into(), value: "value".into() };
    wanted.envs.push(key_value);
    let id = agent.create(&pod_id, &wanted).await.unwrap();
    let shown = plugin.hears("CreateContainer", 1).await.container.unwrap();
    assert_eq!((&shown.id, &shown.pod_sandbox_id), (&id, &pod_id));
    assert_eq!(shown.state(), ContainerState::ContainerCreated);
    assert_eq!(shown.args, ["run", "word"]);
    assert!(shown.env.contains(&"KEY=value".to_owned()), "{:?}", shown.env);
    assert_eq!(shown.annotations["note"], "container");
    assert_eq!(shown.labels["tier"], "front");
    assert!(shown.mounts.iter().any(|mount| mount.destination == "/proc"));
    assert!(shown.linux.as_ref().is_some_and(|linux| linux.cgroups_path.ends_with(&id)));
    assert!(shown.image.is_some_and(|image| image.config_digest.starts_with("sha256:")));

    agent.start(&id).await.unwrap();
    let starting = plugin.hears("StartContainer", 1).await.container.unwrap();
    assert!(starting.pid > 0);
    let running = plugin.hears("PostStartContainer", 1).await.container.unwrap();
    assert_eq!(running.state(), ContainerState::ContainerRunning);
    assert!(running.pid == starting.pid && running.started_at > 0);
    agent.stop(&id, 0).await.unwrap();
    let stopped = plugin.hears("StopContainer", 1).await.container.unwrap();
    assert_eq!(stopped.state(), ContainerState::ContainerStopped);
    assert!(stopped.exit_code == 137 && stopped.finished_at >= running.started_at);
    agent.remove_all().await;
}

#[tokio::test]
async fn a_pod_is_seen_only_after_its_hook() {
    let world = world();
    let agent = world.agent().await;
    let (open, gate) = watch::channel(false);
    let waiting = answering("RunPodSandbox", move |_| Reply::Once(gate.clone()));
    let plugin = Plugin::join(&world.nri_socket(), "10", "slow", waiting).await;
    let config = pod(&world, "web");
    let run = agent.run(&config);
    let look = async {
        let id = plugin.hears("RunPodSandbox", 1).await.pod.unwrap().id;
        assert!(agent.pods().await.is_empty());
        assert_eq!(agent.pod_status(&id).await.unwrap_err().code(), Code::NotFound);
        let created = agent.create(&id, &container("app", &["run"])).await;
        assert_eq!(created.unwrap_err().code(), Code::NotFound);
        open.send_replace(true);
        id
    };
    let (ran, id) = tokio::join!(run, look);
    assert_eq!(ran.unwrap(), id);
    assert!(agent.is_ready(&id).await);
    agent.remove_all().await;
}

#[tokio::test]
async fn a_refusal_undoes_what_was_begun() {
    let world = world();
    let agent = world.agent().await;
    let socket = world.nri_socket();
    let refusing = |call| answering(call, |_| Reply::Refuse("not on my node".into()));
    let config = pod(&world, "web");

    let plugin = Plugin::join(&socket, "10", "no", refusing("RunPodSandbox")).await;
    let words = "RunPodSandbox of NRI plugin 10-no: not on my node";
    refused(agent.run(&config).await, Code::Unknown, words);
    assert_eq!(plugin.events(), ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]);
    assert!(agent.pods().await.is_empty() && agent.rows().is_empty());
    assert_eq!(world.leftovers(), [""; 0]);
    plugin.leave();
    joined(&agent, &[]).await;
    let id = agent.run(&config).await.unwrap();

    let plugin = Plugin::join(&socket, "10", "no", refusing("CreateContainer")).await;
    let wanted = container("app", &["run"]);
    let words = "CreateContainer of NRI plugin 10-no: not on my node";
    refused(agent.create(&id, &wanted).await, Code::Unknown, words);
    assert_eq!(plugin.events(), ["CreateContainer", "StopContainer", "RemoveContainer"]);
    assert!(agent.containers().await.is_empty());
    plugin.leave();
    joined(&agent, &[]).await;
    let app = agent.create(&id, &wanted).await.unwrap();

    let plugin = Plugin::join(&socket, "10", "no", refusing("StartContainer")).await;
    let words = "StartContainer of NRI plugin 10-no: not on my node";
    refused(agent.start(&app).await, Code::Unknown, words);
    let status = agent.ended(&app).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    plugin.hears("StopContainer", 1).await;
    plugin.leave();
    agent.remove_all().await;
    world.clean().await;
}

#[tokio::test]
async fn objections_to_what_has_happened_change_nothing() {
    let world = world();
    let agent = world.agent().await;
    let objecting = |heard: &Heard| match heard.call.as_str() {
        "Configure"
        | "Synchronize"
        | "RunPodSandbox"
        | "CreateContainer"
        | "ValidateContainerAdjustment"
        | "StartContainer" => Reply::Done,
        _ => Reply::Refuse("I object".into()),
    };
    let plugin = Plugin::join(&world.nri_socket(), "10", "no", objecting).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    agent.stop(&app, 0).await.unwrap();
    agent.remove_all().await;
    assert_eq!(plugin.events().len(), 10, "{:?}", plugin.events());
    assert!(!plugin.is_gone());
    world.clean().await;
}

#[tokio::test]
async fn a_plugin_that_hangs_is_dropped_and_the_pod_starts() {
    let world = World::with_plugins(|nri| nri.request_timeout = Duration::from_secs(2));
    let agent = world.agent().await;
    let socket = world.nri_socket();
    let hanging = Plugin::join(&socket, "10", "hangs", answering("RunPodSandbox", |_| Reply::Hang));
    let hanging = hanging.await;
    let good = Plugin::listening(&socket, "20", "good").await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    hanging.gone().await;
    joined(&agent, &["20-good"]).await;
    assert!(agent.is_ready(&id).await);
    good.hears("RunPodSandbox", 1).await;
    agent.remove_all().await;
    assert_eq!(hanging.events(), ["RunPodSandbox"]);
}

#[tokio::test]
async fn a_plugin_may_ask_for_another_end_of_its_silence() {
    let world = World::with_plugins(|nri| nri.request_timeout = Duration::from_secs(2));
    let agent = world.agent().await;
    let strict = |heard: &Heard| match heard.call.as_str() {
        "Configure" => {
            let policy = FailurePolicy { fail_request: true, keep_connected: true };
            with(ConfigureResponse { events: 0, failure_policy: Some(policy) })
        }
        "RunPodSandbox" => Reply::Hang,
        _ => Reply::Done,
    };
    let plugin = Plugin::join(&world.nri_socket(), "10", "strict", strict).await;
    let words = "RunPodSandbox of NRI plugin 10-strict: no answer within 2s";
    refused(agent.run(&pod(&world, "web")).await, Code::DeadlineExceeded, words);
    assert!(!plugin.is_gone());
    plugin.hears("RemovePodSandbox", 1).await;
    world.clean().await;
}

#[tokio::test]
async fn only_what_was_subscribed_is_told() {
    let world = world();
    let agent = world.agent().await;
    let events = Event::RunPodSandbox.bit() | Event::StopContainer.bit();
    let some = answering("Configure", move |_| subscribed(events));
    let plugin = Plugin::join(&world.nri_socket(), "10", "some", some).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.launch(&id, "app", &["run"]).await;
    agent.remove_all().await;
    assert_eq!(plugin.events(), ["RunPodSandbox", "StopContainer"]);
}

#[tokio::test]
async fn an_older_plugin_hears_of_events_in_the_older_form() {
    let world = world();
    let agent = world.agent().await;
    let old = |heard: &Heard| match heard.call.as_str() {
        "Configure" | "Synchronize" | "CreateContainer" | "StopContainer" | "StateChange" => {
            Reply::Done
        }
        _ => Reply::Unknown,
    };
    let plugin = Plugin::join(&world.nri_socket(), "10", "old", old).await;
    let id = agent.run(&pod(&world, "a")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let other = agent.run(&pod(&world, "b")).await.unwrap();
    let changes: Vec<_> =
        plugin.heard().into_iter().filter(|heard| heard.call == "StateChange").collect();
    assert_eq!(changes.len(), 5, "{:?}", plugin.events());
    assert_eq!(changes[0].pod.as_ref().unwrap().id, id);
    assert_eq!(changes[2].container.as_ref().unwrap().id, app);
    assert_eq!(changes[4].pod.as_ref().unwrap().id, other);
    // The second time the new form is not tried.
    let tried = plugin.events().iter().filter(|event| *event == "RunPodSandbox").count();
    assert_eq!(tried, 1);
    agent.remove_all().await;
}
