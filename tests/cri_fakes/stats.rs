//! Resource usage of pods and containers, with cgroup trees of files in the world's directory.

use futures::StreamExt as _;
use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use super::calls::{Answer, container, pod, refused};
use super::world::{Agent, World, eventually};

/// A cgroup that used so many seconds of CPU and so many bytes of memory.
pub fn put_cgroup(world: &World, path: &str, cpu_seconds: u64, memory: u64) {
    let folder = world.path(&format!("cgroup{path}"));
    std::fs::create_dir_all(&folder).expect("a cgroup");
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect(name);
    write("cpu.stat", format!("usage_usec {}\n", cpu_seconds * 1_000_000));
    write("memory.current", format!("{memory}\n"));
    write("memory.max", "max\n".to_owned());
    write("memory.stat", format!("anon {memory}\ninactive_file 0\npgfault 3\npgmajfault 1\n"));
    write("cgroup.procs", "10\n11\n".to_owned());
}

fn put_process(world: &World, pid: u64, cgroup: &str) {
    let folder = world.path(&format!("proc/{pid}"));
    std::fs::create_dir_all(folder.join("net")).expect("a process");
    std::fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).expect("its cgroup");
    let counters = "lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
                    net1: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n\
                    eth0: 100 5 1 0 0 0 0 0 200 6 2 0 0 0 0 0\n";
    std::fs::write(folder.join("net/dev"), counters).expect("its network");
    let limits = "Max open files            1024                 4096                 files     \n";
    std::fs::write(folder.join("limits"), limits).expect("its limits");
}

/// Gives a running container a process and a cgroup.
pub async fn put_container(world: &World, agent: &Agent, id: &str, parent: &str, cpu_seconds: u64) {
    let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
    let answer = agent.cri.clone().container_status(request).await.expect("status").into_inner();
    put_process(world, pid(&answer.info), &format!("{parent}/{id}"));
    put_cgroup(world, &format!("{parent}/{id}"), cpu_seconds, 1000);
}

/// Gives a pod's pause process a process and a cgroup.
pub async fn put_pause(world: &World, agent: &Agent, id: &str, parent: &str) {
    let answer = agent.pod_status(id).await.expect("status");
    put_process(world, pid(&answer.info), &format!("{parent}/{id}"));
    put_cgroup(world, &format!("{parent}/{id}"), 1, 10);
}

pub fn pid(info: &std::collections::BTreeMap<String, String>) -> u64 {
    let info: serde_json::Value = serde_json::from_str(&info["info"]).expect("JSON");
    info["pid"].as_u64().expect("a pid")
}

impl Agent {
    async fn stats(&self, id: &str) -> Answer<cri::ContainerStats> {
        let request = cri::ContainerStatsRequest { container_id: id.into() };
        let answer = self.cri.clone().container_stats(request).await?.into_inner();
        Ok(answer.stats.expect("stats"))
    }

    async fn list_stats(&self, filter: Option<cri::ContainerStatsFilter>) -> Vec<String> {
        let request = cri::ListContainerStatsRequest { filter };
        let answer = self.cri.clone().list_container_stats(request).await.expect("a list");
        let attributes = answer.into_inner().stats.into_iter().map(|stats| stats.attributes);
        let mut ids: Vec<_> = attributes.map(|known| known.expect("attributes").id).collect();
        ids.sort();
        ids
    }

    async fn pod_stats(&self, id: &str) -> Answer<cri::PodSandboxStats> {
        let request = cri::PodSandboxStatsRequest { pod_sandbox_id: id.into() };
        let answer = self.cri.clone().pod_sandbox_stats(request).await?.into_inner();
        Ok(answer.stats.expect("stats"))
    }

    async fn list_pod_stats(&self, filter: Option<cri::PodSandboxStatsFilter>) -> Vec<String> {
        let request = cri::ListPodSandboxStatsRequest { filter };
        let answer = self.cri.clone().list_pod_sandbox_stats(request).await.expect("a list");
        let attributes = answer.into_inner().stats.into_iter().map(|stats| stats.attributes);
        let mut ids: Vec<_> = attributes.map(|known| known.expect("attributes").id).collect();
        ids.sort();
        ids
    }
}

fn value(number: Option<cri::UInt64Value>) -> u64 {
    number.expect("a number").value
}

fn sorted<const N: usize>(ids: [&str; N]) -> Vec<String> {
    let mut ids = ids.map(str::to_owned).to_vec();
    ids.sort();
    ids
}

#[tokio::test]
async fn a_container_is_measured_as_far_as_it_can_be() {
    let world = World::new();
    let agent = world.agent().await;
    let pod_id = agent.run(&pod(&world, "web")).await.unwrap();
    let mut config = container("app", &["run"]);
    config.labels.insert("tier".into(), "front".into());
    config.annotations.insert("note".into(), "a".into());
    let id = agent.create(&pod_id, &config).await.unwrap();

    let created = agent.stats(&id).await.unwrap();
    let attributes = created.attributes.clone().unwrap();
    assert_eq!(attributes.id, id);
    assert_eq!(attributes.metadata, config.metadata);
    assert_eq!((attributes.labels, attributes.annotations), (config.labels, config.annotations));
    assert_eq!((created.cpu, created.memory, created.swap, created.io), (None, None, None, None));
    let layer = created.writable_layer.unwrap();
    assert!(layer.timestamp > 0);
    assert_eq!(layer.fs_id.unwrap().mountpoint, "/", "where the snapshotter keeps it");
    assert_eq!((value(layer.used_bytes), value(layer.inodes_used)), (4096, 1));

    agent.start(&id).await.unwrap();
    put_container(&world, &agent, &id, "/podbay", 5).await;
    let running = agent.stats(&id[..12]).await.unwrap();
    let cpu = running.cpu.unwrap();
    assert_eq!(value(cpu.usage_core_nano_seconds), 5_000_000_000);
    let memory = running.memory.unwrap();
    assert!(cpu.timestamp > 0 && memory.timestamp > 0);
    assert_eq!((value(memory.usage_bytes), value(memory.rss_bytes)), (1000, 1000));
    assert_eq!((value(memory.page_faults), value(memory.major_page_faults)), (3, 1));
    assert_eq!(value(memory.available_bytes), 0);

    agent.stop(&id, 0).await.unwrap();
    let ended = agent.stats(&id).await.unwrap();
    assert_eq!((ended.cpu, ended.memory), (None, None));
    assert!(ended.writable_layer.is_some());
    agent.remove(&id).await.unwrap();
    refused(agent.stats(&id).await, Code::NotFound, &id);
    refused(agent.stats("").await, Code::InvalidArgument, "container_id");
}

#[tokio::test]
async fn lists_are_filtered_and_leave_out_what_ends() {
    let world = World::new();
    let agent = world.agent().await;
    let one = agent.run(&pod(&world, "one")).await.unwrap();
    let two = agent.run(&pod(&world, "two")).await.unwrap();
    let labelled = |name: &str| {
        let mut config = container(name, &["run"]);
        config.labels.insert("app".into(), name.into());
        config
    };
    let a = agent.create(&one, &labelled("a")).await.unwrap();
    let b = agent.create(&one, &labelled("b")).await.unwrap();
    let c = agent.create(&two, &labelled("a")).await.unwrap();
    let filter = |id: &str, pod: &str, app: &str| {
        let labels = Some(app).filter(|app| !app.is_empty());
        Some(cri::ContainerStatsFilter {
            id: id.into(),
            pod_sandbox_id: pod.into(),
            label_selector: labels.map(|app| ("app".into(), app.into())).into_iter().collect(),
        })
    };
    for (filter, expected) in [
        (None, sorted([&a, &b, &c])),
        (filter("", "", ""), sorted([&a, &b, &c])),
        (filter(&a[..10], "", ""), sorted([&a])),
        (filter("", &one[..10], ""), sorted([&a, &b])),
        (filter("", "", "a"), sorted([&a, &c])),
        (filter("", &two, "a"), sorted([&c])),
        (filter(&a, &two, ""), sorted([])),
        (filter("unknown", "", ""), sorted([])),
    ] {
        assert_eq!(agent.list_stats(filter.clone()).await, expected, "{filter:?}");
    }
    assert_eq!(world.fakes.steps.count("rootfs_usage"), 0, "a list measures no layers");

    agent.start(&a).await.unwrap();
    put_container(&world, &agent, &a, "/podbay", 1).await;
    assert_eq!(agent.list_stats(None).await, sorted([&a, &b, &c]));
    // Its cgroup went, and nobody has told yet that it ended.
    std::fs::remove_dir_all(world.path(&format!("cgroup/podbay/{a}"))).unwrap();
    std::fs::remove_dir_all(world.path("proc")).unwrap();
    eventually("it is left out", async || {
        (agent.list_stats(None).await == sorted([&b, &c])).then_some(())
    })
    .await;
    assert!(agent.stats(&a).await.unwrap().cpu.is_none(), "asked for by name it is told");
    agent.stop(&a, 0).await.unwrap();
    assert_eq!(agent.list_stats(None).await, sorted([&a, &b, &c]));
}

#[tokio::test]
async fn a_pod_without_a_cgroup_of_its_own_is_the_sum_of_its_parts() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "sum")).await.unwrap();
    put_pause(&world, &agent, &id, "/podbay").await;
    let mut parts = Vec::new();
    for (name, cpu_seconds) in [("a", 5), ("b", 7)] {
        let container = agent.launch(&id, name, &["run"]).await;
        put_container(&world, &agent, &container, "/podbay", cpu_seconds).await;
        parts.push(container);
    }
    agent.create(&id, &container("later", &["run"])).await.unwrap();

    let stats = agent.pod_stats(&id).await.unwrap();
    assert_eq!(stats.attributes.unwrap().metadata.unwrap().name, "sum");
    let linux = stats.linux.unwrap();
    assert_eq!(value(linux.cpu.unwrap().usage_core_nano_seconds), 13_000_000_000);
    assert_eq!(value(linux.memory.unwrap().usage_bytes), 2010);
    assert_eq!(value(linux.process.unwrap().process_count), 4);
    assert_eq!(linux.containers.len(), 3);
    let network = linux.network.unwrap();
    assert!(network.timestamp > 0);
    let names: Vec<_> = network.interfaces.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["net1", "eth0"]);
    let eth0 = network.default_interface.unwrap();
    assert_eq!((eth0.name.as_str(), value(eth0.rx_bytes), value(eth0.rx_errors)), ("eth0", 100, 1));
    assert_eq!((value(eth0.tx_bytes), value(eth0.tx_errors)), (200, 2));
}

#[tokio::test]
async fn a_pod_with_a_cgroup_is_that_cgroup() {
    let world = World::new();
    let agent = world.agent().await;
    let mut config = pod(&world, "own");
    config.linux.get_or_insert_default().cgroup_parent = "/kubepods/pod1".into();
    let id = agent.run(&config).await.unwrap();
    put_pause(&world, &agent, &id, "/kubepods/pod1").await;
    put_cgroup(&world, "/kubepods/pod1", 42, 5000);
    let linux = agent.pod_stats(&id).await.unwrap().linux.unwrap();
    assert_eq!(value(linux.cpu.unwrap().usage_core_nano_seconds), 42_000_000_000);
    assert_eq!(value(linux.memory.unwrap().usage_bytes), 5000);
    assert_eq!(value(linux.process.unwrap().process_count), 0);
}

#[tokio::test]
async fn only_ready_pods_are_listed() {
    let world = World::new();
    let agent = world.agent().await;
    let mut config = pod(&world, "a");
    config.labels.insert("app".into(), "a".into());
    let a = agent.run(&config).await.unwrap();
    let b = agent.run(&pod(&world, "b")).await.unwrap();
    let c = agent.run(&pod(&world, "c")).await.unwrap();
    let mut host = pod(&world, "host");
    host.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options =
        Some(cri::NamespaceOption {
            network: cri::NamespaceMode::Node.into(),
            ..Default::default()
        });
    let host = agent.run(&host).await.unwrap();
    for id in [&a, &b, &host] {
        put_pause(&world, &agent, id, "/podbay").await;
    }
    let ids = agent.list_pod_stats(None).await;
    assert_eq!(ids, sorted([&a, &b, &host]), "c has ended, though nobody has told yet");
    agent.stop_pod(&b).await.unwrap();
    agent.stop_pod(&c).await.unwrap();
    assert_eq!(agent.list_pod_stats(None).await, sorted([&a, &host]));
    let filter = |id: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        Some(cri::PodSandboxStatsFilter { id: id.into(), label_selector: labels })
    };
    assert_eq!(agent.list_pod_stats(filter(&a[..9], &[])).await, sorted([&a]));
    assert_eq!(agent.list_pod_stats(filter("", &[("app", "a")])).await, sorted([&a]));
    assert_eq!(agent.list_pod_stats(filter(&host, &[("app", "a")])).await, sorted([]));
    assert_eq!(agent.list_pod_stats(filter(&b, &[])).await, sorted([]));

    let linux = agent.pod_stats(&host).await.unwrap().linux.unwrap();
    assert!(linux.cpu.is_some() && linux.network.is_none(), "the host's traffic is not the pod's");
    let linux = agent.pod_stats(&b).await.unwrap().linux.unwrap();
    assert_eq!((linux.cpu, linux.memory, linux.network, linux.process), (None, None, None, None));
    refused(agent.pod_stats("0123abcd").await, Code::NotFound, "0123abcd");
    refused(agent.pod_stats("").await, Code::InvalidArgument, "pod_sandbox_id");
}

#[tokio::test]
async fn streams_tell_each_item_once_and_end() {
    let world = World::new();
    let agent = world.agent().await;
    let mut pods = Vec::new();
    let mut containers = Vec::new();
    for number in 0..3 {
        let id = agent.run(&pod(&world, &format!("pod-{number}"))).await.unwrap();
        put_pause(&world, &agent, &id, "/podbay").await;
        containers.push(agent.create(&id, &container("app", &["run"])).await.unwrap());
        pods.push(id);
    }
    let request = cri::StreamContainerStatsRequest { filter: None };
    let stream = agent.cri.clone().stream_container_stats(request).await.unwrap().into_inner();
    let batches: Vec<_> = stream.map(|batch| batch.unwrap().container_stats).collect().await;
    let ids = batches.into_iter().flatten().map(|stats| stats.attributes.unwrap().id);
    let mut ids: Vec<_> = ids.collect();
    ids.sort();
    containers.sort();
    assert_eq!(ids, containers);
    let request = cri::StreamPodSandboxStatsRequest { filter: None };
    let stream = agent.cri.clone().stream_pod_sandbox_stats(request).await.unwrap().into_inner();
    let batches: Vec<_> = stream.map(|batch| batch.unwrap().pod_sandbox_stats).collect().await;
    let ids = batches.into_iter().flatten().map(|stats| stats.attributes.unwrap().id);
    let mut ids: Vec<_> = ids.collect();
    ids.sort();
    pods.sort();
    assert_eq!(ids, pods);
}

#[tokio::test]
async fn a_long_list_keeps_its_order() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    for number in 0..60 {
        agent.create(&id, &container(&format!("c{number}"), &["run"])).await.unwrap();
    }
    let request = cri::ListContainersRequest::default();
    let listed = agent.cri.clone().list_containers(request).await.unwrap().into_inner().containers;
    let listed: Vec<_> = listed.into_iter().map(|container| container.id).collect();
    assert_eq!(listed.len(), 60);
    let request = cri::ListContainerStatsRequest::default();
    let stats = agent.cri.clone().list_container_stats(request).await.unwrap().into_inner().stats;
    let stats = stats.into_iter().map(|stats| stats.attributes.unwrap().id);
    assert_eq!(stats.collect::<Vec<_>>(), listed);
}

#[tokio::test]
async fn use_per_second_and_layers_are_measured_behind_the_scenes() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    put_container(&world, &agent, &app, "/podbay", 5).await;
    agent.measure();
    let layer = async || agent.stats(&app).await.unwrap().writable_layer.unwrap();
    let dated_anew = async || {
        let before = layer().await.timestamp;
        eventually("the layer is dated anew", async || {
            (layer().await.timestamp > before).then_some(())
        })
        .await;
    };
    let steps = &world.fakes.steps;
    let idle = eventually("an idle container is not measured again", async || {
        let before = steps.count("rootfs_usage");
        dated_anew().await;
        dated_anew().await;
        (before > 0 && steps.count("rootfs_usage") == before).then_some(before)
    })
    .await;
    put_container(&world, &agent, &app, "/podbay", 6).await;
    eventually("one that has run is", async || (steps.count("rootfs_usage") > idle).then_some(()))
        .await;
    assert_eq!(layer().await.fs_id.unwrap().mountpoint, "/");
    // The counter stands still.
    eventually("use per second is told", async || {
        let nano_cores = agent.stats(&app).await.unwrap().cpu?.usage_nano_cores?;
        (nano_cores.value == 0).then_some(())
    })
    .await;
}
