//! What is remembered of a container over restarts of the agent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::{RuntimeHandler, Stdio};
use crate::board::Container;
use crate::store::Record;

/// A process, known by more than its PID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitProcess {
    /// PID on the host.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

/// A container as the store keeps it; also put into its containerd record at creation, so that a
/// lost store can be rebuilt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The published part.
    pub container: Container,
    /// The handler it runs under.
    pub handler: RuntimeHandler,
    /// Image name for containerd's record.
    pub image_name: String,
    /// Streams of its process.
    pub stdio: Stdio,
    /// Memory cgroup of its process, known once it was started.
    pub memory_cgroup: Option<PathBuf>,
    /// Its first process, once it was started: a shim that gives no answer does not say whether
    /// it runs, but the host does.
    #[serde(default)]
    pub init: Option<InitProcess>,
    /// Its removal has begun: nothing else may happen to it.
    pub removing: bool,
    /// The boot it was last started in.
    pub boot_id: String,
    /// Its cgroup, absolute from the root of the hierarchies; `None` when systemd makes it.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// While its limits are being changed: those of the stored spec before (its
    /// `linux.resources`), to be put back when the change does not come to its end.
    #[serde(default)]
    pub limits_before: Option<serde_json::Value>,
}

impl Record for ContainerRecord {
    const TABLE: &'static str = "containers";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        self.container.id.as_str()
    }
}
