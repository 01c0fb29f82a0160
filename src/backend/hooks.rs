//! The trait for plugins of the node, which observe pods and containers and may change the
//! configuration of containers (NRI, the Node Resource Interface).
//!
//! The rooms report events in the order in which they happen, each under a [`Hold`]. Requests of
//! plugins to the rooms go through [`Node`].

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use super::Result;
use crate::ids::{ContainerId, PodId};
use crate::model::container::ContainerConfig;
use crate::model::pod::PodConfig;
use crate::model::resources::Resources;
use crate::model::{StringMap, UnixNanos};

/// A pod in the form that plugins are given.
#[derive(Debug, Clone, PartialEq)]
pub struct HookedPod {
    /// Id.
    pub id: PodId,
    /// The requested configuration.
    pub config: Arc<PodConfig>,
    /// Overhead of the sandbox itself, as last reported by the caller.
    pub overhead: Option<Resources>,
    /// Sum of the containers' resources, as last reported by the caller.
    pub resources: Option<Resources>,
    /// Requested runtime handler.
    pub handler: String,
    /// PID of the pause process; 0 when it has none.
    pub pid: u32,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// OCI spec of its pause container; null if no longer known.
    pub spec: serde_json::Value,
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Being created, or created.
    Created,
    /// Its process runs, or is created but not started.
    Running {
        /// Start time; `None` while it is being started.
        started_at: Option<UnixNanos>,
        /// PID on the host.
        pid: u32,
    },
    /// It has ended, or was never started.
    Stopped {
        /// Start time, if it was started.
        started_at: Option<UnixNanos>,
        /// End time.
        finished_at: UnixNanos,
        /// Exit code.
        code: i32,
        /// Reason, one word.
        reason: String,
        /// Human-readable details.
        message: String,
    },
    /// Not known.
    Unknown,
}

/// The image of a container, as the interface describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookedImage {
    /// Name.
    pub name: String,
    /// Digest of the manifest or index; empty when it has none.
    pub digest: String,
    /// Digest of the configuration.
    pub config_digest: String,
}

/// A container in the form that plugins are given.
#[derive(Debug, Clone, PartialEq)]
pub struct HookedContainer {
    /// Id.
    pub id: ContainerId,
    /// The requested configuration.
    pub config: Arc<ContainerConfig>,
    /// Its state.
    pub stage: Stage,
    /// When it was created.
    pub created_at: UnixNanos,
    /// Its image.
    pub image: HookedImage,
    /// Labels of its containerd record, besides those in `config`.
    pub labels: StringMap,
    /// Its OCI spec; null if no longer known.
    pub spec: serde_json::Value,
}

/// A pod event, which plugins cannot answer with changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodMoment {
    /// The pod runs and is connected, but is not published yet. An error undoes it.
    Run,
    /// Its resources were changed.
    PostUpdate,
    /// All its processes have ended; its network still exists.
    Stop,
    /// Its containers are removed, and the pod is about to be.
    Remove,
}

/// A container event, which plugins cannot answer with changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerMoment {
    /// It was created.
    PostCreate,
    /// Its process is created but not started. An error fails the start.
    Start,
    /// It runs.
    PostStart,
    /// Its limits were changed.
    PostUpdate,
    /// It is removed, or about to be.
    Remove,
}

/// A container with the plugins' changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjusted {
    /// The OCI spec.
    pub spec: serde_json::Value,
    /// Additional CDI devices to inject.
    pub cdi_devices: Vec<String>,
    /// Mount sources to give the container's SELinux label.
    pub relabel: Vec<String>,
}

/// Prevents plugins from joining. The caller holds it during an event and the change that the event
/// reports, so that a joining plugin sees either the changed state or the event: never both, never
/// neither.
///
/// Must not be requested by a caller that already has one: a plugin that waits to join would come
/// in between, which is a deadlock.
#[derive(Debug, Default)]
pub struct Hold {
    _guard: Option<tokio::sync::OwnedRwLockReadGuard<()>>,
}

impl Hold {
    /// Holds for the lifetime of the guard.
    pub(super) fn new(guard: tokio::sync::OwnedRwLockReadGuard<()>) -> Self {
        Self { _guard: Some(guard) }
    }
}

/// Reports events to the node's plugins, and asks them for changes.
///
/// Each call is passed to all plugins that subscribed to it, one after the other in their order. A
/// plugin that does not answer in time is disconnected, and the call continues without it. If an
/// answer requests changes of other containers, these were tried through [`Node`] when the call
/// returns.
///
/// An error is a plugin's refusal, or a conflict between two plugins.
#[async_trait]
pub trait Hooks: Send + Sync + 'static {
    /// Prevents changes in the set of plugins.
    async fn hold(&self) -> Hold;

    /// Whether there are plugins. If not, the calls below do nothing, and their arguments need not
    /// be gathered.
    fn has_plugins(&self) -> bool;

    /// Reports a pod event.
    async fn pod(&self, moment: PodMoment, pod: &HookedPod) -> Result<()>;

    /// Reports a container event.
    async fn container(
        &self,
        moment: ContainerMoment,
        pod: &HookedPod,
        container: &HookedContainer,
    ) -> Result<()>;

    /// Called before the resources of a pod are changed: its overhead and the sum of its
    /// containers'.
    async fn update_pod(
        &self,
        pod: &HookedPod,
        overhead: Option<&Resources>,
        resources: Option<&Resources>,
    ) -> Result<()>;

    /// Called before a container is created, with its complete spec.
    async fn create_container(
        &self,
        pod: &HookedPod,
        container: &HookedContainer,
    ) -> Result<Adjusted>;

    /// Called before the limits of a container are changed; returns the limits to set instead,
    /// `None` when no plugin changes them.
    async fn update_container(
        &self,
        pod: &HookedPod,
        container: &HookedContainer,
        limits: &Resources,
    ) -> Result<Option<Resources>>;

    /// Called after a container has ended, or was given up before it ever ran.
    async fn stop_container(&self, pod: &HookedPod, container: &HookedContainer) -> Result<()>;
}

/// The requests that plugins may make to the agent.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// All pods, and the containers that are created or running, each with its pod's id.
    async fn all(&self) -> Result<(Vec<HookedPod>, Vec<(PodId, HookedContainer)>)>;

    /// Changes limits of a container; values not set are kept. An unknown container is fine.
    /// Returns after a limited time, because the container may be busy with the very change that
    /// the plugin is being asked about.
    async fn update(&self, container: &str, limits: &Resources) -> Result<()>;

    /// Begins to kill a container on a plugin's request, and records the reason. An unknown
    /// container is fine.
    async fn evict(&self, container: &str, reason: &str) -> Result<()>;
}

/// No plugins at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

#[async_trait]
impl Hooks for NoHooks {
    async fn hold(&self) -> Hold {
        Hold::default()
    }

    fn has_plugins(&self) -> bool {
        false
    }

    async fn pod(&self, _: PodMoment, _: &HookedPod) -> Result<()> {
        Ok(())
    }

    async fn container(
        &self,
        _: ContainerMoment,
        _: &HookedPod,
        _: &HookedContainer,
    ) -> Result<()> {
        Ok(())
    }

    async fn update_pod(
        &self,
        _: &HookedPod,
        _: Option<&Resources>,
        _: Option<&Resources>,
    ) -> Result<()> {
        Ok(())
    }

    async fn create_container(
        &self,
        _: &HookedPod,
        container: &HookedContainer,
    ) -> Result<Adjusted> {
        let spec = container.spec.clone();
        Ok(Adjusted { spec, cdi_devices: Vec::new(), relabel: Vec::new() })
    }

    async fn update_container(
        &self,
        _: &HookedPod,
        _: &HookedContainer,
        _: &Resources,
    ) -> Result<Option<Resources>> {
        Ok(None)
    }

    async fn stop_container(&self, _: &HookedPod, _: &HookedContainer) -> Result<()> {
        Ok(())
    }
}
