//! The seam to what runs processes: container records, root file systems, tasks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::model::image::ChainId;
use crate::model::security::IdMappings;
use crate::model::{StringMap, UnixNanos};

/// A configured runtime handler, resolved: which shim with which options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeHandler {
    /// The handler's name in CRI, e.g. `runc`. The default handler is also reachable as "".
    pub name: String,
    /// containerd runtime name, e.g. `io.containerd.runc.v2`.
    pub runtime_type: String,
    /// OCI runtime binary given to the runc shim (`BinaryName`); empty means its default.
    pub binary: String,
    /// Root folder of the OCI runtime; empty means its default.
    pub root: String,
    /// Whether cgroups are made through systemd.
    pub systemd_cgroup: bool,
    /// Snapshotter for images run by this handler.
    pub snapshotter: String,
    /// For shims other than runc's: the file with their settings; empty gives them none.
    pub config_path: String,
    /// For shims other than runc's: the type that they take their settings for.
    pub options_type: String,
    /// Annotations of pods that reach the OCI runtime: names, or patterns with `*` and `?`.
    pub pod_annotations: Vec<String>,
    /// Annotations of containers that do.
    pub container_annotations: Vec<String>,
    /// Privileged containers get no device of the host that they do not ask for.
    pub privileged_without_host_devices: bool,
}

/// What the daemon says about itself.
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
    /// The snapshotters that work, with their root folder.
    pub snapshotters: Vec<SnapshotterInfo>,
}

/// One usable snapshotter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotterInfo {
    /// Plugin id, e.g. `overlayfs`.
    pub name: String,
    /// Root folder on the host.
    pub root: PathBuf,
    /// Capabilities, e.g. `remap-ids`.
    pub capabilities: Vec<String>,
}

/// What an OCI runtime can do, from its `features` output.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HandlerFeatures {
    /// Recursive read-only bind mounts (runtime and kernel).
    pub recursive_read_only_mounts: bool,
    /// Pods in user namespaces of their own: runtime, kernel, and root file systems of the
    /// handler's snapshotter with mapped ids.
    pub user_namespaces: bool,
    /// Bind mounts with mapped ids.
    pub id_mapped_mounts: bool,
    /// Seccomp support.
    pub seccomp: bool,
    /// AppArmor support.
    pub apparmor: bool,
    /// Highest OCI runtime-spec version it accepts; empty when unknown.
    pub oci_version_max: String,
    /// Its version, when it is runc and says so; else empty.
    pub runc_version: String,
}

/// A mount as a snapshotter gives it; passed on untouched.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootfsMount {
    /// File system type, e.g. `overlay` or `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Source.
    pub source: String,
    /// Target inside the root, mostly empty.
    #[serde(default)]
    pub target: String,
    /// Mount options.
    pub options: Vec<String>,
}

/// A container record: what containerd keeps for a container.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeContainer {
    /// 64 hexadecimal characters: pod id for a pause container, container id otherwise.
    pub id: String,
    /// Image name, for the record only; may be empty.
    pub image: String,
    /// Labels on the record.
    pub labels: StringMap,
    /// The pod whose shim the container joins: the id of a container whose task runs. `None`
    /// starts a shim. Daemons that cannot join one start the shim program, which finds it.
    pub sandbox: Option<String>,
    /// The handler (only `name` may be empty when read back).
    pub handler: RuntimeHandler,
    /// The OCI spec as JSON.
    pub spec: serde_json::Value,
    /// Key of its writable snapshot; `None` when the root is no snapshot.
    pub snapshot_key: Option<String>,
    /// podbay's own metadata (JSON), kept atomically with the record.
    pub extension: serde_json::Value,
}

/// Where a process's standard streams go. Paths of FIFOs; `None` is /dev/null.
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

/// Names a process: the container's init, or an exec in it.
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
    /// When, as the shim saw it.
    pub at: UnixNanos,
}

/// State of a task or exec process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// The shim gave no answer or an unknown state. Not the same as gone.
    Unknown,
    /// Created, not started.
    Created,
    /// Running (also paused).
    Running,
    /// Ended; the exit is kept until the task is deleted.
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
    /// Its streams, to reopen after a restart.
    pub stdio: Stdio,
}

/// New task: the process is made but waits before exec.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Container record id.
    pub id: String,
    /// Root file system.
    pub rootfs: Vec<RootfsMount>,
    /// Streams. Reader ends must be open before.
    pub stdio: Stdio,
}

/// New exec process.
#[derive(Debug, Clone)]
pub struct NewExec {
    /// Container record id.
    pub id: String,
    /// Unique within the container, `[a-z0-9-]`.
    pub exec_id: String,
    /// OCI `Process` as JSON.
    pub process: serde_json::Value,
    /// Streams. Reader ends must be open before `start`.
    pub stdio: Stdio,
}

/// Options of a root file system snapshot.
#[derive(Debug, Clone, Default)]
pub struct RootfsOptions {
    /// Extra snapshot labels.
    pub labels: StringMap,
    /// The user namespace of an id-mapped root, for snapshotters that can.
    pub id_mappings: Option<IdMappings>,
}

/// Something that happened below. Events only hurry work; the truth is `wait` and a relist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// The stream was (re)connected: anything may have been missed, relist now.
    Connected,
    /// The stream broke; the adapter reconnects by itself.
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

/// The argument of a shim that its first task follows.
pub const SHIM_ID: &str = "-id";

/// Drives processes. All calls have a deadline of their own inside the adapter, except
/// [`Runtime::wait`] and [`Runtime::events`]; all are safe to retry.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Asks the daemon about itself. `Unavailable` while it is away.
    async fn probe(&self) -> Result<RuntimeInfo>;

    /// Features of a handler; asked of the runtime itself, cached by the caller.
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

    /// Removes a snapshot made by `prepare_rootfs` or `view_rootfs`; gone is fine.
    async fn remove_rootfs(&self, snapshotter: &str, key: &str) -> Result<()>;

    /// Keys of all active and view snapshots that we labelled.
    async fn list_rootfs(&self, snapshotter: &str) -> Result<Vec<String>>;

    /// Bytes and inodes of one snapshot (the writable layer).
    async fn rootfs_usage(&self, snapshotter: &str, key: &str) -> Result<FsUsage>;

    /// Stores a container record. `AlreadyExists` when there is one of that id.
    async fn create_container(&self, container: &RuntimeContainer) -> Result<()>;

    /// One record.
    async fn container(&self, id: &str) -> Result<RuntimeContainer>;

    /// All records of ours (label `io.podbay/owner` or as configured), streamed inside.
    async fn list_containers(&self) -> Result<Vec<RuntimeContainer>>;

    /// Their ids alone: an OCI spec, once it is read, takes some hundred kilobytes.
    async fn container_ids(&self) -> Result<Vec<String>>;

    /// Replaces the stored OCI spec.
    async fn update_container_spec(&self, id: &str, spec: &serde_json::Value) -> Result<()>;

    /// Removes a record; gone is fine. The task must be deleted before.
    async fn delete_container(&self, id: &str) -> Result<()>;

    /// Creates the task of a record; returns the PID of its init, which waits before exec.
    async fn create_task(&self, task: &NewTask) -> Result<u32>;

    /// Registers an exec process; it is made at `start`.
    async fn exec(&self, exec: &NewExec) -> Result<()>;

    /// Starts init or an exec; returns its PID.
    async fn start(&self, process: Process<'_>) -> Result<u32>;

    /// Waits for the end, without a deadline. Safe before start and after the end, until
    /// `delete_task`; `NotFound` after it. `Unavailable` when the daemon or shim went away:
    /// look at [`Runtime::task`] and wait again.
    async fn wait(&self, process: Process<'_>) -> Result<Exit>;

    /// Sends a signal to the process, or to all of its container. `NotFound` when it has ended.
    async fn kill(&self, process: Process<'_>, signal: i32, all: bool) -> Result<()>;

    /// Deletes an ended task or exec and returns how it ended; `None` when it was gone.
    /// A shim that stays registered is cleaned up too. With `kill` a live process is
    /// killed first.
    async fn delete_task(&self, process: Process<'_>, kill: bool) -> Result<Option<Exit>>;

    /// State of a task or exec, `None` when there is none.
    async fn task(&self, process: Process<'_>) -> Result<Option<TaskStatus>>;

    /// All tasks of our namespace. One whose shim does not answer is `Unknown`, or not among them
    /// (containerd 2.x): [`Runtime::task`] tells whether it is gone.
    async fn list_tasks(&self) -> Result<Vec<TaskStatus>>;

    /// Tells the shim that stdin has ended.
    async fn close_stdin(&self, process: Process<'_>) -> Result<()>;

    /// Sets the terminal size in characters.
    async fn resize(&self, process: Process<'_>, width: u32, height: u32) -> Result<()>;

    /// Changes the limits of a live task (OCI `LinuxResources` JSON).
    async fn update_resources(&self, id: &str, resources: &serde_json::Value) -> Result<()>;

    /// Freezes all processes of a running task where they are.
    async fn pause(&self, id: &str) -> Result<()>;

    /// Lets a frozen task go on. One that is not frozen, or is gone, is fine.
    async fn resume(&self, id: &str) -> Result<()>;

    /// Dumps a frozen task with CRIU within `limit`: its images into the folder `images`, logs of
    /// the dump into `work`. Afterwards, also after a failure, [`Runtime::resume`] is owed.
    async fn checkpoint(&self, id: &str, images: &Path, work: &Path, limit: Duration)
    -> Result<()>;

    /// Writes what a writable snapshot has on top of its parent into a new file, as an OCI layer
    /// that is not compressed. Takes as long as it takes.
    async fn export_changes(&self, snapshotter: &str, key: &str, file: &Path) -> Result<()>;

    /// PIDs inside the task.
    async fn pids(&self, id: &str) -> Result<Vec<u32>>;

    /// What stands on the command line of each shim of ours, beside [`SHIM_ID`].
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

/// How long unary calls may take.
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
