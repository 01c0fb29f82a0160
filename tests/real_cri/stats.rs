//! Resource usage of pods and containers, measured on real cgroups and real traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;

use futures::StreamExt as _;
use podbay::proto::runtime::v1 as cri;

use crate::rig::{LivePod, Rig, SOON};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::{eventually, wait_until};

const MIB: u64 = 1 << 20;

impl Rig {
    /// A rig that measures often.
    async fn measuring(line: Line) -> Self {
        let mut env = TestEnv::start(line).await;
        env.add_config("[stats]\ninterval = \"1s\"\nlayer_interval = \"1s\"\n");
        Self::start_in(env).await
    }

    async fn stats(&self, id: &str) -> cri::ContainerStats {
        let request = cri::ContainerStatsRequest { container_id: id.into() };
        let answer = self.runtime().container_stats(request).await.expect("ContainerStats");
        answer.into_inner().stats.expect("stats")
    }

    async fn all_stats(&self) -> BTreeMap<String, cri::ContainerStats> {
        let request = cri::ListContainerStatsRequest::default();
        let answer = self.runtime().list_container_stats(request).await.expect("a list");
        let named = |stats: cri::ContainerStats| {
            (stats.attributes.as_ref().expect("attributes").id.clone(), stats)
        };
        answer.into_inner().stats.into_iter().map(named).collect()
    }

    async fn pod_stats(&self, pod: &LivePod) -> cri::LinuxPodSandboxStats {
        let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
        let answer = self.runtime().pod_sandbox_stats(request).await.expect("PodSandboxStats");
        answer.into_inner().stats.and_then(|stats| stats.linux).expect("stats")
    }

    /// A container that has done its work and waits.
    async fn launch_after(&self, pod: &LivePod, name: &str, work: &str) -> String {
        let script = format!("{work}; echo ready; trap 'exit 0' TERM; sleep 86400 & wait");
        let id = self.launch(pod, &Container::script(name, &self.image, &script)).await;
        wait_until(SOON, "its work is done", async || self.log(pod, name).contains("ready")).await;
        id
    }
}

fn value(number: Option<cri::UInt64Value>) -> u64 {
    number.expect("a number").value
}

pub async fn containers_are_measured(line: Line) {
    let rig = Rig::measuring(line).await;
    let pod = rig.run(rig.pod_spec("work")).await;
    let burn = Container::script("burn", &rig.image, "while true; do true; done");
    let burn = rig.launch(&pod, &burn).await;
    let idle = rig.launch_waiting(&pod, "idle").await;
    let fill = "dd if=/dev/zero of=/dev/shm/full bs=1M count=32";
    let fill = rig.launch_after(&pod, "fill", fill).await;
    let write = "dd if=/dev/zero of=/written bs=1M count=8";
    let write = rig.launch_after(&pod, "write", write).await;
    let limited = Container::waiting("limited", &rig.image).memory_limit(64 << 20);
    let limited = rig.launch(&pod, &limited).await;
    let created = Container::waiting("created", &rig.image);
    let created = rig.create(&pod, &created).await.expect("CreateContainer");
    let ended = rig.run_to_end(&pod, &Container::script("ended", &rig.image, "exit 0")).await.id;

    let cores = eventually(SOON, async || {
        let cpu = rig.stats(&burn).await.cpu.expect("CPU use");
        Some(cpu.usage_nano_cores?.value).filter(|cores| *cores > 10_000_000)
    });
    let cores = cores.await.expect("use per second");
    assert!(cores <= 1_500_000_000, "one process took {cores} billionths of a core");
    let before = value(rig.stats(&burn).await.cpu.expect("CPU use").usage_core_nano_seconds);
    wait_until(SOON, "CPU time grows", async || {
        let cpu = rig.stats(&burn).await.cpu.expect("CPU use");
        value(cpu.usage_core_nano_seconds) > before
    })
    .await;

    let all = rig.all_stats().await;
    let ids: BTreeSet<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(
        ids,
        [&burn, &idle, &fill, &write, &limited, &created, &ended].map(|id| &**id).into()
    );
    let memory = |id: &str| all[id].memory.expect("memory use");
    assert!(value(memory(&fill).usage_bytes) >= 32 * MIB, "{:?}", memory(&fill));
    assert!(value(memory(&fill).working_set_bytes) >= 32 * MIB, "{:?}", memory(&fill));
    assert!(value(memory(&idle).usage_bytes) < 32 * MIB, "{:?}", memory(&idle));
    assert!(value(memory(&idle).page_faults) > 0);
    assert_eq!(value(memory(&idle).available_bytes), 0, "it has no limit");
    let left = value(memory(&limited).available_bytes);
    assert!((32 * MIB..=64 * MIB).contains(&left), "{left}");
    for id in [&burn, &idle] {
        let (cpu, memory) = (all[id].cpu.expect("CPU use"), memory(id));
        assert!(cpu.timestamp > 0 && memory.timestamp > 0);
        assert!(value(memory.working_set_bytes) <= value(memory.usage_bytes));
    }
    for id in [&created, &ended] {
        assert_eq!((all[id].cpu, all[id].memory), (None, None));
    }
    for stats in all.values() {
        let layer = stats.writable_layer.as_ref().expect("a writable layer");
        assert!(layer.timestamp > 0, "{stats:?}");
    }
    // Blocks of the last write may still be on their way to the disk.
    wait_until(SOON, "the layer is measured", async || {
        let layer = rig.stats(&write).await.writable_layer.expect("a writable layer");
        let mountpoint = layer.fs_id.expect("a file system").mountpoint;
        value(layer.used_bytes) >= 8 * MIB
            && value(layer.inodes_used) > 0
            && std::path::Path::new(&mountpoint).is_dir()
    })
    .await;
    rig.finish().await;
}

pub async fn lists_outlive_what_ends_meanwhile(line: Line) {
    let rig = Rig::measuring(line).await;
    let pod = rig.run(rig.pod_spec("mortal")).await;
    let stays = rig.launch_waiting(&pod, "stays").await;
    for round in 0..5 {
        let dies = rig.launch_waiting(&pod, &format!("dies-{round}")).await;
        assert!(rig.all_stats().await[&dies].cpu.is_some());
        let pid = nix::unistd::Pid::from_raw(rig.pid(&dies).await);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
        wait_until(SOON, "it is told as ended", async || {
            let all = rig.all_stats().await;
            assert!(all[&stays].cpu.is_some(), "the others are listed all the time");
            all.get(&dies).is_some_and(|stats| stats.cpu.is_none())
        })
        .await;
    }
    rig.finish().await;
}

/// Sends so many bytes into a pod; whether somebody listens does not matter.
fn send(ip: &str, packets: usize) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    for _ in 0..packets {
        // An answer that nobody listens is an error of the next packet.
        let _refused = socket.send_to(&[0; 1000], (ip, 9));
    }
}

pub async fn pods_are_measured(line: Line) {
    let rig = Rig::measuring(line).await;
    let mut own = rig.pod_spec("own");
    let parent = format!("{}/own", rig.env().cgroup_parent());
    own.config.linux.get_or_insert_default().cgroup_parent = parent.clone();
    let mut bare = rig.pod_spec("bare");
    bare.config.linux.get_or_insert_default().cgroup_parent = String::new();
    for spec in [own, bare] {
        let pod = rig.run(spec).await;
        let fill = "dd if=/dev/zero of=/dev/shm/full bs=1M count=16";
        rig.launch_after(&pod, "fill", fill).await;
        rig.launch_waiting(&pod, "waits").await;
        let first = rig.pod_stats(&pod).await;
        let name = &pod.spec.config.metadata.as_ref().expect("metadata").name;
        let (cpu, memory) = (first.cpu.expect(name), first.memory.expect(name));
        assert_eq!(first.containers.len(), 2);
        let parts = first.containers.iter().map(|part| part.cpu.expect("CPU use"));
        let parts: u64 = parts.map(|cpu| value(cpu.usage_core_nano_seconds)).sum();
        assert!(value(cpu.usage_core_nano_seconds) >= parts, "{name}");
        assert!(value(memory.usage_bytes) >= 16 * MIB, "{name}: {memory:?}");
        // Each waits with a shell and a sleep, which it starts a moment after its own start.
        wait_until(SOON, "four processes are counted", async || {
            let process = rig.pod_stats(&pod).await.process;
            process.is_some_and(|process| value(process.process_count) == 4)
        })
        .await;
        let network = first.network.expect("a network");
        let eth0 = network.default_interface.expect("an interface");
        assert_eq!(eth0.name, "eth0");
        assert!(network.interfaces.iter().all(|interface| interface.name != "lo"));
        send(&rig.pod_ip(&pod.id).await, 100);
        wait_until(SOON, "traffic is counted", async || {
            let network = rig.pod_stats(&pod).await.network.expect("a network");
            let now = network.default_interface.expect("an interface");
            value(now.rx_bytes) >= value(eth0.rx_bytes) + 100_000
        })
        .await;
        eventually(SOON, async || rig.pod_stats(&pod).await.cpu?.usage_nano_cores)
            .await
            .expect("use per second");
    }
    let host = rig.run(rig.pod_spec("host").host_network()).await;
    let stats = rig.pod_stats(&host).await;
    assert!(stats.cpu.is_some() && stats.network.is_none(), "the host's traffic is not its own");
    rig.stop_pod(&host.id).await;
    let request = cri::ListPodSandboxStatsRequest::default();
    let listed = rig.runtime().list_pod_sandbox_stats(request).await.expect("a list").into_inner();
    assert_eq!(listed.stats.len(), 2, "a stopped pod uses nothing");
    for pod in listed.stats {
        rig.remove_pod(&pod.attributes.expect("attributes").id).await;
    }
    // It belongs to the caller of the CRI.
    remove_cgroup(&parent);
    rig.finish().await;
}

/// In each hierarchy that has it.
fn remove_cgroup(path: &str) {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).expect("cgroups").flatten().map(|it| it.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        let _absent = std::fs::remove_dir(hierarchy.join(path.trim_start_matches('/')));
    }
}

/// What every host tells, whatever its kernel.
const ALWAYS: [&str; 48] = [
    "container_blkio_device_usage_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_cpu_system_seconds_total",
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_file_descriptors",
    "container_fs_inodes_free",
    "container_fs_inodes_total",
    "container_fs_limit_bytes",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_usage_bytes",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
    "container_last_seen",
    "container_memory_cache",
    "container_memory_failcnt",
    "container_memory_failures_total",
    "container_memory_kernel_usage",
    "container_memory_mapped_file",
    "container_memory_max_usage_bytes",
    "container_memory_rss",
    "container_memory_swap",
    "container_memory_total_active_file_bytes",
    "container_memory_total_inactive_file_bytes",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_oom_events_total",
    "container_processes",
    "container_sockets",
    "container_spec_cpu_period",
    "container_spec_cpu_quota",
    "container_spec_cpu_shares",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_reservation_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
    "container_start_time_seconds",
    "container_tasks_state",
    "container_threads",
    "container_threads_max",
    "container_ulimits_soft",
    "container_network_receive_bytes_total",
    "container_network_tcp_usage_total",
    "container_network_tcp6_usage_total",
    "container_network_udp_usage_total",
    "container_cpu_cfs_burst_periods_total",
];

pub async fn metrics_are_those_of_the_descriptors(line: Line) {
    let rig = Rig::measuring(line).await;
    let pod = rig.run(rig.pod_spec("watched")).await;
    let mut spec = Container::waiting("app", &rig.image).memory_limit(64 << 20);
    (spec.resources().cpu_quota, spec.resources().cpu_period) = (50_000, 100_000);
    spec.resources().cpu_shares = 512;
    let id = rig.launch(&pod, &spec).await;
    let plain = rig.launch_waiting(&pod, "plain").await;
    rig.exec(&id, "dd if=/dev/zero of=/file bs=1M count=1; cat /file >/dev/null; sync").await;
    rig.create(&pod, &Container::waiting("later", &rig.image)).await.expect("CreateContainer");
    let gone = rig.run(rig.pod_spec("gone")).await;
    rig.stop_pod(&gone.id).await;

    let request = cri::ListMetricDescriptorsRequest {};
    let answer = rig.runtime().list_metric_descriptors(request).await.expect("descriptors");
    let descriptors = answer.into_inner().descriptors;
    let keys: BTreeMap<_, _> =
        descriptors.iter().map(|family| (&*family.name, &family.label_keys)).collect();
    assert_eq!(keys.len(), descriptors.len(), "each name once");
    let answer = rig.runtime().list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await;
    let listed = answer.expect("metrics").into_inner().pod_metrics;
    let [of_pod] = &listed[..] else { panic!("{} pods", listed.len()) };
    assert_eq!(of_pod.pod_sandbox_id, pod.id);
    let ids: BTreeSet<_> = of_pod.container_metrics.iter().map(|it| &*it.container_id).collect();
    assert_eq!(ids, [&*id, &*plain].into(), "those that run");
    let of_container = of_pod.container_metrics.iter().find(|it| it.container_id == id);
    let of_container = of_container.expect("the limited one");
    for container in &of_pod.container_metrics {
        let told: BTreeSet<_> =
            of_pod.metrics.iter().chain(&container.metrics).map(|it| &*it.name).collect();
        let silent: Vec<_> = keys.keys().filter(|name| !told.contains(**name)).collect();
        assert!(silent.is_empty(), "told of, and without a sample: {silent:?}");
    }

    let mut series = BTreeSet::new();
    for metric in of_pod.metrics.iter().chain(&of_container.metrics) {
        let keys = keys.get(&*metric.name).unwrap_or_else(|| panic!("{} is unknown", metric.name));
        assert_eq!(metric.label_values.len(), keys.len(), "{metric:?}");
        assert!(metric.timestamp > 0 && metric.value.is_some(), "{metric:?}");
        assert!(series.insert((&metric.name, &metric.label_values)), "twice: {metric:?}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let hugepages = mounts.contains(" /sys/fs/cgroup/hugetlb ");
    assert_eq!(keys.contains_key("container_hugetlb_failcnt"), hugepages);
    let told: BTreeSet<_> = series.iter().map(|(name, _)| name.as_str()).collect();
    let missing: Vec<_> = ALWAYS.iter().filter(|name| !told.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?} of {told:?}");
    let find = |name: &str| {
        let metric = of_container.metrics.iter().find(|metric| metric.name == name);
        metric.unwrap_or_else(|| panic!("no {name}"))
    };
    let number = |name: &str| find(name).value.expect("a number").value;
    assert_eq!(number("container_spec_memory_limit_bytes"), 64 * MIB);
    assert_eq!(number("container_spec_cpu_quota"), 50_000);
    assert_eq!(number("container_processes"), 2);
    assert!(number("container_threads") >= 2 && number("container_file_descriptors") > 2);
    assert!(number("container_memory_max_usage_bytes") >= MIB);
    let labels = &find("container_processes").label_values;
    let by_key: BTreeMap<_, _> = keys["container_processes"].iter().zip(labels).collect();
    let label = |key: &str| by_key[&key.to_owned()].as_str();
    assert_eq!((label("container"), label("name"), label("pod")), ("app", &*id, "watched"));
    assert_eq!((label("namespace"), label("image")), ("test", &*rig.image));
    assert!(label("id").starts_with('/') && label("id").ends_with(&*id), "{}", label("id"));

    let request = cri::StreamPodSandboxMetricsRequest {};
    let stream = rig.runtime().stream_pod_sandbox_metrics(request).await.expect("a stream");
    let batches: Vec<_> = stream.into_inner().collect().await;
    let pods = batches.into_iter().flat_map(|batch| batch.expect("a batch").pod_sandbox_metrics);
    assert_eq!(pods.map(|found| found.pod_sandbox_id).collect::<Vec<_>>(), [&*pod.id]);
    rig.finish().await;
}
