//! The seam to plugins of the node: they see pods and containers come and go, and may change what
//! containers are made of (NRI, the node resource interface).
//!
//! The rooms above tell what happens, in the order in which it happens, each moment under a
//! [`Hold`]. What plugins want of the rooms in turn goes through [`Node`].

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use super::Result;
use crate::ids::{ContainerId, PodId};
use crate::model::container::ContainerConfig;
use crate::model::pod::PodConfig;
use crate::model::resources::Resources;
use crate::model::{StringMap, UnixNanos};

/// A pod as plugins are shown it.
#[derive(Debug, Clone, PartialEq)]
pub struct HookedPod {
    /// Id.
    pub id: PodId,
    /// What was asked for.
    pub config: Arc<PodConfig>,
    /// Runtime handler as asked for.
    pub handler: String,
    /// PID of the pause process; 0 when it has none.
    pub pid: u32,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// OCI spec of its pause container; null when that is not known any more.
    pub spec: serde_json::Value,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Being created, or created.
    Created,
    /// Its process runs, or waits before exec.
    Running {
        /// When it was started; `None` while it is being started.
        started_at: Option<UnixNanos>,
        /// PID on the host.
        pid: u32,
    },
    /// It ended, or was never started.
    Stopped {
        /// When it was started, if it was.
        started_at: Option<UnixNanos>,
        /// When it ended.
        finished_at: UnixNanos,
        /// Exit code.
        code: i32,
        /// One word.
        reason: String,
        /// More words.
        message: String,
    },
    /// Nobody knows.
    Unknown,
}

/// The image of a container, in the words of the interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookedImage {
    /// Name.
    pub name: String,
    /// Digest of the manifest or index; empty when it has none.
    pub digest: String,
    /// Digest of the configuration.
    pub config_digest: String,
}

/// A container as plugins are shown it.
#[derive(Debug, Clone, PartialEq)]
pub struct HookedContainer {
    /// Id.
    pub id: ContainerId,
    /// What was asked for.
    pub config: Arc<ContainerConfig>,
    /// Where it is in its life.
    pub stage: Stage,
    /// When it was created.
    pub created_at: UnixNanos,
    /// Its image.
    pub image: HookedImage,
    /// Labels of its record below, besides those of `config`.
    pub labels: StringMap,
    /// Its OCI spec; null when that is not known any more.
    pub spec: serde_json::Value,
}

/// A moment that plugins are told of and cannot answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodMoment {
    /// It runs and is connected; nobody has seen it yet. An error undoes it.
    Run,
    /// Its resources were changed.
    PostUpdate,
    /// All its processes have ended, its network is still there.
    Stop,
    /// Its containers are gone, and so will it be.
    Remove,
}

/// A moment that plugins are told of and cannot answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerMoment {
    /// It was created.
    PostCreate,
    /// Its process waits to be let go. An error ends the start.
    Start,
    /// It runs.
    PostStart,
    /// Its limits were changed.
    PostUpdate,
    /// It is gone, or will be.
    Remove,
}

/// A container as plugins want it.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjusted {
    /// The OCI spec.
    pub spec: serde_json::Value,
    /// CDI devices to be injected into it besides.
    pub cdi_devices: Vec<String>,
}

/// Keeps plugins from joining. Held by the caller over a moment and the change that it is about,
/// so that a plugin that joins is either shown the change or told of it: never both, never
/// neither.
///
/// Not to be asked for by who has one already: one that waits to join comes between.
#[derive(Debug, Default)]
pub struct Hold {
    _guard: Option<tokio::sync::OwnedRwLockReadGuard<()>>,
}

impl Hold {
    /// Holds while the guard lives.
    pub(super) fn new(guard: tokio::sync::OwnedRwLockReadGuard<()>) -> Self {
        Self { _guard: Some(guard) }
    }
}

/// Tells plugins of the node, and asks them.
///
/// Each call goes to all plugins that want to hear of it, one after the other in their order; one
/// that does not answer in time is dropped, and the call goes on without it. What a plugin asks
/// for other containers in its answer has been tried through [`Node`] when the call returns.
///
/// An error is a plugin's refusal, or a conflict between two.
#[async_trait]
pub trait Hooks: Send + Sync + 'static {
    /// Keeps the set of plugins as it is.
    async fn hold(&self) -> Hold;

    /// Whether there is anybody to be told. When not, the calls below do nothing, and what they
    /// would be given need not be gathered.
    fn has_plugins(&self) -> bool;

    /// Tells of a moment of a pod.
    async fn pod(&self, moment: PodMoment, pod: &HookedPod) -> Result<()>;

    /// Tells of a moment of a container.
    async fn container(
        &self,
        moment: ContainerMoment,
        pod: &HookedPod,
        container: &HookedContainer,
    ) -> Result<()>;

    /// Before the resources of a pod are changed: its overhead and the sum of its containers'.
    async fn update_pod(
        &self,
        pod: &HookedPod,
        overhead: Option<&Resources>,
        resources: Option<&Resources>,
    ) -> Result<()>;

    /// Before a container is created, with its whole spec.
    async fn create_container(
        &self,
        pod: &HookedPod,
        container: &HookedContainer,
    ) -> Result<Adjusted>;

    /// Before the limits of a container are changed; returns those to be set instead, `None` when
    /// no plugin wants others.
    async fn update_container(
        &self,
        pod: &HookedPod,
        container: &HookedContainer,
        limits: &Resources,
    ) -> Result<Option<Resources>>;

    /// After a container has ended, or was given up before it ever ran.
    async fn stop_container(&self, pod: &HookedPod, container: &HookedContainer) -> Result<()>;
}

/// What plugins may ask of the agent.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// All pods, and the containers that are created or running, each with its pod's id.
    async fn all(&self) -> Result<(Vec<HookedPod>, Vec<(PodId, HookedContainer)>)>;

    /// Changes limits of a container; what is not set stays. One that is not known is fine.
    /// Returns after a bounded time: a container may be busy with the very change that the
    /// plugin was asked about.
    async fn update(&self, container: &str, limits: &Resources) -> Result<()>;

    /// Stops a container that a plugin wants gone, and tells why. One that is not known is fine.
    /// Bounded as [`Node::update`].
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
        Ok(Adjusted { spec: container.spec.clone(), cdi_devices: Vec::new() })
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
