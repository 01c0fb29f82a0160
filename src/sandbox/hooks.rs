//! What the node's NRI plugins are told about pods, and what they may request of the agent.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::entry::Entry;
use super::error::{Error, Step};
use super::{Filter, Room, Sandbox, Sandboxes};
use crate::backend::{self, ErrorKind, Hold, HookedContainer, HookedPod, Node, PodMoment};
use crate::container::{hooked_pod, hooked_pod_with};
use crate::ids::PodId;
use crate::model::resources::Resources;
use crate::telemetry::error_chain;

/// How long a plugin waits for its request about a container. The container may be busy with the
/// very change that the plugin is being asked about, and waiting longer would be a deadlock.
const FOR_PLUGIN: Duration = Duration::from_secs(2);

impl Room {
    /// Asks plugins about a pod that runs but is not published yet; returns the hold on plugins, to
    /// be kept until it is published.
    pub(super) async fn ask_about_run(
        &self,
        entry: &Entry,
        running: &Sandbox,
    ) -> Result<Hold, Error> {
        let base = &self.deps.base;
        let hold = base.hooks.hold().await;
        entry.told.introduce();
        if base.hooks.has_plugins() {
            let pod = hooked_pod(base, running).await;
            let asked = base.hooks.pod(PodMoment::Run, &pod).await;
            asked.step("ask NRI plugins about the pod")?;
        }
        Ok(hold)
    }

    /// Whether there is a plugin that has to be told of a stop.
    pub(super) async fn has_to_tell_stop(&self, entry: &Entry) -> bool {
        let hooks = &self.deps.base.hooks;
        // Waits for a plugin that is just joining.
        let _hold = hooks.hold().await;
        hooks.has_plugins() && entry.told.is_running()
    }

    /// Tells plugins, once, that all processes of a pod have ended. `sandbox` is the pod's state
    /// before the stop.
    pub(super) async fn tell_stopped(&self, entry: &Entry, sandbox: &Sandbox) {
        let base = &self.deps.base;
        let _hold = base.hooks.hold().await;
        if !entry.told.stop() || !base.hooks.has_plugins() {
            return;
        }
        let pod = hooked_pod(base, sandbox).await;
        if let Err(error) = base.hooks.pod(PodMoment::Stop, &pod).await {
            let error = error_chain(&error);
            tracing::warn!(pod = %entry.id, error, "NRI plugin returned an error on stop");
        }
    }

    /// Tells plugins, once, that a pod is removed.
    pub(super) async fn tell_removed(&self, entry: &Entry) {
        let base = &self.deps.base;
        let _hold = base.hooks.hold().await;
        if !entry.told.remove() || !base.hooks.has_plugins() {
            return;
        }
        let pod = hooked_pod(base, &entry.sandbox()).await;
        if let Err(error) = base.hooks.pod(PodMoment::Remove, &pod).await {
            let error = error_chain(&error);
            tracing::warn!(pod = %entry.id, error, "NRI plugin returned an error on removal");
        }
    }

    /// Asks plugins about new resources of a pod. The caller makes the change and calls
    /// [`Room::tell_updated`] while it keeps the hold.
    pub(super) async fn ask_about_update(
        &self,
        sandbox: &Sandbox,
        overhead: Option<&Resources>,
        resources: Option<&Resources>,
    ) -> Result<Hold, Error> {
        let base = &self.deps.base;
        let hold = base.hooks.hold().await;
        if base.hooks.has_plugins() {
            let pod = hooked_pod(base, sandbox).await;
            let asked = base.hooks.update_pod(&pod, overhead, resources).await;
            asked.step("ask NRI plugins about the resources")?;
        }
        Ok(hold)
    }

    /// Tells plugins that the resources of a pod were changed.
    pub(super) async fn tell_updated(&self, sandbox: &Sandbox) {
        let base = &self.deps.base;
        if !base.hooks.has_plugins() {
            return;
        }
        let pod = hooked_pod(base, sandbox).await;
        if let Err(error) = base.hooks.pod(PodMoment::PostUpdate, &pod).await {
            let error = error_chain(&error);
            tracing::warn!(pod = %sandbox.id, error, "NRI plugin returned an error on update");
        }
    }
}

#[async_trait]
impl Node for Sandboxes {
    async fn all(&self) -> backend::Result<(Vec<HookedPod>, Vec<(PodId, HookedContainer)>)> {
        let base = &self.room.deps.base;
        let below = base.runtime.list_containers().await?;
        let mut below: BTreeMap<_, _> =
            below.into_iter().map(|record| (record.id.clone(), record)).collect();
        let mut take = |id: &str| below.remove(id);
        let known = |sandbox: &Arc<Sandbox>| {
            self.room.entry(&sandbox.id).is_ok_and(|entry| !entry.told.is_removed())
        };
        let pods = base.board.pods(&Filter::default()).into_iter().filter(known).map(|sandbox| {
            let spec = take(sandbox.id.as_str()).map(|record| record.spec).unwrap_or_default();
            hooked_pod_with(&sandbox, spec)
        });
        let pods = pods.collect();
        Ok((pods, self.room.deps.containers.for_plugins(take)))
    }

    async fn update(&self, container: &str, limits: &Resources) -> backend::Result<()> {
        let (room, limits) = (self.room.clone(), limits.clone());
        let id = container.to_owned();
        let update = async move { Ok(room.deps.containers.update_for_plugin(&id, &limits).await?) };
        self.for_plugin("update", container, update).await
    }

    async fn evict(&self, container: &str, reason: &str) -> backend::Result<()> {
        tracing::info!(container, reason, "evicting container for NRI plugin");
        self.room.deps.containers.evict(container, reason).map_err(|error| {
            let tried = format!("evict container {container}");
            backend::Error::new(ErrorKind::Other, tried).because(error)
        })
    }
}

impl Sandboxes {
    /// Runs a plugin's request in an owned task, which continues if the plugin's waiting time ends.
    async fn for_plugin(
        &self,
        what: &'static str,
        container: &str,
        work: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> backend::Result<()> {
        let tried = || format!("{what} container {container}");
        match tokio::time::timeout(FOR_PLUGIN, self.owned("for-plugin", work)).await {
            Ok(done) => {
                done.map_err(|error| backend::Error::new(ErrorKind::Other, tried()).because(error))
            }
            Err(_) => Err(backend::Error::new(ErrorKind::DeadlineExceeded, tried())),
        }
    }
}
