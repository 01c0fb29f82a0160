//! State shared by several fakes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tokio::sync::{broadcast, watch};

use super::super::{Error, ErrorKind, HostProcess, Result, RuntimeEvent};
use crate::locks::{Mutex, MutexGuard};
use crate::model::image::ChainId;
use crate::model::resources::CgroupLimits;

/// Higher than any real PID, so that no test can hit a process of the machine.
const FIRST_PID: u32 = 5_000_000;

/// State of the fake host, used by all fakes.
pub(super) struct World {
    state: Mutex<WorldState>,
    away: watch::Sender<bool>,
    pub(super) events: broadcast::Sender<RuntimeEvent>,
}

/// The data protected by the lock.
#[derive(Default)]
pub(super) struct WorldState {
    /// Committed snapshots: the parent chain, by snapshotter and chain.
    pub(super) chains: BTreeMap<(String, ChainId), Option<ChainId>>,
    /// Active snapshots and views: by snapshotter and key.
    pub(super) roots: BTreeMap<(String, String), Option<ChainId>>,
    /// Live processes.
    pub(super) processes: BTreeMap<u32, Live>,
    /// Shims that the runtime has lost.
    pub(super) strays: Vec<HostProcess>,
    /// OOM kill counters by cgroup.
    pub(super) cgroups: BTreeMap<PathBuf, u64>,
    /// Cgroups without a container, by their path in the hierarchies.
    pub(super) empty_cgroups: BTreeSet<PathBuf>,
    /// Cgroups that contain others, with their limits.
    pub(super) pod_cgroups: BTreeMap<PathBuf, CgroupLimits>,
    /// Live network namespaces.
    pub(super) netns: BTreeSet<PathBuf>,
    /// Mount points.
    pub(super) mounts: BTreeSet<PathBuf>,
    born: u32,
}

/// A live process.
pub(super) struct Live {
    /// In ticks since boot.
    pub(super) start_time: u64,
    pub(super) cgroup: PathBuf,
}

fn is_of_pod(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"))
}

/// The cgroup of a container.
pub(super) fn cgroup_of(container: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup/fake").join(container)
}

impl Default for World {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            away: watch::Sender::new(false),
            events: broadcast::Sender::new(1024),
        }
    }
}

impl World {
    pub(super) fn lock(&self) -> MutexGuard<'_, WorldState> {
        self.state.lock()
    }

    pub(super) fn set_away(&self, away: bool) {
        if self.away.send_replace(away) != away {
            // It is fine if nobody listens.
            let _ = self.events.send(if away {
                RuntimeEvent::Disconnected
            } else {
                RuntimeEvent::Connected
            });
        }
    }

    pub(super) fn is_away(&self) -> bool {
        *self.away.borrow()
    }

    /// Completes once the daemon is away.
    pub(super) async fn gone(&self) {
        // `self` holds the sender.
        let _ = self.away.subscribe().wait_for(|away| *away).await;
    }

    /// Fails with `Unavailable` while the daemon is away.
    pub(super) fn present(&self, tried: &str) -> Result<()> {
        if self.is_away() {
            return Err(unavailable(tried));
        }
        Ok(())
    }

    /// Publishes an event, which is lost while the daemon is away.
    pub(super) fn publish(&self, event: RuntimeEvent) {
        if !self.is_away() {
            // It is fine if nobody listens.
            let _ = self.events.send(event);
        }
    }

    pub(super) fn forget_boot(&self) {
        let mut state = self.lock();
        state.processes.clear();
        state.cgroups.clear();
        state.empty_cgroups.clear();
        state.pod_cgroups.clear();
        state.netns.clear();
        state.mounts.clear();
    }

    pub(super) fn leftovers(&self) -> Vec<String> {
        let state = self.lock();
        let roots = state.roots.keys().map(|(_, key)| format!("snapshot {key}"));
        let netns = state.netns.iter().map(|path| format!("netns {}", path.display()));
        let mounts = state.mounts.iter().map(|path| format!("mount {}", path.display()));
        let processes = state.processes.keys().map(|pid| format!("process {pid}"));
        // Those of pods and QoS classes are kept, as on a real host.
        let of_pods = state.pod_cgroups.keys().filter(|path| is_of_pod(path));
        let cgroups = state.cgroups.keys().chain(&state.empty_cgroups).chain(of_pods);
        let cgroups = cgroups.map(|path| format!("cgroup {}", path.display()));
        roots.chain(netns).chain(mounts).chain(processes).chain(cgroups).collect()
    }
}

impl WorldState {
    /// Starts a process in a container; the first one creates the container's cgroup.
    pub(super) fn bear(&mut self, container: &str) -> u32 {
        self.born += 1;
        let pid = FIRST_PID + self.born;
        let cgroup = cgroup_of(container);
        self.cgroups.entry(cgroup.clone()).or_default();
        self.processes.insert(pid, Live { start_time: 1000 + u64::from(self.born), cgroup });
        pid
    }
}

pub(super) fn unavailable(tried: &str) -> Error {
    Error::new(ErrorKind::Unavailable, tried).because("the daemon is away")
}
