//! Plugins of the node: what they hear and in which order, what they may change, and what follows
//! when they refuse, hang, leave or come back.

use std::time::Duration;

use podbay::backend::nri::proto::{
    Container, ContainerAdjustment, ContainerEviction, ContainerState, ContainerUpdate,
    CreateContainerResponse, Event, FailurePolicy, KeyValue, LinuxContainerUpdate, LinuxCpu,
    LinuxResources, OptionalUInt64, SynchronizeResponse,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use podbay::backend::Runtime as _;
use podbay::proto::runtime::v1 as cri;
use prost::Message;
use tokio::sync::watch;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::plugin::{Heard, Plugin, Reply, subscribed, synchronized, with};
use super::world::{Agent, World, eventually};

fn world() -> World {
    World::with_plugins(|_| {})
}

/// With an answer to one call; all others are answered with nothing.
fn answering(
    call: &'static str,
    answer: impl Fn(&Heard) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Heard) -> Reply + Send + Sync + 'static {
    move |heard| if heard.call == call { answer(heard) } else { Reply::Done }
}

fn adjusting(adjust: ContainerAdjustment) -> impl Fn(&Heard) -> Reply + Send + Sync + 'static {
    answering("CreateContainer", move |_| {
        with(CreateContainerResponse { adjust: Some(adjust.clone()), ..Default::default() })
    })
}

fn env(pairs: &[(&str, &str)]) -> ContainerAdjustment {
    let env = pairs.iter().map(|&(key, value)| KeyValue { key: key.into(), value: value.into() });
    ContainerAdjustment { env: env.collect(), ..Default::default() }
}

fn shares(id: &str, value: u64) -> ContainerUpdate {
    let cpu = LinuxCpu { shares: Some(OptionalUInt64 { value }), ..Default::default() };
    let resources = Some(LinuxResources { cpu: Some(cpu), ..Default::default() });
    ContainerUpdate {
        container_id: id.into(),
        linux: Some(LinuxContainerUpdate { resources }),
        ignore_failure: false,
    }
}

async fn spec(world: &World, id: &str) -> serde_json::Value {
    world.fakes.runtime.container(id).await.expect("a record").spec
}

async fn shares_of(world: &World, id: &str) -> serde_json::Value {
    spec(world, id).await["linux"]["resources"]["cpu"]["shares"].clone()
}

/// Waits until exactly these plugins have joined.
async fn joined(agent: &Agent, names: &[&str]) {
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
            "PostCreateContainer app",
            "StartContainer app",
            "PostStartContainer app",
            "CreateContainer never",
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
async fn plugins_are_asked_in_their_order_and_see_what_those_before_wanted() {
    let world = world();
    let agent = world.agent().await;
    let last = Plugin::join(&world.nri_socket(), "90", "last", adjusting(env(&[("B", "2")]))).await;
    let first = adjusting(env(&[("A", "1")]));
    let first = Plugin::join(&world.nri_socket(), "05", "first", first).await;
    joined(&agent, &["05-first", "90-last"]).await;
    let pod_id = agent.run(&pod(&world, "web")).await.unwrap();
    let id = agent.create(&pod_id, &container("app", &["run"])).await.unwrap();
    let shown = |heard: Heard| heard.container.unwrap().env;
    let seen_first = shown(first.hears("CreateContainer", 1).await);
    assert!(!seen_first.contains(&"B=2".to_owned()), "{seen_first:?}");
    let seen_last = shown(last.hears("CreateContainer", 1).await);
    assert!(seen_last.contains(&"A=1".to_owned()), "{seen_last:?}");
    let env = spec(&world, &id).await["process"]["env"].to_string();
    assert!(env.contains("A=1") && env.contains("B=2"), "{env}");
    agent.remove_all().await;
}

#[tokio::test]
async fn two_plugins_that_want_the_same_fail_the_creation() {
    let world = world();
    let agent = world.agent().await;
    let socket = world.nri_socket();
    let _one = Plugin::join(&socket, "01", "one", adjusting(env(&[("A", "1")]))).await;
    let two = Plugin::join(&socket, "02", "two", adjusting(env(&[("A", "2")]))).await;
    let pod_id = agent.run(&pod(&world, "web")).await.unwrap();
    let words = "plugins \"02-two\" and \"01-one\" both tried to set Env A";
    let created = agent.create(&pod_id, &container("app", &["run"])).await;
    refused(created, Code::FailedPrecondition, words);
    assert!(agent.containers().await.is_empty());
    assert_eq!(two.events()[1..], ["CreateContainer", "StopContainer", "RemoveContainer"]);
    two.leave();
    joined(&agent, &["01-one"]).await;
    let overruling = adjusting(env(&[("-A", ""), ("A", "3")]));
    let _three = Plugin::join(&socket, "03", "three", overruling).await;
    let id = agent.create(&pod_id, &container("app", &["run"])).await.unwrap();
    assert!(spec(&world, &id).await["process"]["env"].to_string().contains("A=3"));
    agent.remove_all().await;
    world.clean().await;
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
        "Configure" | "Synchronize" | "RunPodSandbox" | "CreateContainer" | "StartContainer" => {
            Reply::Done
        }
        _ => Reply::Refuse("I object".into()),
    };
    let plugin = Plugin::join(&world.nri_socket(), "10", "no", objecting).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    agent.stop(&app, 0).await.unwrap();
    agent.remove_all().await;
    assert_eq!(plugin.events().len(), 9, "{:?}", plugin.events());
    assert!(!plugin.is_gone());
    world.clean().await;
}

#[tokio::test]
async fn a_plugin_that_hangs_is_dropped_and_the_pod_starts() {
    let world = World::with_plugins(|nri| nri.request_timeout = Duration::from_millis(300));
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
    let world = World::with_plugins(|nri| nri.request_timeout = Duration::from_millis(300));
    let agent = world.agent().await;
    let strict = |heard: &Heard| match heard.call.as_str() {
        "Configure" => {
            let policy = FailurePolicy { fail_request: true, keep_connected: true };
            with(podbay::backend::nri::proto::ConfigureResponse {
                events: 0,
                failure_policy: Some(policy),
            })
        }
        "RunPodSandbox" => Reply::Hang,
        _ => Reply::Done,
    };
    let plugin = Plugin::join(&world.nri_socket(), "10", "strict", strict).await;
    let words = "RunPodSandbox of NRI plugin 10-strict: no answer within 300ms";
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

#[tokio::test]
async fn who_comes_back_is_told_what_is_there() {
    let world = world();
    let agent = world.agent().await;
    let socket = world.nri_socket();
    let plugin = Plugin::listening(&socket, "10", "back").await;
    assert_eq!(plugin.hears("Synchronize", 1).await.all().pods.len(), 0);
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let stopped_pod = agent.run(&pod(&world, "old")).await.unwrap();
    agent.stop_pod(&stopped_pod).await.unwrap();
    plugin.leave();
    joined(&agent, &[]).await;
    let running = agent.launch(&id, "running", &["run"]).await;
    let created = agent.create(&id, &container("created", &["run"])).await.unwrap();
    let ended = agent.launch(&id, "ended", &["exit", "3"]).await;
    agent.ended(&ended).await;

    let again = Plugin::listening(&socket, "10", "back").await;
    let all = again.hears("Synchronize", 1).await.all();
    let mut pods: Vec<_> = all.pods.iter().map(|pod| pod.id.clone()).collect();
    pods.sort();
    let mut expected = vec![id.clone(), stopped_pod];
    expected.sort();
    assert_eq!(pods, expected);
    let mut live: Vec<_> = all.containers.iter().map(|c| (c.id.clone(), c.state())).collect();
    live.sort();
    let mut expected = vec![
        (running.clone(), ContainerState::ContainerRunning),
        (created, ContainerState::ContainerCreated),
    ];
    expected.sort();
    assert_eq!(live, expected);
    let shown = |c: &&Container| c.id == running;
    let shown = all.containers.iter().find(shown).unwrap();
    assert_eq!(shown.args, ["run"]);
    assert!(shown.pid > 0 && shown.pod_sandbox_id == id);
    agent.remove_all().await;
    let told = again.events();
    let count = |event: &str| told.iter().filter(|told| *told == event).count();
    assert_eq!((count("StopContainer"), count("RemoveContainer")), (2, 3), "{told:?}");
    assert_eq!((count("StopPodSandbox"), count("RemovePodSandbox")), (1, 2), "{told:?}");
}

#[tokio::test]
async fn plugins_survive_the_agent_by_coming_back() {
    let world = world();
    let agent = world.agent().await;
    let plugin = Plugin::listening(&world.nri_socket(), "10", "back").await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    agent.kill().await;
    plugin.gone().await;
    let agent = world.agent().await;
    let plugin = Plugin::listening(&world.nri_socket(), "10", "back").await;
    let all = plugin.hears("Synchronize", 1).await.all();
    assert_eq!((all.pods[0].id.as_str(), all.containers[0].id.as_str()), (&*id, &*app));
    agent.stop(&app, 0).await.unwrap();
    agent.remove_all().await;
    assert_eq!(
        plugin.events(),
        ["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"]
    );
    world.clean().await;
}

#[tokio::test]
async fn plugins_change_containers_that_are_there() {
    let world = world();
    let agent = world.agent().await;
    let updating = answering("CreateContainer", |heard| {
        let target = heard.pod.as_ref().and_then(|pod| pod.annotations.get("target"));
        let update = target.iter().map(|id| shares(id, 77)).collect();
        with(CreateContainerResponse { update, ..Default::default() })
    });
    let plugin = Plugin::join(&world.nri_socket(), "10", "tuner", updating).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let mut config = pod(&world, "next");
    config.annotations.insert("target".into(), app.clone());
    let next = agent.run(&config).await.unwrap();
    let other = agent.create(&next, &container("other", &["run"])).await.unwrap();
    assert_eq!(shares_of(&world, &app).await, 77);

    // Unasked: one that runs, one that is only created, one that nobody knows.
    let unknown = "f".repeat(64);
    let updates = vec![shares(&app, 88), shares(&other, 99), shares(&unknown, 1)];
    assert_eq!(plugin.update(updates, vec![]).await, []);
    assert_eq!(shares_of(&world, &app).await, 88);
    assert_eq!(shares_of(&world, &other).await, 99);
    let live = world.fakes.steps.count("update_resources");
    assert_eq!(live, 2, "only a container that runs has limits below");

    // What does not work is told.
    let mut bad = shares(&app, 5);
    let limits = bad.linux.as_mut().unwrap().resources.as_mut().unwrap();
    limits.cpu.as_mut().unwrap().cpus = "all of them".into();
    let ignored = ContainerUpdate { ignore_failure: true, ..bad.clone() };
    assert_eq!(plugin.update(vec![bad.clone(), ignored], vec![]).await, [bad]);
    assert_eq!(shares_of(&world, &app).await, 88);
    agent.remove_all().await;
}

#[tokio::test]
async fn updates_may_come_with_the_answer_to_a_synchronisation_or_a_stop() {
    let world = world();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let other = agent.launch(&id, "other", &["run"]).await;
    let target = app.clone();
    let updating = move |heard: &Heard| match heard.call.as_str() {
        "Synchronize" => {
            with(SynchronizeResponse { update: vec![shares(&target, 33)], more: false })
        }
        "StopContainer" => with(podbay::backend::nri::proto::StopContainerResponse {
            update: vec![shares(&target, 44)],
        }),
        _ => Reply::Done,
    };
    let _plugin = Plugin::join(&world.nri_socket(), "10", "tuner", updating).await;
    let has = async |value: u64| (shares_of(&world, &app).await == value).then_some(());
    eventually("the update of the synchronisation", async || has(33).await).await;
    agent.stop(&other, 0).await.unwrap();
    assert_eq!(shares_of(&world, &app).await, 44);
    agent.remove_all().await;
}

#[tokio::test]
async fn an_evicted_container_ends_and_says_why() {
    let world = world();
    let agent = world.agent().await;
    let plugin = Plugin::listening(&world.nri_socket(), "10", "evictor").await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["ignore-term"]).await;
    let evict = |id: &str| ContainerEviction {
        container_id: id.into(),
        reason: "too close to the sun".into(),
    };
    plugin.update(vec![], vec![evict(&app), evict(&"e".repeat(64))]).await;
    let status = agent.ended(&app).await;
    assert_eq!(
        (status.exit_code, status.reason.as_str(), status.message.as_str()),
        (137, "Evicted", "too close to the sun")
    );
    plugin.hears("StopContainer", 1).await;
    agent.remove_all().await;
}

#[tokio::test]
async fn a_plugin_may_change_containers_from_within_its_hook() {
    let world = World::with_plugins(|nri| nri.request_timeout = Duration::from_secs(20));
    let agent = world.agent().await;
    let (open, gate) = watch::channel(false);
    let waiting = answering("RunPodSandbox", move |heard| {
        let second = heard.pod.as_ref().is_some_and(|pod| pod.name == "second");
        if second { Reply::Once(gate.clone()) } else { Reply::Done }
    });
    let plugin = Plugin::join(&world.nri_socket(), "10", "inner", waiting).await;
    let id = agent.run(&pod(&world, "first")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let config = pod(&world, "second");
    let run = agent.run(&config);
    let within = async {
        plugin.hears("RunPodSandbox", 2).await;
        assert_eq!(plugin.update(vec![shares(&app, 66)], vec![]).await, []);
        open.send_replace(true);
    };
    let (ran, ()) = tokio::join!(run, within);
    ran.unwrap();
    assert_eq!(shares_of(&world, &app).await, 66);
    agent.remove_all().await;
}

#[tokio::test]
async fn validators_see_the_sum_and_may_reject_it() {
    let world = world();
    let agent = world.agent().await;
    let socket = world.nri_socket();
    let _one = Plugin::join(&socket, "01", "one", adjusting(env(&[("A", "1")]))).await;
    let rejecting = answering("ValidateContainerAdjustment", |heard| {
        let case = ValidateContainerAdjustmentRequest::decode(heard.payload.clone()).unwrap();
        let owners = &case.owners.unwrap().owners;
        assert_eq!(owners.len(), 1);
        assert_eq!(case.adjust.unwrap().env[0].key, "A");
        assert_eq!(case.plugins.len(), 2);
        let before = case.container.unwrap().env;
        assert!(!before.contains(&"A=1".to_owned()), "{before:?}");
        let reason = "A is not allowed".to_owned();
        with(ValidateContainerAdjustmentResponse { reject: true, reason })
    });
    let judge = Plugin::join(&socket, "02", "judge", rejecting).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let wanted = container("app", &["run"]);
    let words = "NRI plugin 02-judge: A is not allowed";
    refused(agent.create(&id, &wanted).await, Code::FailedPrecondition, words);
    assert!(agent.containers().await.is_empty());
    judge.leave();
    joined(&agent, &["01-one"]).await;
    agent.create(&id, &wanted).await.unwrap();
    agent.remove_all().await;
    world.clean().await;
}

#[tokio::test]
async fn a_validator_that_does_not_answer_says_no() {
    let world = World::with_plugins(|nri| nri.request_timeout = Duration::from_millis(300));
    let agent = world.agent().await;
    let hanging = answering("ValidateContainerAdjustment", |_| Reply::Hang);
    let judge = Plugin::join(&world.nri_socket(), "02", "judge", hanging).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let created = agent.create(&id, &container("app", &["run"])).await;
    refused(created, Code::DeadlineExceeded, "NRI plugin 02-judge");
    judge.gone().await;
    agent.remove_all().await;
}

#[tokio::test]
async fn much_is_synchronised_in_several_messages() {
    let world = world();
    let agent = world.agent().await;
    let mut ids = Vec::new();
    for index in 0..6 {
        let mut config = pod(&world, &format!("big-{index}"));
        config.annotations.insert("big".into(), "x".repeat(1 << 20));
        ids.push(agent.run(&config).await.unwrap());
    }
    let socket = world.nri_socket();
    let taking = Plugin::connect(&socket, |heard| match heard.call.as_str() {
        "Synchronize" => synchronized(heard),
        _ => Reply::Done,
    });
    let taking = taking.await;
    taking.register("10", "taking").await.unwrap();
    joined(&agent, &["10-taking"]).await;
    let parts: Vec<_> = taking.heard().into_iter().filter(|h| h.call == "Synchronize").collect();
    assert!(parts.len() >= 2, "{}", parts.len());
    let mut told: Vec<_> =
        parts.iter().flat_map(|part| part.all().pods).map(|pod| pod.id).collect();
    told.sort();
    ids.sort();
    assert_eq!(told, ids);

    // One that does not say that it takes parts has not understood.
    let deaf = Plugin::connect(&socket, |_| Reply::Done).await;
    deaf.register("20", "deaf").await.unwrap();
    deaf.gone().await;
    joined(&agent, &["10-taking"]).await;
    agent.remove_all().await;
}

#[tokio::test]
async fn bad_plugins_are_not_let_in() {
    let world = World::with_plugins(|nri| nri.registration_timeout = Duration::from_millis(500));
    let agent = world.agent().await;
    let socket = world.nri_socket();
    for (index, name) in [("1", "a"), ("xx", "a"), ("00", ""), ("00", "a/b"), ("", "")] {
        let plugin = Plugin::connect(&socket, |_| Reply::Done).await;
        plugin.register(index, name).await.unwrap_err();
        plugin.gone().await;
    }
    let silent = Plugin::connect(&socket, |_| Reply::Done).await;
    silent.gone().await;
    for call in ["Configure", "Synchronize"] {
        let refusing = answering(call, |_| Reply::Refuse("no".into()));
        let plugin = Plugin::connect(&socket, refusing).await;
        plugin.register("10", "bad").await.unwrap();
        plugin.gone().await;
    }
    let unknown = answering("Configure", |_| subscribed(1 << 20));
    let plugin = Plugin::connect(&socket, unknown).await;
    plugin.register("10", "bad").await.unwrap();
    plugin.gone().await;
    let twice = Plugin::listening(&socket, "10", "twice").await;
    twice.register("11", "again").await.unwrap_err();
    joined(&agent, &["10-twice"]).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    assert!(agent.is_ready(&id).await);
    agent.remove_all().await;
}

#[tokio::test]
async fn programs_are_started_only_when_nobody_else_could_have_written_them() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::with_plugins(|nri| nri.registration_timeout = Duration::from_millis(500));
    let folder = world.path("nri/plugins");
    std::fs::create_dir_all(&folder).unwrap();
    let mark = |name: &str| world.path(&format!("started-{name}"));
    for (name, mode) in
        [("10-good", 0o755), ("20-open", 0o777), ("plain", 0o755), ("30-data", 0o644)]
    {
        let path = folder.join(name);
        let script = format!(
            "#!/bin/sh\necho \"$NRI_PLUGIN_NAME $NRI_PLUGIN_IDX $NRI_PLUGIN_SOCKET\" >{}\nexec sleep 1000\n",
            mark(name).display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let agent = world.agent().await;
    // It never registers, so it was given up, and the agent is ready without it.
    assert_eq!(std::fs::read_to_string(mark("10-good")).unwrap(), "good 10 3\n");
    for name in ["20-open", "plain", "30-data"] {
        assert!(!mark(name).exists(), "{name}");
    }
    joined(&agent, &[]).await;
    agent.run(&pod(&world, "web")).await.unwrap();
    agent.remove_all().await;
}

#[tokio::test]
async fn a_socket_that_another_runtime_serves_is_left_alone() {
    let world = world();
    let theirs = tokio::net::UnixListener::bind(world.nri_socket()).unwrap();
    let agent = world.agent().await;
    agent.run(&pod(&world, "web")).await.unwrap();
    // Only the look whether anybody listens there.
    let (looked, _) = theirs.accept().await.unwrap();
    drop((looked, theirs));
    // Once it is free it is taken.
    let plugin = Plugin::listening(&world.nri_socket(), "10", "patient").await;
    assert_eq!(plugin.hears("Synchronize", 1).await.all().pods.len(), 1);
    agent.remove_all().await;
}
