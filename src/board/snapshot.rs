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

/// Where a sandbox is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SandboxState {
    /// Promised; being made. Not published.
    Creating,
    /// Its pause process runs and its network is there.
    Ready {
        /// PID of the pause process on the host.
        pid: u32,
    },
    /// Stopped, or its pause process died, or its creation could not be undone whole.
    NotReady,
}

/// A sandbox as of one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Id.
    pub id: PodId,
    /// Who drives it.
    pub owner: Owner,
    /// What was asked for.
    pub config: Arc<PodConfig>,
    /// Runtime handler as asked for; empty is the default.
    pub handler: String,
    /// When it was created.
    pub created_at: UnixNanos,
    /// State.
    pub state: SandboxState,
    /// Addresses; `None` in the host's network or once the network is gone.
    pub network: Option<NetworkStatus>,
    /// Pinned network namespace; `None` in the host's network.
    pub netns: Option<PathBuf>,
}

impl Sandbox {
    /// Whether containers can run in it.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, SandboxState::Ready { .. })
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// When it was started; `None` when it never was.
    pub started_at: Option<UnixNanos>,
    /// When it ended.
    pub finished_at: UnixNanos,
    /// Exit code; 128 + signal when killed, 255 when unknown.
    pub code: i32,
    /// One word: `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
    pub reason: String,
    /// More words.
    pub message: String,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// Promised; its record below is being made. Not published.
    Creating,
    /// Ready to start.
    Created,
    /// Its process runs.
    Running {
        /// When it was started.
        started_at: UnixNanos,
        /// PID on the host.
        pid: u32,
    },
    /// It ended.
    Exited(Exited),
    /// Nothing below answers about it; stopping it settles the matter.
    Unknown {
        /// When it was started, if it was.
        started_at: Option<UnixNanos>,
        /// Its process runs, as the host tells; only its shim is mute.
        #[serde(default)]
        alive: bool,
    },
}

impl ContainerState {
    /// The state without its data; a container being created counts as created.
    pub fn name(&self) -> StateName {
        match self {
            Self::Creating | Self::Created => StateName::Created,
            Self::Running { .. } => StateName::Running,
            Self::Exited(_) => StateName::Exited,
            Self::Unknown { .. } => StateName::Unknown,
        }
    }

    /// When it was started, if it was.
    pub fn started_at(&self) -> Option<UnixNanos> {
        match self {
            Self::Creating | Self::Created => None,
            Self::Running { started_at, .. } => Some(*started_at),
            Self::Exited(exited) => exited.started_at,
            Self::Unknown { started_at, .. } => *started_at,
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
    /// Not known.
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

/// A container as of one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Id.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// Who drives it.
    pub owner: Owner,
    /// What was asked for.
    pub config: Arc<ContainerConfig>,
    /// Image id (digest of the image configuration).
    pub image_id: Digest,
    /// Name of the image: its first tag, else its first repo digest, else as it was asked for.
    pub image_name: String,
    /// First repo digest of the image, or the id.
    pub image_ref: String,
    /// Ids of the images that are mounted in it, by index of the mount.
    #[serde(default)]
    pub mounted_images: BTreeMap<usize, Digest>,
    /// When it was created.
    pub created_at: UnixNanos,
    /// State.
    pub state: ContainerState,
    /// Identity of its process.
    pub user: ResolvedUser,
    /// Limits in force.
    pub resources: Resources,
    /// Signal that stops it.
    pub stop_signal: Signal,
    /// Absolute path of its log.
    pub log_path: Option<PathBuf>,
}

/// Selects sandboxes; empty selects all. Conditions are ANDed.
#[derive(Debug, Clone, Default)]
pub struct SandboxFilter {
    /// Id or unique id prefix.
    pub id: Option<String>,
    /// Ready or not.
    pub ready: Option<bool>,
    /// Labels that must all be equal.
    pub labels: StringMap,
    /// Only those of this owner.
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

/// Selects containers; empty selects all. Conditions are ANDed.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    /// Id or unique id prefix.
    pub id: Option<String>,
    /// State as CRI names it.
    pub state: Option<StateName>,
    /// Pod id or unique prefix.
    pub pod: Option<String>,
    /// Labels that must all be equal.
    pub labels: StringMap,
    /// Only those of this owner.
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
