//! Measures the node for eviction and image garbage collection.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::board::Sandbox;
use crate::pod::upkeep::{ContainerUse, Disk, NodePaths, Observations};
use crate::pod::{Meter, Used};
use crate::stats::{ContainerStats, PodStats, Stats, Usage};

/// Values reported by the kernel and containerd.
pub(super) struct NodeMeter {
    pub(super) stats: Arc<Stats>,
    pub(super) paths: NodePaths,
}

#[async_trait]
impl Meter for NodeMeter {
    async fn observe(&self) -> Observations {
        let paths = self.paths.clone();
        tokio::task::spawn_blocking(move || paths.observe()).await.unwrap_or_default()
    }

    async fn used(&self, sandboxes: Vec<Arc<Sandbox>>) -> BTreeMap<String, Used> {
        let pods = self.stats.pods(sandboxes).await;
        pods.into_iter().map(|pod| (pod.sandbox.config.metadata.uid.clone(), of_pod(pod))).collect()
    }
}

fn of_pod(pod: PodStats) -> Used {
    let container = |it: ContainerStats| {
        let layer = Disk { bytes: it.layer.bytes, inodes: it.layer.inodes };
        let memory = working_set(it.usage.as_ref());
        let used = ContainerUse { memory, layer, logs: Disk::default() };
        (it.container.config.metadata.name.clone(), used)
    };
    Used {
        memory: working_set(pod.usage.as_ref()),
        processes: pod.processes,
        containers: pod.containers.into_iter().map(container).collect(),
    }
}

fn working_set(usage: Option<&Usage>) -> Option<u64> {
    Some(usage?.memory?.working_set)
}
