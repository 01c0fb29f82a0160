//! Containers whose shim does not answer: the agent watches their process on the host.
//!
//! A stopped or hung shim never reports an exit, and its container would be shown as running for
//! ever. So the process is watched independently of the shim. If it has ended and the shim still
//! does not answer, while containerd does, the exit is recorded without the shim. That record is
//! final, whatever the shim may report later.

use std::sync::Arc;

use super::Containers;
use super::entry::Entry;
use super::record::InitProcess;
use crate::backend::{End, end_beside_shim};

impl Containers {
    /// The identity of a process, to be stored.
    pub(super) async fn init_process(&self, pid: u32) -> Option<InitProcess> {
        let start_time = self.deps.host.process_start_time(pid).await.ok().flatten()?;
        Some(InitProcess { pid, start_time })
    }

    /// The PID of a container's process, if the host knows that it runs.
    pub(super) async fn living_init(&self, entry: &Entry) -> Option<u32> {
        let init = entry.record().init?;
        let lives = self.deps.host.process_lives(init.pid, init.start_time).await;
        lives.unwrap_or(false).then_some(init.pid)
    }

    /// Completes some time after the process has ended, if the shim has not reported it by then;
    /// never if that cannot be known. Cancel-safe.
    pub(super) async fn end_beside_shim(&self, entry: &Entry) -> End {
        let Some(init) = entry.record().init else { return std::future::pending().await };
        let (runtime, host) = (&*self.deps.runtime, &*self.deps.host);
        let process = (init.pid, init.start_time);
        let is_busy = || self.is_starting_in(&entry.pod);
        match end_beside_shim(runtime, host, entry.id.as_str(), process, is_busy).await {
            Ok(end) => end,
            Err(error) => {
                tracing::warn!(container = %entry.id, %error, "cannot watch container process");
                std::future::pending().await
            }
        }
    }

    /// Moves a container to `Exited` after an exit found by [`Containers::end_beside_shim`].
    pub(super) async fn settle_as(self: &Arc<Self>, entry: &Arc<Entry>, end: End) {
        match end {
            End::Told(exit) => self.settle(entry, exit).await,
            End::Untold => self.settle_untold(entry).await,
        }
    }

    /// Records an exit without waiting for the shim: its task is deleted, and the log ended, once
    /// it answers again.
    async fn settle_untold(self: &Arc<Self>, entry: &Arc<Entry>) {
        let changing = entry.changing.lock().await;
        let Some(exited) = self.exited(entry, None).await else { return };
        tracing::warn!(container = %entry.id, "container exited and its shim does not respond");
        self.store_end(entry, exited).await;
        self.publish_end(entry).await;
        entry.ended.send_replace(true);
        drop(changing);
        let (room, entry) = (self.clone(), entry.clone());
        drop(self.deps.tasks.spawn_until_drain("mute-shim", async move {
            room.delete_task_until_gone(&entry).await;
            room.end_log(&entry).await;
        }));
    }
}
