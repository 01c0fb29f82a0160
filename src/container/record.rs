//! The stored record of a container, which survives restarts of the agent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::{RuntimeHandler, Stdio};
use crate::board::Container;
use crate::store::Record;

/// The first process of a container or an exec, identified by PID and start time.
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
    /// The runtime handler.
    pub handler: RuntimeHandler,
    /// Image name for containerd's record.
    pub image_name: String,
    /// Streams of its process.
    pub stdio: Stdio,
    /// Memory cgroup of its process; set when it was started.
    pub memory_cgroup: Option<PathBuf>,
    /// Its first process, set when it was started. If the shim does not answer, the host can still
    /// tell whether this process runs.
    #[serde(default)]
    pub init: Option<InitProcess>,
    /// Its removal has begun: no other change is allowed.
    pub removing: bool,
    /// The boot id of the host when it was last started.
    pub boot_id: String,
    /// Its cgroup, as an absolute path below the hierarchy root; `None` when systemd makes it.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Set during an update of limits: the previous `linux.resources` of the stored spec, to be
    /// restored if the update does not complete.
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
