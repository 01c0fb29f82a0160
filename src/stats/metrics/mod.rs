//! Metrics of pods and containers, in cAdvisor's format.

mod cgroup;
mod disks;
mod families;
mod given;
mod processes;
mod sockets;

pub use families::{Descriptor, Kind};
pub(super) use given::given;

use std::path::Path;
use std::sync::Arc;

use super::cgroup::{Controller, Folders};
use super::{Interface, Layer, Stats, Usage, pause_cgroup, running};
use crate::board::{Container, Sandbox, SandboxState};
use crate::clock::now;
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;
use disks::Disks;
use families::Family;

/// Metrics of one pod, or one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// Time of the reading.
    pub at: UnixNanos,
    /// Values of the common labels, in the order of [`Descriptor::label_keys`].
    pub base_labels: [String; families::BASE_LABELS.len()],
    /// The samples.
    pub list: Vec<Sample>,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its family.
    pub family: Descriptor,
    /// Values of the family's own labels.
    pub labels: Vec<String>,
    /// The value: whole seconds, bytes or counts.
    pub value: u64,
}

/// Metrics of a pod and of its running containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodMetrics {
    /// The pod.
    pub pod: PodId,
    /// Network metrics of the pod.
    pub samples: Samples,
    /// Metrics of its containers.
    pub containers: Vec<(ContainerId, Samples)>,
}

impl Samples {
    fn new(base_labels: [String; families::BASE_LABELS.len()]) -> Self {
        Self { at: now(), base_labels, list: Vec::new() }
    }

    fn add<const N: usize>(&mut self, family: &Family<N>, labels: [&str; N], value: u64) {
        let labels = labels.map(str::to_owned).into();
        self.list.push(Sample { family: family.0, labels, value });
    }

    /// Adds a sample unless the kernel does not report the value.
    fn add_known<const N: usize>(
        &mut self,
        family: &Family<N>,
        labels: [&str; N],
        value: Option<u64>,
    ) {
        if let Some(value) = value {
            self.add(family, labels, value);
        }
    }
}

impl Stats {
    /// The metric families that this host provides. They never change.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.given
    }

    /// Metrics of these pods and of their running containers; what ends meanwhile is left out. All
    /// samples belong to [`Stats::descriptors`], and each of those has a sample for every
    /// container, or for every pod with its own network.
    pub async fn metrics(self: &Arc<Self>, sandboxes: Vec<Arc<Sandbox>>) -> Vec<PodMetrics> {
        self.learn_roots_soon().await;
        self.blocking(move |room| {
            let mut containers = room.containers_of(None);
            let mut disks = Disks::read(&room.tree.proc);
            let read = |sandbox: &Arc<Sandbox>| {
                let containers = containers.remove(&sandbox.id).unwrap_or_default();
                room.pod_metrics(sandbox, &containers, &mut disks)
            };
            sandboxes.iter().filter_map(read).collect()
        })
        .await
    }

    fn pod_metrics(
        &self,
        sandbox: &Sandbox,
        containers: &[Arc<Container>],
        disks: &mut Disks,
    ) -> Option<PodMetrics> {
        let SandboxState::Ready { pid } = sandbox.state else { return None };
        let folders = self.folders(&pause_cgroup(sandbox, pid)).ok()?;
        let path = folders.map(|folders| folders.path).unwrap_or_default();
        let (name, image) = (sandbox.id.to_string(), String::new());
        let mut samples = Samples::new(base_labels(sandbox, "", path, image, name));
        if sandbox.netns.is_some() {
            for interface in self.interfaces(pid).unwrap_or_default() {
                add_interface(&mut samples, &interface);
            }
            sockets::add(&mut samples, &self.tree.proc, pid);
        }
        let of_container = |container: &Arc<Container>| {
            let samples = self.container_metrics(sandbox, container, disks)?;
            Some((container.id.clone(), samples))
        };
        let containers = containers.iter().filter_map(of_container).collect();
        Some(PodMetrics { pod: sandbox.id.clone(), samples, containers })
    }

    /// `None` when it does not run, or its cgroup cannot be read.
    fn container_metrics(
        &self,
        sandbox: &Sandbox,
        container: &Arc<Container>,
        disks: &mut Disks,
    ) -> Option<Samples> {
        let sought = running(container)?;
        let folders = self.folders(&sought).ok().flatten()?;
        let usage = self.read(&sought).ok().flatten()?;
        let (name, image) = (container.id.to_string(), container.image_name.clone());
        let labels = base_labels(
            sandbox,
            &container.config.metadata.name,
            folders.path.clone(),
            image,
            name,
        );
        let mut samples = Samples::new(labels);
        let layer = self.with_layer(container.clone(), None).layer;
        let found = Found {
            files: &Files(&folders),
            usage: &usage,
            most_memory: self.most_memory(&sought),
            layer: &layer,
            proc: &self.tree.proc,
            pid: sought.pid,
            started_at: container.state.started_at().unwrap_or_default(),
        };
        add_container(&mut samples, &found, disks);
        let given = |sample: &Sample| self.given.contains(&sample.family);
        samples.list.retain(given);
        Some(samples)
    }
}

/// A running container, with the values already read.
struct Found<'a> {
    files: &'a Files<'a>,
    usage: &'a Usage,
    /// Highest memory usage seen.
    most_memory: u64,
    layer: &'a Layer,
    /// Path of `/proc`.
    proc: &'a Path,
    /// Its first process.
    pid: u32,
    started_at: UnixNanos,
}

fn add_container(samples: &mut Samples, found: &Found<'_>, disks: &mut Disks) {
    let seconds = |at: UnixNanos| u64::try_from(at / 1_000_000_000).unwrap_or_default();
    let at = samples.at;
    samples.add(&families::LAST_SEEN, [], seconds(at));
    samples.add(&families::START_TIME, [], seconds(found.started_at));
    cgroup::add(samples, found.files, found.usage, found.most_memory);
    disks.add(samples, found.files, found.layer);
    processes::add(samples, found.files, found.proc, found.pid);
}

/// In the order of [`families::BASE_LABELS`].
fn base_labels(
    sandbox: &Sandbox,
    container: &str,
    cgroup: String,
    image: String,
    name: String,
) -> [String; families::BASE_LABELS.len()] {
    let pod = &sandbox.config.metadata;
    [container.to_owned(), cgroup, image, name, pod.namespace.clone(), pod.name.clone()]
}

fn add_interface(samples: &mut Samples, interface: &Interface) {
    let Interface { name, received, sent } = interface;
    samples.add(&families::RECEIVE_BYTES, [name], received.bytes);
    samples.add(&families::RECEIVE_PACKETS, [name], received.packets);
    samples.add(&families::RECEIVE_DROPPED, [name], received.dropped);
    samples.add(&families::RECEIVE_ERRORS, [name], received.errors);
    samples.add(&families::TRANSMIT_BYTES, [name], sent.bytes);
    samples.add(&families::TRANSMIT_PACKETS, [name], sent.packets);
    samples.add(&families::TRANSMIT_DROPPED, [name], sent.dropped);
    samples.add(&families::TRANSMIT_ERRORS, [name], sent.errors);
}

/// Files of a cgroup that only metrics use: they are not kept open.
struct Files<'a>(&'a Folders);

impl Files<'_> {
    fn text(&self, controller: Controller, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.0.of(controller)?.join(name)).ok()
    }

    fn number(&self, controller: Controller, name: &str) -> Option<u64> {
        super::parse::number(&self.text(controller, name)?)
    }

    /// The value of one key in a file.
    fn value(&self, controller: Controller, name: &str, key: &str) -> Option<u64> {
        super::parse::value_of(&self.text(controller, name)?, key)
    }

    /// The value in a single-number file with different names in v1 and v2.
    fn either(&self, controller: Controller, v1: &str, v2: &str) -> Option<u64> {
        self.number(controller, if self.is_v1() { v1 } else { v2 })
    }

    fn is_v1(&self) -> bool {
        self.0.is_v1()
    }
}

#[cfg(test)]
mod tests;
