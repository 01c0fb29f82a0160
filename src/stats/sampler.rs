//! What is measured behind the scenes, cheaply: CPU time every few seconds, and the size of
//! writable layers now and then.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Found, MEASURE_LIMIT, Sought, Stats, cgroup_of, running};
use crate::backend::ErrorKind;
use crate::board::{
    Container, ContainerFilter, ContainerState, Sandbox, SandboxFilter, SandboxState, now,
};
use crate::ids::{ContainerId, PodId};
use crate::locks::{Mutex, MutexGuard};
use crate::stats::usage::Layer;

/// Writable layers as last measured, and where snapshotters keep them.
#[derive(Default)]
pub(super) struct Layers {
    measured: Mutex<HashMap<ContainerId, Layer>>,
    roots: Mutex<BTreeMap<String, PathBuf>>,
    /// When containerd was last asked for them.
    asked: Mutex<Option<Instant>>,
}

impl Layers {
    pub fn get(&self, id: &ContainerId) -> Option<Layer> {
        self.measured().get(id).cloned()
    }

    /// Whether containerd was not asked for so long; it is then.
    fn may_ask(&self, pause: Duration) -> bool {
        let mut asked = self.asked.lock();
        let may = asked.is_none_or(|asked| asked.elapsed() >= pause);
        if may {
            *asked = Some(Instant::now());
        }
        may
    }

    fn measured(&self) -> MutexGuard<'_, HashMap<ContainerId, Layer>> {
        self.measured.lock()
    }

    fn roots(&self) -> MutexGuard<'_, BTreeMap<String, PathBuf>> {
        self.roots.lock()
    }
}

impl Stats {
    /// Measures behind the scenes until the drain.
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

    /// Notes the CPU time of all that runs, and lets go of what does not.
    fn sample(&self) {
        let sought = self.all_running();
        for sought in &sought {
            // What ended just now is let go of the next time.
            if let Ok(Found::Group(group)) = self.find(sought) {
                let _ended = group.sample();
            }
        }
        // Notes the time of the node as well.
        let _unread = self.read_node();
        let keys: HashSet<&str> = sought.iter().map(|sought| sought.key.as_str()).collect();
        self.groups().retain(|key, _| keys.contains(key.as_str()));
    }

    fn all_running(&self) -> Vec<Sought> {
        let pods = self.deps.board.pods(&SandboxFilter { ready: Some(true), ..Default::default() });
        let containers = self.deps.board.containers(&ContainerFilter::default());
        let of_pod = |sandbox: &Sandbox| match sandbox.state {
            SandboxState::Ready { pid } => Some(cgroup_of(sandbox, pid)),
            SandboxState::Creating | SandboxState::NotReady => None,
        };
        pods.iter().filter_map(of_pod).chain(containers.iter().filter_map(running)).collect()
    }

    /// Measures the writable layers that are due, one at a time: containerd walks through them.
    async fn measure_layers(&self) {
        self.learn_roots().await;
        let board = &self.deps.board;
        let containers = board.containers(&ContainerFilter::default());
        let there: HashSet<&ContainerId> = containers.iter().map(|c| &c.id).collect();
        self.layers.measured().retain(|id, _| there.contains(id));
        for container in containers.iter().filter(|container| self.is_due(container)) {
            if self.measure_layer(container).await == Some(ErrorKind::Unavailable) {
                return;
            }
        }
    }

    /// A layer changes while its container runs.
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

    /// Why it could not be measured, if it could not. Whoever asks sees the last size then.
    pub(super) async fn measure_layer(&self, container: &Container) -> Option<ErrorKind> {
        let handler = self.handler_of(&container.pod);
        let snapshotter = self.snapshotter(&handler);
        let at = now();
        match self.deps.runtime.rootfs_usage(snapshotter, container.id.as_str()).await {
            Ok(usage) => {
                let (bytes, inodes) = (usage.bytes, usage.inodes);
                let layer = Layer { at, bytes, inodes, ..Layer::default() };
                self.layers.measured().insert(container.id.clone(), layer);
                None
            }
            Err(error) => {
                tracing::debug!(container = %container.id, %error, "writable layer not measured");
                Some(error.kind)
            }
        }
    }

    fn handler_of(&self, pod: &PodId) -> String {
        self.deps.board.pod(pod.as_str()).map(|pod| pod.handler).unwrap_or_default()
    }

    /// The folder of the snapshotter of a container's handler; empty until containerd told it.
    pub(super) fn mountpoint_of(&self, container: &Container) -> PathBuf {
        let handler = self.handler_of(&container.pod);
        self.layers.roots().get(self.snapshotter(&handler)).cloned().unwrap_or_default()
    }

    /// As [`Stats::learn_roots`], for a caller who must not wait for a containerd that hangs.
    pub(super) async fn learn_roots_soon(&self) {
        let _late = tokio::time::timeout(MEASURE_LIMIT, self.learn_roots()).await;
    }

    /// Snapshotters keep their folders for the life of containerd; one that is not known yet may
    /// have come with a containerd that was started anew.
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
            Err(error) => tracing::debug!(%error, "snapshotters not known"),
        }
    }
}
