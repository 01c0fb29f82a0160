//! Requests of NRI plugins for new and other containers, and their effects.

use std::time::Duration;

use podbay::backend::Runtime as _;
use podbay::backend::nri::proto::{
    ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerResponse, KeyValue,
    LinuxContainerUpdate, LinuxCpu, LinuxResources, OptionalUInt64, StopContainerResponse,
    SynchronizeResponse, ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use prost::Message;
use tokio::sync::watch;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::hooks::{answering, joined, world};
use super::plugin::{Heard, Plugin, Reply, with};
use super::world::{World, eventually};

fn adjusting(adjust: ContainerAdjustment) -> impl Fn(&Heard) -> Reply + Send + Sync + 'static {
    answering("CreateContainer", move |_| {
        with(CreateContainerResponse { adjust: Some(adjust.clone()), ..Default::default() })
    })
}

fn env(pairs: &[(&str, &str)]) -> ContainerAdjustment {
    let env = pairs.iter().map(|&(key, value)| KeyValue { key: key.into(), value: value.into() });
    ContainerAdjustment { env: env.collect(), ..Default::default() }
}

pub fn shares(id: &str, value: u64) -> ContainerUpdate {
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

pub async fn shares_of(world: &World, id: &str) -> serde_json::Value {
    spec(world, id).await["linux"]["resources"]["cpu"]["shares"].clone()
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
        "StopContainer" => with(StopContainerResponse { update: vec![shares(&target, 44)] }),
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
    let world = World::with_plugins(|nri| nri.request_timeout = Duration::from_secs(2));
    let agent = world.agent().await;
    let hanging = answering("ValidateContainerAdjustment", |_| Reply::Hang);
    let judge = Plugin::join(&world.nri_socket(), "02", "judge", hanging).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let created = agent.create(&id, &container("app", &["run"])).await;
    refused(created, Code::DeadlineExceeded, "NRI plugin 02-judge");
    judge.gone().await;
    agent.remove_all().await;
}
