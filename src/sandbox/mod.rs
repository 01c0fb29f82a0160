//! Pod sandboxes: the pause container, the network, and the files that its containers share.
//!
//! [`Sandboxes`] is the only entry point to pods and, through them, to containers. It prevents a
//! pod from being stopped while a container is made in it, and runs every changing call in an owned
//! task, so that a disconnected caller cannot interrupt it half-way.

mod create;
mod entry;
mod error;
mod features;
mod files;
mod forward;
mod hooks;
mod levels;
mod netns;
mod pause;
mod places;
mod ports;
mod record;
mod recover;
mod resize;
mod shim;
mod stop;
mod strays;
mod volumes;

pub use crate::board::{
    Event, Sandbox, SandboxFilter as Filter, SandboxState, Subscription as Events,
};
pub use error::Error;
pub use pause::PauseSource;
pub use record::SandboxRecord;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{
    self, HandlerFeatures, Network, NetworkReadiness, RuntimeHandler, RuntimeInfo,
};
use crate::board::LookupError;
use crate::container::{self, Container, Containers, ExecOutput, PodContext};
use crate::ids::{ContainerId, PodId};
use crate::locks::{Mutex, MutexGuard};
use crate::model::Owner;
use crate::model::container::{ContainerConfig, Mount};
use crate::model::pod::{PodConfig, PodMetadata};
use crate::model::resources::Resources;
use crate::oci;
use crate::telemetry::error_chain;
use entry::Entry;
use features::Features;
use record::Owed;

/// The collaborators of this room, besides those of the container room.
#[derive(Clone)]
pub struct Deps {
    /// Shared with the container room.
    pub base: container::Deps,
    /// Sets up pod networks.
    pub network: Arc<dyn Network>,
    /// The containers.
    pub containers: Arc<Containers>,
}

/// Settings of this room.
#[derive(Debug, Clone)]
pub struct Options {
    /// Run-time directory of pods, e.g. `/run/podbay/pods`.
    pub state: PathBuf,
    /// Directory of the files of pods that containers can write, on a disk, e.g.
    /// `/var/lib/podbay/sandboxes`.
    pub files: PathBuf,
    /// Directory of pinned network namespaces.
    pub netns_dir: PathBuf,
    /// Prefix of the names of the agent's namespaces; the pod id follows. Agents that share
    /// `netns_dir` need different prefixes, or one would remove the other's namespaces.
    pub netns_prefix: String,
    /// Runtime handlers by name; "" is the default one.
    pub handlers: BTreeMap<String, RuntimeHandler>,
    /// Where the pause program comes from.
    pub pause: PauseSource,
    /// Settings of the OCI spec.
    pub oci: oci::Settings,
    /// Size of /dev/shm in bytes.
    pub shm_size: u64,
    /// Whether port-forward may reach the host's localhost through a pod in the host's network.
    pub host_network_port_forward: bool,
}

/// All sandboxes and, through them, all containers of the agent. Cheap to clone.
#[derive(Clone)]
pub struct Sandboxes {
    room: Arc<Room>,
}

struct Room {
    deps: Deps,
    options: Options,
    entries: Mutex<BTreeMap<PodId, Arc<Entry>>>,
    names: Mutex<HashMap<PodMetadata, PodId>>,
    levels: levels::Levels,
    features: Features,
    trouble: tokio::sync::Notify,
    /// Whether the state of the previous agent process was taken over.
    recovered: tokio::sync::Mutex<bool>,
    /// Ids of records that cannot be read: their resources are left alone.
    unread: Mutex<BTreeSet<String>>,
}

impl Sandboxes {
    /// An empty room; [`Sandboxes::recover`] fills it.
    pub fn new(deps: Deps, options: Options) -> Self {
        let room = Room {
            deps,
            options,
            entries: Mutex::default(),
            names: Mutex::default(),
            levels: levels::Levels::default(),
            features: Features::default(),
            trouble: tokio::sync::Notify::new(),
            recovered: tokio::sync::Mutex::default(),
            unread: Mutex::default(),
        };
        Self { room: Arc::new(room) }
    }

    /// Queries the features of those handlers for which they are not known yet.
    pub async fn learn_features(&self) {
        let handlers = self.room.options.handlers.values();
        self.room.features.learn(&*self.room.deps.base.runtime, handlers, features::GLANCE).await;
    }

    /// Version and facts of the container runtime, queried now.
    pub async fn runtime(&self) -> Result<RuntimeInfo, backend::Error> {
        self.room.deps.base.runtime.probe().await
    }

    /// Why changes cannot be stored at the moment, if so. New pods and containers are refused then.
    pub fn store_trouble(&self) -> Option<String> {
        let health = self.room.deps.base.store.health();
        health.err().map(|error| error_chain(&error))
    }

    /// Whether the network backend is ready for new pods.
    pub async fn network_readiness(&self) -> NetworkReadiness {
        self.room.deps.network.readiness().await
    }

    /// Features of the handlers, as far as known, by handler name.
    pub fn features(&self) -> BTreeMap<String, HandlerFeatures> {
        self.room.features.known().clone()
    }

    /// Runs a change in an owned task and waits for it.
    async fn owned<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let task = self.room.deps.base.tasks.spawn(name, work);
        task.join().await.unwrap_or(Err(Error::Container(container::Error::Panicked)))
    }

    /// Creates a sandbox and returns when it is ready.
    ///
    /// A second call with the same name and configuration joins the first or returns its sandbox,
    /// so that a retry after a time-out finds the earlier result.
    pub async fn run(&self, config: PodConfig, handler: &str) -> Result<PodId, Error> {
        self.run_for(Owner::Cri, config, handler).await
    }

    /// Like [`Sandboxes::run`], for a given owner, who manages the pod from now on.
    pub async fn run_for(
        &self,
        owner: Owner,
        config: PodConfig,
        handler: &str,
    ) -> Result<PodId, Error> {
        let (room, handler) = (self.room.clone(), handler.to_owned());
        self.owned("run-sandbox", async move { room.run(owner, config, handler).await }).await
    }

    /// Stops a sandbox and kills its containers. Idempotent; an unknown id is fine.
    pub async fn stop(&self, id: &str) -> Result<(), Error> {
        let Some(entry) = self.room.find(id)? else { return Ok(()) };
        let room = self.room.clone();
        self.owned("stop-sandbox", async move { room.stop(&entry).await }).await
    }

    /// Stops and removes a sandbox with its containers; an unknown id is fine.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        let Some(entry) = self.room.find(id)? else { return Ok(()) };
        let room = self.room.clone();
        self.owned("remove-sandbox", async move { room.remove(&entry).await }).await
    }

    /// Stores the limits (`resources`) and the overhead of a pod as a whole; `None` keeps the old
    /// value. No cgroup is changed.
    pub async fn resize(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), Error> {
        let entry = self.room.find(id)?.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        let room = self.room.clone();
        self.owned("resize-sandbox", async move { room.resize(&entry, overhead, resources).await })
            .await
    }

    /// One sandbox by id or unique prefix.
    pub fn get(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        let found = self.room.deps.base.board.pod(id);
        found.map_err(|error| error.of(id, Error::NotFound, Error::AmbiguousId))
    }

    /// Sandboxes that match, newest first.
    pub fn list(&self, filter: &Filter) -> Vec<Arc<Sandbox>> {
        self.room.deps.base.board.pods(filter)
    }

    /// Creates a container in a ready sandbox.
    pub async fn create_container(
        &self,
        pod: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        let sandbox = self.get(pod)?;
        let room = self.room.clone();
        self.owned("create-container", async move {
            let (_open, mut context) = room.enter(&sandbox.id, Some(&config)).await?;
            let mut images = room.mount_images(&context, &config).await?;
            context.image_mounts = std::mem::take(&mut images.sources);
            context.mounted_images = std::mem::take(&mut images.ids);
            let created = room.deps.containers.create(&context, config).await;
            if created.is_err() {
                room.give_back(&context, &images).await;
            }
            Ok(created?)
        })
        .await
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let room = self.room.clone();
        self.owned("start-container", async move {
            let (containers, id) = (&room.deps.containers, container.id.as_str());
            match room.enter(&container.pod, None).await {
                Ok((_open, context)) => Ok(containers.start(&context, id).await?),
                Err(error) => {
                    containers.refuse_start(id, error_chain(&error)).await;
                    Err(error)
                }
            }
        })
        .await
    }

    /// Stops a container: sends its stop signal, and SIGKILL after `grace`; an unknown id is fine.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let (room, id) = (self.room.clone(), id.to_owned());
        self.owned(
            "stop-container",
            async move { Ok(room.deps.containers.stop(&id, grace).await?) },
        )
        .await
    }

    /// Changes limits of a container; what is not set stays as it is. See
    /// [`Containers::update`].
    pub async fn update_container(&self, id: &str, resources: Resources) -> Result<(), Error> {
        let (room, id) = (self.room.clone(), id.to_owned());
        self.owned("update-container", async move {
            Ok(room.deps.containers.update(&id, &resources).await?)
        })
        .await
    }

    /// Writes a checkpoint of a running container into a file; see [`Containers::checkpoint`].
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: PathBuf,
        limit: Option<Duration>,
    ) -> Result<(), Error> {
        let (room, id) = (self.room.clone(), id.to_owned());
        self.owned("checkpoint-container", async move {
            Ok(room.deps.containers.checkpoint(&id, &location, limit).await?)
        })
        .await
    }

    /// Removes a container, killing it first if it runs; an unknown id is fine.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let (room, id) = (self.room.clone(), id.to_owned());
        self.owned("remove-container", async move { room.remove_container(&id).await }).await
    }

    /// One container by id or unique prefix.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        Ok(self.room.deps.containers.get(id)?)
    }

    /// Containers that match, newest first.
    pub fn containers(&self, filter: &container::Filter) -> Vec<Arc<Container>> {
        self.room.deps.base.board.containers(filter)
    }

    /// Runs a command in a container and waits for it. No limit when `timeout` is `None`.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        // This is an owned task already, which ends when nobody waits for it.
        Ok(self.room.deps.containers.exec_sync(id, &command, timeout).await?)
    }

    /// Like [`Sandboxes::exec_sync`], but returns at most `most` bytes of each output.
    pub async fn exec_brief(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        most: usize,
    ) -> Result<ExecOutput, Error> {
        Ok(self.room.deps.containers.exec_brief(id, command, timeout, most).await?)
    }

    /// Switches a running container's log to a new file of the same name.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        Ok(self.room.deps.containers.reopen_log(id).await?)
    }

    /// Subscribes to events: first the current state of everything, then new events.
    pub fn events(&self) -> Events {
        self.room.deps.base.board.subscribe()
    }

    /// Verbose information for `PodSandboxStatus.info`.
    pub async fn sandbox_info(&self, id: &str) -> Result<serde_json::Value, Error> {
        let sandbox = self.get(id)?;
        let record = self.room.entry(&sandbox.id)?.record();
        let below = self.room.deps.containers.look_below(sandbox.id.as_str()).await;
        let running = sandbox.is_ready();
        Ok(serde_json::json!({
            "pid": record.pause.filter(|_| running).map_or(0, |pause| pause.pid),
            "processStatus": if running { "running" } else { "deleted" },
            "netNamespaceClosed": sandbox.netns.is_some() && !record.owed.contains(&Owed::Netns),
            "image": below.as_ref().map(|below| below.image.clone()).unwrap_or_default(),
            "snapshotKey": if record.pause_snapshot { sandbox.id.as_str() } else { "" },
            "snapshotter": record.handler.snapshotter,
            "runtimeOptions": record.handler,
            "netns": sandbox.netns,
            "network": sandbox.network,
            "runtimeHandler": sandbox.handler,
            "runtimeType": record.handler.runtime_type,
            "owed": record.owed,
            "runtimeSpec": below.map(|below| below.spec),
        }))
    }

    /// Verbose information for `ContainerStatus.info`.
    pub async fn container_info(&self, id: &str) -> Result<serde_json::Value, Error> {
        Ok(self.room.deps.containers.info(id).await?)
    }
}

/// Whether a mount needs a feature that not every runtime handler has.
fn needs_features(mount: &Mount) -> bool {
    mount.recursive_read_only || !mount.uid_mappings.is_empty()
}

impl Room {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<PodId, Arc<Entry>>> {
        self.entries.lock()
    }

    fn names(&self) -> MutexGuard<'_, HashMap<PodMetadata, PodId>> {
        self.names.lock()
    }

    fn entry(&self, id: &PodId) -> Result<Arc<Entry>, Error> {
        self.entries().get(id).cloned().ok_or_else(|| Error::NotFound(id.to_string()))
    }

    fn find(&self, id: &str) -> Result<Option<Arc<Entry>>, Error> {
        match self.deps.base.board.pod(id) {
            Ok(sandbox) => Ok(self.entries().get(&sandbox.id).cloned()),
            Err(LookupError::NotFound) => Ok(None),
            Err(LookupError::Ambiguous) => Err(Error::AmbiguousId(id.to_owned())),
        }
    }

    /// The pod context for a container, and a guard that keeps the pod from being stopped. `new` is
    /// the container to be created.
    async fn enter(
        &self,
        id: &PodId,
        new: Option<&ContainerConfig>,
    ) -> Result<(tokio::sync::OwnedRwLockReadGuard<()>, PodContext), Error> {
        let entry = self.entry(id)?;
        let open = entry.gate.clone().read_owned().await;
        let record = entry.record();
        let hostname = self.hostname(&record);
        let files = self.shared_files(&record);
        let sandbox = &record.sandbox;
        let SandboxState::Ready { pid } = sandbox.state else {
            return Err(Error::Container(container::Error::PodNotReady(id.clone())));
        };
        let features = match new {
            Some(config) => {
                let own_users = sandbox.config.id_mappings().is_some();
                let needed = own_users || config.mounts.iter().any(needs_features);
                self.features_of(&record.handler, needed).await?
            }
            // For a start no features are needed: the spec is built already.
            None => HandlerFeatures::default(),
        };
        let context = PodContext {
            id: sandbox.id.clone(),
            owner: sandbox.owner,
            handler: record.handler.clone(),
            features,
            pause_pid: pid,
            netns: sandbox.netns.clone(),
            userns: self.userns(sandbox),
            selinux_level: record.selinux_level.clone(),
            files,
            image_mounts: BTreeMap::new(),
            mounted_images: BTreeMap::new(),
            hostname,
            config: sandbox.config.clone(),
        };
        Ok((open, context))
    }

    /// Features of a handler, queried if not known yet. If they are `needed` this waits longer, and
    /// fails when there is no answer; otherwise unknown features count as absent.
    async fn features_of(
        &self,
        handler: &RuntimeHandler,
        needed: bool,
    ) -> Result<HandlerFeatures, Error> {
        let patience = if needed { features::NEED } else { features::GLANCE };
        let runtime = &*self.deps.base.runtime;
        self.features.learn(runtime, std::iter::once(handler), patience).await;
        match self.features.known().get(&handler.name) {
            Some(features) => Ok(features.clone()),
            None if needed => Err(Error::FeaturesUnknown(handler.name.clone())),
            None => Ok(HandlerFeatures::default()),
        }
    }

    fn handler(&self, name: &str) -> Result<&RuntimeHandler, Error> {
        self.options.handlers.get(name).ok_or_else(|| Error::UnknownHandler(name.to_owned()))
    }
}
