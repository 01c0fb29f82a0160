//! Measures the node's free resources.

use std::path::{Path, PathBuf};

use super::rank::Disk;
use super::signals::{Observation, Observations, Signal};

/// Paths to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePaths {
    /// `/proc`.
    pub proc: PathBuf,
    /// A directory on the agent's disk, which has logs and volumes.
    pub nodefs: PathBuf,
    /// A directory on the disk of images and writable layers.
    pub imagefs: PathBuf,
}

impl NodePaths {
    /// Measures; unreadable values are omitted. Blocking, as it accesses disks.
    pub fn observe(&self) -> Observations {
        let read = |name: &str| std::fs::read_to_string(self.proc.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let memory = read("meminfo").and_then(|text| memory(&text));
        let most = [number("sys/kernel/pid_max"), number("sys/kernel/threads-max")];
        let most = most.into_iter().flatten().min();
        let pids = read("loadavg").and_then(|text| pids(&text, most?));
        let (bytes, inodes) = disk(&self.nodefs);
        let (image_bytes, image_inodes) = disk(&self.imagefs);
        let seen = [
            (Signal::MemoryAvailable, memory),
            (Signal::NodefsAvailable, bytes),
            (Signal::NodefsInodesFree, inodes),
            (Signal::ImagefsAvailable, image_bytes),
            (Signal::ImagefsInodesFree, image_inodes),
            (Signal::PidAvailable, pids),
        ];
        seen.into_iter().filter_map(|(signal, seen)| Some((signal, seen?))).collect()
    }

    /// Whether images and writable layers have a disk of their own.
    pub fn own_image_disk(&self) -> bool {
        let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
        device(&self.nodefs) != device(&self.imagefs)
    }
}

/// Total memory minus the working set, which is used memory without inactive file pages: the
/// kubelet's definition, not the kernel's `MemAvailable`.
fn memory(meminfo: &str) -> Option<Observation> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    let capacity = bytes("MemTotal")?;
    let available = bytes("MemFree")? + bytes("Inactive(file)")?;
    Some(Observation { available: available.min(capacity), capacity })
}

/// In `0.00 0.00 0.00 2/345 678` there are 345 threads.
fn pids(loadavg: &str, most: u64) -> Option<Observation> {
    let threads = loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse::<u64>().ok()?;
    Some(Observation { available: most.saturating_sub(threads), capacity: most })
}

/// Bytes and inodes available to unprivileged users.
fn disk(folder: &Path) -> (Option<Observation>, Option<Observation>) {
    let Ok(stat) = rustix::fs::statvfs(folder) else { return (None, None) };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let space = Observation { available: bytes(stat.f_bavail), capacity: bytes(stat.f_blocks) };
    let inodes = Observation { available: stat.f_favail, capacity: stat.f_files };
    (Some(space), Some(inodes))
}

/// Disk usage of a directory tree, without following links. Blocking, as it accesses disks.
pub fn disk_of_tree(folder: &Path) -> Disk {
    use std::os::unix::fs::MetadataExt;
    let mut used = Disk::default();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        used = used.plus(Disk { bytes: found.blocks().saturating_mul(512), inodes: 1 });
        if found.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path()));
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_is_free_or_long_unused() {
        let text = "MemTotal:        1000 kB\nMemFree:          200 kB\nMemAvailable:     900 kB\n\
                    Inactive:         500 kB\nInactive(file):   100 kB\n";
        let seen = memory(text).unwrap();
        assert_eq!((seen.available, seen.capacity), (300 << 10, 1000 << 10));
        assert_eq!(memory("MemTotal: 5 kB\n"), None);
        assert_eq!(memory(""), None);
        assert_eq!(memory("MemTotal: x kB\nMemFree: 1 kB\nInactive(file): 1 kB\n"), None);
    }

    #[test]
    fn threads_are_counted() {
        let seen = pids("0.20 0.18 0.12 1/80 11206\n", 100).unwrap();
        assert_eq!((seen.available, seen.capacity), (20, 100));
        assert_eq!(pids("0.20 0.18 0.12 1/180 11206\n", 100).unwrap().available, 0);
        assert_eq!(pids("0.20", 100), None);
    }

    #[test]
    fn trees_are_added_up_without_following_links() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/b"), [1; 8192]).unwrap();
        std::os::unix::fs::symlink("/proc", folder.path().join("link")).unwrap();
        let used = disk_of_tree(folder.path());
        assert_eq!(used.inodes, 4);
        assert!((8192..1 << 20).contains(&used.bytes), "{}", used.bytes);
        assert_eq!(disk_of_tree(Path::new("/nowhere/at/all")), Disk::default());
    }

    #[test]
    fn this_node_can_be_measured() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_owned();
        let paths = NodePaths { proc: "/proc".into(), nodefs: here.clone(), imagefs: here };
        assert_eq!(paths.observe().len(), 6);
        assert!(!paths.own_image_disk());
        let nowhere: PathBuf = "/nowhere/at/all".into();
        let paths = NodePaths { proc: nowhere.clone(), nodefs: nowhere.clone(), imagefs: nowhere };
        assert!(paths.observe().is_empty());
    }
}
