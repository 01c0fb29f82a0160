//! NRI, the Node Resource Interface (v1alpha1): plugins connected through a socket.
//!
//! ```text
//!   plugin ──connects──> listener ─┐                        ┌─ frames.rs  bytes <-> messages
//!   program ──started by us────────┴─> join.rs ──> link.rs ─┴─ calls both ways
//!              RegisterPlugin, Configure, Synchronize    │
//!                                                        v
//!   rooms ──moments──> Nri ──one after the other──> plugin.rs (each plugin)
//!                       ├─ show.rs    what plugins are given
//!                       ├─ merge.rs   merges requests of several plugins; owners.rs ownership
//!                       └─ apply/     applies requests to the OCI spec
//! ```
//!
//! Locks in the order in which they are taken: the rooms' own, then a [`Hold`], then the turn
//! (plugins are asked about one thing at a time). A plugin can join only while nobody has a hold.

mod apply;
pub mod frames;
mod join;
mod launch;
mod limits;
pub mod link;
mod merge;
mod owners;
mod plugin;
pub mod proto;
mod show;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::RwLock;

use super::{
    Adjusted, ContainerMoment, Error, ErrorKind, Hold, HookedContainer, HookedPod, Hooks, Node,
    PodMoment, Result,
};
use crate::lifecycle::Tasks;
use crate::locks::{Mutex, MutexGuard};
use crate::model::resources::Resources;
use crate::telemetry::error_chain;
pub use apply::Limits;
use merge::{Creation, MergeError, Updates};
use plugin::Plugin;
use proto::{
    CreateContainerRequest, CreateContainerResponse, Event, LinuxResources, PluginInstance,
    StopContainerRequest, StopContainerResponse, Told, UpdateContainerRequest,
    UpdateContainerResponse, UpdatePodSandboxRequest, UpdatePodSandboxResponse,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};

/// The interface version that plugins are told.
const INTERFACE_VERSION: &str = "v0.12.5";

/// Settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Path of the socket for plugins; `None` allows only plugins that podbay starts.
    pub socket: Option<PathBuf>,
    /// Directory of plugins to start.
    pub plugins: PathBuf,
    /// Directory of their configurations.
    pub configs: PathBuf,
    /// How long a plugin may take to register, and then to take in all pods and containers.
    pub registration_timeout: Duration,
    /// Time limit for each answer of a plugin.
    pub request_timeout: Duration,
    /// The limits that the host can enforce.
    pub limits: Limits,
}

/// The plugins of this node. Cheap to clone.
#[derive(Clone)]
pub struct Nri(Arc<Inner>);

struct Inner {
    options: Options,
    tasks: Tasks,
    /// The agent. A weak reference, because the agent owns this.
    node: OnceLock<Weak<dyn Node>>,
    /// The joined plugins, in calling order.
    joined: Mutex<Vec<Arc<Plugin>>>,
    /// Held shared during each event, exclusively while a plugin joins.
    joining: Arc<RwLock<()>>,
    /// Plugins expect to be asked about one thing at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Nri {
    /// Has no plugins until [`Nri::start`].
    pub fn new(options: Options, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            options,
            tasks,
            node: OnceLock::new(),
            joined: Mutex::default(),
            joining: Arc::default(),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// Names of the joined plugins, in calling order.
    pub fn plugins(&self) -> Vec<String> {
        self.0.joined().iter().map(|plugin| plugin.identity.to_string()).collect()
    }
}

impl Inner {
    fn joined(&self) -> MutexGuard<'_, Vec<Arc<Plugin>>> {
        self.joined.lock()
    }

    /// The agent, unless it is shutting down.
    fn node(&self) -> Option<Arc<dyn Node>> {
        self.node.get().and_then(Weak::upgrade)
    }

    /// The currently connected plugins.
    fn present(&self) -> Vec<Arc<Plugin>> {
        self.joined().iter().filter(|plugin| !plugin.is_closed()).cloned().collect()
    }

    /// Sends an event that has no answer to all plugins; the first refusal ends it.
    async fn tell(&self, event: Event, method: &'static str, told: Told) -> Result<()> {
        let _turn = self.turn.lock().await;
        for plugin in self.present() {
            plugin.tell(event, method, &told).await?;
        }
        Ok(())
    }

    /// Asks all plugins about a new container, and then the validators about the result.
    async fn ask_about_new(&self, request: CreateContainerRequest) -> Result<Creation> {
        let _turn = self.turn.lock().await;
        let plugins = self.present();
        let judges = |plugin: &&Arc<Plugin>| plugin.wants(Event::ValidateContainerAdjustment);
        let judges: Vec<_> = plugins.iter().filter(judges).collect();
        let before = (!judges.is_empty()).then(|| request.clone());
        let mut creation = Creation::new(request);
        for plugin in &plugins {
            const METHOD: &str = "CreateContainer";
            let answer = plugin.ask(Event::CreateContainer, METHOD, &creation.request).await?;
            let Some(CreateContainerResponse { adjust, update, evict }) = answer else { continue };
            let merged = creation.add(&plugin.identity.to_string(), adjust, update, evict);
            merged.map_err(not_merged)?;
        }
        if let Some(before) = before {
            let asked = plugins.iter().map(|plugin| PluginInstance {
                name: plugin.identity.name.clone(),
                index: plugin.identity.index.clone(),
            });
            let case = ValidateContainerAdjustmentRequest {
                pod: before.pod,
                container: before.container,
                adjust: Some(creation.adjust.clone()),
                update: creation.others.list.clone(),
                owners: Some(creation.others.owners.show()),
                plugins: asked.collect(),
            };
            let judged = join_all(judges.iter().map(|judge| validate(judge, &case))).await;
            judged.into_iter().collect::<Result<()>>()?;
        }
        Ok(creation)
    }

    /// Carries out plugins' requests for existing containers. Failures are only logged: they
    /// concern only the plugins, which notice them at the next event.
    async fn carry_out(&self, wanted: Updates) {
        let Some(node) = self.node() else { return };
        for eviction in wanted.evict {
            let (id, reason) = (&eviction.container_id, &eviction.reason);
            if let Err(error) = node.evict(id, reason).await {
                let error = error_chain(&error);
                tracing::warn!(container = id, error, "cannot evict container for NRI plugin");
            }
        }
        for update in wanted.list {
            if let Err(error) = self.update(&update.container_id, update.linux).await
                && !update.ignore_failure
            {
                let (id, error) = (&update.container_id, error_chain(&error));
                tracing::warn!(container = id, error, "cannot update container for NRI plugin");
            }
        }
    }

    /// Changes what can be changed of an existing container; the error names the rest.
    async fn update(&self, id: &str, linux: Option<proto::LinuxContainerUpdate>) -> Result<()> {
        let Some(node) = self.node() else { return Ok(()) };
        let wanted = linux.and_then(|linux| linux.resources).unwrap_or_default();
        node.update(id, &limits::to_cri(&wanted)).await?;
        changes_all(id, &wanted)
    }
}

/// Fails if there are limits that cannot be changed in an existing container.
fn changes_all(id: &str, wanted: &LinuxResources) -> Result<()> {
    let rest = limits::not_changeable(wanted);
    if rest.is_empty() {
        return Ok(());
    }
    let tried = format!("change linux.resources.{} of container {id}", rest.join(", "));
    Err(Error::new(ErrorKind::Unsupported, tried).because("only a new container can have them"))
}

async fn validate(judge: &Plugin, case: &ValidateContainerAdjustmentRequest) -> Result<()> {
    let answer: ValidateContainerAdjustmentResponse =
        judge.must_answer("ValidateContainerAdjustment", case).await?;
    if !answer.reject {
        return Ok(());
    }
    let tried = format!("validate the container with NRI plugin {}", judge.identity);
    Err(Error::new(ErrorKind::FailedPrecondition, tried).because(answer.reason))
}

fn not_merged(error: MergeError) -> Error {
    Error::new(ErrorKind::FailedPrecondition, "merge the changes of NRI plugins").because(error)
}

#[async_trait]
impl Hooks for Nri {
    async fn hold(&self) -> Hold {
        Hold::new(self.0.joining.clone().read_owned().await)
    }

    fn has_plugins(&self) -> bool {
        !self.0.joined().is_empty()
    }

    async fn pod(&self, moment: PodMoment, pod: &HookedPod) -> Result<()> {
        let (event, method) = match moment {
            PodMoment::Run => (Event::RunPodSandbox, "RunPodSandbox"),
            PodMoment::PostUpdate => (Event::PostUpdatePodSandbox, "PostUpdatePodSandbox"),
            PodMoment::Stop => (Event::StopPodSandbox, "StopPodSandbox"),
            PodMoment::Remove => (Event::RemovePodSandbox, "RemovePodSandbox"),
        };
        let told = Told { pod: Some(show::pod(pod)), container: None };
        self.0.tell(event, method, told).await
    }

    async fn container(
        &self,
        moment: ContainerMoment,
        pod: &HookedPod,
        container: &HookedContainer,
    ) -> Result<()> {
        let (event, method) = match moment {
            ContainerMoment::PostCreate => (Event::PostCreateContainer, "PostCreateContainer"),
            ContainerMoment::Start => (Event::StartContainer, "StartContainer"),
            ContainerMoment::PostStart => (Event::PostStartContainer, "PostStartContainer"),
            ContainerMoment::PostUpdate => (Event::PostUpdateContainer, "PostUpdateContainer"),
            ContainerMoment::Remove => (Event::RemoveContainer, "RemoveContainer"),
        };
        let container = Some(show::container(&pod.id, container));
        self.0.tell(event, method, Told { pod: Some(show::pod(pod)), container }).await
    }

    async fn update_pod(
        &self,
        pod: &HookedPod,
        overhead: Option<&Resources>,
        resources: Option<&Resources>,
    ) -> Result<()> {
        let request = UpdatePodSandboxRequest {
            pod: Some(show::pod(pod)),
            overhead_linux_resources: overhead.map(limits::from_cri),
            linux_resources: resources.map(limits::from_cri),
        };
        let _turn = self.0.turn.lock().await;
        for plugin in self.0.present() {
            const METHOD: &str = "UpdatePodSandbox";
            let _: Option<UpdatePodSandboxResponse> =
                plugin.ask(Event::UpdatePodSandbox, METHOD, &request).await?;
        }
        Ok(())
    }

    async fn create_container(
        &self,
        pod: &HookedPod,
        container: &HookedContainer,
    ) -> Result<Adjusted> {
        let request = CreateContainerRequest {
            pod: Some(show::pod(pod)),
            container: Some(show::container(&pod.id, container)),
        };
        let Creation { adjust, others, .. } = self.0.ask_about_new(request).await?;
        let adjusted = apply::apply(container.spec.clone(), adjust, self.0.options.limits);
        let adjusted = adjusted.map_err(|error| {
            let tried = "apply the changes of NRI plugins to the container";
            Error::new(ErrorKind::FailedPrecondition, tried).because(error)
        })?;
        self.0.carry_out(others).await;
        Ok(adjusted)
    }

    async fn update_container(
        &self,
        pod: &HookedPod,
        container: &HookedContainer,
        wanted: &Resources,
    ) -> Result<Option<Resources>> {
        let mut request = UpdateContainerRequest {
            pod: Some(show::pod(pod)),
            container: Some(show::container(&pod.id, container)),
            linux_resources: Some(limits::from_cri(wanted)),
        };
        let (id, mut updates) = (container.id.as_str(), Updates::default());
        let mut outcome: Option<LinuxResources> = None;
        let turn = self.0.turn.lock().await;
        for plugin in self.0.present() {
            const METHOD: &str = "UpdateContainer";
            let answer = plugin.ask(Event::UpdateContainer, METHOD, &request).await?;
            let Some(UpdateContainerResponse { update, evict }) = answer else { continue };
            let added = updates.add(&plugin.identity.to_string(), update, evict);
            added.map_err(not_merged)?;
            // The next plugin gets the limits as changed by this one.
            if let Some(ours) = updates.take(id) {
                if let Err(error) = changes_all(id, &ours) {
                    let (plugin, error) = (&plugin.identity, error_chain(&error));
                    tracing::warn!(%plugin, error, "part of a plugin's update is ignored");
                }
                let shown = request.linux_resources.get_or_insert_default();
                limits::overlay(shown, ours);
                outcome = Some(shown.clone());
            }
        }
        drop(turn);
        self.0.carry_out(updates).await;
        // Plugins cannot change the OOM score.
        let score = wanted.oom_score_adj;
        Ok(outcome.map(|limits| Resources { oom_score_adj: score, ..limits::to_cri(&limits) }))
    }

    async fn stop_container(&self, pod: &HookedPod, container: &HookedContainer) -> Result<()> {
        let request = StopContainerRequest {
            pod: Some(show::pod(pod)),
            container: Some(show::container(&pod.id, container)),
        };
        let mut updates = Updates::default();
        let turn = self.0.turn.lock().await;
        for plugin in self.0.present() {
            const METHOD: &str = "StopContainer";
            let answer = plugin.ask(Event::StopContainer, METHOD, &request).await?;
            let Some(StopContainerResponse { update }) = answer else { continue };
            let added = updates.add(&plugin.identity.to_string(), update, Vec::new());
            added.map_err(not_merged)?;
        }
        drop(turn);
        self.0.carry_out(updates).await;
        Ok(())
    }
}
