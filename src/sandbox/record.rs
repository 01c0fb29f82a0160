//! The stored record of a sandbox, which survives restarts of the agent.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::RuntimeHandler;
use crate::board::Sandbox;
use crate::container::InitProcess;
use crate::model::resources::Resources;
use crate::store::Record;

/// Something that exists on the host for a sandbox and has to be removed with it. It is recorded
/// before it is made, and the entry is deleted after it was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owed {
    /// The task of the pause container.
    Pause,
    /// The CNI attachment: CNI DEL has to run.
    Network,
    /// The pinned network namespace.
    Netns,
    /// The pinned user namespace.
    Userns,
    /// The mount of /dev/shm.
    Shm,
    /// Images mounted as volumes, and their snapshots.
    Images,
}

/// A sandbox as the store keeps it; also put into the containerd record of its pause container,
/// so that a lost store can be rebuilt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// The published part.
    pub sandbox: Sandbox,
    /// The runtime handler.
    pub handler: RuntimeHandler,
    /// The pause process, set once it runs; its start time is 0 where it could not be read.
    pub pause: Option<InitProcess>,
    /// Whether the pause container has a snapshot of its own.
    pub pause_snapshot: bool,
    /// Directory of the files shared by its containers. Pods of earlier agents have these files in
    /// the run-time directory.
    #[serde(default)]
    pub files: Option<PathBuf>,
    /// Its SELinux level, if pods have one.
    #[serde(default)]
    pub selinux_level: Option<String>,
    /// What a stop still has to remove. An interrupted teardown resumes from this.
    pub owed: BTreeSet<Owed>,
    /// Whether its network was ever ready; if so, a failing CNI DEL fails the stop.
    pub was_attached: bool,
    /// Its removal has begun.
    pub removing: bool,
    /// Its creation failed and is being undone. It was never published and never will be.
    #[serde(default)]
    pub undoing: bool,
    /// Host name of its containers; empty in a record of an agent that did not keep it.
    #[serde(default)]
    pub hostname: String,
    /// The boot id of the host when it was made.
    pub boot_id: String,
    /// Overhead of the sandbox itself, as last reported by the caller (information only).
    #[serde(default)]
    pub overhead: Option<Resources>,
    /// Sum of the containers' resources, as last reported by the caller (information only).
    #[serde(default)]
    pub resources: Option<Resources>,
}

impl Record for SandboxRecord {
    const TABLE: &'static str = "sandboxes";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        self.sandbox.id.as_str()
    }
}
