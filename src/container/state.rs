//! The life of a container, as one enum with its data inside.
//!
//! ```text
//! Creating ──> Created ──start──> Running ──exit──> Exited
//!                 │                  └──shim lost──> Exited(255, Unknown)
//!                 └──start failed──> Exited(128, StartError)
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{ContainerId, PodId};
use crate::model::container::{ContainerConfig, Mount};
use crate::model::image::Digest;
use crate::model::resources::Resources;
use crate::model::signal::Signal;
use crate::model::{Owner, UnixNanos};
use crate::oci::user::ResolvedUser;

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
    /// Promised; its record below is being made. Not listed.
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
    },
}

/// A container as of one moment.
#[derive(Debug, Clone, PartialEq)]
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
    /// First repo digest of the image, or the id.
    pub image_ref: String,
    /// When it was created.
    pub created_at: UnixNanos,
    /// State.
    pub state: ContainerState,
    /// Identity of its process.
    pub user: ResolvedUser,
    /// Limits in force.
    pub resources: Resources,
    /// Mounts as asked for, with host paths resolved.
    pub mounts: Vec<Mount>,
    /// Signal that stops it.
    pub stop_signal: Signal,
    /// Absolute path of its log.
    pub log_path: Option<PathBuf>,
}
