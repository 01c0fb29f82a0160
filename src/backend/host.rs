//! The seam to the host: namespaces, mounts, files, devices, facts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, UdpSocket};

use super::{HostPathKind, Result, RootfsMount, VolumeDir, VolumeFiles};
use crate::model::container::Propagation;
use crate::model::resources::CgroupLimits;
use crate::model::security::IdMappings;

/// Between two looks whether a process has ended, where nothing tells it.
const END_LOOKS: Duration = Duration::from_millis(500);

/// cgroup layout of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// Separate hierarchies (also hybrid without v2 controllers).
    V1,
    /// The unified hierarchy alone.
    #[default]
    V2,
}

/// Facts found once at start-up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Kernel version as (major, minor).
    pub kernel: (u32, u32),
    /// CPU architecture in Go's words, e.g. `amd64`.
    pub arch: String,
    /// cgroup layout.
    pub cgroup: CgroupVersion,
    /// Controllers that are there, e.g. `cpu`, `memory`, `hugetlb`, `pids`.
    pub controllers: Vec<String>,
    /// Whether memory.memsw (v1) or memory.swap (v2) files exist.
    pub swap_accounting: bool,
    /// Capabilities in the agent's bounding set, `CAP_…`.
    pub capabilities: Vec<String>,
    /// The agent's own oom_score_adj.
    pub oom_score_adj: i64,
    /// Whether the kernel can filter system calls.
    pub seccomp: bool,
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// The labels of containers where SELinux is enabled.
    pub selinux: Option<SelinuxContexts>,
    /// Hard limits of the agent's own processes by name, e.g. `nofile`; `u64::MAX` is none.
    pub rlimits: BTreeMap<String, u64>,
    /// Identifies this boot.
    pub boot_id: String,
    /// Host name.
    pub hostname: String,
    /// Whether systemd is PID 1.
    pub systemd: bool,
}

/// What the host's SELinux policy calls the processes and files of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelinuxContexts {
    /// `user:role:type:level` of processes.
    pub process: String,
    /// `user:role:type:level` of files.
    pub file: String,
}

impl HostFacts {
    /// Whether the agent may raise limits of processes above its own.
    pub fn may_raise_rlimits(&self) -> bool {
        self.capabilities.iter().any(|cap| cap == "CAP_SYS_RESOURCE")
    }

    /// Whether the agent may set any OOM score: without CAP_SYS_RESOURCE a score below the
    /// agent's own is refused by the kernel.
    pub fn may_lower_oom_score(&self) -> bool {
        self.capabilities.iter().any(|cap| cap == "CAP_SYS_RESOURCE")
    }
}

/// Where the kernel lists the AppArmor profiles that are loaded.
pub const APPARMOR_PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Whether an AppArmor profile is in the kernel's list: lines of a name and, in brackets, its mode.
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
    /// Its bytes, or why they must not be used.
    pub content: Result<Vec<u8>>,
}

/// What stands at a pinned network namespace path.
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
    /// Its PID, …
    pub pid: u32,
    /// … which stands for it together with its start time in clock ticks since boot.
    pub start_time: u64,
    /// Its command line.
    pub arguments: Vec<String>,
}

/// The host. All paths are absolute and on the host.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Facts found at start-up.
    fn facts(&self) -> &HostFacts;

    /// Makes a network namespace, sets its `lo` up and pins it at `path` (below the configured
    /// netns folder). Undone whole on failure.
    async fn create_netns(&self, path: &Path) -> Result<()>;

    /// Makes a user namespace with these ids and pins it at `path`, a new file in a folder that is
    /// there; [`Host::unmount`] unpins it. With `netns`, a network namespace that the user
    /// namespace owns is made and pinned as by [`Host::create_netns`], so that the pod's root rules
    /// over it. Undone whole on failure.
    async fn create_userns(&self, path: &Path, ids: IdMappings, netns: Option<&Path>)
    -> Result<()>;

    /// What stands at `path`.
    async fn netns_state(&self, path: &Path) -> Result<NetnsState>;

    /// Unpins a network namespace; gone is fine.
    async fn remove_netns(&self, path: &Path) -> Result<()>;

    /// Pinned namespaces below the netns folder that podbay made (by name prefix).
    async fn list_netns(&self) -> Result<Vec<PathBuf>>;

    /// Start time of a process in clock ticks since boot, `None` when it is gone: a PID alone
    /// is never trusted.
    async fn process_start_time(&self, pid: u32) -> Result<Option<u64>>;

    /// Whether the process that was started then runs: one that has ended and was not waited for
    /// yet does not.
    async fn process_lives(&self, pid: u32, start_time: u64) -> Result<bool> {
        Ok(self.process_start_time(pid).await? == Some(start_time))
    }

    /// Returns once the process that was started then has ended, whether somebody has waited for
    /// it or not. Cancel-safe.
    async fn process_end(&self, pid: u32, start_time: u64) -> Result<()> {
        while self.process_lives(pid, start_time).await? {
            tokio::time::sleep(END_LOOKS).await;
        }
        Ok(())
    }

    /// Writes a file of ours: parents are made 0700, content is complete or absent, links are
    /// not followed at the last element.
    async fn write_file(&self, path: &Path, content: &[u8], mode: u32) -> Result<()>;

    /// As [`Host::write_file`], for a file that has to survive a power cut.
    async fn keep_file(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.write_file(path, content, mode).await
    }

    /// Reads a regular host file of at most `max` bytes, `None` when absent.
    async fn read_file(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>>;

    /// The files of a folder, by name, with their content of at most `max` bytes each. A folder or
    /// file counts only if it belongs to root (or the agent's user) and nobody else may write to
    /// it, and a file only if it is no link: `FailedPrecondition` for the folder, and for each
    /// file by itself. Absent is empty.
    async fn trusted_files(&self, folder: &Path, max: usize) -> Result<Vec<TrustedFile>>;

    /// Makes a folder of ours and its parents with this mode.
    async fn create_dir(&self, path: &Path, mode: u32) -> Result<()>;

    /// Unmounts what is mounted below `path`, then removes the tree without following links or
    /// crossing mounts; gone is fine. Busy mounts are retried, then detached.
    async fn remove_tree(&self, path: &Path) -> Result<()>;

    /// Names in a folder of ours; empty when absent.
    async fn list_dir(&self, path: &Path) -> Result<Vec<String>>;

    /// Mounts a tmpfs (nosuid, noexec, nodev) of `size` bytes with mode 1777 at `path`.
    async fn mount_shm(&self, path: &Path, size: u64) -> Result<()>;

    /// Makes the top folder of a volume, whole or not at all; parents are made 0700. One that is
    /// there is left as it is, for its content belongs to the pod. `Unsupported` for huge pages
    /// that the host has none of.
    async fn create_volume(&self, path: &Path, dir: VolumeDir) -> Result<()>;

    /// Gives a volume exactly these files, all at one moment: `..data` is a link to a folder of
    /// them that is replaced whole, and every visible name links into it. Whether anything had to
    /// be changed. Links that a container has planted in the volume are never followed.
    async fn write_volume(&self, volume: &Path, files: &VolumeFiles) -> Result<bool>;

    /// Mounts what stands at `sub` in a volume (a folder, or one file) at `target` too, which is
    /// made with its parents. Nothing that happens in the volume meanwhile leads out of it:
    /// `FailedPrecondition`. Missing folders are made with the mode of the volume. Mounted so
    /// already is fine; something else there is replaced. Mounts of the host travel into it, never
    /// back.
    async fn bind_sub_path(&self, volume: &Path, sub: &Path, target: &Path) -> Result<()>;

    /// Reads a regular file of at most `max` bytes at `sub` in a volume, `None` when absent. What is
    /// at the name is looked at before it is opened. Nothing that happens in the volume meanwhile
    /// leads out of it: `FailedPrecondition`.
    async fn read_in_volume(
        &self,
        volume: &Path,
        sub: &Path,
        max: usize,
    ) -> Result<Option<Vec<u8>>>;

    /// Whether what stands at a path of the host is of this kind; links are followed.
    async fn check_host_path(&self, path: &Path, kind: HostPathKind) -> Result<bool>;

    /// The last `max` bytes of a regular file, or all of them, `None` when absent.
    async fn read_tail(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>>;

    /// Gives a file or folder of ours to a user of the host; links are not followed.
    async fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> Result<()>;

    /// Gives a file, or a folder and all in it, this SELinux label. Links are not followed; file
    /// systems without labels are left alone.
    async fn relabel(&self, path: &Path, label: &str) -> Result<()>;

    /// Detaches the mount at `path`; not mounted is fine.
    async fn unmount(&self, path: &Path) -> Result<()>;

    /// Mounts a root file system at a folder that is there, read-only whatever its mounts say,
    /// without set-user-id programs and devices. Mounted so already is fine. With `userns`, a user
    /// namespace that is pinned there, its files appear with the ids of that.
    async fn mount_image(
        &self,
        rootfs: &[RootfsMount],
        target: &Path,
        userns: Option<&Path>,
    ) -> Result<()>;

    /// Where `path` is below the folder `root`, resolved inside it: no link leads out. Only
    /// folders and regular files are found, `FailedPrecondition` for anything else; `NotFound`.
    async fn find_inside(&self, root: &Path, path: &str) -> Result<PathBuf>;

    /// Reads the user files of a root file system given by its mounts: mounted read-only out of
    /// sight, resolved inside the root, regular files of at most 10 MiB.
    async fn read_user_files(&self, rootfs: &[RootfsMount]) -> Result<UserFiles>;

    /// Copies the content of `path` inside a root file system to `dest` with ownership and modes;
    /// resolved inside the root; absent is an empty folder.
    async fn copy_from_rootfs(&self, rootfs: &[RootfsMount], path: &str, dest: &Path)
    -> Result<()>;

    /// Resolves links of a mount source. A missing path is made as a folder 0755 when
    /// `create_missing`, else `NotFound`.
    async fn resolve_mount_source(&self, path: &Path, create_missing: bool) -> Result<PathBuf>;

    /// Whether the mount that holds `path` allows this propagation.
    async fn allows_propagation(&self, path: &Path, wanted: Propagation) -> Result<bool>;

    /// The device nodes behind a host path: links are resolved, folders walked. `container_path`
    /// is where the path appears in the container.
    async fn devices(&self, host_path: &Path, container_path: &str) -> Result<Vec<DeviceNode>>;

    /// All device nodes of the host that a privileged container gets.
    async fn all_devices(&self) -> Result<Vec<DeviceNode>>;

    /// Makes FIFOs (mode 0600) at these paths.
    async fn make_fifos(&self, paths: &[PathBuf]) -> Result<()>;

    /// The memory cgroup of a live process (v2: its only cgroup), `None` when it has none.
    async fn memory_cgroup(&self, pid: u32) -> Result<Option<PathBuf>>;

    /// Kills a process with all it has started: its descendants, the processes of its session,
    /// and theirs. The process is known by PID and start time; when it is gone nothing is
    /// touched. They are stopped first, so that none can slip away by a fork; one that left
    /// parent and session before is not found.
    async fn kill_tree(&self, pid: u32, start_time: u64) -> Result<()>;

    /// Processes on whose command line all of these stand as arguments.
    async fn processes_with(&self, arguments: &[String]) -> Result<Vec<HostProcess>>;

    /// Connects with a TCP port of localhost (127.0.0.1, then ::1) in a pinned network namespace,
    /// or in the agent's own when that is `None`. `DeadlineExceeded` after ten seconds.
    async fn connect_in_netns(&self, netns: Option<&Path>, port: u16) -> Result<TcpStream>;

    /// A socket that talks with a UDP port of localhost (127.0.0.1, or ::1 where there is no IPv4)
    /// as [`Host::connect_in_netns`] does with a TCP one. Nobody needs to listen there yet.
    async fn connect_udp_in_netns(&self, netns: Option<&Path>, port: u16) -> Result<UdpSocket>;

    /// How often the kernel killed for lack of memory in a memory cgroup; `None` when it is gone
    /// or has no such counter.
    async fn oom_kills(&self, memory_cgroup: &Path) -> Result<Option<u64>>;

    /// Version of CRIU, counted as it does itself: 31701 is 3.17.1. `None` when it is not installed.
    async fn criu_version(&self) -> Result<Option<u32>>;

    /// Fails unless an archive can be made at `path`: `InvalidArgument` for a path that is not
    /// absolute or climbs, `NotFound` without its folder, `AlreadyExists` when it is a folder.
    async fn check_archive(&self, path: &Path) -> Result<()>;

    /// Makes a tar archive (mode 0600) of what is below `folder`, and of more files by their name
    /// in the archive. Only regular files and folders are taken, no link is followed, and a file
    /// that is absent is left out. The archive is there whole or not at all, and takes the place of
    /// a file that has its name at one moment; see `check_archive`.
    async fn write_archive(
        &self,
        path: &Path,
        folder: &Path,
        files: &[(String, PathBuf)],
    ) -> Result<()>;

    /// Removes the empty cgroup of this path, absolute from the root of the hierarchies, from each
    /// of them; gone is fine. One that has processes or cgroups in it stays, with an error.
    async fn remove_cgroup(&self, path: &Path) -> Result<()>;

    /// Makes the cgroup of this path, absolute from the root of the hierarchies, in those that
    /// have its figures, with all above it, and sets the figures. There already is fine. A figure
    /// that this host has no controller for is left out.
    async fn make_cgroup(&self, path: &Path, limits: &CgroupLimits) -> Result<()>;

    /// Removes the cgroup of this path, absolute from the root of the hierarchies, with all below
    /// it, from each of them; what still runs in it is killed. Gone is fine.
    async fn destroy_cgroup(&self, path: &Path) -> Result<()>;
}
