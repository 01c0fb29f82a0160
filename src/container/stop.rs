//! StopContainer: the stop signal, a grace period, SIGKILL.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;

use super::entry::Entry;
use super::error::{Error, Step};
use super::{ContainerState, Containers};
use crate::backend::{GoneIsFine, Process};
use crate::ids::PodId;
use crate::model::signal::Signal;

/// How long a container may take to end after SIGKILL.
const AFTER_KILL: Duration = Duration::from_secs(60);

impl Containers {
    /// Stops a container and returns when it has ended. An unknown or stopped one is fine.
    ///
    /// The stop signal is sent once, however often this is called. Each call has its own grace
    /// period, so a later call with a shorter one shortens the wait.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error> {
        match self.find(id)? {
            Some(entry) => self.stop_entry(&entry, grace).await,
            None => Ok(()),
        }
    }

    /// Kills all containers of a pod at once. One failure does not keep the others from being
    /// killed.
    pub async fn kill_all(&self, pod: &PodId) -> Result<(), Error> {
        let entries = self.entries_of(pod);
        let kills = entries.iter().map(|entry| self.stop_entry(entry, Duration::ZERO));
        join_all(kills).await.into_iter().collect()
    }

    pub(super) async fn stop_entry(
        &self,
        entry: &Arc<Entry>,
        grace: Duration,
    ) -> Result<(), Error> {
        // Wait for a start in progress, so that the container cannot start after this stop.
        drop(entry.changing.lock().await);
        match entry.state() {
            ContainerState::Created => {
                let _hold = self.deps.hooks.hold().await;
                self.tell_stopped(entry).await;
                return Ok(());
            }
            ContainerState::Creating | ContainerState::Exited(_) => return Ok(()),
            ContainerState::Unknown { .. } => return self.stop_unknown(entry).await,
            ContainerState::Running { .. } => {}
        }
        self.thaw_for_stop(entry).await;
        if !grace.is_zero() {
            self.send_stop_signal(entry).await?;
            if tokio::time::timeout(grace, entry.wait_ended()).await.is_ok() {
                return Ok(());
            }
        }
        entry.killed.store(true, Ordering::Release);
        self.signal(entry, Signal::KILL).await?;
        let ended = tokio::time::timeout(AFTER_KILL, entry.wait_ended()).await;
        ended.map_err(|_| Error::WouldNotDie(entry.id.clone(), AFTER_KILL))
    }

    async fn send_stop_signal(&self, entry: &Entry) -> Result<(), Error> {
        if entry.stop_sent.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let sent = self.signal(entry, entry.container().stop_signal).await;
        if sent.is_err() {
            entry.stop_sent.store(false, Ordering::Release);
        }
        sent
    }

    async fn signal(&self, entry: &Entry, signal: Signal) -> Result<(), Error> {
        let process = Process::init(entry.id.as_str());
        let killed = self.deps.runtime.kill(process, signal.number(), false).await;
        killed.gone_is_fine().step("signal the container")
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
