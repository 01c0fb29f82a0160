//! Container exits: detected by waiting, stored, then published.
//!
//! Order: exit seen -> stored -> log written to its end -> published. So an exit code is never lost,
//! and a client that sees `Exited` also sees the whole log. Once it is stored the task is deleted,
//! beside the rest: nobody has to wait for that but those who remove the container or its pod.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::entry::Entry;
use super::{ContainerState, Containers, EndReason, EventKind, Exited};
use crate::backend::{End, Exit, Process, wait_for_end};
use crate::clock::now;
use crate::telemetry::error_chain;

/// How long the log may stay open after the process has exited. A child that keeps the stream open
/// must not delay the report of the exit.
const LOG_DRAIN: Duration = Duration::from_secs(10);

/// Exit code of a killed process: 128 + SIGKILL.
const KILLED: u32 = 137;

/// How long to wait for the OOM event where the cgroup's counter cannot be read.
const OOM_EVENT_LIMIT: Duration = Duration::from_secs(1);

impl Containers {
    /// Watches a running container until it ends or the agent drains.
    pub(super) fn watch_exit(self: &Arc<Self>, entry: &Arc<Entry>) {
        let (room, entry) = (self.clone(), entry.clone());
        drop(self.deps.tasks.spawn_lasting("container-exit", move || {
            let (room, entry) = (room.clone(), entry.clone());
            async move { room.wait_for_exit(&entry).await }
        }));
    }

    /// Waits for the end of a container and records it.
    async fn wait_for_exit(self: &Arc<Self>, entry: &Arc<Entry>) {
        let process = Process::init(entry.id.as_str());
        // Both branches are cancel-safe: the shim keeps the exit until the agent deletes the task.
        let end = tokio::select! {
            exit = wait_for_end(&*self.deps.runtime, process) => End::Told(exit),
            end = self.end_beside_shim(entry) => end,
        };
        // In a task of its own, so that a drain cannot interrupt it half-way.
        let (room, entry) = (self.clone(), entry.clone());
        let settle = async move { room.settle_as(&entry, end).await };
        let _settled = self.deps.tasks.spawn_essential("container-end", settle).join().await;
    }

    /// Moves a container whose process has ended to `Exited`. `exit` is `None` when it is unknown
    /// how.
    pub(super) async fn settle(&self, entry: &Entry, exit: Option<Exit>) {
        let _changing = entry.changing.lock().await;
        let Some(exited) = self.exited(entry, exit).await else { return };
        let stored = self.store_end(entry, exited).await;
        let tell = async {
            self.end_log(entry).await;
            self.publish_end(entry).await;
            entry.ended.send_replace(true);
        };
        let delete = async {
            // The shim keeps the exit until its task is deleted, so a lost write loses nothing.
            if stored {
                self.delete_ended_task(entry).await;
            }
        };
        tokio::join!(tell, delete);
    }

    /// Describes how a container ended; `None` when it did not run.
    pub(super) async fn exited(&self, entry: &Entry, exit: Option<Exit>) -> Option<Exited> {
        let started_at = match entry.state() {
            ContainerState::Running { started_at, .. } => Some(started_at),
            ContainerState::Unknown { started_at } => started_at,
            ContainerState::Creating | ContainerState::Created | ContainerState::Exited(_) => {
                return None;
            }
        };
        let oom = self.was_oom_killed(entry, exit).await;
        let mut exited = describe(started_at, exit, oom);
        if let Some(reason) = entry.evicted() {
            exited.reason = EndReason::Evicted;
            exited.message = reason;
        }
        Some(exited)
    }

    /// Stores the end and returns whether that worked; on failure the state is set in memory only.
    pub(super) async fn store_end(&self, entry: &Entry, exited: Exited) -> bool {
        let state = ContainerState::Exited(exited);
        let save = entry.save_end(&self.deps, |record| record.container.state = state.clone());
        let saved = save.await;
        if let Err(error) = &saved {
            tracing::error!(container = %entry.id, error = error_chain(error), "cannot store exit");
            entry.set_state(state);
        }
        saved.is_ok()
    }

    /// Stores and publishes an exit for which there is no process.
    pub(super) async fn mark_exited(&self, entry: &Entry, exited: Exited) {
        self.store_end(entry, exited).await;
        self.publish_end(entry).await;
        entry.ended.send_replace(true);
    }

    /// Publishes that a container has ended, then tells plugins, so that a slow plugin does not
    /// delay the event.
    pub(super) async fn publish_end(&self, entry: &Entry) {
        let _hold = self.deps.hooks.hold().await;
        entry.publish(&self.deps, Some(EventKind::Stopped));
        self.tell_stopped(entry).await;
    }

    async fn delete_ended_task(&self, entry: &Entry) {
        let process = Process::init(entry.id.as_str());
        if let Err(error) = self.deps.runtime.delete_task(process, false).await {
            // Removal tries again.
            tracing::warn!(container = %entry.id, error = error_chain(&error),
                "cannot delete task");
        }
    }

    pub(super) async fn end_log(&self, entry: &Entry) {
        entry.stdin.close();
        let Some(pump) = entry.set_pump(None) else { return };
        if tokio::time::timeout(LOG_DRAIN, pump.finished()).await.is_err() {
            tracing::warn!(container = %entry.id, "output stayed open after the exit; log closed");
        }
        pump.stop();
    }

    /// Whether the kernel OOM-killed a process in the container. Event and counter cover every
    /// process, also when the first one failed by itself because of that.
    async fn was_oom_killed(&self, entry: &Entry, exit: Option<Exit>) -> bool {
        let Some(exit) = exit else { return false };
        if *entry.oom.borrow() {
            return true;
        }
        if exit.code == 0 {
            return false;
        }
        // The event may come late; the cgroup's counter is exact until the task is deleted.
        let kills = match &entry.record().memory_cgroup {
            Some(cgroup) => self.deps.host.oom_kills(cgroup).await.ok().flatten(),
            None => None,
        };
        match kills {
            Some(kills) => kills > 0,
            None => exit.code == KILLED && self.is_told_of_oom(entry, exit).await,
        }
    }

    /// systemd removes an empty cgroup at once, with its counter. Then wait shortly for the event,
    /// unless it is too late for it or the agent itself sent SIGKILL.
    async fn is_told_of_oom(&self, entry: &Entry, exit: Exit) -> bool {
        let age = u128::try_from(now().saturating_sub(exit.at)).unwrap_or_default();
        if entry.killed.load(Ordering::Acquire) || age > OOM_EVENT_LIMIT.as_nanos() {
            return false;
        }
        let mut oom = entry.oom.subscribe();
        tokio::time::timeout(OOM_EVENT_LIMIT, oom.wait_for(|oom| *oom)).await.is_ok()
    }

    /// Changes the reason to `OOMKilled` when the OOM event came after the exit was published.
    pub(super) async fn correct_reason(&self, entry: &Entry) {
        let _changing = entry.changing.lock().await;
        if self.is_leaving(entry) {
            return;
        }
        let ContainerState::Exited(mut exited) = entry.state() else { return };
        if exited.reason != EndReason::Error {
            return;
        }
        exited.reason = EndReason::OomKilled;
        let state = ContainerState::Exited(exited);
        let saved = entry.save_end(&self.deps, |record| record.container.state = state.clone());
        if let Err(error) = saved.await {
            tracing::error!(container = %entry.id, error = error_chain(&error),
                "cannot store exit reason");
            entry.set_state(state);
        }
        entry.publish(&self.deps, Some(EventKind::Stopped));
    }
}

/// Describes an exit as CRI does.
pub(super) fn describe(started_at: Option<i64>, exit: Option<Exit>, oom: bool) -> Exited {
    let Some(exit) = exit else {
        return Exited {
            started_at,
            finished_at: now(),
            code: 255,
            reason: EndReason::Unknown,
            message: "the process is gone and nothing knows how it ended".to_owned(),
        };
    };
    let reason = match exit.code {
        _ if oom => EndReason::OomKilled,
        0 => EndReason::Completed,
        _ => EndReason::Error,
    };
    Exited {
        started_at,
        finished_at: if exit.at > 0 { exit.at } else { now() },
        code: i32::try_from(exit.code).unwrap_or(i32::MAX),
        reason,
        message: String::new(),
    }
}
