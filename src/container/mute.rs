//! Containers whose shim does not answer: the agent watches their process on the host.
//!
//! A stopped or hung shim never reports an exit, and its container would be shown as running for
//! ever. So the process is watched independently of the shim. If it has ended and the shim still
//! does not answer, while containerd does, the exit is recorded without the shim. That record is
//! final, whatever the shim may report later.

use std::sync::Arc;
use std::time::Duration;

use super::Containers;
use super::entry::Entry;
use super::record::InitProcess;
use crate::backend::{ErrorKind, Exit, Process, TaskState};

/// How long a shim may take to report an exit. Together with the time to answer a direct query, ten
/// seconds.
const TELL_LIMIT: Duration = Duration::from_secs(6);
const ASK_LIMIT: Duration = Duration::from_secs(3);
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Delay between two queries to a shim that has not reported an exit.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// What is known of an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Reported by the shim when queried; `None` when the task is gone.
    Told(Option<Exit>),
    /// The shim does not answer.
    Untold,
}

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
        if let Err(error) = self.deps.host.process_end(init.pid, init.start_time).await {
            tracing::warn!(container = %entry.id, %error, "cannot watch container process");
            return std::future::pending().await;
        }
        tokio::time::sleep(TELL_LIMIT).await;
        loop {
            if let Some(end) = self.ask_for_end(entry).await {
                return end;
            }
            tokio::time::sleep(ASK_PAUSE).await;
        }
    }

    /// Queries the shim. `None` when nothing is certain: if containerd is down, nothing is known
    /// about the shim.
    async fn ask_for_end(&self, entry: &Entry) -> Option<End> {
        let runtime = &self.deps.runtime;
        let asked = runtime.task(Process::init(entry.id.as_str()));
        match tokio::time::timeout(ASK_LIMIT, asked).await {
            Ok(Ok(None)) => return Some(End::Told(None)),
            Ok(Ok(Some(task))) => match task.state {
                TaskState::Stopped(exit) => return Some(End::Told(Some(exit))),
                TaskState::Created | TaskState::Running => return None,
                TaskState::Unknown => {}
            },
            Ok(Err(error)) if error.kind == ErrorKind::NotFound => return Some(End::Told(None)),
            Ok(Err(_)) | Err(_) => {}
        }
        let answers = tokio::time::timeout(PROBE_LIMIT, runtime.probe()).await;
        matches!(answers, Ok(Ok(_))).then_some(End::Untold)
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
