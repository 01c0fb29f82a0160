//! Every announced family has a sample, on hosts made of recorded files.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::*;
use crate::backend::CgroupVersion;
use crate::stats::cgroup::{Group, Tree};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const PID: u32 = 77;
const PRESSURE: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\n\
                        full avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n";

struct Host {
    folder: tempfile::TempDir,
    tree: Tree,
}

impl Host {
    fn new(version: CgroupVersion, membership: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, proc) = (folder.path().join("cgroup"), folder.path().join("proc"));
        let host = Self { tree: Tree { version, root, proc }, folder };
        host.write(&format!("proc/{PID}/cgroup"), membership);
        host.write(
            &format!("proc/{PID}/limits"),
            "Max open files            1024                 4096                 files     \n",
        );
        host
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.folder.path().join(path)).unwrap();
    }

    /// Recorded on kernel 6.18, with all features enabled.
    fn v1() -> Self {
        let host = Self::new(
            CgroupVersion::V1,
            &format!(
                "7:hugetlb:/pod/{ID}\n6:pids:/pod/{ID}\n5:memory:/pod/{ID}\n4:blkio:/pod/{ID}\n\
                 3:cpuacct:/pod/{ID}\n2:cpu:/pod/{ID}\n0::/pod/{ID}\n"
            ),
        );
        for (controller, name, content) in [
            ("cpuacct", "cpuacct.usage", "5000000000\n"),
            ("cpuacct", "cpuacct.usage_user", "3000000000\n"),
            ("cpuacct", "cpuacct.usage_sys", "2000000000\n"),
            ("cpuacct", "cpuacct.stat", "user 290\nsystem 210\n"),
            ("cpu", "cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 7000000000\n"),
            ("cpu", "cpu.shares", "512\n"),
            ("cpu", "cpu.cfs_period_us", "100000\n"),
            ("cpu", "cpu.cfs_quota_us", "-1\n"),
            ("memory", "memory.usage_in_bytes", "1000\n"),
            ("memory", "memory.max_usage_in_bytes", "2000\n"),
            ("memory", "memory.kmem.usage_in_bytes", "300\n"),
            ("memory", "memory.failcnt", "6\n"),
            ("memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
            ("memory", "memory.numa_stat", "total=2 N0=2\nanon=2 N0=2\nhierarchical_anon=3 N0=3\n"),
            ("memory", "memory.stat", "total_rss 100\ntotal_pgfault 3\npgfault 2\n"),
            ("memory", "memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory", "memory.soft_limit_in_bytes", "9223372036854771712\n"),
            ("memory", "memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            ("hugetlb", "hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb", "hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
            ("hugetlb", "hugetlb.2MB.failcnt", "8\n"),
            ("blkio", "blkio.throttle.io_service_bytes_recursive", "254:0 Read 1\nTotal 1\n"),
            ("blkio", "blkio.throttle.io_serviced_recursive", "254:0 Read 1\nTotal 1\n"),
            ("pids", "pids.current", "2\n"),
            ("pids", "pids.max", "max\n"),
            ("unified", "cpu.pressure", PRESSURE),
            ("unified", "memory.pressure", PRESSURE),
            ("unified", "io.pressure", PRESSURE),
        ] {
            host.write(&format!("cgroup/{controller}/{name}"), content);
            host.write(&format!("cgroup/{controller}/pod/{ID}/{name}"), content);
        }
        host.write("cgroup/unified/cgroup.procs", "");
        host.with_pressure()
    }

    /// Recorded on kernel 6.1, with all features enabled.
    fn v2() -> Self {
        let host = Self::new(CgroupVersion::V2, &format!("0::/pod/{ID}\n"));
        host.write("cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma\n");
        for (name, content) in [
            (
                "cpu.stat",
                "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\nnr_periods 10\n\
                 nr_throttled 4\nthrottled_usec 7000000\n",
            ),
            ("cpu.max", "max 100000\n"),
            ("cpu.weight", "100\n"),
            ("cpu.pressure", PRESSURE),
            ("memory.pressure", PRESSURE),
            ("io.pressure", PRESSURE),
            ("memory.current", "1000\n"),
            ("memory.peak", "2000\n"),
            ("memory.max", "max\n"),
            ("memory.min", "0\n"),
            ("memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 1\n"),
            ("memory.stat", "anon 100\nkernel 300\nkernel_stack 16\nslab 32\npgfault 3\n"),
            ("memory.numa_stat", "anon N0=8192\nfile N0=0\n"),
            ("memory.swap.current", "11\n"),
            ("memory.swap.max", "max\n"),
            ("io.stat", "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.events", "max 8\n"),
        ] {
            host.write(&format!("cgroup/pod/{ID}/{name}"), content);
        }
        host.write("cgroup/memory.numa_stat", "anon N0=0\n");
        host.with_pressure()
    }

    fn with_pressure(self) -> Self {
        for name in ["cpu", "memory", "io"] {
            self.write(&format!("proc/pressure/{name}"), PRESSURE);
        }
        self
    }

    fn without(self, files: &[&str]) -> Self {
        files.iter().for_each(|path| self.remove(&path.replace("POD", &format!("pod/{ID}"))));
        self
    }

    /// Values of a running container and of its pod's network, by family.
    fn told(&self) -> BTreeMap<&'static str, u64> {
        let folders = self.tree.folders(PID, ID).unwrap().unwrap();
        let group = Group::open(PID, &folders, None, false).unwrap();
        let usage = group.read(Duration::ZERO).unwrap();
        let layer = Layer { mountpoint: self.folder.path().to_owned(), ..Layer::default() };
        let found = Found {
            files: &Files(&folders),
            usage: &usage,
            most_memory: group.most_memory(),
            layer: &layer,
            proc: &self.tree.proc,
            pid: PID,
            started_at: 1,
        };
        let mut samples = Samples::new(Default::default());
        add_container(&mut samples, &found, &mut Disks::read(&self.tree.proc));
        let traffic = crate::stats::Traffic::default();
        let interface = Interface { name: "eth0".into(), received: traffic, sent: traffic };
        add_interface(&mut samples, &interface);
        sockets::add(&mut samples, &self.tree.proc, PID);
        samples.list.iter().map(|sample| (sample.family.name, sample.value)).collect()
    }

    /// The announced families, each of which must have a sample.
    #[track_caller]
    fn given(&self) -> Vec<&'static str> {
        let given: Vec<_> = given(&self.tree).iter().map(|family| family.name).collect();
        let told = self.told();
        let silent: Vec<_> = given.iter().filter(|name| !told.contains_key(*name)).collect();
        assert!(silent.is_empty(), "told of, and without a sample: {silent:?}");
        given
    }
}

/// The families of [`families::DESCRIPTORS`] that are not in a list.
fn missing(given: &[&'static str]) -> Vec<&'static str> {
    let all = families::DESCRIPTORS.iter().map(|family| family.name);
    all.filter(|name| !given.contains(name)).collect()
}

#[test]
fn a_host_with_everything_gives_every_family() {
    assert_eq!(missing(&Host::v1().given()), [""; 0]);
    assert_eq!(missing(&Host::v2().given()), ["container_hugetlb_max_usage_bytes"]);
}

#[test]
fn huge_pages_that_nobody_counts_are_not_told_of() {
    let hugepages = [
        "container_hugetlb_usage_bytes",
        "container_hugetlb_max_usage_bytes",
        "container_hugetlb_failcnt",
    ];
    let host = Host::v1();
    std::fs::remove_dir_all(host.tree.root.join("hugetlb")).unwrap();
    assert_eq!(missing(&host.given()), hugepages);
    let host =
        Host::v2().without(&["cgroup/POD/hugetlb.2MB.current", "cgroup/POD/hugetlb.2MB.events"]);
    host.write("cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
    assert_eq!(missing(&host.given()), hugepages);
}

#[test]
fn pressure_that_nobody_tells_is_not_told_of() {
    let gone = |given: &[&'static str]| {
        let missing = missing(given);
        missing.iter().filter(|name| name.starts_with("container_pressure_")).count()
    };
    let files = ["cpu", "memory", "io"];
    let off = files.map(|name| format!("proc/pressure/{name}"));
    let off: Vec<_> = off.iter().map(String::as_str).collect();
    let v2 = files.map(|name| format!("cgroup/POD/{name}.pressure"));
    let v2: Vec<_> = v2.iter().map(String::as_str).collect();
    assert_eq!(gone(&Host::v2().without(&off).without(&v2).given()), 6);
    assert_eq!(gone(&Host::v1().without(&off).given()), 6);
    // No v2 hierarchy beside the v1 ones.
    let host = Host::v1();
    std::fs::remove_dir_all(host.tree.root.join("unified")).unwrap();
    assert_eq!(gone(&host.given()), 6);
}

#[test]
fn old_kernels_of_v2_give_what_follows_from_what_they_tell() {
    let host = Host::v2().without(&[
        "cgroup/POD/memory.peak",
        "cgroup/POD/memory.swap.current",
        "cgroup/POD/memory.swap.max",
    ]);
    host.write(
        &format!("cgroup/pod/{ID}/memory.stat"),
        "anon 100\nkernel_stack 16\npagetables 8\npercpu 4\nsock 2\nslab_reclaimable 30\n\
         slab_unreclaimable 2\nslab 32\n",
    );
    assert_eq!(missing(&host.given()), ["container_hugetlb_max_usage_bytes"]);
    let told = host.told();
    assert_eq!(told["container_memory_kernel_usage"], 62);
    assert_eq!(told["container_memory_max_usage_bytes"], 1000, "the most that was seen");
    assert_eq!(told["container_memory_swap"], 0);
    assert_eq!(Host::v2().told()["container_memory_kernel_usage"], 300);
    assert_eq!(Host::v2().told()["container_memory_max_usage_bytes"], 2000);
}

#[test]
fn old_kernels_of_v1_and_cgroups_without_a_controller_leave_nothing_out() {
    let host = Host::v1().without(&[
        "cgroup/cpuacct/POD/cpuacct.usage_user",
        "cgroup/cpuacct/POD/cpuacct.usage_sys",
        "cgroup/memory/POD/memory.kmem.usage_in_bytes",
        "cgroup/memory/POD/memory.memsw.limit_in_bytes",
        "cgroup/cpu/POD/cpu.cfs_period_us",
        "cgroup/cpu/POD/cpu.cfs_quota_us",
        "cgroup/cpu/POD/cpu.stat",
        "cgroup/pids/POD/pids.current",
    ]);
    host.write(&format!("cgroup/memory/pod/{ID}/memory.oom_control"), "under_oom 0\n");
    assert_eq!(missing(&host.given()), [""; 0]);
    let told = host.told();
    assert_eq!(
        (told["container_cpu_user_seconds_total"], told["container_spec_cpu_quota"]),
        (2, 0)
    );
    let host = Host::v2().without(&[
        "cgroup/POD/cpu.max",
        "cgroup/POD/cpu.weight",
        "cgroup/POD/io.stat",
        "cgroup/POD/pids.current",
        "cgroup/POD/pids.max",
    ]);
    host.write(&format!("cgroup/pod/{ID}/cpu.stat"), "usage_usec 5\nuser_usec 3\nsystem_usec 2\n");
    host.given();
    let told = host.told();
    assert_eq!(told["container_spec_cpu_period"], 100_000);
    assert_eq!(told["container_cpu_cfs_periods_total"], 0);
}

#[test]
fn memory_that_the_kernel_does_not_count_is_not_told_of() {
    let host = Host::v2().without(&["cgroup/POD/memory.current"]);
    host.write("cgroup/cgroup.controllers", "cpuset cpu io pids hugetlb\n");
    let given = host.given();
    assert!(given.contains(&"container_cpu_usage_seconds_total"));
    assert!(missing(&given).iter().all(|name| name.contains("memory")
        || name.contains("oom")
        || *name == "container_hugetlb_max_usage_bytes"));
    assert!(!given.contains(&"container_memory_usage_bytes"));
}

#[test]
fn the_most_memory_is_that_of_any_look() {
    let host = Host::v2().without(&["cgroup/POD/memory.peak"]);
    let folders = host.tree.folders(PID, ID).unwrap().unwrap();
    let group = Group::open(PID, &folders, None, false).unwrap();
    for (memory, most) in [(500, 500), (900, 900), (100, 900)] {
        host.write(&format!("cgroup/pod/{ID}/memory.current"), &format!("{memory}\n"));
        group.sample().unwrap();
        assert_eq!(group.most_memory(), most);
    }
}
