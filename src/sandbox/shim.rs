//! Ends shims that hang, when what they still have is to be removed.

use std::time::Duration;

use super::Room;
use super::entry::Entry;
use super::error::{Error, Step};
use super::record::{Owed, SandboxRecord};
use crate::backend::{self, ErrorKind, HostProcess, Process, SHIM_ID};
use crate::container;
use crate::ids::PodId;
use crate::lifecycle::Backoff;

/// How long containerd may take to delete the tasks of a killed shim.
const AFTER_SHIM: Duration = Duration::from_secs(10);
const AFTER_SHIM_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

impl Room {
    /// Removes a container. If the shim hangs it is ended, and the pod with it, unless other
    /// containers of the pod run.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let containers = &self.deps.containers;
        match containers.remove(id).await {
            Err(container::Error::ShimHangs(pod)) => {
                self.end_shim_for(id, &pod).await?;
                Ok(containers.remove(id).await?)
            }
            removed => Ok(removed?),
        }
    }

    /// Ends the hung shim of a pod so that container `id` can be removed.
    async fn end_shim_for(&self, id: &str, pod: &PodId) -> Result<(), Error> {
        let entry = self.entry(pod)?;
        let containers = &self.deps.containers;
        let _alone = entry.gate.write().await;
        // It may have ended, or answered, while this call waited.
        if !containers.shim_hangs(pod).await {
            return Ok(());
        }
        if containers.any_runs_in(pod) {
            return Err(Error::ShimInUse { container: id.to_owned(), pod: pod.clone() });
        }
        // Its pause process ends with the shim.
        if entry.sandbox().is_ready() {
            self.mark_not_ready(&entry).await;
        }
        self.end_hung_shim(&entry).await
    }

    /// Kills a hung shim with all its descendants, when no container of its pod runs any more.
    /// containerd then deletes its tasks.
    pub(super) async fn end_hung_shim(&self, entry: &Entry) -> Result<(), Error> {
        if !entry.owes(Owed::Pause) {
            return Ok(());
        }
        let base = &self.deps.base;
        let mut arguments = base.runtime.shim_arguments();
        arguments.extend([SHIM_ID.to_owned(), entry.id.to_string()]);
        for HostProcess { pid, start_time, .. } in
            base.host.processes_with(&arguments).await.step("list the shims")?
        {
            tracing::warn!(pod = %entry.id, pid, "killing a shim that does not respond");
            base.host.kill_tree(pid, start_time).await.step("kill the shim")?;
        }
        let [first, longest] = AFTER_SHIM_PAUSES;
        let process = Process::init(entry.id.as_str());
        let delete = || base.runtime.delete_task(process, true);
        let deleted = Backoff::new(first, longest).retry(delete);
        if tokio::time::timeout(AFTER_SHIM, deleted).await.is_err() {
            let late = backend::Error::new(ErrorKind::DeadlineExceeded, "delete the pause task");
            return Err(late).step("end a shim that does not respond");
        }
        let gone = |record: &mut SandboxRecord| {
            record.owed.remove(&Owed::Pause);
        };
        entry.save_end(base, gone).await
    }
}
