//! Background measurements: CPU time every few seconds, and the size of writable layers
//! occasionally.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Found, MEASURE_LIMIT, Sought, Stats, cgroup_of, running};
use crate::backend::ErrorKind;
use crate::board::{
    Container, ContainerFilter, ContainerState, Sandbox, SandboxFilter, SandboxState,
};
use crate::clock::now;
use crate::ids::{ContainerId, PodId};
use crate::locks::{Mutex, MutexGuard};
use crate::stats::usage::Layer;

/// The last measured writable layers, and the directories of snapshotters.
#[derive(Default)]
pub(super) struct Layers {
    measured: Mutex<HashMap<ContainerId, Measured>>,
    roots: Mutex<BTreeMap<String, PathBuf>>,
    /// When containerd was last asked for the directories.
    asked: Mutex<Option<Instant>>,
}

/// A measured writable layer.
struct Measured {
    layer: Layer,
    /// CPU time of the container shortly before the measurement, in nanoseconds; `None` if unknown.
    cpu: Option<u64>,
}

impl Layers {
    pub fn get(&self, id: &ContainerId) -> Option<Layer> {
        self.measured().get(id).map(|measured| measured.layer.clone())
    }

    /// Dates a measurement anew if the container has used no CPU since, so that its layer is
    /// unchanged. Returns whether that was so.
    fn confirm(&self, id: &ContainerId, cpu: Option<u64>) -> bool {
        let mut measured = self.measured();
        let Some(measured) = measured.get_mut(id) else { return false };
        let unchanged = cpu.is_some() && cpu == measured.cpu;
        if unchanged {
            measured.layer.at = now();
        }
        unchanged
    }

    /// Whether the last request to containerd is at least `pause` ago; if so, notes a request now.
    fn may_ask(&self, pause: Duration) -> bool {
        let mut asked = self.asked.lock();
        let may = asked.is_none_or(|asked| asked.elapsed() >= pause);
        if may {
            *asked = Some(Instant::now());
        }
        may
    }

    fn measured(&self) -> MutexGuard<'_, HashMap<ContainerId, Measured>> {
        self.measured.lock()
    }

    fn roots(&self) -> MutexGuard<'_, BTreeMap<String, PathBuf>> {
        self.roots.lock()
    }
}

impl Stats {
    /// Measures in the background until the drain.
    pub fn start(self: &Arc<Self>) {
        let (room, interval) = (self.clone(), self.options.interval);
        drop(self.deps.tasks.spawn_lasting("stats-cpu", move || {
            let room = room.clone();
            async move {
                loop {
                    room.blocking(Stats::sample).await;
                    tokio::time::sleep(interval).await;
                }
            }
        }));
        let room = self.clone();
        drop(self.deps.tasks.spawn_lasting("stats-layers", move || {
            let room = room.clone();
            async move {
                loop {
                    room.measure_layers().await;
                    tokio::time::sleep(interval).await;
                }
            }
        }));
    }

    /// Records the CPU time of everything that runs, and forgets what no longer runs.
    fn sample(&self) {
        let sought = self.all_running();
        for sought in &sought {
            // What has just ended is forgotten at the next sample.
            if let Ok(Found::Group(group)) = self.find(sought) {
                let _ended = group.sample();
            }
        }
        // Also records the node's CPU time.
        let _unread = self.read_node();
        let keys: HashSet<&str> = sought.iter().map(|sought| sought.key.as_str()).collect();
        self.groups().retain(|key, _| keys.contains(key.as_str()));
    }

    fn all_running(&self) -> Vec<Sought> {
        let pods = self.deps.board.pods(&SandboxFilter { ready: Some(true), ..Default::default() });
        let containers = self.deps.board.containers(&ContainerFilter::default());
        let of_pod = |sandbox: &Arc<Sandbox>| match sandbox.state {
            SandboxState::Ready { pid } => Some(cgroup_of(sandbox, pid)),
            SandboxState::Creating | SandboxState::NotReady => None,
        };
        pods.iter()
            .filter_map(of_pod)
            .chain(containers.iter().filter_map(|container| running(container)))
            .collect()
    }

    /// Measures the layers that are due, one at a time: containerd walks through their files.
    async fn measure_layers(self: &Arc<Self>) {
        self.learn_roots().await;
        for (container, cpu) in self.blocking(Self::due_layers).await {
            if self.measure_layer(&container, cpu).await == Some(ErrorKind::Unavailable) {
                return;
            }
        }
    }

    /// The containers whose layers have to be measured, with their CPU time.
    fn due_layers(&self) -> Vec<(Arc<Container>, Option<u64>)> {
        let containers = self.deps.board.containers(&ContainerFilter::default());
        let there: HashSet<&ContainerId> = containers.iter().map(|c| &c.id).collect();
        self.layers.measured().retain(|id, _| there.contains(id));
        let due = containers.into_iter().filter(|container| self.is_due(container));
        let with_cpu = due.map(|container| {
            let cpu = self.cpu_time(&container);
            (container, cpu)
        });
        with_cpu.filter(|(container, cpu)| !self.layers.confirm(&container.id, *cpu)).collect()
    }

    /// The CPU time of a running container, in nanoseconds.
    fn cpu_time(&self, container: &Container) -> Option<u64> {
        match self.find(&running(container)?) {
            Ok(Found::Group(group)) => group.cpu_so_far().ok().flatten(),
            Ok(Found::Gone | Found::Foreign) | Err(_) => None,
        }
    }

    /// Whether a layer has to be measured: it changes only while its container runs.
    fn is_due(&self, container: &Container) -> bool {
        let Some(layer) = self.layers.get(&container.id) else { return true };
        match &container.state {
            ContainerState::Exited(exited) => layer.at <= exited.finished_at,
            ContainerState::Creating | ContainerState::Created => false,
            ContainerState::Running { .. } | ContainerState::Unknown { .. } => {
                let age = u128::try_from(now().saturating_sub(layer.at)).unwrap_or_default();
                age >= self.options.layer_interval.as_nanos()
            }
        }
    }

    /// Measures a layer of a container that has used this CPU time so far; returns the kind of error
    /// on failure. The last size then stays published.
    pub(super) async fn measure_layer(
        &self,
        container: &Container,
        cpu: Option<u64>,
    ) -> Option<ErrorKind> {
        let handler = self.handler_of(&container.pod);
        let snapshotter = self.snapshotter(&handler);
        let at = now();
        match self.deps.runtime.rootfs_usage(snapshotter, container.id.as_str()).await {
            Ok(usage) => {
                let (bytes, inodes) = (usage.bytes, usage.inodes);
                let layer = Layer { at, bytes, inodes, ..Layer::default() };
                self.layers.measured().insert(container.id.clone(), Measured { layer, cpu });
                None
            }
            Err(error) => {
                tracing::debug!(container = %container.id, %error, "cannot measure writable layer");
                Some(error.kind)
            }
        }
    }

    fn handler_of(&self, pod: &PodId) -> String {
        self.deps.board.pod(pod.as_str()).map(|pod| pod.handler.clone()).unwrap_or_default()
    }

    /// The directory of the snapshotter of a container's handler; empty until containerd reported
    /// it.
    pub(super) fn mountpoint_of(&self, container: &Container) -> PathBuf {
        let handler = self.handler_of(&container.pod);
        self.layers.roots().get(self.snapshotter(&handler)).cloned().unwrap_or_default()
    }

    /// Like [`Stats::learn_roots`], for callers that must not be blocked by a hanging containerd.
    pub(super) async fn learn_roots_soon(&self) {
        let _late = tokio::time::timeout(MEASURE_LIMIT, self.learn_roots()).await;
    }

    /// Reads the snapshotters' directories, which do not change while containerd runs. An unknown
    /// snapshotter may have appeared with a restart of containerd.
    async fn learn_roots(&self) {
        let known = |name: &String| self.layers.roots().contains_key(name);
        if self.options.snapshotters.values().all(known)
            || !self.layers.may_ask(self.options.interval)
        {
            return;
        }
        match self.deps.runtime.probe().await {
            Ok(info) => {
                let roots = info.snapshotters.into_iter().map(|info| (info.name, info.root));
                self.layers.roots().extend(roots);
            }
            Err(error) => tracing::debug!(%error, "cannot list snapshotters"),
        }
    }
}
