//! These tests use cgroup trees of recorded files in a temporary directory.

use std::fs;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const PID: u32 = 77;

struct Recorded {
    folder: tempfile::TempDir,
    tree: Tree,
}

impl Recorded {
    fn new(version: CgroupVersion, membership: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree =
            Tree { version, root: folder.path().join("cgroup"), proc: folder.path().join("proc") };
        let recorded = Self { folder, tree };
        recorded.write(&format!("proc/{PID}/cgroup"), membership);
        recorded
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn v1() -> Self {
        let pod = format!("/kubepods/pod1/{ID}");
        let tree = Self::new(
            CgroupVersion::V1,
            &format!("4:memory:{pod}\n3:cpu,cpuacct:{pod}\n2:pids:/elsewhere\n0::{pod}\n"),
        );
        for (path, content) in [
            ("cpuacct/POD/cpuacct.usage", "5000000000\n"),
            ("memory/POD/memory.usage_in_bytes", "1000000\n"),
            ("memory/POD/memory.limit_in_bytes", "4000000\n"),
            (
                "memory/POD/memory.stat",
                "total_rss 300000\ntotal_inactive_file 400000\ntotal_pgfault 7\n\
                 total_pgmajfault 2\ntotal_swap 100\nhierarchical_memory_limit 4000000\n\
                 hierarchical_memsw_limit 6000000\n",
            ),
            ("unified/POD/cpu.pressure", "some avg10=1.00 avg60=0.00 avg300=0.00 total=3\n"),
        ] {
            tree.write(&format!("cgroup/{}", path.replace("POD", &pod[1..])), content);
        }
        tree
    }

    fn v2() -> Self {
        let pod = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope");
        let tree = Self::new(CgroupVersion::V2, &format!("0::{pod}/init.scope\n"));
        for (name, content) in [
            ("cpu.stat", "usage_usec 5000000\nuser_usec 1\n"),
            ("memory.current", "1000000\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 300000\ninactive_file 2000000\npgfault 7\npgmajfault 2\n"),
            ("memory.swap.current", "100\n"),
            ("memory.swap.max", "max\n"),
            ("io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"),
        ] {
            tree.write(&format!("cgroup{pod}/{name}"), content);
        }
        tree
    }

    fn folders(&self) -> Folders {
        self.tree.folders(PID, ID).unwrap().unwrap()
    }

    fn usage(&self, keep: bool) -> Usage {
        let group = Group::open(PID, &self.folders(), None, keep).unwrap();
        group.read(Duration::ZERO).unwrap()
    }
}

#[test]
fn v1_has_a_folder_for_each_controller() {
    let tree = Recorded::v1();
    let folders = tree.folders();
    assert_eq!(folders.path, format!("/kubepods/pod1/{ID}"));
    let root = tree.tree.root.clone();
    let pod = format!("kubepods/pod1/{ID}");
    assert_eq!(folders.of(Controller::Cpu), Some(&*root.join("cpu").join(&pod)));
    assert_eq!(folders.of(Controller::Cpuacct), Some(&*root.join("cpuacct").join(&pod)));
    assert_eq!(folders.of(Controller::Unified), Some(&*root.join("unified").join(&pod)));
    assert_eq!(folders.of(Controller::Pids), None, "it is in another cgroup");
    let parent = folders.parent();
    assert_eq!(parent.path, "/kubepods/pod1");
    assert_eq!(parent.of(Controller::Memory), Some(&*root.join("memory/kubepods/pod1")));
}

#[test]
fn v2_has_one_folder_which_carries_the_id() {
    let tree = Recorded::v2();
    let folders = tree.folders();
    let slice = "/kubepods.slice/kubepods-pod1.slice";
    assert_eq!(folders.path, format!("{slice}/cri-containerd-{ID}.scope"), "above init.scope");
    assert_eq!(folders.of(Controller::Memory), folders.of(Controller::Cpuacct));
    assert_eq!(folders.parent().path, slice);
}

/// As crun and init systems make them.
#[test]
fn processes_in_cgroups_below_count() {
    let tree = Recorded::v2();
    let folder = tree.folders().of(Controller::Memory).unwrap().to_owned();
    assert!(tree.folders().processes().is_empty());
    for (below, processes) in
        [("container", "77\n78\n"), ("container/a/b", "79\n"), ("odd", "x\n"), ("empty", "")]
    {
        fs::create_dir_all(folder.join(below)).unwrap();
        fs::write(folder.join(below).join("cgroup.procs"), processes).unwrap();
    }
    assert_eq!(tree.folders().processes(), [77, 78, 79]);
    let deep = folder.join("d/".repeat(DEPTH));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("cgroup.procs"), "80\n").unwrap();
    assert_eq!(tree.folders().processes(), [77, 78, 79], "too deep");
}

#[test]
fn a_process_of_another_container_or_none_is_not_believed() {
    for foreign in ["0::/kubepods/pod1/other\n", "0::/../outside/ID\n", "", "odd\n"] {
        let tree = Recorded::new(CgroupVersion::V2, &foreign.replace("ID", ID));
        assert!(tree.tree.folders(PID, ID).unwrap().is_none(), "{foreign:?}");
    }
    let tree = Recorded::v2();
    assert!(is_gone(&tree.tree.folders(PID + 1, ID).unwrap_err()));
}

#[test]
fn v1_is_read() {
    let usage = Recorded::v1().usage(true);
    let cpu = usage.cpu.unwrap();
    assert_eq!((cpu.usage, cpu.nano_cores), (5_000_000_000, None));
    assert_eq!(cpu.pressure.unwrap().some.total, 3000);
    let memory = usage.memory.unwrap();
    let expected = Memory {
        usage: 1_000_000,
        working_set: 600_000,
        available: 3_400_000,
        rss: 300_000,
        page_faults: 7,
        major_page_faults: 2,
        pressure: None,
    };
    assert_eq!(memory, expected);
    assert_eq!(usage.swap, Some(Swap { usage: 100, available: Some(1_999_900) }));
    assert_eq!(usage.io, None);
    assert!(usage.at > 0);
}

#[test]
fn v2_is_read_and_no_limit_leaves_nothing_to_tell() {
    for keep in [true, false] {
        let usage = Recorded::v2().usage(keep);
        assert_eq!(usage.cpu.unwrap().usage, 5_000_000_000);
        let memory = usage.memory.unwrap();
        assert_eq!((memory.working_set, memory.available), (0, 0), "never below nothing");
        assert_eq!((memory.rss, memory.page_faults), (300_000, 7));
        assert_eq!(usage.swap, Some(Swap { usage: 100, available: None }));
        assert_eq!(usage.io.unwrap().some.total, 9000);
    }
}

#[test]
fn files_that_a_kernel_lacks_are_left_out() {
    let tree = Recorded::v2();
    let folder = tree.folders().of(Controller::Unified).unwrap().to_owned();
    for name in ["memory.swap.current", "io.pressure", "memory.current"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    let usage = tree.usage(true);
    assert!(usage.cpu.is_some());
    assert_eq!((usage.memory, usage.swap, usage.io), (None, None, None));
}

#[test]
fn a_cgroup_that_is_removed_is_gone() {
    let tree = Recorded::v2();
    let folders = tree.folders();
    let group = Group::open(PID, &folders, None, false).unwrap();
    fs::remove_dir_all(folders.of(Controller::Unified).unwrap()).unwrap();
    assert!(is_gone(&group.read(Duration::ZERO).unwrap_err()));
    assert!(is_gone(&group.sample().unwrap_err()));
    assert!(is_gone(&Group::open(PID, &folders, None, true).err().unwrap()));
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn use_per_second_is_that_since_the_latest_moment_long_enough_ago() {
    let mut points = Points::since(None);
    assert_eq!(points.rate(100, SECOND), None, "nothing to compare with");
    points.add(1_000);
    tokio::time::advance(SECOND * 2).await;
    assert_eq!(points.rate(5_000, SECOND), Some(2_000));
    assert_eq!(points.rate(5_000, SECOND * 3), None, "not long enough");
    assert_eq!(points.rate(500, SECOND), None, "counters do not go back");
    points.add(5_000);
    assert_eq!(points.rate(5_000, SECOND), Some(2_000), "the one before");
    tokio::time::advance(SECOND).await;
    assert_eq!(points.rate(6_000, SECOND), Some(1_000));
}

#[tokio::test(start_paused = true)]
async fn a_new_cgroup_had_used_nothing() {
    tokio::time::advance(SECOND * 60).await;
    let points = Points::since(Some(SECOND * 4));
    assert_eq!(points.rate(8_000, SECOND), Some(2_000));
}
