//! Cgroups that contain others: creation with limits, and recursive removal.

use std::collections::BTreeSet;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::{Error, ErrorKind, Result};
use super::cgroup::Hierarchy;
use super::{absolute, failed};
use crate::locks::Mutex;
use crate::model::resources::{CgroupLimits, HugepageLimit};

/// Default period of CPU quotas, in microseconds.
pub(super) const PERIOD: i64 = 100_000;

/// How many times, and with which delay, to wait for killed processes to leave a cgroup.
const TRIES: u32 = 100;
const MOMENT: Duration = Duration::from_millis(10);

/// A path below the root of a hierarchy.
fn inside(path: &Path) -> Result<&Path> {
    absolute("cgroup", path)?;
    let inside = path.strip_prefix("/").unwrap_or(path);
    if inside.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "cgroup: / is not a cgroup of ours"));
    }
    Ok(inside)
}

/// Removes a cgroup recursively from all hierarchies, continuing after errors.
pub(super) fn destroy(hierarchies: &[Hierarchy], path: &Path) -> Result<()> {
    let inside = inside(path)?;
    let mut result = Ok(());
    for hierarchy in hierarchies {
        let done = remove_below(&hierarchy.point.join(inside));
        result = result.and(done);
    }
    result
}

fn remove_below(folder: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == Io::NotFound => return Ok(()),
        Err(error) => return Err(failed("read cgroup", folder, error)),
    };
    for entry in entries.flatten() {
        // A cgroup file system contains no links.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path())?;
        }
    }
    for _ in 0..TRIES {
        match std::fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == Io::NotFound => return Ok(()),
            Err(_) => kill_in(folder),
        }
        std::thread::sleep(MOMENT);
    }
    std::fs::remove_dir(folder).map_err(|error| failed("remove cgroup", folder, error))
}

/// Kills the processes directly in a cgroup.
fn kill_in(folder: &Path) {
    let processes = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.trim().parse().ok()) {
        // 0 stands for a process in another PID namespace; 1 must never be killed.
        if pid > 1 {
            // A process that has ended is fine.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Creates a cgroup with its parents and sets its limits. Limits that this host cannot apply are
/// logged, each once.
pub(super) fn make(hierarchies: &[Hierarchy], path: &Path, limits: &CgroupLimits) -> Result<()> {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let missing = set(hierarchies, path, limits)?;
    let mut told = TOLD.lock();
    for limit in missing {
        if told.insert(limit.clone()) {
            let path = path.display();
            tracing::error!(limit, %path, "this host has no file for a limit of pods");
        }
    }
    Ok(())
}

/// Does it, and returns the limits for which there is no file.
fn set(hierarchies: &[Hierarchy], path: &Path, limits: &CgroupLimits) -> Result<BTreeSet<String>> {
    let inside = inside(path)?;
    // On a hybrid host v2 has only the controllers not used by v1. crun fails while one of them is
    // enabled, so they are not enabled needlessly: pods get limits of 0 for huge pages by default.
    let unified = hierarchies.iter().all(|hierarchy| hierarchy.controllers.is_none());
    let enable = unified || limits.hugepages.iter().any(|huge| huge.limit > 0);
    let figures = figures(limits);
    let wanted = figures.iter().filter(|figure| figure.wanted);
    let mut missing: BTreeSet<_> = wanted.map(|figure| figure.limit.clone()).collect();
    for hierarchy in hierarchies {
        // A new cpuset of v1 is empty; it is left to the OCI runtime, which fills it.
        if hierarchy.has_v1("cpuset") {
            continue;
        }
        let folder = make_folders(&hierarchy.point, inside, enable)?;
        for Figure { limit, file, value, .. } in &figures {
            let file = folder.join(file);
            if file.exists() {
                write(&file, value)?;
                missing.remove(limit);
            }
        }
    }
    Ok(missing)
}

fn make_folders(point: &Path, inside: &Path, enable: bool) -> Result<PathBuf> {
    let mut folder = point.to_owned();
    for part in inside.components() {
        if enable {
            enable_controllers(&folder);
        }
        folder.push(part);
        match std::fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == Io::AlreadyExists => {}
            Err(error) => return Err(failed("make cgroup", &folder, error)),
        }
    }
    if enable {
        enable_controllers(&folder);
    }
    Ok(folder)
}

/// In v2 a controller must be enabled for the children of a cgroup. One that is missing, or cannot
/// be enabled because of threads, is skipped.
fn enable_controllers(folder: &Path) {
    let Ok(there) = std::fs::read_to_string(folder.join("cgroup.controllers")) else { return };
    let control = folder.join("cgroup.subtree_control");
    let enabled = std::fs::read_to_string(&control).unwrap_or_default();
    for controller in there.split_whitespace() {
        if !enabled.split_whitespace().any(|name| name == controller) {
            drop(std::fs::write(&control, format!("+{controller}")));
        }
    }
}

/// What is written to a file, if a hierarchy has it.
struct Figure {
    /// Name of the limit.
    limit: String,
    /// Whether it limits anything, or only takes an earlier limit back.
    wanted: bool,
    file: String,
    value: String,
}

/// Each limit, for the files of v1 and of v2.
fn figures(limits: &CgroupLimits) -> Vec<Figure> {
    let period = if limits.cpu_period > 0 { limits.cpu_period } else { PERIOD };
    let or = |limit: Option<i64>, none: &str| {
        limit.map_or_else(|| none.to_owned(), |limit| limit.to_string())
    };
    let (quota, memory, pids) =
        (limits.cpu_quota.is_some(), limits.memory.is_some(), limits.pids.is_some());
    let quota_of_v2 = format!("{} {period}", or(limits.cpu_quota, "max"));
    let fixed = [
        ("cpu weight", true, "cpu.shares", limits.cpu_shares.max(2).to_string()),
        ("cpu quota", quota, "cpu.cfs_period_us", period.to_string()),
        ("cpu quota", quota, "cpu.cfs_quota_us", or(limits.cpu_quota, "-1")),
        ("memory", memory, "memory.limit_in_bytes", or(limits.memory, "-1")),
        ("processes", pids, "pids.max", or(limits.pids, "max")),
        ("cpu weight", true, "cpu.weight", limits.cpu_weight().to_string()),
        ("cpu quota", quota, "cpu.max", quota_of_v2),
        ("memory", memory, "memory.max", or(limits.memory, "max")),
    ];
    let mut all = Vec::from(fixed.map(|(limit, wanted, file, value)| Figure {
        limit: limit.to_owned(),
        wanted,
        file: file.to_owned(),
        value,
    }));
    for HugepageLimit { page_size, limit } in &limits.hugepages {
        all.extend(["limit_in_bytes", "max"].map(|file| Figure {
            limit: format!("huge pages of {page_size}"),
            wanted: *limit > 0,
            file: format!("hugetlb.{page_size}.{file}"),
            value: limit.to_string(),
        }));
    }
    all
}

fn write(file: &Path, value: &str) -> Result<()> {
    match std::fs::write(file, value) {
        // The cgroup was removed meanwhile; whoever needs it creates it again.
        Err(error) if error.kind() != Io::NotFound => Err(failed("write", file, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(point: &Path, controller: &str) -> Hierarchy {
        Hierarchy { point: point.to_owned(), controllers: Some(vec![controller.to_owned()]) }
    }

    fn v2(point: &Path) -> Hierarchy {
        Hierarchy { point: point.to_owned(), controllers: None }
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    /// In a plain directory new cgroups have no files; existing files show what is written.
    #[test]
    fn figures_go_to_the_files_that_are_there() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (root.path().join("memory"), root.path().join("unified"));
        let path = Path::new("/kubepods/burstable");
        for (point, files) in
            [(&old, ["memory.limit_in_bytes", "cpu.shares"]), (&new, ["memory.max", "cpu.max"])]
        {
            let folder = point.join("kubepods/burstable");
            std::fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|file| std::fs::write(folder.join(file), "").unwrap());
        }
        let limits = CgroupLimits {
            cpu_shares: 512,
            cpu_quota: Some(50_000),
            memory: Some(64 << 20),
            ..CgroupLimits::default()
        };
        let (v1, v2) = (v1(&old, "memory"), v2(&new));
        make(&[v1.clone(), v2], path, &limits).unwrap();
        let of = |point: &Path, file: &str| read(&point.join("kubepods/burstable").join(file));
        assert_eq!(of(&old, "memory.limit_in_bytes"), "67108864");
        assert_eq!(of(&old, "cpu.shares"), "512");
        assert_eq!(of(&new, "memory.max"), "67108864");
        assert_eq!(of(&new, "cpu.max"), "50000 100000");
        assert!(!new.join("kubepods/burstable/cpu.shares").exists());
        make(&[v1], path, &CgroupLimits::default()).expect("again");
        assert_eq!(of(&old, "memory.limit_in_bytes"), "-1");
    }

    #[test]
    fn controllers_of_a_hybrid_host_are_enabled_for_need_only() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (root.path().join("memory"), root.path().join("unified"));
        let control = new.join("cgroup.subtree_control");
        [&old, &new].iter().for_each(|point| std::fs::create_dir(point).unwrap());
        std::fs::write(new.join("cgroup.controllers"), "hugetlb\n").unwrap();
        let (plain, mut huge) = (CgroupLimits::default(), CgroupLimits::default());
        huge.hugepages.push(HugepageLimit { page_size: "2MB".to_owned(), limit: 0 });
        let both = [v1(&old, "memory"), v2(&new)];
        for none in [&plain, &huge] {
            make(&both, Path::new("/a"), none).unwrap();
            assert!(!control.exists());
        }
        huge.hugepages[0].limit = 2 << 20;
        make(&both, Path::new("/a"), &huge).unwrap();
        assert_eq!(read(&control), "+hugetlb");
        std::fs::remove_file(&control).unwrap();
        make(&[v2(&new)], Path::new("/a"), &plain).unwrap();
        assert_eq!(read(&control), "+hugetlb", "the only hierarchy");
    }

    #[test]
    fn a_cgroup_goes_with_all_below_it() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("pods/pod1");
        std::fs::create_dir_all(pod.join("a/b")).unwrap();
        let points = [v2(root.path()), v2(&root.path().join("none"))];
        destroy(&points, Path::new("/pods/pod1")).unwrap();
        assert!(!pod.exists() && root.path().join("pods").exists());
        destroy(&points, Path::new("/pods/pod1")).expect("gone is fine");
        assert!(destroy(&points, Path::new("/")).is_err());
    }

    #[test]
    fn cpusets_of_v1_are_left_alone_and_the_root_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let limits = CgroupLimits::default();
        make(&[v1(root.path(), "cpuset")], Path::new("/a/b"), &limits).unwrap();
        assert!(!root.path().join("a").exists());
        for path in ["/", "a", "/a/../b"] {
            assert!(make(&[], Path::new(path), &limits).is_err(), "{path}");
        }
    }

    /// In a cgroup namespace the top of the tree has the files that other cgroups have.
    #[test]
    fn the_unified_hierarchy_of_a_container_is_used() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("a");
        std::fs::create_dir(&group).unwrap();
        std::fs::write(root.path().join("cpuset.cpus"), "0").unwrap();
        std::fs::write(group.join("memory.max"), "").unwrap();
        let limits = CgroupLimits { memory: Some(4096), pids: Some(10), ..Default::default() };
        let missing = set(&[v2(root.path())], Path::new("/a"), &limits).unwrap();
        assert_eq!(read(&group.join("memory.max")), "4096");
        assert_eq!(missing, ["cpu weight", "processes"].map(str::to_owned).into());
    }
}
