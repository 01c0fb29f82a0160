//! OOM counters and memory use of cgroups, and removal of empty cgroups.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{Error, ErrorKind, MemoryUse, Result};
use super::mountinfo::Mount;
use super::{absolute, failed};

/// The hierarchy that accounts memory on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MemoryHierarchy {
    /// The v1 memory hierarchy, with its mount point.
    V1(PathBuf),
    /// The unified hierarchy, with its mount point.
    V2(PathBuf),
}

/// A hierarchy that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Mount point.
    pub point: PathBuf,
    /// Its controllers if it is of v1; `None` for the unified hierarchy, where each cgroup says
    /// which ones it has.
    pub controllers: Option<Vec<String>>,
}

impl Hierarchy {
    /// Whether it is of v1 and has this controller.
    pub(super) fn has_v1(&self, controller: &str) -> bool {
        let mut controllers = self.controllers.iter().flatten();
        controllers.any(|name| name == controller)
    }
}

/// The hierarchy that accounts memory. On a hybrid host it is v1, as in OCI runtimes.
pub(super) fn memory_hierarchy(hierarchies: &[Hierarchy]) -> Option<MemoryHierarchy> {
    let v1 = hierarchies.iter().find(|hierarchy| hierarchy.has_v1("memory"));
    if let Some(v1) = v1 {
        return Some(MemoryHierarchy::V1(v1.point.clone()));
    }
    let v2 = hierarchies.iter().find(|hierarchy| hierarchy.controllers.is_none())?;
    Some(MemoryHierarchy::V2(v2.point.clone()))
}

/// The hierarchies of this host, below `top` (`/sys/fs/cgroup`). If the unified one is mounted
/// there, it is the only one: other mounts are those of network plugins and VPNs.
pub(super) fn hierarchies(mounts: &[Mount], top: &Path) -> Arc<[Hierarchy]> {
    let unified = || mounts.iter().filter(|mount| mount.kind == "cgroup2");
    if let Some(only) = unified().find(|mount| mount.point == top) {
        return [hierarchy(only)].into();
    }
    // All mounts of the unified hierarchy show the same cgroups.
    let v2 = unified().find(|mount| mount.point.starts_with(top)).or_else(|| unified().next());
    let v1 = mounts.iter().filter(|mount| mount.kind == "cgroup");
    let v1: BTreeMap<_, _> = v1.map(|mount| (&mount.point, mount)).collect();
    v1.into_values().chain(v2).map(hierarchy).collect()
}

fn hierarchy(mount: &Mount) -> Hierarchy {
    let options = mount.super_options.split(',').map(str::to_owned);
    let controllers = (mount.kind == "cgroup").then(|| options.collect());
    Hierarchy { point: mount.point.clone(), controllers }
}

/// Removes an empty cgroup from all hierarchies, continuing after errors.
pub(super) fn remove(hierarchies: &[Hierarchy], path: &Path) -> Result<()> {
    absolute("cgroup", path)?;
    let inside = path.strip_prefix("/").unwrap_or(path);
    if inside.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "cgroup: / is not a cgroup of ours"));
    }
    let mut result = Ok(());
    for hierarchy in hierarchies {
        let folder = hierarchy.point.join(inside);
        match std::fs::remove_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => result = Err(failed("remove cgroup", &folder, error)),
        }
    }
    result
}

impl MemoryHierarchy {
    /// The memory cgroup of `pid`; `None` when the process is gone.
    pub(super) fn cgroup_of(&self, pid: u32) -> Result<Option<PathBuf>> {
        let membership = read_if_there(Path::new(&format!("/proc/{pid}/cgroup")))?;
        Ok(membership.and_then(|membership| self.folder(&membership)))
    }

    /// The number of OOM kills in this cgroup; `None` when it is gone or the kernel has no such
    /// counter.
    pub(super) fn oom_kills(&self, cgroup: &Path) -> Result<Option<u64>> {
        let name = match self {
            Self::V1(_) => "memory.oom_control",
            Self::V2(_) => "memory.events",
        };
        Ok(read_if_there(&cgroup.join(name))?.as_deref().and_then(oom_kill))
    }

    /// Use and limit of this cgroup; `None` when it is gone or has no such figures.
    pub(super) fn memory_use(&self, cgroup: &Path) -> Result<Option<MemoryUse>> {
        let (used, limit) = match self {
            Self::V1(_) => ("memory.usage_in_bytes", "memory.limit_in_bytes"),
            Self::V2(_) => ("memory.current", "memory.max"),
        };
        let (used, limit) =
            (read_if_there(&cgroup.join(used))?, read_if_there(&cgroup.join(limit))?);
        let figures = used.as_deref().and_then(bytes).zip(limit.as_deref().and_then(bytes));
        Ok(figures.map(|(used, limit)| MemoryUse { used, limit }))
    }

    /// The directory for this content of `/proc/PID/cgroup`.
    fn folder(&self, membership: &str) -> Option<PathBuf> {
        let (Self::V1(mount) | Self::V2(mount)) = self;
        let group = membership.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?);
            let ours = match self {
                Self::V1(_) => controllers.split(',').any(|name| name == "memory"),
                Self::V2(_) => controllers.is_empty(),
            };
            ours.then_some(group)
        })?;
        // The kernel marks a removed cgroup like this; it has no files.
        let group = group.strip_suffix(" (deleted)").unwrap_or(group);
        Some(mount.join(group.trim_start_matches('/')))
    }
}

fn oom_kill(counters: &str) -> Option<u64> {
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// A number of bytes; v2 writes `max` for no limit, v1 a very large number.
fn bytes(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        // ENODEV: the cgroup was removed between open and read; ESRCH: the process ended.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                || matches!(
                    rustix::io::Errno::from_io_error(&error),
                    Some(rustix::io::Errno::NODEV | rustix::io::Errno::SRCH)
                ) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mountinfo;
    use super::*;

    #[test]
    fn finds_the_cgroup_of_each_layout() {
        let v1 = MemoryHierarchy::V1("/cg/memory".into());
        let hybrid = "9:pids:/a\n4:memory:/kubepods/pod1/c1\n0::/elsewhere\n";
        assert_eq!(v1.folder(hybrid), Some("/cg/memory/kubepods/pod1/c1".into()));
        let v2 = MemoryHierarchy::V2("/cg".into());
        assert_eq!(v2.folder("0::/x.slice/y\n"), Some("/cg/x.slice/y".into()));
        assert_eq!(v1.folder("0::/only-v2\n"), None);
    }

    #[test]
    fn reads_both_counter_formats() {
        assert_eq!(oom_kill("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(oom_kill("low 0\noom 4\noom_kill 2\noom_group_kill 1\n"), Some(2));
        assert_eq!(oom_kill("oom_kill_disable 0\n"), None);
    }

    #[test]
    fn reads_memory_figures_of_both_hierarchies() {
        let folder = tempfile::tempdir().unwrap();
        let (v1, v2) = (MemoryHierarchy::V1("/cg".into()), MemoryHierarchy::V2("/cg".into()));
        for (name, text) in [
            ("memory.usage_in_bytes", "8192\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.current", "4096\n"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let use_of = |kind: &MemoryHierarchy| kind.memory_use(folder.path()).unwrap();
        let limit = 9_223_372_036_854_771_712;
        assert_eq!(use_of(&v1), Some(MemoryUse { used: 8192, limit }));
        assert_eq!(use_of(&v2), None, "the root of the hierarchy has no limit");
        for (text, limit) in [("max\n", u64::MAX), ("65536\n", 65536)] {
            std::fs::write(folder.path().join("memory.max"), text).unwrap();
            assert_eq!(use_of(&v2), Some(MemoryUse { used: 4096, limit }));
        }
    }

    #[test]
    fn only_empty_cgroups_go() {
        let folder = tempfile::tempdir().unwrap();
        let all = ["a", "b", "c"].map(|name| Hierarchy {
            point: folder.path().join(name),
            controllers: Some(vec![name.to_owned()]),
        });
        let group = |index: usize| all[index].point.join("pods/one");
        for index in 0..2 {
            std::fs::create_dir_all(group(index)).unwrap();
        }
        std::fs::create_dir(group(0).join("inner")).unwrap();
        assert!(remove(&all, Path::new("/pods/one")).is_err());
        assert!(group(0).exists() && !group(1).exists());
        std::fs::remove_dir(group(0).join("inner")).unwrap();
        remove(&all, Path::new("/pods/one")).unwrap();
        remove(&all, Path::new("/pods/one")).expect("gone is fine");
        for path in ["/", "pods", "/pods/../pods"] {
            assert!(remove(&all, Path::new(path)).is_err(), "{path}");
        }
        assert!(all[0].point.join("pods").exists());
    }

    fn found(table: &str) -> (Vec<String>, Option<MemoryHierarchy>) {
        let all = hierarchies(&mountinfo::parse(table.as_bytes()), Path::new("/sys/fs/cgroup"));
        let points = all.iter().map(|hierarchy| hierarchy.point.display().to_string());
        (points.collect(), memory_hierarchy(&all))
    }

    /// Cilium and Calico mount the unified hierarchy again, VPNs a hierarchy of their own.
    #[test]
    fn other_mounts_beside_the_unified_hierarchy_do_not_count() {
        let unified = "24 23 0:21 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        let cilium = "30 23 0:21 / /run/cilium/cgroupv2 rw - cgroup2 none rw\n";
        let vpn = "31 23 0:40 / /opt/net-cls rw - cgroup net_cls rw,net_cls\n";
        let only =
            (vec!["/sys/fs/cgroup".to_owned()], Some(MemoryHierarchy::V2("/sys/fs/cgroup".into())));
        for table in
            [unified.to_owned(), [unified, cilium, vpn].concat(), [cilium, unified].concat()]
        {
            assert_eq!(found(&table), only, "{table}");
        }
    }

    #[test]
    fn a_hybrid_host_has_one_unified_hierarchy() {
        let table = "30 23 0:21 / /run/cilium/cgroupv2 rw - cgroup2 none rw\n\
                     24 23 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     25 23 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                     26 23 0:21 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let (points, memory) = found(table);
        let names = ["cpuset", "memory", "unified"].map(|name| format!("/sys/fs/cgroup/{name}"));
        assert_eq!(points, names);
        assert_eq!(memory, Some(MemoryHierarchy::V1("/sys/fs/cgroup/memory".into())));
    }

    #[test]
    fn a_gone_process_has_no_counter() {
        let memory = MemoryHierarchy::V1("/sys/fs/cgroup/memory".into());
        assert_eq!(memory.cgroup_of(u32::MAX).unwrap(), None);
        assert_eq!(memory.oom_kills(Path::new("/sys/fs/cgroup/memory/gone")).unwrap(), None);
    }
}
