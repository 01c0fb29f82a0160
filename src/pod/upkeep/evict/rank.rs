//! The order of evictions.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Volume};

use super::signals::{Observations, Signal, Threshold};
use crate::pod::Given;
use crate::pod::translate::{pod_requests, priority, value};

/// Disk usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disk {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Disk {
    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// Resource usage of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerUse {
    /// Working set in bytes; `None` when unknown.
    pub memory: Option<u64>,
    /// Its writable layer.
    pub layer: Disk,
    /// Its logs, including rotated ones.
    pub logs: Disk,
}

/// Resource usage of a pod.
#[derive(Debug, Clone)]
pub struct PodUse {
    /// The pod.
    pub given: Arc<Given>,
    /// Working set of its cgroup in bytes; `None` when unknown.
    pub memory: Option<u64>,
    /// Number of its processes; `None` when unknown.
    pub processes: Option<u64>,
    /// Its containers, by name.
    pub containers: BTreeMap<String, ContainerUse>,
    /// Its `emptyDir` volumes by name, including those in memory.
    pub empty_dirs: BTreeMap<String, Disk>,
    /// The files that podbay makes for its containers and they can write: `/etc/hosts` and so on,
    /// termination messages.
    pub files: Disk,
}

impl PodUse {
    /// Usage of its writable layers.
    fn layers(&self) -> Disk {
        self.containers.values().map(|used| used.layer).fold(Disk::default(), Disk::plus)
    }

    /// Usage of its logs, files and volumes, without those in memory.
    fn logs_and_volumes(&self) -> Disk {
        let logs = self.containers.values().map(|used| used.logs);
        let on_disk = |volume: &&Volume| {
            volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref() != Some("Memory"))
        };
        let volumes = self.given.spec().volumes.iter().flatten().filter(on_disk);
        let volumes = volumes.filter_map(|volume| self.empty_dirs.get(&volume.name).copied());
        logs.chain(volumes).fold(self.files, Disk::plus)
    }

    /// Its total disk usage.
    pub(super) fn disk(&self) -> Disk {
        self.layers().plus(self.logs_and_volumes())
    }

    fn request(&self, resource: &str) -> u64 {
        let requests = pod_requests(self.given.spec());
        u64::try_from(requests.get(resource).copied().unwrap_or_default()).unwrap_or_default()
    }

    /// Its usage of a signal's resource.
    fn used(&self, signal: Signal, own_image_disk: bool) -> Option<u64> {
        match signal {
            Signal::MemoryAvailable => return self.memory,
            Signal::PidAvailable => return self.processes,
            _ => {}
        }
        let image = matches!(signal, Signal::ImagefsAvailable | Signal::ImagefsInodesFree);
        let used = match (own_image_disk, image) {
            (false, _) => self.disk(),
            (true, true) => self.layers(),
            (true, false) => self.logs_and_volumes(),
        };
        Some(if signal.is_inodes() { used.inodes } else { used.bytes })
    }
}

/// Sorts pods by order of eviction: those exceeding their requests first, then by ascending
/// priority, then by usage (for memory: usage beyond the request). There are no requests for
/// process ids, so priority comes first there. A pod with unknown usage goes before others.
pub fn rank(signal: Signal, pods: Vec<PodUse>, own_image_disk: bool) -> Vec<PodUse> {
    let mut keyed: Vec<_> =
        pods.into_iter().map(|pod| (key(signal, &pod, own_image_disk), pod)).collect();
    // Stable: equal pods keep their order.
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, pod)| pod).collect()
}

/// Sort key; smaller is evicted first.
fn key(signal: Signal, pod: &PodUse, own_image_disk: bool) -> (bool, bool, i32, Reverse<i128>) {
    let priority = priority(pod.given.spec());
    let Some(used) = pod.used(signal, own_image_disk) else {
        return (false, false, priority, Reverse(0));
    };
    let request = pod.request(signal.resource());
    let modest = signal != Signal::PidAvailable && used.cmp(&request) != Ordering::Greater;
    let beyond = match signal {
        Signal::MemoryAvailable => i128::from(used) - i128::from(request),
        _ => i128::from(used),
    };
    (true, modest, priority, Reverse(beyond))
}

/// Message of the eviction, as in the kubelet.
pub(super) fn message(
    signal: Signal,
    pod: &PodUse,
    threshold: Option<&Threshold>,
    seen: &Observations,
) -> String {
    let resource = signal.resource();
    let mut text = format!("The node was low on resource: {resource}. ");
    if let (Some(threshold), Some(seen)) = (threshold, seen.get(&signal)) {
        let least = signal.show(threshold.least(seen.capacity));
        let available = signal.show(seen.available);
        text.push_str(&format!("Threshold quantity: {least}, available: {available}. "));
    }
    let spec = pod.given.spec();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in containers {
        let Some(used) = pod.containers.get(&container.name) else { continue };
        let used = match resource {
            "memory" => used.memory,
            "ephemeral-storage" => Some(used.layer.plus(used.logs).bytes),
            _ => None,
        };
        let request = requested(container, resource);
        if let Some(used) = used.filter(|used| *used > request) {
            let name = &container.name;
            let (used, request) = (signal.show(used), signal.show(request));
            text.push_str(&format!(
                "Container {name} was using {used}, request is {request}, has larger consumption \
                 of {resource}. "
            ));
        }
    }
    text
}

fn requested(container: &Container, resource: &str) -> u64 {
    let requests = container.resources.as_ref().and_then(|it| it.requests.as_ref());
    let request = requests.and_then(|requests| requests.get(resource));
    request.map_or(0, |request| u64::try_from(value(request)).unwrap_or_default())
}
