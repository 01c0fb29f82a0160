//! NRI plugins and existing containers and pods: their say in updates, evictions with an answer, the
//! labels of their mounts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use podbay::backend::nri::proto::{
    ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerResponse, LinuxPids,
    Mount, UpdateContainerRequest, UpdateContainerResponse, UpdatePodSandboxRequest,
};
use podbay::backend::{Host as _, HostFacts, SelinuxContexts};
use podbay::proto::runtime::v1 as cri;
use prost::Message;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::hooks::{answering, world};
use super::plugin::{Heard, Plugin, Reply, with};
use super::updates::memory;
use super::wishes::{shares, shares_of};

/// Less than a plugin's request may wait for a busy container.
const PROMPT: Duration = Duration::from_secs(1);

fn cpu(shares: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources { cpu_shares: shares, ..Default::default() }
}

fn updating(update: Vec<ContainerUpdate>, evict: Vec<ContainerEviction>) -> Reply {
    with(UpdateContainerResponse { update, evict })
}

/// Wants these shares instead of any that a client wants.
fn wanting(value: u64) -> impl Fn(&Heard) -> Reply + Send + Sync + 'static {
    answering("UpdateContainer", move |heard| {
        let id = heard.container.as_ref().map(|container| container.id.as_str());
        updating(vec![shares(id.unwrap_or_default(), value)], vec![])
    })
}

/// The shares that a plugin was asked about.
fn asked(heard: &Heard) -> Option<u64> {
    let request = UpdateContainerRequest::decode(heard.payload.clone()).expect("a request");
    Some(request.linux_resources?.cpu?.shares?.value)
}

fn eviction(id: &str) -> ContainerEviction {
    ContainerEviction { container_id: id.to_owned(), reason: "no room".to_owned() }
}

#[tokio::test]
async fn plugins_have_a_say_in_updates_one_after_the_other() {
    let world = world();
    let agent = world.agent().await;
    let socket = world.nri_socket();
    let first = Plugin::join(&socket, "10", "first", wanting(55)).await;
    let second = Plugin::listening(&socket, "20", "second").await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let before = first.events().len();
    agent.update(&app, cpu(100)).await.unwrap();
    assert_eq!(shares_of(&world, &app).await, 55);
    assert_eq!(agent.limits(&app).await.cpu_shares, 55);
    assert_eq!(asked(&first.hears("UpdateContainer", 1).await), Some(100));
    assert_eq!(asked(&second.hears("UpdateContainer", 1).await), Some(55));
    assert_eq!(first.events()[before..], ["UpdateContainer", "PostUpdateContainer"]);
    let done = second.hears("PostUpdateContainer", 1).await.container.unwrap();
    let limits = done.linux.unwrap().resources.unwrap();
    assert_eq!(limits.cpu.unwrap().shares.unwrap().value, 55);
    agent.remove_all().await;
}

#[tokio::test]
async fn an_update_that_a_plugin_refuses_changes_nothing() {
    let world = world();
    let agent = world.agent().await;
    let refusing = answering("UpdateContainer", |_| Reply::Refuse("not now".into()));
    let plugin = Plugin::join(&world.nri_socket(), "10", "strict", refusing).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let before = shares_of(&world, &app).await;
    refused(agent.update(&app, cpu(100)).await, Code::Unknown, "not now");
    assert_eq!(shares_of(&world, &app).await, before);
    assert!(!plugin.events().contains(&"PostUpdateContainer".to_owned()));
    agent.remove_all().await;
}

#[tokio::test]
async fn what_an_existing_container_cannot_have_is_told_and_the_rest_is_done() {
    let world = world();
    let agent = world.agent().await;
    let plugin = Plugin::listening(&world.nri_socket(), "10", "tuner").await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let mut update = shares(&app, 70);
    let limits = update.linux.as_mut().unwrap().resources.as_mut().unwrap();
    limits.pids = Some(LinuxPids { limit: 5 });
    let failed = plugin.update(vec![update.clone()], vec![]).await;
    assert_eq!(failed, [update]);
    assert_eq!(shares_of(&world, &app).await, 70);
    agent.remove_all().await;
}

#[tokio::test]
async fn a_resize_is_asked_about_and_shown_from_then_on() {
    let world = world();
    let agent = world.agent().await;
    let plugin = Plugin::listening(&world.nri_socket(), "10", "listener").await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.resize(&id, Some(memory(1 << 20)), Some(memory(5 << 20))).await.unwrap();
    agent.resize(&id, None, Some(memory(6 << 20))).await.unwrap();
    let asked = plugin.hears("UpdatePodSandbox", 1).await;
    let asked = UpdatePodSandboxRequest::decode(asked.payload).unwrap();
    let limit = |limits: Option<podbay::backend::nri::proto::LinuxResources>| {
        limits.and_then(|limits| limits.memory?.limit).map(|limit| limit.value)
    };
    assert_eq!(limit(asked.linux_resources), Some(6 << 20));
    assert_eq!(limit(asked.overhead_linux_resources), None);
    let two = ["UpdatePodSandbox", "PostUpdatePodSandbox"].repeat(2);
    assert_eq!(plugin.events()[1..], two);
    let late = Plugin::listening(&world.nri_socket(), "20", "late").await;
    let done = plugin.hears("PostUpdatePodSandbox", 2).await.pod.unwrap();
    for shown in [done, late.hears("Synchronize", 1).await.all().pods.remove(0)] {
        let linux = shown.linux.unwrap();
        assert_eq!(limit(linux.pod_overhead), Some(1 << 20));
        assert_eq!(limit(linux.pod_resources), Some(6 << 20));
    }
    agent.remove_all().await;
}

#[tokio::test]
async fn a_resize_that_a_plugin_refuses_changes_nothing() {
    let world = world();
    let agent = world.agent().await;
    let refusing = answering("UpdatePodSandbox", |_| Reply::Refuse("too large".into()));
    let _plugin = Plugin::join(&world.nri_socket(), "10", "strict", refusing).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let before = agent.sums(&id).await;
    refused(agent.resize(&id, None, Some(memory(5 << 20))).await, Code::Unknown, "too large");
    assert_eq!(agent.sums(&id).await, before);
    agent.remove_all().await;
}

/// The container is busy with the very update that the plugin answers.
#[tokio::test]
async fn an_eviction_in_an_answer_about_the_container_itself_holds_nobody_up() {
    let world = world();
    let agent = world.agent().await;
    let evicting = answering("UpdateContainer", |heard| {
        let container = heard.container.as_ref().expect("a container");
        updating(vec![], vec![eviction(&container.id)])
    });
    let _plugin = Plugin::join(&world.nri_socket(), "10", "evictor", evicting).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["ignore-term"]).await;
    let started = Instant::now();
    agent.update(&app, cpu(100)).await.unwrap();
    assert!(started.elapsed() < PROMPT, "the update waited for the eviction");
    let status = agent.ended(&app).await;
    assert_eq!((status.reason.as_str(), status.message.as_str()), ("Evicted", "no room"));
    agent.remove_all().await;
}

#[tokio::test]
async fn an_answer_about_a_new_container_may_evict_another() {
    let world = world();
    let agent = world.agent().await;
    let evicting = answering("CreateContainer", |heard| {
        let pod = heard.pod.as_ref().expect("a pod");
        let evict = pod.annotations.get("evict").map(|id| eviction(id)).into_iter().collect();
        with(CreateContainerResponse { evict, ..Default::default() })
    });
    let _plugin = Plugin::join(&world.nri_socket(), "10", "evictor", evicting).await;
    let id = agent.run(&pod(&world, "old")).await.unwrap();
    let old = agent.launch(&id, "app", &["ignore-term"]).await;
    let mut config = pod(&world, "new");
    config.annotations.insert("evict".into(), old.clone());
    let next = agent.run(&config).await.unwrap();
    agent.launch(&next, "app", &["run"]).await;
    assert_eq!(agent.ended(&old).await.reason, "Evicted");
    agent.remove_all().await;
}

#[tokio::test]
async fn a_plugins_mount_is_labelled_when_it_asks_for_it() {
    let mut world = world();
    let selinux = Some(SelinuxContexts {
        process: "system_u:system_r:container_t:s0".into(),
        file: "system_u:object_r:container_file_t:s0".into(),
    });
    let facts = HostFacts { selinux, ..world.fakes.host.facts().clone() };
    world.fakes.host = Arc::new(world.fakes.host.with_facts(facts));
    world.oci.selinux = true;
    let agent = world.agent().await;
    let [shared, private] = ["shared", "private"].map(|name| world.path(name));
    for folder in [&shared, &private] {
        std::fs::create_dir(folder).unwrap();
    }
    let mount = |source: &std::path::Path, options: &[&str]| Mount {
        destination: source.display().to_string(),
        source: source.display().to_string(),
        r#type: "bind".to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    };
    let host = Mount { source: "/etc".into(), ..mount(&private, &["relabel"]) };
    let mounts =
        [vec![mount(&shared, &["rbind"]), mount(&private, &["rbind", "relabel"])], vec![host]];
    let adjusting = answering("CreateContainer", move |heard| {
        let mounts = mounts[usize::from(heard.container_name() == "bad")].clone();
        let adjust = Some(ContainerAdjustment { mounts, ..Default::default() });
        with(CreateContainerResponse { adjust, ..Default::default() })
    });
    let _plugin = Plugin::join(&world.nri_socket(), "10", "mounter", adjusting).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.create(&id, &container("app", &["run"])).await.unwrap();
    assert_eq!(world.fakes.host.label(&shared), None);
    let label = world.fakes.host.label(&private).expect("a label");
    assert!(label.starts_with("system_u:object_r:container_file_t:s0:c"), "{label}");
    let bad = agent.create(&id, &container("bad", &["run"])).await;
    refused(bad, Code::InvalidArgument, "/etc is the host's own");
    agent.remove_all().await;
}
