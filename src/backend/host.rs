//! The trait for the host: namespaces, mounts, files, devices, facts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, UdpSocket};

use super::{HostPathKind, Result, RootfsMount, VolumeDir, VolumeFiles};
use crate::model::container::Propagation;
use crate::model::resources::{CgroupDriver, CgroupLimits};
use crate::model::security::IdMappings;

/// Polling interval for the end of a process, where there is no notification.
const END_LOOKS: Duration = Duration::from_millis(500);

/// cgroup version of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// Separate hierarchies (also hybrid without v2 controllers).
    V1,
    /// Only the unified hierarchy.
    #[default]
    V2,
}

/// Facts determined once at the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Kernel version as (major, minor).
    pub kernel: (u32, u32),
    /// CPU architecture, by its Go name, e.g. `amd64`.
    pub arch: String,
    /// cgroup version.
    pub cgroup: CgroupVersion,
    /// Available controllers, e.g. `cpu`, `memory`, `hugetlb`, `pids`.
    pub controllers: Vec<String>,
    /// Whether memory.memsw (v1) or memory.swap (v2) files exist.
    pub swap_accounting: bool,
    /// Capabilities in the agent's bounding set, `CAP_…`.
    pub capabilities: Vec<String>,
    /// The agent's own oom_score_adj.
    pub oom_score_adj: i64,
    /// Whether the kernel supports seccomp filters.
    pub seccomp: bool,
    /// Whether the kernel may run x32 programs (amd64 with 32-bit pointers).
    pub x32: bool,
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// Default labels of containers, if SELinux is enabled.
    pub selinux: Option<SelinuxContexts>,
    /// Hard rlimits of the agent itself by name, e.g. `nofile`; `u64::MAX` for none.
    pub rlimits: BTreeMap<String, u64>,
    /// Identifies this boot.
    pub boot_id: String,
    /// Host name at the start.
    pub hostname: String,
    /// Whether systemd is PID 1.
    pub systemd: bool,
}

/// Default labels of containers in the host's SELinux policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelinuxContexts {
    /// `user:role:type:level` of processes.
    pub process: String,
    /// `user:role:type:level` of files.
    pub file: String,
}

impl HostFacts {
    /// Whether the agent may raise rlimits above its own.
    pub fn may_raise_rlimits(&self) -> bool {
        self.capabilities.iter().any(|cap| cap == "CAP_SYS_RESOURCE")
    }

    /// Whether the agent may set any OOM score: without CAP_SYS_RESOURCE the kernel refuses a score
    /// lower than the agent's own.
    pub fn may_lower_oom_score(&self) -> bool {
        self.capabilities.iter().any(|cap| cap == "CAP_SYS_RESOURCE")
    }
}

/// Path of the kernel's list of loaded AppArmor profiles.
pub const APPARMOR_PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Whether an AppArmor profile is in the kernel's list: each line has a name and, in parentheses,
/// its mode.
pub fn has_apparmor_profile(list: &[u8], name: &str) -> bool {
    let list = String::from_utf8_lossy(list);
    list.lines().filter_map(|line| line.rsplit_once(" (")).any(|(loaded, _mode)| loaded == name)
}

/// /etc/passwd and /etc/group of an image; `None` when absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserFiles {
    /// Content of /etc/passwd.
    pub passwd: Option<Vec<u8>>,
    /// Content of /etc/group.
    pub group: Option<Vec<u8>>,
}

/// A device node on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// `c`, `b` or `p`.
    pub kind: char,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Mode bits of the node.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A file of [`Host::trusted_files`].
#[derive(Debug)]
pub struct TrustedFile {
    /// Name in its folder.
    pub name: String,
    /// Its contents, or why they must not be used.
    pub content: Result<Vec<u8>>,
}

/// What is at a pinned network namespace path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetnsState {
    /// A live namespace.
    Live,
    /// Nothing, or a plain file left over from before a reboot.
    Gone,
}

/// A process of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProcess {
    /// Its PID.
    pub pid: u32,
    /// Its start time in clock ticks since boot, which with the PID identifies it.
    pub start_time: u64,
    /// Its command line.
    pub arguments: Vec<String>,
}

/// The memory of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes in use.
    pub used: u64,
    /// Limit in bytes; without one it is larger than any memory.
    pub limit: u64,
}

/// The host. All paths are absolute and on the host.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Facts determined at the start.
    fn facts(&self) -> &HostFacts;

    /// The host name now.
    fn hostname(&self) -> String;

    /// Makes a network namespace, sets its `lo` up and pins it at `path` (in the configured netns
    /// directory). On failure nothing is left.
    async fn create_netns(&self, path: &Path) -> Result<()>;

    /// Makes a user namespace with these id mappings and pins it at `path`, a new file in an
    /// existing directory; [`Host::unmount`] unpins it. With `netns`, also makes and pins a network
    /// namespace as [`Host::create_netns`] does, owned by the user namespace, so that the pod's
    /// root has privileges over it. On failure nothing is left.
    async fn create_userns(&self, path: &Path, ids: IdMappings, netns: Option<&Path>)
    -> Result<()>;

    /// What is at `path`.
    async fn netns_state(&self, path: &Path) -> Result<NetnsState>;

    /// Those of `paths` at which there is no namespace.
    async fn missing_netns(&self, paths: Vec<PathBuf>) -> Result<Vec<PathBuf>>;

    /// Unpins a network namespace; a missing one is fine.
    async fn remove_netns(&self, path: &Path) -> Result<()>;

    /// Pinned namespaces in the netns directory that podbay made (by name prefix).
    async fn list_netns(&self) -> Result<Vec<PathBuf>>;

    /// Start time of a process in clock ticks since boot; `None` when it is gone. Used because a
    /// PID alone may be reused.
    async fn process_start_time(&self, pid: u32) -> Result<Option<u64>>;

    /// Whether the process with this start time runs. A zombie does not.
    async fn process_lives(&self, pid: u32, start_time: u64) -> Result<bool> {
        Ok(self.process_start_time(pid).await? == Some(start_time))
    }

    /// Returns once the process with this start time has ended, reaped or not. Cancel-safe.
    async fn process_end(&self, pid: u32, start_time: u64) -> Result<()> {
        while self.process_lives(pid, start_time).await? {
            tokio::time::sleep(END_LOOKS).await;
        }
        Ok(())
    }

    /// Writes a file atomically. Missing parents get mode 0700; a link at the last path element is
    /// not followed.
    async fn write_file(&self, path: &Path, content: &[u8], mode: u32) -> Result<()>;

    /// Like [`Host::write_file`], for a file that must survive a power cut.
    async fn keep_file(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.write_file(path, content, mode).await
    }

    /// Reads a regular host file of at most `max` bytes; `None` when it does not exist.
    async fn read_file(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>>;

    /// The files in a directory by name, with contents of at most `max` bytes each. A directory or
    /// file is trusted only if it belongs to root (or the agent's user) and nobody else may write
    /// to it, and a file only if it is not a link. Otherwise `FailedPrecondition`, for the whole
    /// directory or for the single file. A missing directory is empty.
    async fn trusted_files(&self, folder: &Path, max: usize) -> Result<Vec<TrustedFile>>;

    /// Makes a directory and its parents with this mode.
    async fn create_dir(&self, path: &Path, mode: u32) -> Result<()>;

    /// Unmounts everything mounted below `path`, then removes the tree without following links or
    /// crossing mounts; a missing one is fine. Busy mounts are retried, then detached.
    async fn remove_tree(&self, path: &Path) -> Result<()>;

    /// Names in a directory; empty when it does not exist.
    async fn list_dir(&self, path: &Path) -> Result<Vec<String>>;

    /// Mounts a tmpfs (nosuid, noexec, nodev) of `size` bytes with mode 1777 at `path`.
    async fn mount_shm(&self, path: &Path, size: u64) -> Result<()>;

    /// Makes the top directory of a volume atomically; missing parents get mode 0700. An existing
    /// one is left unchanged, because its contents belong to the pod. `Unsupported` for huge pages
    /// that the host does not have.
    async fn create_volume(&self, path: &Path, dir: VolumeDir) -> Result<()>;

    /// Replaces the files of a volume atomically: `..data` is a link to a directory with the files,
    /// which is replaced as a whole, and every visible name is a link into it. Returns whether
    /// anything changed. Links planted in the volume by a container are never followed.
    async fn write_volume(&self, volume: &Path, files: &VolumeFiles) -> Result<bool>;

    /// Mounts the directory or file at `sub` in a volume at `target`, which is created with its
    /// parents. Concurrent changes in the volume cannot lead outside of it: `FailedPrecondition`.
    /// Missing directories get the volume's mode. If it is mounted already that is fine; any other
    /// mount there is replaced. Mounts of the host propagate into it, but not back.
    async fn bind_sub_path(&self, volume: &Path, sub: &Path, target: &Path) -> Result<()>;

    /// Reads a regular file of at most `max` bytes at `sub` in a volume; `None` when it does not
    /// exist. Its type is checked before it is opened. Concurrent changes in the volume cannot lead
    /// outside of it: `FailedPrecondition`.
    async fn read_in_volume(
        &self,
        volume: &Path,
        sub: &Path,
        max: usize,
    ) -> Result<Option<Vec<u8>>>;

    /// Whether a host path is of this kind; links are followed.
    async fn check_host_path(&self, path: &Path, kind: HostPathKind) -> Result<bool>;

    /// The last `max` bytes of a regular file, or the whole file; `None` when it does not exist.
    async fn read_tail(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>>;

    /// Changes the owner of a file or directory; links are not followed.
    async fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> Result<()>;

    /// Sets the SELinux label of a file, or of a directory and its contents. Links are not
    /// followed; file systems without labels are ignored.
    async fn relabel(&self, path: &Path, label: &str) -> Result<()>;

    /// Loads podbay's AppArmor profile under this name. One that is loaded under it already is kept,
    /// or replaced if `replace` is set. `NotFound` without `apparmor_parser`.
    async fn load_apparmor(&self, name: &str, replace: bool) -> Result<()>;

    /// Detaches the mount at `path`; fine if nothing is mounted.
    async fn unmount(&self, path: &Path) -> Result<()>;

    /// Mounts a root file system at an existing directory, always read-only, nosuid and nodev. If
    /// it is mounted already that is fine. `userns` is the path of a pinned user namespace, whose
    /// id mappings are applied to the files.
    async fn mount_image(
        &self,
        rootfs: &[RootfsMount],
        target: &Path,
        userns: Option<&Path>,
    ) -> Result<()>;

    /// The host path of `path` below the directory `root`, resolved inside it, so that no link
    /// leads out. Finds only directories and regular files; `FailedPrecondition` for anything else;
    /// `NotFound`.
    async fn find_inside(&self, root: &Path, path: &str) -> Result<PathBuf>;

    /// Reads the user files of a root file system given by its mounts, which is mounted privately
    /// and read-only. Paths are resolved inside the root; regular files of at most 10 MiB.
    async fn read_user_files(&self, rootfs: &[RootfsMount]) -> Result<UserFiles>;

    /// Copies the contents of `path` in a root file system to `dest` with owners and modes;
    /// resolved inside the root; a missing one gives an empty directory.
    async fn copy_from_rootfs(&self, rootfs: &[RootfsMount], path: &str, dest: &Path)
    -> Result<()>;

    /// Resolves links in a mount source. A missing path is created as a directory with mode 0755 if
    /// `create_missing`, else `NotFound`.
    async fn resolve_mount_source(&self, path: &Path, create_missing: bool) -> Result<PathBuf>;

    /// Whether the mount that contains `path` allows this propagation.
    async fn allows_propagation(&self, path: &Path, wanted: Propagation) -> Result<bool>;

    /// The device nodes at a host path: links are resolved, directories walked. `container_path` is
    /// the corresponding path in the container.
    async fn devices(&self, host_path: &Path, container_path: &str) -> Result<Vec<DeviceNode>>;

    /// All device nodes of the host for a privileged container.
    async fn all_devices(&self) -> Result<Vec<DeviceNode>>;

    /// Makes FIFOs (mode 0600) at these paths.
    async fn make_fifos(&self, paths: &[PathBuf]) -> Result<()>;

    /// The memory cgroup of a live process (in v2 its only cgroup); `None` when it has none.
    async fn memory_cgroup(&self, pid: u32) -> Result<Option<PathBuf>>;

    /// Kills a process, its descendants, the processes in its session, and their descendants. The
    /// process is identified by PID and start time; if it is gone nothing happens. All are stopped
    /// first, so that none can escape by forking; a process that has left both its parent and its
    /// session is not found. If the session has no leader any more, only its processes in a PID
    /// namespace of a pod are found.
    async fn kill_tree(&self, pid: u32, start_time: u64) -> Result<()>;

    /// Processes whose command line contains all of these arguments.
    async fn processes_with(&self, arguments: &[String]) -> Result<Vec<HostProcess>>;

    /// Connects to a TCP port on localhost (127.0.0.1, then ::1) in a pinned network namespace, or
    /// in the agent's own when that is `None`. `DeadlineExceeded` after ten seconds.
    async fn connect_in_netns(&self, netns: Option<&Path>, port: u16) -> Result<TcpStream>;

    /// A UDP socket connected to a port on localhost (127.0.0.1, or ::1 where there is no IPv4),
    /// otherwise like [`Host::connect_in_netns`]. Nothing needs to listen there yet.
    async fn connect_udp_in_netns(&self, netns: Option<&Path>, port: u16) -> Result<UdpSocket>;

    /// The number of OOM kills in a memory cgroup; `None` when it is gone or has no such counter.
    async fn oom_kills(&self, memory_cgroup: &Path) -> Result<Option<u64>>;

    /// Use and limit of a memory cgroup; `None` when it is gone or has no such figures.
    async fn memory_use(&self, memory_cgroup: &Path) -> Result<Option<MemoryUse>>;

    /// Version of CRIU in its own encoding: 31701 is 3.17.1. `None` when it is not installed.
    async fn criu_version(&self) -> Result<Option<u32>>;

    /// Checks that an archive can be created at `path`: `InvalidArgument` for a path that is not
    /// absolute or contains `..`, `NotFound` without its directory, `AlreadyExists` when it is a
    /// directory.
    async fn check_archive(&self, path: &Path) -> Result<()>;

    /// Writes a tar archive (mode 0600) of everything below `folder` and of additional files, given
    /// with their names in the archive. Only regular files and directories are included, links are
    /// not followed, and missing files are omitted. The archive appears atomically and replaces an
    /// existing file; see `check_archive`.
    async fn write_archive(
        &self,
        path: &Path,
        folder: &Path,
        files: &[(String, PathBuf)],
    ) -> Result<()>;

    /// Removes the empty cgroup with this path (absolute from the hierarchy root) from each
    /// hierarchy; a missing one is fine. One that contains processes or cgroups is kept, with an
    /// error.
    async fn remove_cgroup(&self, path: &Path) -> Result<()>;

    /// Creates the cgroup with this path (absolute from the hierarchy root) and its parents in the
    /// hierarchies concerned, and sets the limits. An existing one is fine. A limit without a
    /// controller on this host is skipped. With systemd it must be a slice, and systemd is told of
    /// the limits too, because it would replace others.
    async fn make_cgroup(
        &self,
        driver: CgroupDriver,
        path: &Path,
        limits: &CgroupLimits,
    ) -> Result<()>;

    /// Removes the cgroup with this path (absolute from the hierarchy root) and all its children
    /// from each hierarchy; processes in it are killed. A missing one is fine. With systemd it must
    /// be a slice, which is stopped.
    async fn destroy_cgroup(&self, driver: CgroupDriver, path: &Path) -> Result<()>;
}
