//! What the node's NRI plugins are told about containers, and what they may change.
//!
//! Nothing is gathered while there are no plugins. A plugin is told once of a container's end and
//! once of its removal, and of neither if it was never told of the container.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::entry::Entry;
use super::error::{Error, Step};
use super::{Container, ContainerState, Containers, Deps, PodContext};
use crate::backend::{
    ContainerMoment, Hold, HookedContainer, HookedImage, HookedPod, RuntimeContainer, Stage,
};
use crate::board::{Sandbox, SandboxState};
use crate::cdi;
use crate::ids::PodId;
use crate::model::StringMap;
use crate::model::resources::Resources;
use crate::oci::selinux::check_relabel;
use crate::telemetry::error_chain;

/// Which events of a pod or a container plugins were told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    introduced: AtomicBool,
    stopped: AtomicBool,
    removed: AtomicBool,
}

impl Told {
    /// For something that a previous agent process made: plugins that join are shown it.
    pub(crate) fn from_record(introduced: bool, stopped: bool) -> Self {
        Self { introduced: introduced.into(), stopped: stopped.into(), ..Self::default() }
    }

    /// Notes that plugins are told of it now.
    pub(crate) fn introduce(&self) {
        self.introduced.store(true, Ordering::Relaxed);
    }

    /// Notes that it is started, whatever plugins were told before.
    pub(crate) fn start(&self) {
        self.stopped.store(false, Ordering::Relaxed);
    }

    /// Notes a stop; returns whether plugins have to be told of it now.
    pub(crate) fn stop(&self) -> bool {
        self.introduced.load(Ordering::Relaxed) && !self.stopped.swap(true, Ordering::Relaxed)
    }

    /// Whether plugins know it and were not told of its stop.
    pub(crate) fn is_running(&self) -> bool {
        self.introduced.load(Ordering::Relaxed) && !self.stopped.load(Ordering::Relaxed)
    }

    /// Notes the removal; returns whether plugins have to be told of it now.
    pub(crate) fn remove(&self) -> bool {
        self.introduced.load(Ordering::Relaxed) && !self.removed.swap(true, Ordering::Relaxed)
    }

    /// Whether plugins were told of its removal.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }
}

impl Containers {
    /// Asks plugins about a new container; returns the spec with their changes, and the hold on
    /// plugins, to be kept until the container is published.
    pub(super) async fn ask_about_new(
        &self,
        entry: &Entry,
        pod: &PodContext,
        labels: &StringMap,
        spec: Value,
    ) -> Result<(Hold, Value), Error> {
        let hooks = &self.deps.hooks;
        let hold = hooks.hold().await;
        entry.told.introduce();
        if !hooks.has_plugins() {
            return Ok((hold, spec));
        }
        let shown = self.pod_of(entry).await;
        let container = hooked(&entry.container(), labels.clone(), spec);
        let adjusted = hooks.create_container(&shown, &container).await;
        let adjusted = adjusted.step("ask NRI plugins about the container")?;
        let mut spec = adjusted.spec;
        let devices = cdi::requested(&adjusted.cdi_devices, &StringMap::new())?;
        cdi::apply(&mut spec, &self.edits_of(pod, &devices).await?);
        if let Some(label) = spec["linux"]["mountLabel"].as_str().filter(|label| !label.is_empty())
        {
            self.relabel_for_plugin(&adjusted.relabel, label).await?;
        }
        Ok((hold, spec))
    }

    /// Labels mount sources at the request of a plugin.
    async fn relabel_for_plugin(&self, sources: &[String], label: &str) -> Result<(), Error> {
        let host = &self.deps.host;
        for source in sources {
            let resolved = host.resolve_mount_source(Path::new(source), false).await;
            let resolved = resolved.step("resolve a mount source of an NRI plugin")?;
            let field = || format!("mounts[{source:?}].options");
            check_relabel(&resolved.to_string_lossy(), field)?;
            let labelled = host.relabel(&resolved, label).await;
            labelled.step("label a mount source of an NRI plugin")?;
        }
        Ok(())
    }

    /// Asks plugins about a process that is created but not started yet; returns the hold on
    /// plugins, to be kept until it is published.
    pub(super) async fn ask_about_start(&self, entry: &Entry, pid: u32) -> Result<Hold, Error> {
        let hooks = &self.deps.hooks;
        let hold = hooks.hold().await;
        entry.told.start();
        if !hooks.has_plugins() {
            return Ok(hold);
        }
        let (pod, mut container) = self.hooked(entry).await;
        container.stage = Stage::Running { started_at: None, pid };
        let asked = hooks.container(ContainerMoment::Start, &pod, &container).await;
        asked.step("ask NRI plugins about the start")?;
        Ok(hold)
    }

    /// Tells plugins of an event that has happened. The caller has the hold.
    pub(super) async fn tell(&self, entry: &Entry, moment: ContainerMoment) {
        if !self.deps.hooks.has_plugins() {
            return;
        }
        let (pod, container) = self.hooked(entry).await;
        if let Err(error) = self.deps.hooks.container(moment, &pod, &container).await {
            tracing::warn!(container = %entry.id, ?moment, error = error_chain(&error),
                "NRI plugin returned an error");
        }
    }

    /// Tells plugins, once, that a container has ended. The caller has the hold.
    pub(super) async fn tell_stopped(&self, entry: &Entry) {
        if !entry.told.stop() || !self.deps.hooks.has_plugins() {
            return;
        }
        let (pod, container) = self.hooked(entry).await;
        if let Err(error) = self.deps.hooks.stop_container(&pod, &container).await {
            tracing::warn!(container = %entry.id, error = error_chain(&error),
                "NRI plugin returned an error on stop");
        }
    }

    /// Tells plugins, once, that a container is removed, and before that of its end.
    pub(super) async fn tell_removed(&self, entry: &Entry) {
        let _hold = self.deps.hooks.hold().await;
        self.tell_stopped(entry).await;
        if entry.told.remove() {
            self.tell(entry, ContainerMoment::Remove).await;
        }
    }

    /// Asks plugins about new limits of a container; returns the limits to set, and the hold on
    /// plugins, to be kept until they are set.
    pub(super) async fn ask_about_update(
        &self,
        entry: &Entry,
        limits: &Resources,
    ) -> Result<(Hold, Resources), Error> {
        let hold = self.deps.hooks.hold().await;
        if !self.deps.hooks.has_plugins() {
            return Ok((hold, limits.clone()));
        }
        let (pod, container) = self.hooked(entry).await;
        let asked = self.deps.hooks.update_container(&pod, &container, limits).await;
        let wanted = asked.step("ask NRI plugins about the limits")?;
        Ok((hold, wanted.unwrap_or_else(|| limits.clone())))
    }

    /// Containers, with their pods, to show to a plugin that joins; `below` has their specs.
    pub fn for_plugins(
        &self,
        mut below: impl FnMut(&str) -> Option<RuntimeContainer>,
    ) -> Vec<(PodId, HookedContainer)> {
        let live = |container: &Arc<Container>| {
            let live =
                matches!(container.state, ContainerState::Created | ContainerState::Running { .. });
            live && self.entry(&container.id).is_ok_and(|entry| !entry.told.is_removed())
        };
        let all = self.deps.board.containers(&super::Filter::default());
        let all = all.into_iter().filter(live).map(|container| {
            let (labels, spec) = record(below(container.id.as_str()));
            (container.pod.clone(), hooked(&container, labels, spec))
        });
        all.collect()
    }

    /// Kills a container at the request of a plugin; its status has the reason. Does not wait for
    /// the end: the container may be busy with the very change that the plugin is being asked about.
    pub fn evict(self: &Arc<Self>, id: &str, reason: &str) -> Result<(), Error> {
        let Some(entry) = self.find(id)? else { return Ok(()) };
        entry.set_evicted(reason.to_owned());
        let room = self.clone();
        drop(self.deps.tasks.spawn_until_drain("evict", async move {
            if let Err(error) = room.stop_entry(&entry, Duration::ZERO).await {
                tracing::warn!(container = %entry.id, error = error_chain(&error),
                    "cannot evict container for NRI plugin");
            }
        }));
        Ok(())
    }

    async fn hooked(&self, entry: &Entry) -> (HookedPod, HookedContainer) {
        let below = self.deps.runtime.container(entry.id.as_str()).await.ok();
        let (labels, spec) = record(below);
        (self.pod_of(entry).await, hooked(&entry.container(), labels, spec))
    }

    /// The pod of a container; only its id if the pod no longer exists.
    async fn pod_of(&self, entry: &Entry) -> HookedPod {
        match self.deps.board.pod(entry.pod.as_str()) {
            Ok(sandbox) => hooked_pod(&self.deps, &sandbox).await,
            Err(_) => HookedPod {
                id: entry.pod.clone(),
                config: Arc::default(),
                overhead: None,
                resources: None,
                handler: String::new(),
                pid: 0,
                ips: Vec::new(),
                spec: Value::Null,
            },
        }
    }
}

/// A pod in the form that plugins are given.
pub(crate) async fn hooked_pod(deps: &Deps, sandbox: &Sandbox) -> HookedPod {
    let below = deps.runtime.container(sandbox.id.as_str()).await.ok();
    hooked_pod_with(sandbox, record(below).1)
}

/// Like [`hooked_pod`], with a spec that the caller already has.
pub(crate) fn hooked_pod_with(sandbox: &Sandbox, spec: Value) -> HookedPod {
    HookedPod {
        id: sandbox.id.clone(),
        config: sandbox.config.clone(),
        overhead: sandbox.overhead().cloned(),
        resources: sandbox.resources().cloned(),
        handler: sandbox.handler.clone(),
        pid: match sandbox.state {
            SandboxState::Ready { pid } => pid,
            SandboxState::Creating | SandboxState::NotReady => 0,
        },
        ips: sandbox.network.as_ref().map(|network| network.ips.clone()).unwrap_or_default(),
        spec,
    }
}

fn record(below: Option<RuntimeContainer>) -> (StringMap, Value) {
    below.map(|below| (below.labels, below.spec)).unwrap_or_default()
}

fn hooked(container: &Container, labels: StringMap, spec: Value) -> HookedContainer {
    let stage = match &container.state {
        ContainerState::Creating | ContainerState::Created => Stage::Created,
        ContainerState::Running { started_at, pid } => {
            Stage::Running { started_at: Some(*started_at), pid: *pid }
        }
        ContainerState::Exited(exited) => Stage::Stopped {
            started_at: exited.started_at,
            finished_at: exited.finished_at,
            code: exited.code,
            reason: exited.reason.as_str().to_owned(),
            message: exited.message.clone(),
        },
        ContainerState::Unknown { .. } => Stage::Unknown,
    };
    HookedContainer {
        id: container.id.clone(),
        config: container.config.clone(),
        stage,
        created_at: container.created_at,
        image: HookedImage {
            name: container.image_name.clone(),
            digest: container
                .image_ref
                .split_once('@')
                .map(|(_, digest)| digest.to_owned())
                .unwrap_or_default(),
            config_digest: container.image_id.to_string(),
        },
        labels,
        spec,
    }
}
