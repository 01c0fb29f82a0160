//! The trait for the container runtime: container records, root file systems, tasks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::model::image::ChainId;
use crate::model::resources::CgroupDriver;
use crate::model::security::IdMappings;
use crate::model::{StringMap, UnixNanos};

/// A configured runtime handler: the shim and its options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeHandler {
    /// The handler's name in CRI, e.g. `runc`. The default handler is also reachable as "".
    pub name: String,
    /// containerd runtime name, e.g. `io.containerd.runc.v2`.
    pub runtime_type: String,
    /// OCI runtime binary given to the runc shim (`BinaryName`); empty means its default.
    pub binary: String,
    /// Root directory of the OCI runtime; empty means its default.
    pub root: String,
    /// Whether systemd creates the cgroups.
    pub systemd_cgroup: bool,
    /// Snapshotter for images run by this handler.
    pub snapshotter: String,
    /// For shims other than runc's: path of their settings file; empty for none.
    pub config_path: String,
    /// For shims other than runc's: the protobuf type of their settings.
    pub options_type: String,
    /// Pod annotations passed to the OCI runtime: names, or patterns with `*` and `?`.
    pub pod_annotations: Vec<String>,
    /// Container annotations passed to the OCI runtime.
    pub container_annotations: Vec<String>,
    /// Privileged containers get only those host devices that they request.
    pub privileged_without_host_devices: bool,
}

impl RuntimeHandler {
    /// Which component creates the cgroups of its pods.
    pub fn cgroup_driver(&self) -> CgroupDriver {
        match self.systemd_cgroup {
            true => CgroupDriver::Systemd,
            false => CgroupDriver::Cgroupfs,
        }
    }
}

/// Facts that the daemon reports about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeInfo {
    /// Product version, unparsed, e.g. `v2.4.2` or `1.6.20~ds1`.
    pub version: String,
    /// Source revision.
    pub revision: String,
    /// Unique id of the daemon's installation.
    pub uuid: String,
    /// Whether the daemon's own CRI plugin is enabled and healthy.
    pub cri_plugin_enabled: bool,
    /// The working snapshotters, with their root directories.
    pub snapshotters: Vec<SnapshotterInfo>,
}

/// One usable snapshotter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotterInfo {
    /// Plugin id, e.g. `overlayfs`.
    pub name: String,
    /// Root directory on the host.
    pub root: PathBuf,
    /// Capabilities, e.g. `remap-ids`.
    pub capabilities: Vec<String>,
}

/// Features of an OCI runtime, from its `features` output.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HandlerFeatures {
    /// Recursive read-only bind mounts (support of runtime and kernel).
    pub recursive_read_only_mounts: bool,
    /// Own user namespaces for pods: support of the runtime, the kernel, and the handler's
    /// snapshotter (root file systems with mapped ids).
    pub user_namespaces: bool,
    /// Bind mounts with mapped ids.
    pub id_mapped_mounts: bool,
    /// Seccomp support.
    pub seccomp: bool,
    /// AppArmor support.
    pub apparmor: bool,
    /// Highest OCI runtime-spec version it accepts; empty when unknown.
    pub oci_version_max: String,
    /// Its version if it is runc and reports it, else empty.
    pub runc_version: String,
}

/// A mount as the snapshotter returned it; passed on unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootfsMount {
    /// File system type, e.g. `overlay` or `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Source.
    pub source: String,
    /// Target inside the root, usually empty.
    #[serde(default)]
    pub target: String,
    /// Mount options.
    pub options: Vec<String>,
}

/// A container record in containerd.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeContainer {
    /// 64 hexadecimal characters: pod id for a pause container, container id otherwise.
    pub id: String,
    /// Image name, for the record only; may be empty.
    pub image: String,
    /// Labels on the record.
    pub labels: StringMap,
    /// The pod whose shim the container joins: the id of a container whose task runs. `None` starts
    /// a shim. Versions of containerd that cannot join one run the shim program, which finds it.
    pub sandbox: Option<String>,
    /// The handler (only `name` may be empty when read back).
    pub handler: RuntimeHandler,
    /// The OCI spec as JSON.
    pub spec: serde_json::Value,
    /// Key of its writable snapshot; `None` when the root is not a snapshot.
    pub snapshot_key: Option<String>,
    /// podbay's own metadata (JSON), stored atomically with the record.
    pub extension: serde_json::Value,
}

/// The FIFOs of a process's standard streams; `None` is /dev/null.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// stdin FIFO.
    pub stdin: Option<PathBuf>,
    /// stdout FIFO; with a terminal it carries the merged stream.
    pub stdout: Option<PathBuf>,
    /// stderr FIFO; `None` with a terminal.
    pub stderr: Option<PathBuf>,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// Identifies a process: the container's init, or an exec in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process<'a> {
    /// Container record id.
    pub container: &'a str,
    /// Exec id; `None` for init.
    pub exec: Option<&'a str>,
}

impl<'a> Process<'a> {
    /// The container's first process.
    pub fn init(container: &'a str) -> Self {
        Self { container, exec: None }
    }

    /// An exec in the container.
    pub fn exec(container: &'a str, exec: &'a str) -> Self {
        Self { container, exec: Some(exec) }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, 128 + signal for a killed process.
    pub code: u32,
    /// Time of the exit, as reported by the shim.
    pub at: UnixNanos,
}

/// State of a task or exec process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// The shim did not answer, or reported an unknown state. It may still exist.
    Unknown,
    /// Created, not started.
    Created,
    /// Running (also paused).
    Running,
    /// Exited; the exit is kept until the task is deleted.
    Stopped(Exit),
}

/// A task as the shim reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// Container record id.
    pub id: String,
    /// PID on the host, 0 when ended.
    pub pid: u32,
    /// State.
    pub state: TaskState,
    /// Its streams, to be reopened after a restart.
    pub stdio: Stdio,
}

/// A task to create: its process is created but not started.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Container record id.
    pub id: String,
    /// Root file system.
    pub rootfs: Vec<RootfsMount>,
    /// Streams, whose reading ends must be open already.
    pub stdio: Stdio,
}

/// An exec process to create.
#[derive(Debug, Clone)]
pub struct NewExec {
    /// Container record id.
    pub id: String,
    /// Unique within the container, `[a-z0-9-]`.
    pub exec_id: String,
    /// OCI `Process` as JSON.
    pub process: serde_json::Value,
    /// Streams, whose reading ends must be open before `start`.
    pub stdio: Stdio,
}

/// Options of a root file system snapshot.
#[derive(Debug, Clone, Default)]
pub struct RootfsOptions {
    /// Extra snapshot labels.
    pub labels: StringMap,
    /// The user namespace of an id-mapped root, for snapshotters that support it.
    pub id_mappings: Option<IdMappings>,
}

/// A runtime event. Events only speed up reactions; `wait` and lists are authoritative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// The stream was (re)connected; events may have been missed, so list again.
    Connected,
    /// The stream broke; the adapter reconnects automatically.
    Disconnected,
    /// A process ended.
    Exit {
        /// Container record id.
        container: String,
        /// Exec id; `None` for init.
        exec: Option<String>,
    },
    /// A cgroup of this container hit its memory limit.
    Oom {
        /// Container record id.
        container: String,
    },
    /// An image name was created, changed or removed.
    ImagesChanged,
}

/// The argument of a shim that precedes the id of its first task.
pub const SHIM_ID: &str = "-id";

/// The container runtime. The adapter applies time limits to all calls except [`Runtime::wait`] and
/// [`Runtime::events`]; all calls are safe to retry.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Queries the daemon. `Unavailable` while it is down.
    async fn probe(&self) -> Result<RuntimeInfo>;

    /// Features of a handler, queried from the runtime itself; the caller caches them.
    async fn features(&self, handler: &RuntimeHandler) -> Result<HandlerFeatures>;

    /// Makes a writable snapshot on top of `parent` and returns its mounts. The snapshot carries
    /// a GC root label, so no lease is needed; it lives until `remove_rootfs`.
    /// `NotFound` when the parent chain is missing (unpack again).
    async fn prepare_rootfs(
        &self,
        snapshotter: &str,
        key: &str,
        parent: Option<&ChainId>,
        options: &RootfsOptions,
    ) -> Result<Vec<RootfsMount>>;

    /// Makes a read-only view of a chain, also labelled as a GC root.
    async fn view_rootfs(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &ChainId,
    ) -> Result<Vec<RootfsMount>>;

    /// Mounts of an existing snapshot of ours.
    async fn rootfs_mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<RootfsMount>>;

    /// Removes a snapshot made by `prepare_rootfs` or `view_rootfs`; a missing one is fine.
    async fn remove_rootfs(&self, snapshotter: &str, key: &str) -> Result<()>;

    /// Keys of all active and view snapshots with podbay's label.
    async fn list_rootfs(&self, snapshotter: &str) -> Result<Vec<String>>;

    /// Bytes and inodes of one snapshot (the writable layer).
    async fn rootfs_usage(&self, snapshotter: &str, key: &str) -> Result<FsUsage>;

    /// Stores a container record. `AlreadyExists` when there is one of that id.
    async fn create_container(&self, container: &RuntimeContainer) -> Result<()>;

    /// One record.
    async fn container(&self, id: &str) -> Result<RuntimeContainer>;

    /// All records of podbay (label `io.podbay/owner` or as configured), streamed internally.
    async fn list_containers(&self) -> Result<Vec<RuntimeContainer>>;

    /// Only their ids, since a parsed OCI spec takes some hundred kilobytes.
    async fn container_ids(&self) -> Result<Vec<String>>;

    /// Replaces the stored OCI spec.
    async fn update_container_spec(&self, id: &str, spec: &serde_json::Value) -> Result<()>;

    /// Removes a record; a missing one is fine. The task must be deleted before.
    async fn delete_container(&self, id: &str) -> Result<()>;

    /// Creates the task of a record; returns the PID of its init process, which is not started yet.
    async fn create_task(&self, task: &NewTask) -> Result<u32>;

    /// Registers an exec process, which is created at `start`.
    async fn exec(&self, exec: &NewExec) -> Result<()>;

    /// Starts init or an exec; returns its PID.
    async fn start(&self, process: Process<'_>) -> Result<u32>;

    /// Waits for the exit, without a time limit. Allowed before start and after the exit, until
    /// `delete_task`; `NotFound` after that. `Unavailable` when the daemon or the shim went away:
    /// check [`Runtime::task`] and wait again.
    async fn wait(&self, process: Process<'_>) -> Result<Exit>;

    /// Sends a signal to the process, or to all processes of its container. `NotFound` when it has
    /// ended.
    async fn kill(&self, process: Process<'_>, signal: i32, all: bool) -> Result<()>;

    /// Deletes an ended task or exec and returns its exit; `None` when it was gone. Also cleans up
    /// a shim that stays registered. With `kill` a running process is killed first.
    async fn delete_task(&self, process: Process<'_>, kill: bool) -> Result<Option<Exit>>;

    /// State of a task or exec, `None` when there is none.
    async fn task(&self, process: Process<'_>) -> Result<Option<TaskStatus>>;

    /// All tasks in podbay's namespace. One whose shim does not answer is `Unknown`, or missing
    /// (containerd 2.x): check with [`Runtime::task`] whether it is gone.
    async fn list_tasks(&self) -> Result<Vec<TaskStatus>>;

    /// Tells the shim that stdin has ended.
    async fn close_stdin(&self, process: Process<'_>) -> Result<()>;

    /// Sets the terminal size in characters.
    async fn resize(&self, process: Process<'_>, width: u32, height: u32) -> Result<()>;

    /// Changes the limits of a live task (OCI `LinuxResources` JSON).
    async fn update_resources(&self, id: &str, resources: &serde_json::Value) -> Result<()>;

    /// Freezes all processes of a running task.
    async fn pause(&self, id: &str) -> Result<()>;

    /// Resumes a frozen task. It is fine if it is not frozen, or is gone.
    async fn resume(&self, id: &str) -> Result<()>;

    /// Dumps a frozen task with CRIU within `limit`: images go to the directory `images`, logs to
    /// `work`. Afterwards, also after a failure, [`Runtime::resume`] must be called.
    async fn checkpoint(&self, id: &str, images: &Path, work: &Path, limit: Duration)
    -> Result<()>;

    /// Writes the changes in a writable snapshot relative to its parent into a new file, as an
    /// uncompressed OCI layer. Has no time limit.
    async fn export_changes(&self, snapshotter: &str, key: &str, file: &Path) -> Result<()>;

    /// PIDs inside the task.
    async fn pids(&self, id: &str) -> Result<Vec<u32>>;

    /// Arguments on the command line of each of podbay's shims, besides [`SHIM_ID`].
    fn shim_arguments(&self) -> Vec<String>;

    /// Endless, self-reconnecting stream of events.
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;
}

/// Bytes and inodes used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsUsage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Time limits of unary calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallDeadlines {
    /// Lists, gets, record changes.
    pub quick: Duration,
    /// Task create, start, delete, snapshot work.
    pub slow: Duration,
}

impl Default for CallDeadlines {
    fn default() -> Self {
        Self { quick: Duration::from_secs(10), slow: Duration::from_secs(60) }
    }
}
