//! Changing limits: in the cgroup, in the status, in containerd's stored spec.

use podbay::proto::runtime::v1 as cri;
use tonic::Status;

use crate::containers::{cgroup_file, cgroup_v2};
use crate::rig::{LivePod, Rig, SOON};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::env::RUNTIME;
use crate::support::eventually;

const MIB: i64 = 1 << 20;

async fn update(rig: &Rig, id: &str, limits: cri::LinuxContainerResources) -> Result<(), Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(limits),
        ..Default::default()
    };
    rig.runtime().update_container_resources(request).await.map(drop)
}

fn memory(bytes: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() }
}

/// Memory limit of a running container: what the kernel has.
async fn in_kernel(rig: &Rig, id: &str) -> i64 {
    let limit = cgroup_file(rig.pid(id).await, "memory", "memory.limit_in_bytes", "memory.max");
    limit.parse().expect("a limit")
}

/// Memory limit of a container: what it reports and what containerd has stored.
async fn on_paper(rig: &Rig, id: &str) -> (i64, i64) {
    let told = rig.status(id).await.resources.and_then(|it| it.linux).expect("resources");
    let spec = &rig.info(id).await["runtimeSpec"];
    let stored = spec["linux"]["resources"]["memory"]["limit"].as_i64().expect("a limit");
    (told.memory_limit_in_bytes, stored)
}

fn limited(rig: &Rig, name: &str) -> Container {
    Container::waiting(name, &rig.image).memory_limit(64 * MIB)
}

pub async fn limits_change_while_it_runs(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("update")).await;
    let id = rig.launch(&pod, &limited(&rig, "app")).await;
    let pid = rig.pid(&id).await;
    // Up, down, up: on cgroup v1 the order of the two memory files matters each way.
    for size in [128, 32, 96] {
        update(&rig, &id, memory(size * MIB)).await.expect("the update");
        assert_eq!(in_kernel(&rig, &id).await, size * MIB);
        assert_eq!(on_paper(&rig, &id).await, (size * MIB, size * MIB));
    }
    let cpu = cri::LinuxContainerResources {
        cpu_period: 50_000,
        cpu_quota: 20_000,
        cpu_shares: 256,
        cpuset_cpus: "0".into(),
        ..Default::default()
    };
    update(&rig, &id, cpu).await.expect("the update");
    match cgroup_v2() {
        true => assert_eq!(cgroup_file(pid, "", "", "cpu.max"), "20000 50000"),
        false => {
            assert_eq!(cgroup_file(pid, "cpu", "cpu.cfs_quota_us", ""), "20000");
            assert_eq!(cgroup_file(pid, "cpu", "cpu.cfs_period_us", ""), "50000");
            assert_eq!(cgroup_file(pid, "cpu", "cpu.shares", ""), "256");
        }
    }
    assert_eq!(cgroup_file(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(in_kernel(&rig, &id).await, 96 * MIB, "what is not set stays");
    let told = rig.status(&id).await.resources.and_then(|it| it.linux).expect("resources");
    assert_eq!((told.cpu_period, told.cpu_quota, told.cpu_shares), (50_000, 20_000, 256));
    assert_eq!((told.cpuset_cpus.as_str(), told.memory_limit_in_bytes), ("0", 96 * MIB));
    assert_eq!(rig.pid(&id).await, pid, "the process is the same");
    rig.finish().await;
}

pub async fn limits_change_before_and_after(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("update")).await;
    let id = rig.create(&pod, &limited(&rig, "app")).await.expect("created");
    update(&rig, &id, memory(48 * MIB)).await.expect("the update");
    assert_eq!(on_paper(&rig, &id).await, (48 * MIB, 48 * MIB));
    rig.start_created(&id).await.expect("started");
    assert_eq!(in_kernel(&rig, &id).await, 48 * MIB);
    rig.stop(&id, 5).await;
    update(&rig, &id, memory(24 * MIB)).await.expect("the update");
    assert_eq!(on_paper(&rig, &id).await, (24 * MIB, 24 * MIB));
    assert_eq!(rig.ended(&id).await.exit_code, 0);
    rig.remove(&id).await;
    let gone = update(&rig, &id, memory(24 * MIB)).await.expect_err("gone");
    assert_eq!(gone.code(), tonic::Code::NotFound, "{gone}");
    rig.finish().await;
}

pub async fn refused_limits_change_nothing(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("update")).await;
    let with_crun = RUNTIME.try_with(|_| ()).is_ok();
    let mut spec = limited(&rig, "app");
    if with_crun {
        // crun 1.8 cannot take a quota away again.
        (spec.resources().cpu_quota, spec.resources().cpu_period) = (50_000, 100_000);
    }
    let id = rig.launch(&pod, &spec).await;
    let pid = rig.pid(&id).await;
    // Nothing that could be swapped out or given back.
    rig.exec(&id, "head -c 20000000 /dev/zero > /dev/shm/full").await;
    let quota = || cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max");
    let (free, cpus) = (quota(), cgroup_file(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"));
    let no_such_cpu = cri::LinuxContainerResources {
        cpuset_cpus: "4000".into(),
        cpu_quota: 10_000,
        ..memory(80 * MIB)
    };
    let mut refusals = vec![(no_such_cpu, "cpuset.cpus")];
    if !cgroup_v2() {
        // With cgroup v2 the kernel would kill instead.
        let full = cri::LinuxContainerResources { cpu_quota: 10_000, ..memory(4 * MIB) };
        let words = if with_crun { "memory" } else { "unable to set memory limit to 4194304" };
        refusals.push((full, words));
    }
    for (limits, words) in refusals {
        let refused = update(&rig, &id, limits).await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::Unknown, "{refused}");
        assert!(refused.message().starts_with("change the limits: "), "{refused}");
        assert!(refused.message().contains(words), "{refused}");
        assert_eq!(in_kernel(&rig, &id).await, 64 * MIB, "{refused}");
        assert_eq!(on_paper(&rig, &id).await, (64 * MIB, 64 * MIB), "{refused}");
        assert_eq!(quota(), free, "{refused}");
        assert_eq!(cgroup_file(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"), cpus, "{refused}");
    }
    update(&rig, &id, memory(128 * MIB)).await.expect("a good update");
    assert_eq!(in_kernel(&rig, &id).await, 128 * MIB);
    assert_eq!(rig.exec(&id, "stat -c %s /dev/shm/full").await, "20000000");
    rig.finish().await;
}

pub async fn updates_survive_the_agent(line: Line) {
    let mut rig = Rig::start(line).await;
    let pod: LivePod = rig.run(rig.pod_spec("update")).await;
    let id = rig.launch(&pod, &limited(&rig, "app")).await;
    update(&rig, &id, memory(96 * MIB)).await.expect("the update");
    for round in 0..4 {
        let mut client = rig.runtime();
        let (acknowledged, mut seen) = tokio::sync::watch::channel(0);
        let container_id = id.clone();
        let work = tokio::spawn(async move {
            for size in (40..).step_by(2) {
                let request = cri::UpdateContainerResourcesRequest {
                    container_id: container_id.clone(),
                    linux: Some(memory(size * MIB)),
                    ..Default::default()
                };
                if client.update_container_resources(request).await.is_err() {
                    return;
                }
                acknowledged.send_replace(size);
            }
        });
        // In the middle of some update, another one in each round.
        seen.wait_for(|size| *size >= 40 + 4 * round).await.expect("updates go on");
        rig.agent.kill9();
        work.await.expect("no panic");
        let last = *seen.borrow() * MIB;
        rig.agent.restart().await;
        let settled = eventually(SOON, async || {
            let (told, stored) = on_paper(&rig, &id).await;
            (told == stored && in_kernel(&rig, &id).await == told).then_some(told)
        });
        let size = settled.await.expect("kernel, containerd and status agree");
        let next = last + 2 * MIB;
        assert!(size == last || size == next, "{size}: {last} was acknowledged last");
    }
    rig.finish().await;
}
