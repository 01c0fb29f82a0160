//! Connects the node's upkeep with the pods: measurements and evictions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;

use super::Pods;
use crate::board::{Sandbox, SandboxFilter};
use crate::clock::now;
use crate::ids::PodId;
use crate::model::Owner;
use crate::pod::EventType;
use crate::pod::admit::Pressure;
use crate::pod::backoff::later;
use crate::pod::object::Given;
use crate::pod::reason::verdict;
use crate::pod::record::Verdict;
use crate::pod::room::Entry;
use crate::pod::upkeep::{
    Below, ContainerUse, Disk, EvictionOptions, Evictor, Node, Observations, PodUse, Upkeep,
    UpkeepOptions, disk_of_tree,
};
use crate::telemetry::error_chain;

/// Grace period of the containers of an evicted pod, as in the kubelet.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// Options of the upkeep.
#[derive(Debug, Clone)]
pub struct KeepOptions {
    /// Logs, dead containers, images.
    pub upkeep: UpkeepOptions,
    /// Remove unused images while there are pods.
    pub image_gc: bool,
    /// Whether to remove unused images while there are pods.
    pub eviction: EvictionOptions,
}

/// Resource usage of a pod, as far as known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Used {
    /// Working set in bytes.
    pub memory: Option<u64>,
    /// Number of processes.
    pub processes: Option<u64>,
    /// Its containers by name, without their logs.
    pub containers: BTreeMap<String, ContainerUse>,
}

/// Measures the node and what runs on it.
#[async_trait]
pub trait Meter: Send + Sync {
    /// Free resources of the node.
    async fn observe(&self) -> Observations;

    /// Usage of the pods in these sandboxes, by uid.
    async fn used(&self, sandboxes: Vec<Arc<Sandbox>>) -> BTreeMap<String, Used>;
}

impl Pods {
    /// Starts the upkeep of logs, dead containers, images and node resources, until the drain. Only
    /// the first call has an effect.
    pub fn start_upkeep(self: &Arc<Self>, options: KeepOptions, meter: Arc<dyn Meter>) {
        let (known, there) = (Arc::downgrade(self), Arc::downgrade(self));
        let image_gc = options.image_gc;
        let below = Arc::new(Below {
            sandboxes: self.room.deps.sandboxes.clone(),
            images: self.room.deps.images.clone(),
            is_known: Arc::new(move |uid: &str| known.upgrade().is_none_or(|it| it.knows(uid))),
            collects_images: Arc::new(move || {
                image_gc && there.upgrade().is_some_and(|pods| !pods.room.is_empty())
            }),
        });
        let upkeep = Upkeep::new(options.upkeep, below.clone(), below.clone(), below);
        let pods = Arc::downgrade(self);
        let keeper = Arc::new(Keeper { pods, upkeep: upkeep.clone(), meter });
        let evictor = Arc::new(Evictor::new(keeper, options.eviction));
        if self.pressure.set(evictor.pressure()).is_ok() {
            upkeep.start(&self.room.deps.tasks, Some(evictor));
        }
    }

    /// Resources that the node is short of.
    pub(super) fn pressure(&self) -> Pressure {
        self.pressure.get().map(|pressure| *pressure.borrow()).unwrap_or_default()
    }

    /// Whether there is a pod with this uid, or an unreadable row of one.
    fn knows(&self, uid: &str) -> bool {
        let unread = self.unread.lock();
        unread.contains(uid) || self.room.has(uid)
    }
}

/// The node, as seen by the evictor.
struct Keeper {
    pods: Weak<Pods>,
    upkeep: Arc<Upkeep>,
    meter: Arc<dyn Meter>,
}

#[async_trait]
impl Node for Keeper {
    async fn observe(&self) -> Observations {
        self.meter.observe().await
    }

    async fn pods(&self) -> Vec<PodUse> {
        let Some(pods) = self.pods.upgrade() else { return Vec::new() };
        let filter = SandboxFilter {
            owner: Some(Owner::Pod),
            ready: Some(true),
            ..SandboxFilter::default()
        };
        let sandboxes = pods.room.deps.sandboxes.list(&filter);
        let of_uid = |it: &Arc<Sandbox>| (it.config.metadata.uid.clone(), it.id.clone());
        let ids: BTreeMap<String, PodId> = sandboxes.iter().map(of_uid).collect();
        let mut used = self.meter.used(sandboxes).await;
        let short = pods.pressure().disk;
        let mut found = Vec::new();
        // Pods that are ending free their resources anyway; pods without running containers have
        // none.
        for entry in pods.room.all() {
            let life = entry.life();
            let Some(used) = used.remove(&entry.uid).filter(|_| !life.is_ending()) else {
                continue;
            };
            let folders = match short || has_limits(&life.given) {
                true => folders(&pods, &life.given, ids.get(&entry.uid)),
                false => Folders::default(),
            };
            found.push(take(life.given.clone(), used, folders).await);
        }
        found
    }

    async fn reclaim(&self) {
        self.upkeep.reclaim().await;
    }

    async fn evict(&self, uid: &str, message: String) {
        let Some(pods) = self.pods.upgrade() else { return };
        let Some(entry) = pods.room.by_uid(uid) else { return };
        if let Err(error) = pods.evict(&entry, message).await {
            tracing::warn!(pod = %entry.key, error = error_chain(&error), "cannot evict pod yet");
            return;
        }
        drop(pods);
        entry.ended().await;
    }
}

impl Pods {
    /// Fails the pod as evicted.
    async fn evict(&self, entry: &Entry, message: String) -> Result<(), crate::pod::Error> {
        let at = now();
        let verdict = Verdict {
            succeeded: false,
            reason: verdict::EVICTED.to_owned(),
            message: message.clone(),
            at,
            deadline: later(at, EVICTION_GRACE),
            disrupted: true,
        };
        let life = self.change(entry, |life| life.judge(verdict)).await?;
        self.room.event(&life, None, EventType::Warning, verdict::EVICTED, message);
        Ok(())
    }
}

/// Whether it has limits on local storage, so that its usage is measured at each look.
fn has_limits(given: &Given) -> bool {
    let spec = given.spec();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let lists = containers.filter_map(|it| it.resources.as_ref()).chain(spec.resources.as_ref());
    let mut limits = lists.filter_map(|it| it.limits.as_ref());
    let mut volumes = spec.volumes.iter().flatten();
    limits.any(|limits| limits.contains_key("ephemeral-storage"))
        || volumes.any(|v| v.empty_dir.as_ref().is_some_and(|dir| dir.size_limit.is_some()))
}

/// Directories to measure, by container and by volume.
#[derive(Default)]
struct Folders {
    logs: Vec<(String, PathBuf)>,
    volumes: Vec<(String, PathBuf)>,
    /// Those of the whole pod.
    files: Vec<PathBuf>,
}

fn folders(pods: &Pods, given: &Given, sandbox: Option<&PodId>) -> Folders {
    let deps = &pods.room.deps;
    let root = pods.room.log_folder(given);
    let names = crate::pod::plan::wanted(given.spec());
    let logs = names.iter().map(|it| (it.name.to_owned(), root.join(it.name))).collect();
    let volumes = deps.volumes.empty_dirs(given).unwrap_or_default();
    let volumes = volumes.into_iter().map(|dir| (dir.volume, dir.path)).collect();
    let messages = deps.volumes.messages_of(given.uid()).ok();
    let shared = sandbox.and_then(|id| deps.sandboxes.files_of(id));
    Folders { logs, volumes, files: messages.into_iter().chain(shared).collect() }
}

async fn take(given: Given, used: Used, folders: Folders) -> PodUse {
    let measure = |list: Vec<(String, PathBuf)>| -> BTreeMap<String, Disk> {
        list.into_iter().map(|(name, path)| (name, disk_of_tree(&path))).collect()
    };
    let measured = move || {
        let files = folders.files.iter().map(|path| disk_of_tree(path));
        let files = files.fold(Disk::default(), Disk::plus);
        (measure(folders.logs), measure(folders.volumes), files)
    };
    let measured = tokio::task::spawn_blocking(measured).await;
    let (logs, empty_dirs, files) = measured.unwrap_or_default();
    let mut containers = used.containers;
    for (name, logs) in logs {
        containers.entry(name).or_default().logs = logs;
    }
    let (memory, processes) = (used.memory, used.processes);
    PodUse { given: Arc::new(given), memory, processes, containers, empty_dirs, files }
}
