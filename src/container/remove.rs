//! RemoveContainer.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::entry::Entry;
use super::error::{Error, Step};
use super::{ContainerState, Containers};
use crate::backend::{ErrorKind, Process, shim_hangs};
use crate::ids::PodId;

/// How long the deletion of a task may take before it is checked whether its shim hangs.
const DELETE_PATIENCE: Duration = Duration::from_secs(10);
const DELETE_TASK: &str = "delete the task";

impl Containers {
    /// Removes a container, killing it first if it runs. Idempotent; an unknown id is fine. The log
    /// file stays: it belongs to the caller.
    ///
    /// # Errors
    /// `ShimHangs`: can only be completed once the shim has ended or answers again.
    pub async fn remove(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        match self.find(id)? {
            Some(entry) => self.remove_entry(&entry).await,
            None => Ok(()),
        }
    }

    /// Removes all containers of a pod. One failure does not keep the others from being tried.
    pub async fn remove_all(self: &Arc<Self>, pod: &PodId) -> Result<(), Error> {
        let entries = self.entries_of(pod);
        let removals = entries.iter().map(|entry| self.remove_entry(entry));
        join_all(removals).await.into_iter().collect()
    }

    async fn remove_entry(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<(), Error> {
        // One whose removal failed before has ended.
        if !entry.is_removing() {
            self.stop_entry(entry, Duration::ZERO).await?;
        }
        let _changing = entry.changing.lock().await;
        if !self.entries().contains_key(&entry.id) {
            return Ok(());
        }
        if matches!(entry.state(), ContainerState::Running { .. }) {
            // It was started between the stop and taking the lock.
            return Err(entry.wrong_state("remove"));
        }
        if !entry.is_removing() {
            entry.save_end(&self.deps, |record| record.removing = true).await?;
        }
        self.tell_removed(entry).await;
        self.destroy(entry).await?;
        self.deps.board.drop_container(&entry.id);
        self.forget(entry);
        Ok(())
    }

    /// Removes everything that a container has in the backends, then its row. Every step is
    /// idempotent, so a failed removal is simply repeated.
    pub(super) async fn destroy(&self, entry: &Entry) -> Result<(), Error> {
        let id = entry.id.as_str();
        let (runtime, host) = (&self.deps.runtime, &self.deps.host);
        // First the task: it could not be reached any more once its record is gone.
        self.delete_task_of(entry).await?;
        if let Some(pump) = entry.set_pump(None) {
            pump.stop();
        }
        let kept = entry.record();
        let (snapshotter, cgroup) = (&kept.handler.snapshotter, &kept.cgroup);
        let (state, root) = (self.fifo_dir(entry), self.options.root.join(id));
        let (rootfs, record, state, root, ()) = tokio::join!(
            runtime.remove_rootfs(snapshotter, id),
            runtime.delete_container(id),
            host.remove_tree(&state),
            host.remove_tree(&root),
            async {
                if let Some(cgroup) = cgroup {
                    self.remove_cgroup(cgroup).await;
                }
            },
        );
        rootfs.step("remove the root file system")?;
        record.step("delete the container record")?;
        state.step("remove the run-time folder")?;
        root.step("remove the container's folder")?;
        self.erase(entry).await
    }

    /// Deletes the task, killing what still runs. Deleting it may take long, as file systems are
    /// unmounted, so a late answer alone does not mean that the shim hangs.
    async fn delete_task_of(&self, entry: &Entry) -> Result<(), Error> {
        let mut deleted = self.deps.runtime.delete_task(Process::init(entry.id.as_str()), true);
        loop {
            let result = match tokio::time::timeout(DELETE_PATIENCE, &mut deleted).await {
                Ok(Err(error)) if error.kind == ErrorKind::DeadlineExceeded => Some(Err(error)),
                Ok(result) => return result.map(drop).step(DELETE_TASK),
                Err(_) => None,
            };
            if self.shim_hangs(&entry.pod).await {
                return Err(Error::ShimHangs(entry.pod.clone()));
            }
            if let Some(late) = result {
                return late.step(DELETE_TASK);
            }
        }
    }

    /// Whether the shim of a pod hangs. It is asked about the pause process, which nothing else
    /// keeps busy.
    pub(crate) async fn shim_hangs(&self, pod: &PodId) -> bool {
        !self.is_starting_in(pod) && shim_hangs(&*self.deps.runtime, pod.as_str()).await
    }

    /// Whether a container of the pod may run.
    pub(crate) fn any_runs_in(&self, pod: &PodId) -> bool {
        self.entries_of(pod).iter().any(|entry| match entry.state() {
            ContainerState::Running { .. } => true,
            ContainerState::Unknown { started_at } => started_at.is_some(),
            ContainerState::Creating | ContainerState::Created | ContainerState::Exited(_) => false,
        })
    }
}
