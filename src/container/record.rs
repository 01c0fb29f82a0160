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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::board::{ContainerState, Exited};
    use crate::model::container::Propagation;
    use crate::model::security::SecurityProfile;
    use crate::store::stored;

    #[test]
    fn a_stored_container_keeps_its_meaning() {
        let record: ContainerRecord = stored::now();
        let Container { config, state, user, stop_signal, mounted_images, .. } = &record.container;
        assert_eq!(record.key(), "c3".repeat(32));
        assert_eq!(record.container.pod.as_str(), "a1".repeat(32));
        let ContainerState::Exited(Exited { code, reason, .. }) = state else {
            panic!("{state:?}")
        };
        assert_eq!((*code, reason.as_str()), (137, "OOMKilled"));
        assert_eq!((user.uid, user.gid, stop_signal.number()), (1000, 1001, 10));
        assert_eq!(mounted_images.keys().collect::<Vec<_>>(), [&2]);
        let mounts: Vec<_> = config.mounts.iter().map(|mount| mount.propagation).collect();
        use Propagation::{Bidirectional, HostToContainer, Private};
        assert_eq!(mounts, [Private, HostToContainer, Bidirectional]);
        let profile = SecurityProfile::Localhost("/etc/seccomp.json".to_owned());
        assert_eq!(config.security.seccomp, Some(profile));
        assert_eq!(record.container.resources.memory_limit, 6 << 20);
        assert_eq!(record.init, Some(InitProcess { pid: 4343, start_time: 888 }));
        assert_eq!(record.limits_before, Some(json!({ "memory": { "limit": 1 } })));
        assert!(record.removing && record.stdio.terminal);
        for (state, text) in [
            (ContainerState::Creating, json!({ "state": "creating" })),
            (ContainerState::Created, json!({ "state": "created" })),
            (
                ContainerState::Running { started_at: 5, pid: 7 },
                json!({ "state": "running", "started_at": 5, "pid": 7 }),
            ),
            (
                ContainerState::Unknown { started_at: None },
                json!({ "state": "unknown", "started_at": null }),
            ),
        ] {
            assert_eq!(json!(state), text);
        }
    }

    #[test]
    fn a_container_of_an_earlier_agent_is_read() {
        let ContainerRecord { init, cgroup, limits_before, container, .. } = stored::old();
        assert_eq!((init, cgroup, limits_before), (None, None, None));
        assert!(container.mounted_images.is_empty() && container.config.rlimits.is_empty());
        assert_eq!(container.config.image.image, "registry.example/app:1");
    }
}
