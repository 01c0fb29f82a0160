//! UpdateContainerResources and UpdatePodSandboxResources: their effects, and no effect when a step
//! fails or the agent dies.

use futures::future::join_all;
use podbay::backend::{ErrorKind, Process, Runtime as _};
use podbay::proto::runtime::v1 as cri;
use serde_json::{Value, json};
use tonic::Code;

use super::calls::{Answer, container, pod, refused};
use super::crashes::die_at;
use super::world::{Agent, World, eventually};

const MIB: i64 = 1 << 20;

impl Agent {
    pub async fn update(&self, id: &str, limits: cri::LinuxContainerResources) -> Answer<()> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(limits),
            ..Default::default()
        };
        self.cri.clone().update_container_resources(request).await.map(drop)
    }

    pub async fn limits(&self, id: &str) -> cri::LinuxContainerResources {
        let resources = self.status(id).await.unwrap().resources.expect("resources");
        resources.linux.expect("linux")
    }

    pub async fn resize(
        &self,
        id: &str,
        overhead: Option<cri::LinuxContainerResources>,
        resources: Option<cri::LinuxContainerResources>,
    ) -> Answer<()> {
        let pod_sandbox_id = id.into();
        let request = cri::UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources };
        self.cri.clone().update_pod_sandbox_resources(request).await.map(drop)
    }

    /// Overhead and resources as the verbose status has them: memory limits.
    pub async fn sums(&self, id: &str) -> (Value, Value) {
        let info = self.pod_status(id).await.unwrap().info;
        let info: Value = serde_json::from_str(&info["info"]).unwrap();
        let memory = |name: &str| info[name]["linux"]["memory_limit_in_bytes"].clone();
        (memory("overhead"), memory("resources"))
    }
}

pub fn memory(bytes: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() }
}

async fn start() -> (World, Agent, String) {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    (world, agent, id)
}

/// A container with limits from its creation.
fn limited(name: &str) -> cri::ContainerConfig {
    let mut config = container(name, &["run"]);
    let limits = config.linux.get_or_insert_default().resources.get_or_insert_default();
    *limits = cri::LinuxContainerResources { cpu_shares: 512, ..memory(64 * MIB) };
    config
}

/// Limits in the spec that containerd has.
async fn stored(world: &World, id: &str) -> Value {
    let mut spec = world.fakes.runtime.container(id).await.unwrap().spec;
    let limits = spec["linux"]["resources"].as_object_mut().expect("limits");
    assert!(limits.remove("devices").is_some(), "device rules are never touched");
    Value::Object(limits.clone())
}

fn live(world: &World, id: &str) -> Option<Value> {
    world.fakes.runtime.resources(id)
}

#[tokio::test]
async fn what_is_set_changes_and_the_rest_stays() {
    let (world, agent, pod) = start().await;
    let created = agent.create(&pod, &limited("created")).await.unwrap();
    let running = agent.create(&pod, &limited("running")).await.unwrap();
    agent.start(&running).await.unwrap();
    let ended = agent.create(&pod, &limited("ended")).await.unwrap();
    agent.start(&ended).await.unwrap();
    agent.stop(&ended, 0).await.unwrap();
    for (id, lives) in [(&created, false), (&running, true), (&ended, false)] {
        let before = agent.limits(id).await;
        // What is in force: without swap, memory and swap together are no more than memory.
        let swap = 64 * MIB;
        let wanted = cri::LinuxContainerResources {
            cpu_shares: 512,
            memory_swap_limit_in_bytes: swap,
            ..memory(swap)
        };
        assert_eq!(before, wanted);
        let other = agent.status(id).await.unwrap();
        agent.update(id, memory(128 * MIB)).await.unwrap();
        let cpus = cri::LinuxContainerResources {
            cpuset_cpus: "0".into(),
            cpu_quota: 50_000,
            cpu_period: 100_000,
            unified: [("memory.high".into(), "100000000".into())].into(),
            ..Default::default()
        };
        agent.update(id, cpus.clone()).await.unwrap();
        let expected = json!({
            "cpu": {"shares": 512, "cpus": "0", "quota": 50_000, "period": 100_000},
            "memory": {"limit": 128 * MIB, "swap": 128 * MIB},
            "unified": {"memory.high": "100000000"},
        });
        assert_eq!(stored(&world, id).await, expected);
        assert_eq!(live(&world, id), lives.then_some(expected));
        let found = agent.limits(id).await;
        let wanted = cri::LinuxContainerResources {
            cpu_shares: 512,
            memory_limit_in_bytes: 128 * MIB,
            memory_swap_limit_in_bytes: 128 * MIB,
            ..cpus
        };
        assert_eq!(found, wanted);
        let now = agent.status(id).await.unwrap();
        assert_eq!(cri::ContainerStatus { resources: other.resources.clone(), ..now }, other);
        // Nothing set is nothing changed.
        agent.update(id, cri::LinuxContainerResources::default()).await.unwrap();
        assert_eq!(agent.limits(id).await, wanted);
    }
    agent.start(&created).await.unwrap();
    agent.kill().await;
    let agent = world.agent().await;
    assert_eq!(agent.limits(&created).await.memory_limit_in_bytes, 128 * MIB);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_its_field() {
    let (world, agent, pod) = start().await;
    let id = agent.create(&pod, &limited("app")).await.unwrap();
    agent.start(&id).await.unwrap();
    type Limits = cri::LinuxContainerResources;
    let d = Limits::default;
    let pages = |page_size: &str| {
        let limit = cri::HugepageLimit { page_size: page_size.into(), limit: 1 };
        Limits { hugepage_limits: vec![limit], ..d() }
    };
    for (limits, words) in [
        (Limits { cpu_period: -1, ..d() }, "linux.cpu_period"),
        (Limits { cpu_quota: -2, ..d() }, "linux.cpu_quota"),
        (Limits { cpu_shares: -1, ..d() }, "linux.cpu_shares"),
        (Limits { memory_limit_in_bytes: -2, ..d() }, "linux.memory_limit_in_bytes"),
        (Limits { memory_swap_limit_in_bytes: 1, ..d() }, "linux.memory_swap_limit_in_bytes"),
        (Limits { cpuset_cpus: "all".into(), ..d() }, "linux.cpuset_cpus"),
        (Limits { cpuset_mems: "../0".into(), ..d() }, "linux.cpuset_mems"),
        (Limits { oom_score_adj: 1001, ..d() }, "linux.oom_score_adj"),
        (pages("../2MB"), "linux.hugepage_limits[0].page_size"),
        (Limits { unified: [("../x".into(), "1".into())].into(), ..d() }, "linux.unified"),
    ] {
        refused(agent.update(&id, limits).await, Code::InvalidArgument, words);
    }
    let windows = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        windows: Some(cri::WindowsContainerResources::default()),
        ..Default::default()
    };
    let answer = agent.cri.clone().update_container_resources(windows).await;
    refused(answer, Code::InvalidArgument, "windows");
    refused(agent.update("", d()).await, Code::InvalidArgument, "container_id");
    refused(agent.update("unknown", d()).await, Code::NotFound, "unknown");
    assert_eq!(live(&world, &id), None);
    assert_eq!(world.fakes.steps.count("update_container_spec"), 0);

    agent.kill().await;
    // Without the store it is unknown whether its process runs.
    world.delete_store();
    world.fakes.runtime.set_mute(&id, true);
    let agent = world.agent().await;
    refused(agent.update(&id, memory(MIB)).await, Code::FailedPrecondition, "unknown");
    world.fakes.runtime.set_mute(&id, false);
}

#[tokio::test]
async fn a_failing_step_changes_nothing() {
    let (world, agent, pod) = start().await;
    let id = agent.create(&pod, &limited("app")).await.unwrap();
    agent.start(&id).await.unwrap();
    let steps = &world.fakes.steps;
    let before = (stored(&world, &id).await, agent.limits(&id).await);
    let change = || cri::LinuxContainerResources { cpu_quota: 5000, ..memory(32 * MIB) };
    for step in ["container", "update_container_spec", "update_resources"] {
        for lost in [false, true] {
            match lost {
                false => steps.fail(step, ErrorKind::Other, 1),
                true => steps.lose_answer(step, ErrorKind::DeadlineExceeded, 1),
            }
            let code = if lost { Code::DeadlineExceeded } else { Code::Unknown };
            refused(agent.update(&id, change()).await, code, step);
            let after = (stored(&world, &id).await, agent.limits(&id).await);
            assert_eq!(after, before, "{step} {lost}");
            // What had been set is back, and what had not been set is unlimited again.
            if let Some(live) = live(&world, &id) {
                assert_eq!(live["memory"], before.0["memory"], "{step} {lost}");
                let quota =
                    if lost || step == "update_resources" { json!(-1) } else { json!(null) };
                assert_eq!((&live["cpu"]["quota"], &live["cpu"]["shares"]), (&quota, &json!(512)));
            }
        }
    }
    agent.update(&id, change()).await.unwrap();
    assert_eq!(agent.limits(&id).await.memory_limit_in_bytes, 32 * MIB);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn an_update_that_cannot_be_undone_at_once_is_undone_later() {
    let (world, agent, pod) = start().await;
    let id = agent.create(&pod, &limited("app")).await.unwrap();
    agent.start(&id).await.unwrap();
    let before = (stored(&world, &id).await, agent.limits(&id).await);
    let steps = &world.fakes.steps;
    steps.lose_answer("update_resources", ErrorKind::Unavailable, 2);
    refused(agent.update(&id, memory(32 * MIB)).await, Code::Unavailable, "update_resources");
    assert_eq!(agent.limits(&id).await, before.1);
    assert_ne!(stored(&world, &id).await, before.0, "not undone yet");
    eventually("it is undone", async || (stored(&world, &id).await == before.0).then_some(()))
        .await;
    assert_eq!(live(&world, &id).unwrap()["memory"], before.0["memory"]);

    // A runtime that refuses the old limits too is not asked for ever.
    steps.fail("update_resources", ErrorKind::Other, 2);
    refused(agent.update(&id, memory(32 * MIB)).await, Code::Unknown, "update_resources");
    assert_eq!(stored(&world, &id).await, before.0);
    agent.update(&id, memory(32 * MIB)).await.unwrap();
}

#[tokio::test]
async fn an_update_that_was_cut_is_undone_by_the_next_agent() {
    for step in ["update_container_spec", "update_resources"] {
        let (world, agent, pod) = start().await;
        let id = agent.create(&pod, &limited("app")).await.unwrap();
        agent.start(&id).await.unwrap();
        let before = (stored(&world, &id).await, agent.limits(&id).await);
        die_at(&world, agent, step, async |agent| agent.update(&id, memory(MIB)).await).await;
        if step == "update_resources" {
            assert_ne!(stored(&world, &id).await, before.0);
            // As if the runtime had done it when nobody listened any more.
            let limits = stored(&world, &id).await;
            world.fakes.runtime.update_resources(&id, &limits).await.unwrap();
        }
        let agent = world.agent().await;
        assert_eq!(agent.limits(&id).await, before.1, "{step}");
        eventually("it is undone", async || {
            let live = live(&world, &id).is_some_and(|live| live == before.0);
            (live && stored(&world, &id).await == before.0).then_some(())
        })
        .await;
        agent.update(&id, memory(MIB)).await.unwrap();
        assert_eq!(agent.limits(&id).await.memory_limit_in_bytes, MIB);
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{step}");
    }
}

#[tokio::test]
async fn a_container_is_not_started_with_limits_that_were_never_acknowledged() {
    let (world, agent, pod) = start().await;
    let id = agent.create(&pod, &limited("app")).await.unwrap();
    let before = stored(&world, &id).await;
    let steps = &world.fakes.steps;
    // The write is done and not heard of; the first try to undo it fails.
    steps.hang("update_container_spec");
    let (updated, ()) = tokio::join!(agent.update(&id, memory(MIB)), async {
        steps.called("update_container_spec", 1).await;
        steps.lose_answer("update_container_spec", ErrorKind::Unavailable, 1);
        steps.fail("container", ErrorKind::Unavailable, 1);
        steps.release("update_container_spec");
    });
    refused(updated, Code::Unavailable, "update_container_spec");
    assert_ne!(stored(&world, &id).await, before);
    agent.kill().await;
    steps.fail("container", ErrorKind::Unavailable, 2);
    let agent = world.agent().await;
    eventually("it can be started", async || agent.start(&id).await.ok()).await;
    assert_eq!(stored(&world, &id).await, before);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_container_that_ends_meanwhile_is_updated_on_paper() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["run"]).await;
    world.fakes.steps.hang("update_resources");
    let (updated, ()) = tokio::join!(agent.update(&id, memory(MIB)), async {
        world.fakes.steps.called("update_resources", 1).await;
        world.fakes.runtime.end(Process::init(&id), 3);
        world.fakes.runtime.wait(Process::init(&id)).await.unwrap();
        world.fakes.steps.release("update_resources");
    });
    updated.unwrap();
    assert_eq!(agent.ended(&id).await.exit_code, 3);
    assert_eq!(agent.limits(&id).await.memory_limit_in_bytes, MIB);
}

#[tokio::test]
async fn updates_at_once_do_not_mix() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["run"]).await;
    let sizes: Vec<i64> = (1..=8).collect();
    let updates = sizes.iter().map(|n| {
        let limits = cri::LinuxContainerResources { cpu_shares: n * 10, ..memory(n * MIB) };
        agent.update(&id, limits)
    });
    assert!(join_all(updates).await.iter().all(Result::is_ok));
    let found = agent.limits(&id).await;
    assert_eq!(found.memory_limit_in_bytes / MIB, found.cpu_shares / 10);
    let expected = live(&world, &id).unwrap();
    assert_eq!(stored(&world, &id).await, expected);
    assert_eq!(expected["memory"]["limit"], found.memory_limit_in_bytes);
}

#[tokio::test]
async fn a_lost_store_loses_no_limits() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["run"]).await;
    agent.update(&id, memory(MIB)).await.unwrap();
    let before = agent.limits(&id).await;
    agent.kill().await;
    world.delete_store();
    let agent = world.agent().await;
    assert_eq!(agent.limits(&id).await, before);
}

#[tokio::test]
async fn a_pods_sums_are_remembered() {
    let (world, agent, _) = start().await;
    let mut config = pod(&world, "sized");
    config.linux.get_or_insert_default().overhead = Some(memory(MIB));
    let id = agent.run(&config).await.unwrap();
    assert_eq!(agent.sums(&id).await, (json!(MIB), Value::Null));
    agent.resize(&id, None, Some(memory(5 * MIB))).await.unwrap();
    assert_eq!(agent.sums(&id).await, (json!(MIB), json!(5 * MIB)));
    agent.resize(&id, Some(memory(2 * MIB)), Some(memory(6 * MIB))).await.unwrap();
    agent.kill().await;
    let agent = world.agent().await;
    assert_eq!(agent.sums(&id).await, (json!(2 * MIB), json!(6 * MIB)));
    // It is still the pod that this configuration asked for.
    assert_eq!(agent.run(&config).await.unwrap(), id);
    assert_eq!(world.fakes.steps.count("update_resources"), 0);

    let bad = agent.resize(&id, Some(memory(-5)), None).await;
    refused(bad, Code::InvalidArgument, "overhead.memory_limit_in_bytes");
    let bad = agent.resize(&id, None, Some(memory(-5))).await;
    refused(bad, Code::InvalidArgument, "resources.memory_limit_in_bytes");
    refused(agent.resize("unknown", None, None).await, Code::NotFound, "unknown");
    refused(agent.resize("", None, None).await, Code::InvalidArgument, "pod_sandbox_id");
    agent.stop_pod(&id).await.unwrap();
    agent.resize(&id, Some(memory(MIB)), None).await.unwrap();
    agent.remove_all().await;
    refused(agent.resize(&id, None, None).await, Code::NotFound, &id);
}
