//! Resource usage of pods and containers: CPU, memory, swap, pressure, network, disk.
//!
//! Values are read from the kernel on request, directly from files and without a call to
//! containerd. Two are prepared in the background (`sampler.rs`): the earlier CPU time, needed for
//! usage per second, and the size of writable layers, which containerd has to measure.

mod cgroup;
mod metrics;
mod node;
mod parse;
mod sampler;
mod usage;

pub use metrics::{Descriptor, Kind, PodMetrics, Sample, Samples};
pub use usage::{
    ContainerStats, Cpu, Interface, Layer, Memory, PodStats, Pressure, Swap, Traffic, Usage,
    Waiting,
};

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{CgroupVersion, Runtime};
use crate::board::{Board, Container, ContainerFilter, ContainerState, Sandbox, SandboxState};
use crate::clock::now;
use crate::ids::PodId;
use crate::lifecycle::Tasks;
use crate::locks::{Mutex, MutexGuard};
use crate::model::UnixNanos;
use cgroup::{Folders, Group, Tree, is_gone};
use sampler::Layers;

/// How long a call waits for the size of a writable layer that was never measured.
const MEASURE_LIMIT: Duration = Duration::from_secs(1);

/// Least number of list items for a thread: for fewer, starting it costs more.
const PART: usize = 25;

/// The collaborators of this room.
#[derive(Clone)]
pub struct Deps {
    /// Measures writable layers.
    pub runtime: Arc<dyn Runtime>,
    /// The published pods and containers.
    pub board: Arc<Board>,
    /// Spawns owned tasks.
    pub tasks: Tasks,
}

/// Settings of this room.
#[derive(Debug, Clone)]
pub struct Options {
    /// cgroup version of the host.
    pub cgroup: CgroupVersion,
    /// Mount point of cgroups, `/sys/fs/cgroup`.
    pub cgroup_root: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// Interval of CPU time samples.
    pub interval: Duration,
    /// Maximum age of the layer size of a running container.
    pub layer_interval: Duration,
    /// Snapshotter of each runtime handler; "" is the default one.
    pub snapshotters: BTreeMap<String, String>,
    /// Maximum number of files kept open.
    pub max_files: usize,
}

/// Resource usage of all pods and containers.
pub struct Stats {
    deps: Deps,
    options: Options,
    tree: Tree,
    /// cgroups by id of the container or pod.
    groups: Mutex<HashMap<String, Arc<Group>>>,
    layers: Layers,
    node: node::Noted,
    /// Metric families that this host provides.
    given: Vec<Descriptor>,
}

/// The result of looking for a cgroup.
enum Found {
    Group(Arc<Group>),
    /// The process or its cgroup has just ended.
    Gone,
    /// There is no cgroup to read, e.g. because the process runs in a virtual machine.
    Foreign,
}

impl Stats {
    /// Background measurements begin only with [`Stats::start`].
    pub fn new(deps: Deps, options: Options) -> Arc<Self> {
        let tree = Tree {
            version: options.cgroup,
            root: options.cgroup_root.clone(),
            proc: options.proc.clone(),
        };
        let (groups, layers, node) = Default::default();
        let given = metrics::given(&tree);
        Arc::new(Self { deps, options, tree, groups, layers, node, given })
    }

    /// Usage of one container in any state. Its writable layer is measured now if it never was.
    pub async fn container(self: &Arc<Self>, container: Arc<Container>) -> ContainerStats {
        if self.layers.get(&container.id).is_none() {
            // With a limit, so that a hanging containerd does not block the kernel's values.
            let measured =
                tokio::time::timeout(MEASURE_LIMIT, self.measure_layer(&container, None));
            let _late = measured.await;
        }
        self.learn_roots_soon().await;
        self.blocking(move |room| {
            let usage = room.usage(&container).ok().flatten();
            room.with_layer(container, usage)
        })
        .await
    }

    /// Usage of many containers; those that end meanwhile are left out.
    pub async fn containers(
        self: &Arc<Self>,
        containers: Vec<Arc<Container>>,
    ) -> Vec<ContainerStats> {
        self.learn_roots_soon().await;
        self.spread(containers, Self::read_containers).await
    }

    /// Usage of one pod in any state.
    pub async fn pod(self: &Arc<Self>, sandbox: Arc<Sandbox>) -> PodStats {
        self.learn_roots_soon().await;
        self.blocking(move |room| {
            let containers = room.containers_of(Some(&sandbox.id)).remove(&sandbox.id);
            room.read_pod(sandbox, containers.unwrap_or_default())
        })
        .await
    }

    /// Usage of many pods; those that end meanwhile are left out.
    pub async fn pods(self: &Arc<Self>, sandboxes: Vec<Arc<Sandbox>>) -> Vec<PodStats> {
        self.learn_roots_soon().await;
        let mut containers = self.containers_of(None);
        let with_containers = |sandbox: Arc<Sandbox>| {
            let containers = containers.remove(&sandbox.id).unwrap_or_default();
            (sandbox, containers)
        };
        self.spread(sandboxes.into_iter().map(with_containers).collect(), |room, pods| {
            let stats = pods.into_iter().map(|(pod, containers)| room.read_pod(pod, containers));
            stats.filter(|pod| pod.usage.is_some() || !room.has_ended(&pod.sandbox)).collect()
        })
        .await
    }

    /// Usage of the whole node; `None` when it cannot be read.
    pub async fn node(self: &Arc<Self>) -> Option<Usage> {
        self.blocking(|room| room.read_node().ok()).await
    }

    fn read_node(&self) -> io::Result<Usage> {
        self.node.read(&self.options.proc, now(), self.options.interval / 2)
    }

    /// Runs one blocking task for a whole list, since starting a task costs more than a reading.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let room = self.clone();
        match tokio::task::spawn_blocking(move || work(&room)).await {
            Ok(stats) => stats,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and this task with it.
                Err(_cancelled) => std::future::pending().await,
            },
        }
    }

    /// Reads a list on all cores, each with an equal part of it, and keeps its order.
    async fn spread<I: Send + 'static, T: Send + 'static>(
        self: &Arc<Self>,
        mut items: Vec<I>,
        read: fn(&Self, Vec<I>) -> Vec<T>,
    ) -> Vec<T> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let size = items.len().div_ceil(cores).max(PART);
        let mut parts = VecDeque::new();
        while items.len() > size {
            parts.push_front(items.split_off(items.len() - size));
        }
        parts.push_front(items);
        let read = |part| self.blocking(move |room| read(room, part));
        let read = futures::future::join_all(parts.into_iter().map(read)).await;
        read.into_iter().flatten().collect()
    }

    fn read_containers(&self, containers: Vec<Arc<Container>>) -> Vec<ContainerStats> {
        let read = |container: Arc<Container>| match self.usage(&container) {
            Ok(usage) => Some(self.with_layer(container, usage)),
            Err(_gone) => None,
        };
        containers.into_iter().filter_map(read).collect()
    }

    fn read_pod(&self, sandbox: Arc<Sandbox>, containers: Vec<Arc<Container>>) -> PodStats {
        let at = now();
        let containers = self.read_containers(containers);
        let SandboxState::Ready { pid } = sandbox.state else {
            let (usage, network, processes) = (None, None, None);
            return PodStats { sandbox, at, usage, network, processes, containers };
        };
        let usage = match sandbox.config.cgroup_parent.as_str() {
            "" => self.sum(&sandbox, pid, &containers),
            _ => self.read(&cgroup_of(&sandbox, pid)).ok().flatten(),
        };
        let network = sandbox.netns.as_ref().and_then(|_| self.interfaces(pid).ok());
        let running = containers.iter().filter_map(|stats| running(&stats.container));
        let processes = running.map(|found| self.processes(&found)).sum();
        PodStats { sandbox, at, usage, network, processes: Some(processes), containers }
    }

    /// For a pod without its own cgroup: the sum of its containers and the pause process.
    fn sum(&self, sandbox: &Sandbox, pid: u32, containers: &[ContainerStats]) -> Option<Usage> {
        let pause = self.read(&pause_cgroup(sandbox, pid)).ok().flatten()?;
        let containers = containers.iter().filter_map(|stats| stats.usage.as_ref());
        Some(containers.fold(pause, Usage::plus))
    }

    /// Whether a pod that is published as ready has just ended.
    fn has_ended(&self, sandbox: &Sandbox) -> bool {
        let SandboxState::Ready { pid } = sandbox.state else { return false };
        matches!(self.find(&cgroup_of(sandbox, pid)), Ok(Found::Gone))
    }

    /// `None` when it does not run, or its cgroup cannot be read.
    fn usage(&self, container: &Container) -> io::Result<Option<Usage>> {
        running(container).map_or(Ok(None), |sought| self.read(&sought))
    }

    /// # Errors
    /// When it is gone or cannot be read.
    fn read(&self, sought: &Sought) -> io::Result<Option<Usage>> {
        match self.find(sought)? {
            Found::Foreign => Ok(None),
            Found::Gone => Err(io::ErrorKind::NotFound.into()),
            Found::Group(group) => {
                let usage = group.read(self.options.interval / 2);
                if usage.as_ref().is_err_and(is_gone) {
                    self.groups().remove(&sought.key);
                }
                usage.map(Some)
            }
        }
    }

    fn find(&self, sought: &Sought) -> io::Result<Found> {
        let known = self.groups().get(&sought.key).cloned();
        if let Some(group) = known.filter(|group| group.pid == sought.pid) {
            return Ok(Found::Group(group));
        }
        let opened = self.folders(sought).and_then(|folders| {
            let Some(folders) = folders else { return Ok(None) };
            let age = u64::try_from(now().saturating_sub(sought.since)).ok();
            // A sample older than the interval says nothing about current usage.
            let age = age.map(Duration::from_nanos).filter(|age| *age <= self.options.interval);
            let keep = (self.groups().len() + 1) * cgroup::FILES <= self.options.max_files;
            Group::open(sought.pid, &folders, age, keep).map(|group| Some(Arc::new(group)))
        });
        match opened {
            Ok(Some(group)) => {
                self.groups().insert(sought.key.clone(), group.clone());
                Ok(Found::Group(group))
            }
            Ok(None) => Ok(Found::Foreign),
            Err(error) if is_gone(&error) => Ok(Found::Gone),
            Err(error) => Err(error),
        }
    }

    fn folders(&self, sought: &Sought) -> io::Result<Option<Folders>> {
        let folders = self.tree.folders(sought.pid, &sought.id)?;
        Ok(if sought.above { folders.map(Folders::parent) } else { folders })
    }

    /// Number of processes in a container; 0 when it is gone.
    fn processes(&self, sought: &Sought) -> u64 {
        let folders = self.folders(sought).ok().flatten();
        let count = folders.map_or(0, |folders| folders.processes().len());
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Interfaces in the network namespace of a process. The file is not kept open, since that
    /// would keep the namespace alive.
    fn interfaces(&self, pid: u32) -> io::Result<Vec<Interface>> {
        let text = std::fs::read_to_string(self.tree.proc.join(format!("{pid}/net/dev")))?;
        Ok(parse::interfaces(&text))
    }

    /// Adds the layer. Its mount point is looked up now, since it may have been unknown at the time
    /// of measurement.
    fn with_layer(&self, container: Arc<Container>, usage: Option<Usage>) -> ContainerStats {
        let unmeasured = || Layer { at: container.created_at, ..Layer::default() };
        let mut layer = self.layers.get(&container.id).unwrap_or_else(unmeasured);
        layer.mountpoint = self.mountpoint_of(&container);
        ContainerStats { container, usage, layer }
    }

    /// Highest memory usage seen.
    fn most_memory(&self, sought: &Sought) -> u64 {
        self.groups().get(&sought.key).map_or(0, |group| group.most_memory())
    }

    fn containers_of(&self, pod: Option<&PodId>) -> HashMap<PodId, Vec<Arc<Container>>> {
        let filter = ContainerFilter { pod: pod.map(PodId::to_string), ..Default::default() };
        let mut by_pod: HashMap<_, Vec<_>> = HashMap::new();
        for container in self.deps.board.containers(&filter) {
            by_pod.entry(container.pod.clone()).or_default().push(container);
        }
        by_pod
    }

    fn snapshotter(&self, handler: &str) -> &str {
        let snapshotters = &self.options.snapshotters;
        snapshotters.get(handler).or_else(|| snapshotters.get("")).map_or("", String::as_str)
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<String, Arc<Group>>> {
        self.groups.lock()
    }
}

/// A cgroup to find.
struct Sought {
    /// Its key in the map of groups.
    key: String,
    /// A process in it.
    pid: u32,
    /// The id contained in the last component of its path.
    id: String,
    /// Whether its parent cgroup is wanted.
    above: bool,
    /// Time of its creation, or slightly later.
    since: UnixNanos,
}

/// The cgroup of a running container.
fn running(container: &Container) -> Option<Sought> {
    let ContainerState::Running { started_at, pid } = container.state else { return None };
    let id = container.id.to_string();
    Some(Sought { key: id.clone(), pid, id, above: false, since: started_at })
}

/// The cgroup of the pause process.
fn pause_cgroup(sandbox: &Sandbox, pid: u32) -> Sought {
    let id = sandbox.id.to_string();
    Sought { key: id.clone(), pid, id, above: false, since: sandbox.created_at }
}

/// The cgroup assigned to a pod, which contains those of all its containers; else that of its pause
/// process.
fn cgroup_of(sandbox: &Sandbox, pid: u32) -> Sought {
    let above = !sandbox.config.cgroup_parent.is_empty();
    Sought { above, ..pause_cgroup(sandbox, pid) }
}
