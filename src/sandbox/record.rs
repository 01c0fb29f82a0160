//! The stored record of a sandbox, which survives restarts of the agent.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::RuntimeHandler;
use crate::board::Sandbox;
use crate::container::InitProcess;
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
}

impl Record for SandboxRecord {
    const TABLE: &'static str = "sandboxes";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        self.sandbox.id.as_str()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::board::SandboxState;
    use crate::model::Owner;
    use crate::model::security::NamespaceMode;
    use crate::store::stored;

    #[test]
    fn a_stored_sandbox_keeps_its_meaning() {
        let record: SandboxRecord = stored::now();
        let Sandbox { config, network, netns, owner, .. } = &record.sandbox;
        assert_eq!(record.key(), "a1".repeat(32));
        assert_eq!(*owner, Owner::Pod);
        assert_eq!(record.sandbox.state, SandboxState::Ready { pid: 4242 });
        assert_eq!((config.metadata.name.as_str(), config.metadata.attempt), ("web", 2));
        assert_eq!(config.security.namespaces.ipc, NamespaceMode::Node);
        assert_eq!(config.id_mappings().expect("mappings").length(), 65536);
        assert_eq!(network.as_ref().expect("addresses").ips[0].to_string(), "10.88.0.7");
        assert_eq!(netns.as_deref(), Some("/run/netns/web".as_ref()));
        let limits = [record.sandbox.overhead(), record.sandbox.resources()];
        assert_eq!(limits.map(|sum| sum.expect("a sum").memory_limit), [3 << 20, 5 << 20]);
        assert_eq!(record.pause, Some(InitProcess { pid: 4242, start_time: 777 }));
        assert_eq!(record.files.as_deref(), Some("/var/lib/podbay/pods/web".as_ref()));
        use Owed::{Images, Netns, Network, Pause, Shm, Userns};
        assert_eq!(record.owed, BTreeSet::from([Pause, Network, Netns, Userns, Shm, Images]));
        assert!(record.was_attached && record.removing && record.undoing && record.pause_snapshot);
        for (state, text) in
            [(SandboxState::Creating, "creating"), (SandboxState::NotReady, "not_ready")]
        {
            assert_eq!(json!(state), json!({ "state": text }));
        }
    }

    #[test]
    fn a_sandbox_of_an_earlier_agent_is_read() {
        let SandboxRecord { files, hostname, undoing, owed, sandbox, .. } = stored::old();
        assert_eq!((files, hostname.as_str(), undoing), (None, "", false));
        assert_eq!((owed.len(), sandbox.is_ready()), (6, true));
        assert!(!sandbox.config.host_network());
    }
}
