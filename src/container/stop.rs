//! StopContainer: the stop signal, a grace period, SIGKILL.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::entry::Entry;
use super::error::{Error, Step};
use super::{ContainerState, Containers};
use crate::backend::{self, ErrorKind, GoneIsFine, Process};
use crate::ids::PodId;
use crate::model::signal::Signal;
use crate::telemetry::error_chain;

/// How long a container may take to end after SIGKILL.
const AFTER_KILL: Duration = Duration::from_secs(60);

/// How long a shim may take to deliver a signal before it counts as hung.
const SIGNAL_LIMIT: Duration = Duration::from_secs(10);
const SIGNAL: &str = "signal the container";

impl Containers {
    /// Stops a container and returns when it has ended. An unknown or stopped one is fine.
    ///
    /// The stop signal is sent once, however often this is called. Each call has its own grace
    /// period, so a later call with a shorter one shortens the wait.
    pub async fn stop(self: &Arc<Self>, id: &str, grace: Duration) -> Result<(), Error> {
        match self.find(id)? {
            Some(entry) => self.stop_entry(&entry, grace).await,
            None => Ok(()),
        }
    }

    /// Kills all containers of a pod at once; their tasks may remain. One failure does not keep the others from being
    /// killed.
    pub async fn kill_all(self: &Arc<Self>, pod: &PodId) -> Result<(), Error> {
        let entries = self.entries_of(pod);
        let kills = entries.iter().map(|entry| self.stop_entry(entry, Duration::ZERO));
        join_all(kills).await.into_iter().collect()
    }

    /// Waits until the tasks of a pod's ended containers are deleted, as far as they can be.
    pub async fn wait_for_deletions(&self, pod: &PodId) {
        for entry in self.entries_of(pod) {
            drop(entry.changing.lock().await);
        }
    }

    pub(super) async fn stop_entry(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grace: Duration,
    ) -> Result<(), Error> {
        if entry.has_ended() {
            // Its task may still be being deleted.
            return Ok(());
        }
        // Wait for a start in progress, so that the container cannot start after this stop.
        drop(entry.changing.lock().await);
        match entry.state() {
            ContainerState::Created => {
                let _hold = self.deps.hooks.hold().await;
                self.tell_stopped(entry).await;
                return Ok(());
            }
            ContainerState::Creating | ContainerState::Exited(_) => return Ok(()),
            ContainerState::Unknown { started_at } => {
                if !self.is_found_running(entry, started_at).await {
                    return self.stop_unknown(entry).await;
                }
            }
            ContainerState::Running { .. } => {}
        }
        self.thaw_for_stop(entry).await;
        if !grace.is_zero() {
            let over = Instant::now() + grace;
            self.send_stop_signal(entry).await?;
            if tokio::time::timeout_at(over, entry.wait_ended()).await.is_ok() {
                return Ok(());
            }
        }
        self.send_kill(entry).await?;
        let ended = tokio::time::timeout(AFTER_KILL, entry.wait_ended()).await;
        ended.map_err(|_| Error::WouldNotDie(entry.id.clone(), AFTER_KILL))
    }

    /// Sends the stop signal, unless it was sent before. A shim that hangs may still deliver it, so
    /// that is not an error.
    async fn send_stop_signal(&self, entry: &Entry) -> Result<(), Error> {
        if entry.stop_sent.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let sent = self.signal(entry, entry.container().stop_signal).await;
        if sent.is_err() {
            entry.stop_sent.store(false, Ordering::Release);
        }
        match sent {
            Err(error) if is_late(&error) => {
                tracing::warn!(container = %entry.id, error = error_chain(&error),
                    "shim does not respond to the stop signal");
                Ok(())
            }
            other => other.step(SIGNAL),
        }
    }

    /// Sends SIGKILL. If the shim hangs the process is killed directly.
    async fn send_kill(&self, entry: &Entry) -> Result<(), Error> {
        entry.killed.store(true, Ordering::Release);
        let sent = self.signal(entry, Signal::KILL).await;
        match (&sent, entry.record().init) {
            (Err(error), Some(init)) if is_late(error) => {
                tracing::warn!(container = %entry.id, error = error_chain(error),
                    "shim does not respond, killing its container's process");
                let killed = self.deps.host.kill_tree(init.pid, init.start_time).await;
                killed.step("kill the container's process")
            }
            _ => sent.step(SIGNAL),
        }
    }

    /// Sends a signal; one that has ended is fine. `DeadlineExceeded` if the shim hangs.
    async fn signal(&self, entry: &Entry, signal: Signal) -> Result<(), backend::Error> {
        let process = Process::init(entry.id.as_str());
        let sent = self.deps.runtime.kill(process, signal.number(), false);
        let late = |_| {
            let tried = format!("send signal {} to {}", signal.number(), entry.id);
            backend::Error::new(ErrorKind::DeadlineExceeded, tried)
        };
        tokio::time::timeout(SIGNAL_LIMIT, sent).await.map_err(late)?.gone_is_fine()
    }

    /// Stops a container whose shim does not answer.
    async fn stop_unknown(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        entry.killed.store(true, Ordering::Release);
        let process = Process::init(entry.id.as_str());
        let exit = self.deps.runtime.delete_task(process, true).await.step("delete the task")?;
        self.settle(entry, exit).await;
        Ok(())
    }
}

fn is_late(error: &backend::Error) -> bool {
    error.kind == ErrorKind::DeadlineExceeded
}
