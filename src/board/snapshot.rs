//! Sandboxes and containers as of one moment, and filters over them.
//!
//! ```text
//! sandbox:    Creating ──> Ready ──pause died / stopped──> NotReady ──removed──> gone
//!
//! container:  Creating ──> Created ──start──> Running ──exit──> Exited
//!                             │                  ├──shim lost──> Exited(255, Unknown)
//!                             │                  └──no answer──> Unknown ──stop──> Exited
//!                             └──start failed──> Exited(128, StartError)
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::NetworkStatus;
use crate::ids::{ContainerId, PodId};
use crate::model::container::ContainerConfig;
use crate::model::image::Digest;
use crate::model::pod::PodConfig;
use crate::model::resources::Resources;
use crate::model::signal::Signal;
use crate::model::{Owner, StringMap, UnixNanos};
use crate::oci::user::ResolvedUser;

/// State of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SandboxState {
    /// Being created; the intent is stored. Not published.
    Creating,
    /// Its pause process runs and its network is set up.
    Ready {
        /// PID of the pause process on the host.
        pid: u32,
    },
    /// Stopped, or its pause process died, or its creation could not be undone completely.
    NotReady,
}

/// A sandbox at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Id.
    pub id: PodId,
    /// Who manages it.
    pub owner: Owner,
    /// The requested configuration.
    pub config: Arc<PodConfig>,
    /// Overhead of the sandbox itself, if it was changed since its creation (information only).
    #[serde(default)]
    pub new_overhead: Option<Box<Resources>>,
    /// Sum of the containers' resources, if it was changed since its creation (information only).
    #[serde(default)]
    pub new_resources: Option<Box<Resources>>,
    /// Requested runtime handler; empty for the default.
    pub handler: String,
    /// Creation time.
    pub created_at: UnixNanos,
    /// State.
    pub state: SandboxState,
    /// Addresses; `None` for the host network, or after the network was removed.
    pub network: Option<NetworkStatus>,
    /// Pinned network namespace; `None` for the host network.
    pub netns: Option<PathBuf>,
}

impl Sandbox {
    /// Whether containers can run in it.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, SandboxState::Ready { .. })
    }

    /// Overhead of the sandbox itself, as last reported by the caller.
    pub fn overhead(&self) -> Option<&Resources> {
        self.new_overhead.as_deref().or(self.config.overhead.as_ref())
    }

    /// Sum of the containers' resources, as last reported by the caller.
    pub fn resources(&self) -> Option<&Resources> {
        self.new_resources.as_deref().or(self.config.resources.as_ref())
    }
}

/// Why a container ended, by its name in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// Exit code 0.
    Completed,
    /// Another exit code.
    Error,
    /// The kernel killed it for want of memory.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// It could not be started.
    StartError,
    /// A plugin of the node requested its end.
    Evicted,
    /// Nothing is known of its end.
    Unknown,
    /// The container disappeared.
    ContainerStatusUnknown,
}

impl EndReason {
    /// The name in Kubernetes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Evicted => "Evicted",
            Self::Unknown => "Unknown",
            Self::ContainerStatusUnknown => "ContainerStatusUnknown",
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Start time; `None` when it was never started.
    pub started_at: Option<UnixNanos>,
    /// End time.
    pub finished_at: UnixNanos,
    /// Exit code; 128 + signal when killed, 255 when unknown.
    pub code: i32,
    /// Why.
    pub reason: EndReason,
    /// Human-readable details.
    pub message: String,
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// Being created; the intent is stored. Not published.
    Creating,
    /// Created, not started.
    Created,
    /// Its process runs.
    Running {
        /// Start time.
        started_at: UnixNanos,
        /// PID on the host.
        pid: u32,
    },
    /// The process has ended.
    Exited(Exited),
    /// Its shim does not answer, and the host does not know its process as running either.
    /// Stopping the container resolves this state.
    Unknown {
        /// Start time, if it was started.
        started_at: Option<UnixNanos>,
    },
}

impl ContainerState {
    /// The state without its data. `Creating` counts as created.
    pub fn name(&self) -> StateName {
        match self {
            Self::Creating | Self::Created => StateName::Created,
            Self::Running { .. } => StateName::Running,
            Self::Exited(_) => StateName::Exited,
            Self::Unknown { .. } => StateName::Unknown,
        }
    }

    /// Start time, if it was started.
    pub fn started_at(&self) -> Option<UnixNanos> {
        match self {
            Self::Creating | Self::Created => None,
            Self::Running { started_at, .. } => Some(*started_at),
            Self::Exited(exited) => exited.started_at,
            Self::Unknown { started_at } => *started_at,
        }
    }
}

/// A state without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateName {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The shim does not answer.
    Unknown,
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Unknown => "unknown",
        })
    }
}

/// A container at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Id.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// Who manages it.
    pub owner: Owner,
    /// The requested configuration.
    pub config: Arc<ContainerConfig>,
    /// Image id (digest of the image configuration).
    pub image_id: Digest,
    /// Name of the image: its first tag, else its first repo digest, else the name in the request.
    pub image_name: String,
    /// First repo digest of the image, or the id.
    pub image_ref: String,
    /// Ids of the mounted images, by index of the mount.
    #[serde(default)]
    pub mounted_images: BTreeMap<usize, Digest>,
    /// Creation time.
    pub created_at: UnixNanos,
    /// State.
    pub state: ContainerState,
    /// User and groups of its process.
    pub user: ResolvedUser,
    /// Limits in force.
    pub resources: Resources,
    /// The stop signal.
    pub stop_signal: Signal,
    /// Absolute path of its log.
    pub log_path: Option<PathBuf>,
}

/// Filter for sandboxes; empty selects all. Conditions are ANDed.
#[derive(Debug, Clone, Default)]
pub struct SandboxFilter {
    /// Id or unique id prefix.
    pub id: Option<String>,
    /// Whether it must be ready.
    pub ready: Option<bool>,
    /// Labels that it must have, with these values.
    pub labels: StringMap,
    /// Only sandboxes of this owner.
    pub owner: Option<Owner>,
}

impl SandboxFilter {
    pub(super) fn matches(&self, pod: &Sandbox, id: Option<&PodId>) -> bool {
        id.is_none_or(|id| pod.id == *id)
            && self.ready.is_none_or(|ready| pod.is_ready() == ready)
            && self.owner.is_none_or(|owner| pod.owner == owner)
            && has_labels(&pod.config.labels, &self.labels)
    }
}

/// Filter for containers; empty selects all. Conditions are ANDed.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    /// Id or unique id prefix.
    pub id: Option<String>,
    /// State, as in CRI.
    pub state: Option<StateName>,
    /// Pod id or unique prefix.
    pub pod: Option<String>,
    /// Labels that it must have, with these values.
    pub labels: StringMap,
    /// Only containers of this owner.
    pub owner: Option<Owner>,
}

impl ContainerFilter {
    pub(super) fn matches(
        &self,
        container: &Container,
        id: Option<&ContainerId>,
        pod: Option<&PodId>,
    ) -> bool {
        id.is_none_or(|id| container.id == *id)
            && pod.is_none_or(|pod| container.pod == *pod)
            && self.state.is_none_or(|state| container.state.name() == state)
            && self.owner.is_none_or(|owner| container.owner == owner)
            && has_labels(&container.config.labels, &self.labels)
    }
}

fn has_labels(labels: &StringMap, wanted: &StringMap) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
