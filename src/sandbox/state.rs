//! The life of a pod sandbox, as one enum with its data inside.
//!
//! ```text
//! Creating ──> Ready ──pause died──> NotReady ──stop──> NotReady(clean) ──remove──> gone
//!     └──undo failed──────────────────^   ^──stop───┘
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::NetworkStatus;
use crate::ids::PodId;
use crate::model::pod::PodConfig;
use crate::model::{Owner, UnixNanos};

/// Where a sandbox is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SandboxState {
    /// Promised; being made. Not listed.
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
#[derive(Debug, Clone, PartialEq)]
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
