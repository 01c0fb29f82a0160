//! UpdateContainerResources: changes the limits of a container, running or not.
//!
//! ```text
//! old limits into the record ─> new spec stored below ─> live task updated ─> new limits into the
//!        (for the undo)                                   (if it runs)          record, published
//! ```
//! Until the last step is durable the update is not acknowledged, and the record says how to undo
//! it: at once after a failure, by the next agent after a crash.

use std::sync::Arc;

use serde_json::Value;

use super::entry::Entry;
use super::error::{Error, Step};
use super::{ContainerState, Containers};
use crate::backend::{self, ContainerMoment, ErrorKind, Hold, Process, TaskState, TaskStatus};
use crate::lifecycle::Backoff;
use crate::model::resources::Resources;
use crate::oci::{self, apply_to_spec, put_back, resources_of, stored_limits};
use crate::telemetry::error_chain;

/// Who requested an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    ByClient,
    ByPlugin,
}

impl Containers {
    /// Changes limits of a container that is created, running or exited; what `resources` does not
    /// set is kept. On failure nothing is changed.
    ///
    /// The OOM score cannot be changed: no OCI runtime changes it in a live process.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] while it is removed or its shim does not
    /// answer; [`Error::Invalid`] with the field of the request; [`Error::Backend`] with the
    /// OCI runtime's message when it refuses.
    pub async fn update(self: &Arc<Self>, id: &str, resources: &Resources) -> Result<(), Error> {
        let entry = self.find(id)?.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        self.change_limits(&entry, resources, Asked::ByClient).await
    }

    /// Like [`Containers::update`], requested by a plugin of the node: other plugins are not asked
    /// about it, and an unknown container is not an error.
    pub async fn update_for_plugin(
        self: &Arc<Self>,
        id: &str,
        resources: &Resources,
    ) -> Result<(), Error> {
        match self.find(id)? {
            Some(entry) => self.change_limits(&entry, resources, Asked::ByPlugin).await,
            None => Ok(()),
        }
    }

    async fn change_limits(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        resources: &Resources,
        asked: Asked,
    ) -> Result<(), Error> {
        let _changing = entry.changing.lock().await;
        let state = entry.state();
        let known = !matches!(state, ContainerState::Creating | ContainerState::Unknown { .. });
        if entry.is_removing() || !known {
            return Err(entry.wrong_state("update"));
        }
        self.take_update_back(entry).await?;
        let (_hold, resources) = match asked {
            Asked::ByClient => self.ask_about_update(entry, resources).await?,
            Asked::ByPlugin => (Hold::default(), resources.clone()),
        };
        let mut spec = self.stored_spec(entry).await?;
        let before = stored_limits(&spec);
        let facts = self.deps.host.facts();
        let limits = apply_to_spec(&mut spec, &resources, facts, &self.options.oci);
        let limits = limits.map_err(in_request)?;
        entry.save(&self.deps, |record| record.limits_before = Some(before)).await?;
        if let Err(error) = self.put_in_force(entry, &spec, &limits).await {
            if let Err(undo) = self.take_update_back(entry).await {
                tracing::warn!(container = %entry.id, error = error_chain(&undo),
                    "cannot undo container update yet");
                self.take_update_back_later(entry, Backoff::of_undo().next());
            }
            return Err(error);
        }
        entry.publish(&self.deps, None);
        if asked == Asked::ByClient {
            self.tell(entry, ContainerMoment::PostUpdate).await;
        }
        Ok(())
    }

    async fn put_in_force(&self, entry: &Entry, spec: &Value, limits: &Value) -> Result<(), Error> {
        let stored = self.deps.runtime.update_container_spec(entry.id.as_str(), spec).await;
        stored.step("store the new limits")?;
        if matches!(entry.state(), ContainerState::Running { .. }) {
            self.update_task(entry, limits).await.step("change the limits")?;
        }
        let done = |record: &mut super::ContainerRecord| {
            record.limits_before = None;
            record.container.resources = resources_of(spec);
        };
        entry.save(&self.deps, done).await
    }

    /// Undoes an update that did not complete; does nothing if there is none. The caller holds the
    /// container's lock.
    pub(super) async fn take_update_back(&self, entry: &Entry) -> Result<(), Error> {
        let record = entry.record();
        let Some(before) = &record.limits_before else { return Ok(()) };
        let mut spec = self.stored_spec(entry).await?;
        let limits = put_back(&mut spec, before)?;
        // The live task first: the new spec tells which limits must be unset in it.
        let state = entry.state();
        if matches!(state, ContainerState::Running { .. } | ContainerState::Unknown { .. }) {
            match self.update_task(entry, &limits).await {
                // A runtime that refuses an update has restored the old limits itself.
                Err(error) if !may_come_back(&error) => {
                    let error = error_chain(&error);
                    tracing::warn!(container = %entry.id, error, "runtime refused the old limits");
                }
                other => other.step("put the old limits back")?,
            }
        }
        let stored = self.deps.runtime.update_container_spec(entry.id.as_str(), &spec).await;
        stored.step("store the old limits again")?;
        entry.save_end(&self.deps, |record| record.limits_before = None).await
    }

    /// Keeps trying to undo an update, with delays starting at `pause`.
    pub(super) fn take_update_back_later(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        pause: std::time::Duration,
    ) {
        let (room, entry) = (self.clone(), entry.clone());
        drop(self.deps.tasks.spawn_until_drain("update-undo", async move {
            tokio::time::sleep(pause).await;
            let undo = || async {
                let _changing = entry.changing.lock().await;
                if entry.is_removing() { Ok(()) } else { room.take_update_back(&entry).await }
            };
            Backoff::of_undo().retry(undo).await
        }));
    }

    /// Updates the live task; one that has ended meanwhile is fine.
    async fn update_task(&self, entry: &Entry, limits: &Value) -> backend::Result<()> {
        let runtime = &self.deps.runtime;
        let updated = runtime.update_resources(entry.id.as_str(), limits).await;
        if updated.is_err() {
            let task = runtime.task(Process::init(entry.id.as_str())).await;
            if let Ok(None | Some(TaskStatus { state: TaskState::Stopped(_), .. })) = task {
                return Ok(());
            }
        }
        updated
    }

    async fn stored_spec(&self, entry: &Entry) -> Result<Value, Error> {
        let record = self.deps.runtime.container(entry.id.as_str()).await;
        Ok(record.step("read the container's spec")?.spec)
    }
}

/// Whether a failed call may still have taken effect, or may succeed later.
fn may_come_back(error: &backend::Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded)
}

/// Converts an invalid field of the OCI input into an error that names the field of the request.
fn in_request(error: oci::Error) -> Error {
    match error {
        oci::Error::Invalid { field, problem } => {
            let name = field.strip_prefix("linux.resources.").unwrap_or(&field);
            Error::invalid(format!("linux.{name}"), problem)
        }
        other => other.into(),
    }
}
