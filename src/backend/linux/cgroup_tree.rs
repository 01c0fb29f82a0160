//! Cgroups that hold other cgroups: made, and their figures set.

use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};

use super::super::{Error, ErrorKind, Result};
use super::{absolute, failed};
use crate::model::resources::CgroupLimits;

/// Period of CPU quotas where none is given, in microseconds.
const PERIOD: i64 = 100_000;

/// Makes a cgroup with all above it and sets its figures.
pub(super) fn make(hierarchies: &[PathBuf], path: &Path, limits: &CgroupLimits) -> Result<()> {
    absolute("cgroup", path)?;
    let inside = path.strip_prefix("/").unwrap_or(path);
    if inside.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "cgroup: / is not a cgroup of ours"));
    }
    for point in hierarchies {
        // A new cpuset has no CPUs: it is left to the OCI runtime, which gives it some.
        if point.join("cpuset.cpus").exists() {
            continue;
        }
        let folder = make_folders(point, inside)?;
        for (name, value) in figures(&folder, limits) {
            write(&folder.join(name), &value)?;
        }
    }
    Ok(())
}

fn make_folders(point: &Path, inside: &Path) -> Result<PathBuf> {
    let mut folder = point.to_owned();
    for part in inside.components() {
        enable_controllers(&folder);
        folder.push(part);
        match std::fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == Io::AlreadyExists => {}
            Err(error) => return Err(failed("make cgroup", &folder, error)),
        }
    }
    enable_controllers(&folder);
    Ok(folder)
}

/// Cgroup v2 gives the groups below a controller only when it is told so. One that is not there,
/// or that threads keep from being enabled, is done without.
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

/// Files and what they are to hold; those that a hierarchy does not have are left out.
fn figures(folder: &Path, limits: &CgroupLimits) -> Vec<(String, String)> {
    let period = if limits.cpu_period > 0 { limits.cpu_period } else { PERIOD };
    let or = |limit: Option<i64>, none: &str| {
        limit.map_or_else(|| none.to_owned(), |limit| limit.to_string())
    };
    let mut all = vec![
        ("cpu.shares".to_owned(), limits.cpu_shares.max(2).to_string()),
        ("cpu.cfs_period_us".to_owned(), period.to_string()),
        ("cpu.cfs_quota_us".to_owned(), or(limits.cpu_quota, "-1")),
        ("memory.limit_in_bytes".to_owned(), or(limits.memory, "-1")),
        ("pids.max".to_owned(), or(limits.pids, "max")),
        ("cpu.weight".to_owned(), limits.cpu_weight().to_string()),
        ("cpu.max".to_owned(), format!("{} {period}", or(limits.cpu_quota, "max"))),
        ("memory.max".to_owned(), or(limits.memory, "max")),
    ];
    for limit in &limits.hugepages {
        let (size, bytes) = (&limit.page_size, limit.limit.to_string());
        all.push((format!("hugetlb.{size}.limit_in_bytes"), bytes.clone()));
        all.push((format!("hugetlb.{size}.max"), bytes));
    }
    all.retain(|(name, _)| folder.join(name).exists());
    all
}

fn write(file: &Path, value: &str) -> Result<()> {
    match std::fs::write(file, value) {
        // The group went away meanwhile: whoever needs it makes it again.
        Err(error) if error.kind() != Io::NotFound => Err(failed("write", file, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    /// A folder in which new cgroups have no files: what is there already shows what is written.
    #[test]
    fn figures_go_to_the_files_that_are_there() {
        let root = tempfile::tempdir().unwrap();
        let (v1, v2) = (root.path().join("memory"), root.path().join("unified"));
        let path = Path::new("/kubepods/burstable");
        for (point, files) in [
            (&v1, ["memory.limit_in_bytes", "cpu.shares"]),
            (&v2, ["memory.max", "cpu.max"]),
        ] {
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
        make(&[v1.clone(), v2.clone()], path, &limits).unwrap();
        let of = |point: &Path, file: &str| read(&point.join("kubepods/burstable").join(file));
        assert_eq!(of(&v1, "memory.limit_in_bytes"), "67108864");
        assert_eq!(of(&v1, "cpu.shares"), "512");
        assert_eq!(of(&v2, "memory.max"), "67108864");
        assert_eq!(of(&v2, "cpu.max"), "50000 100000");
        assert!(!v2.join("kubepods/burstable/cpu.shares").exists());
        make(&[v1.clone()], path, &CgroupLimits::default()).expect("again");
        assert_eq!(of(&v1, "memory.limit_in_bytes"), "-1");
    }

    #[test]
    fn cpusets_are_left_alone_and_the_root_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("cpuset.cpus"), "0").unwrap();
        let limits = CgroupLimits::default();
        make(&[root.path().to_owned()], Path::new("/a/b"), &limits).unwrap();
        assert!(!root.path().join("a").exists());
        for path in ["/", "a", "/a/../b"] {
            assert!(make(&[], Path::new(path), &limits).is_err(), "{path}");
        }
    }
}
