//! Containers of pods: create, start, stop, remove, exec, attach, logs, exits.
//!
//! Each container is one `Entry` (`entry.rs`): its record, and a lock that serialises all changes
//! of it. A change goes record -> store -> board, in that order, so nothing is published or
//! acknowledged before it is durable. Reads use only the [`Board`].

mod attach;
mod cdi;
mod cgroups;
mod checkpoint;
mod create;
mod entry;
mod error;
mod exec;
mod exit;
mod hooks;
mod mute;
mod names;
mod prepare;
mod record;
mod recover;
mod remove;
mod start;
mod stop;
mod streams;
mod update;

pub use crate::board::{
    Container, ContainerFilter as Filter, ContainerState, EndReason, EventKind, Exited, StateName,
};
pub(crate) use create::KIND_LABEL;
pub use error::Error;
pub use exec::ExecOutput;
pub(crate) use hooks::{Told, hooked_pod, hooked_pod_with};
pub use record::{ContainerRecord, InitProcess};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::backend::{HandlerFeatures, Hooks, Host, Runtime, RuntimeHandler};
use crate::board::Board;
use crate::ids::{ContainerId, PodId};
use crate::image::Images;
use crate::lifecycle::Tasks;
use crate::locks::{Mutex, MutexGuard};
use crate::logs::Pumps;
use crate::model::Owner;
use crate::model::image::Digest;
use crate::model::pod::PodConfig;
use crate::oci::{self, SharedFiles};
use crate::store::Store;
use cgroups::OwedCgroups;
use entry::Entry;
use names::Names;
use prepare::UserFilesCache;

/// The collaborators of this room.
#[derive(Clone)]
pub struct Deps {
    /// Runs tasks: containers and execs.
    pub runtime: Arc<dyn Runtime>,
    /// The host.
    pub host: Arc<dyn Host>,
    /// Plugins of the node.
    pub hooks: Arc<dyn Hooks>,
    /// Image store.
    pub images: Arc<Images>,
    /// Persistent store.
    pub store: Store,
    /// The published state.
    pub board: Arc<Board>,
    /// Spawns owned tasks.
    pub tasks: Tasks,
    /// Log writers.
    pub pumps: Arc<Pumps>,
}

/// Settings of this room.
#[derive(Debug, Clone)]
pub struct Options {
    /// Persistent folder of containers (anonymous volumes), e.g. `/var/lib/podbay/containers`.
    pub root: PathBuf,
    /// Run-time folder of containers (FIFOs), e.g. `/run/podbay/containers`.
    pub state: PathBuf,
    /// Settings of the OCI spec.
    pub oci: oci::Settings,
    /// Directories of CDI spec files, by ascending priority; empty disables CDI.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Maximum payload of one log record, in bytes.
    pub max_log_line: usize,
}

/// What containers need to know of their pod; the sandbox room passes it at each create and start.
#[derive(Debug, Clone)]
pub struct PodContext {
    /// Id.
    pub id: PodId,
    /// Who manages it.
    pub owner: Owner,
    /// The requested configuration.
    pub config: Arc<PodConfig>,
    /// Its runtime handler.
    pub handler: RuntimeHandler,
    /// Features of that handler.
    pub features: HandlerFeatures,
    /// PID of the pause process.
    pub pause_pid: u32,
    /// Network namespace; `None` for the host's.
    pub netns: Option<PathBuf>,
    /// User namespace; `None` for the host's.
    pub userns: Option<PathBuf>,
    /// SELinux level, shared by its containers.
    pub selinux_level: Option<String>,
    /// Files shared by all containers of the pod.
    pub files: SharedFiles,
    /// Host paths of the mounted images of a container that is being created, by index of the
    /// mount.
    pub image_mounts: BTreeMap<usize, PathBuf>,
    /// Ids of those images.
    pub mounted_images: BTreeMap<usize, Digest>,
    /// Effective host name.
    pub hostname: String,
}

/// All containers of the agent.
pub struct Containers {
    deps: Deps,
    options: Options,
    entries: Mutex<BTreeMap<ContainerId, Arc<Entry>>>,
    names: Names,
    user_files: UserFilesCache,
    owed_cgroups: OwedCgroups,
    /// Memory budget for the output of execs.
    exec_budget: Arc<Semaphore>,
}

impl Containers {
    /// An empty room; [`Containers::recover`] fills it.
    pub fn new(deps: Deps, options: Options) -> Arc<Self> {
        Arc::new(Self {
            deps,
            options,
            entries: Mutex::default(),
            names: Names::default(),
            user_files: UserFilesCache::default(),
            owed_cgroups: OwedCgroups::default(),
            exec_budget: Arc::new(Semaphore::new(exec::BUDGET)),
        })
    }

    /// One container by id or unique prefix, as published.
    pub fn get(&self, id: &str) -> Result<Arc<Container>, Error> {
        let found = self.deps.board.container(id);
        found.map_err(|error| error.of(id, Error::NotFound, Error::AmbiguousId))
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Arc<Entry>>> {
        self.entries.lock()
    }

    fn entry(&self, id: &ContainerId) -> Result<Arc<Entry>, Error> {
        self.entries().get(id).cloned().ok_or_else(|| Error::NotFound(id.to_string()))
    }

    /// The entry of an id or prefix; `None` when there is none, so that stop and remove are
    /// idempotent.
    fn find(&self, id: &str) -> Result<Option<Arc<Entry>>, Error> {
        match self.get(id) {
            Ok(container) => Ok(self.entries().get(&container.id).cloned()),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a container is being removed or is removed already: from then on nothing of it may
    /// be stored or published. The caller holds its lock.
    fn is_leaving(&self, entry: &Entry) -> bool {
        entry.is_removing() || !self.entries().contains_key(&entry.id)
    }

    /// Whether the shim of a pod is busy with the start of a container, so that it may not answer.
    pub(crate) fn is_starting_in(&self, pod: &PodId) -> bool {
        self.entries().values().any(|entry| entry.pod == *pod && entry.is_starting())
    }

    /// Entries of a pod, including unpublished ones.
    fn entries_of(&self, pod: &PodId) -> Vec<Arc<Entry>> {
        self.entries().values().filter(|entry| entry.pod == *pod).cloned().collect()
    }

    /// Notes an OOM kill in a container. The event may arrive after the exit was published.
    pub fn note_oom(self: &Arc<Self>, id: &str) {
        let entry = ContainerId::try_from(id).ok().and_then(|id| self.entry(&id).ok());
        if let Some(entry) = entry {
            entry.oom.send_replace(true);
            let room = self.clone();
            let late = async move { room.correct_reason(&entry).await };
            drop(self.deps.tasks.spawn("container-oom", late));
        }
    }
}
