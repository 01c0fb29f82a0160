//! Metrics of a v2 cgroup tree made of files in the world's directory.

use std::collections::{BTreeMap, BTreeSet};

use podbay::proto::runtime::v1 as cri;

use super::calls::pod;
use super::stats::{pid, put_cgroup, put_container, put_pause};
use super::world::{Agent, World};

impl Agent {
    async fn metrics(&self) -> Vec<cri::PodSandboxMetrics> {
        let request = cri::ListPodSandboxMetricsRequest {};
        self.cri
            .clone()
            .list_pod_sandbox_metrics(request)
            .await
            .expect("a list")
            .into_inner()
            .pod_metrics
    }

    async fn descriptors(&self) -> Vec<cri::MetricDescriptor> {
        let request = cri::ListMetricDescriptorsRequest {};
        self.cri
            .clone()
            .list_metric_descriptors(request)
            .await
            .expect("a list")
            .into_inner()
            .descriptors
    }
}

/// What v2 tells besides what [`put_cgroup`] writes.
const FILES: [(&str, &str); 17] = [
    (
        "cpu.stat",
        "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\nnr_periods 10\n\
         nr_throttled 4\nthrottled_usec 7000000\nnr_bursts 3\nburst_usec 2000000\n",
    ),
    ("cpu.max", "50000 100000\n"),
    ("cpu.weight", "100\n"),
    ("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\n"),
    ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
    ("io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
    ("memory.numa_stat", "anon N0=8192 N1=4096\nfile N0=0 N1=12288\nkernel_stack N0=1 N1=1\n"),
    ("memory.max", "9000\n"),
    ("memory.min", "4096\n"),
    ("memory.peak", "2000\n"),
    ("memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 1\n"),
    ("memory.swap.current", "11\n"),
    ("io.stat", "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
    ("pids.current", "5\n"),
    ("pids.max", "max\n"),
    ("hugetlb.2MB.current", "2097152\n"),
    ("hugetlb.2MB.events", "max 8\n"),
];

#[tokio::test]
async fn every_number_of_v2_is_told_under_its_name() {
    let world = World::new();
    std::fs::write(world.path("cgroup/memory.numa_stat"), "anon N0=0\n").unwrap();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    put_pause(&world, &agent, &id, "/podbay").await;
    let pause = pid(&agent.pod_status(&id).await.unwrap().info);
    for (name, line) in [("tcp", "0: 00:1F90 00:0 0A 0:0 0"), ("udp6", "1: 0:35 0:0 07 0:0 4")] {
        std::fs::write(world.path(&format!("proc/{pause}/net/{name}")), format!("head\n{line}\n"))
            .unwrap();
    }
    let app = agent.launch(&id, "app", &["run"]).await;
    put_container(&world, &agent, &app, "/podbay", 5).await;
    for (name, content) in FILES {
        std::fs::write(world.path(&format!("cgroup/podbay/{app}/{name}")), content).unwrap();
    }
    std::fs::write(world.path("proc/partitions"), "major minor\n\n 254 0 1 vda\n").unwrap();
    let process = world.path("proc/10");
    std::fs::create_dir_all(process.join("fd")).unwrap();
    std::fs::create_dir_all(process.join("task/10")).unwrap();
    std::os::unix::fs::symlink("socket:[1]", process.join("fd/0")).unwrap();
    std::os::unix::fs::symlink("/dev/null", process.join("fd/1")).unwrap();
    std::fs::write(process.join("task/10/stat"), "10 (app) S 1").unwrap();

    let all = agent.metrics().await;
    assert_eq!(all.len(), 1);
    let descriptors = agent.descriptors().await;
    let keys: BTreeMap<_, _> =
        descriptors.iter().map(|family| (&*family.name, &family.label_keys)).collect();
    let mut told = BTreeMap::new();
    let of_container = &all[0].container_metrics[0];
    for metric in all[0].metrics.iter().chain(&of_container.metrics) {
        let keys = keys[&*metric.name];
        assert_eq!(keys.len(), metric.label_values.len(), "{metric:?}");
        let own = metric.label_values[6..].join(",");
        told.insert((metric.name.as_str(), own), metric.value.unwrap().value);
    }
    for (name, labels, value) in [
        ("container_cpu_usage_seconds_total", "total", 5),
        ("container_cpu_user_seconds_total", "", 3),
        ("container_cpu_system_seconds_total", "", 2),
        ("container_cpu_cfs_periods_total", "", 10),
        ("container_cpu_cfs_throttled_periods_total", "", 4),
        ("container_cpu_cfs_throttled_seconds_total", "", 7),
        ("container_cpu_cfs_burst_periods_total", "", 3),
        ("container_cpu_cfs_burst_seconds_total", "", 2),
        ("container_memory_numa_pages", "anon,hierarchy,0", 2),
        ("container_memory_numa_pages", "file,hierarchy,1", 3),
        ("container_network_tcp_usage_total", "listen", 1),
        ("container_network_udp6_usage_total", "dropped", 4),
        ("container_pressure_cpu_waiting_seconds_total", "", 3),
        ("container_memory_usage_bytes", "", 1000),
        ("container_memory_max_usage_bytes", "", 2000),
        ("container_memory_failcnt", "", 6),
        ("container_memory_swap", "", 11),
        ("container_memory_failures_total", "pgfault,hierarchy", 3),
        ("container_oom_events_total", "", 1),
        ("container_hugetlb_usage_bytes", "2MB", 2_097_152),
        ("container_hugetlb_failcnt", "2MB", 8),
        ("container_fs_reads_bytes_total", "/dev/vda", 1),
        ("container_fs_writes_total", "/dev/vda", 4),
        ("container_blkio_device_usage_total", "/dev/vda,254,0,Write", 2),
        ("container_processes", "", 2),
        ("container_file_descriptors", "", 2),
        ("container_sockets", "", 1),
        ("container_tasks_state", "sleeping", 1),
        ("container_threads", "", 5),
        ("container_threads_max", "", 0),
        ("container_spec_cpu_period", "", 100_000),
        ("container_spec_cpu_quota", "", 50_000),
        ("container_spec_cpu_shares", "", 2597),
        ("container_spec_memory_limit_bytes", "", 9000),
        ("container_spec_memory_reservation_limit_bytes", "", 4096),
        ("container_network_receive_bytes_total", "eth0", 100),
        ("container_network_transmit_errors_total", "eth0", 2),
    ] {
        assert_eq!(
            told.get(&(name, labels.to_owned())),
            Some(&value),
            "{name} {labels}: {told:#?}"
        );
    }
    let told: BTreeSet<_> = told.keys().map(|(name, _)| *name).collect();
    assert_eq!(told, keys.into_keys().collect(), "each that is told of, and no other");
    assert!(!told.contains("container_hugetlb_max_usage_bytes"), "v2 does not count it");
}

#[tokio::test]
async fn what_does_not_run_has_no_metrics() {
    let world = World::new();
    let agent = world.agent().await;
    let first = agent.descriptors().await;
    let ready = agent.run(&pod(&world, "ready")).await.unwrap();
    let stopped = agent.run(&pod(&world, "stopped")).await.unwrap();
    for id in [&ready, &stopped] {
        put_pause(&world, &agent, id, "/podbay").await;
        agent.create(id, &super::calls::container("app", &["run"])).await.unwrap();
    }
    agent.stop_pod(&stopped).await.unwrap();
    put_cgroup(&world, "/podbay", 1, 1);
    let all = agent.metrics().await;
    assert_eq!(all.iter().map(|found| &found.pod_sandbox_id).collect::<Vec<_>>(), [&ready]);
    assert!(all[0].container_metrics.is_empty() && !all[0].metrics.is_empty());
    assert_eq!(agent.descriptors().await, first, "they never change");
}
