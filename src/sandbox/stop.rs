//! StopPodSandbox and RemovePodSandbox.
//!
//! A teardown removes what the record lists as owed. Every step is tried; failed ones stay owed,
//! and a later call resumes with them. The network is removed while the processes end.
//!
//! StopPodSandbox returns when no process runs and the network is gone. The tasks, of which only the
//! OCI runtime's state is left, are deleted behind it; RemovePodSandbox waits for that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::create::attachment;
use super::entry::Entry;
use super::error::{Error, Step, TeardownErrors};
use super::pause::AFTER_KILL;
use super::ports::release_host_ports;
use super::record::{Owed, SandboxRecord};
use super::{Room, SandboxState};
use crate::backend::{ErrorKind, NetnsState, Process};
use crate::board::EventKind;
use crate::container::{self, InitProcess};
use crate::lifecycle::{Backoff, Owned};
use crate::model::Owner;
use crate::model::signal::Signal;
use crate::oci;
use crate::store::Batch;
use crate::telemetry::error_chain;

/// Results of ending the processes (containers, pause) and of removing the network.
type Ended = ((Result<(), container::Error>, Result<Pause, Error>), Result<(), Error>);

/// What is left of an ended pause process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Nothing.
    Gone,
    /// Its task, which its hung shim still has, or which is deleted later.
    Task,
}

/// How far the processes of a pod are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// None runs any more.
    Killed,
    /// Their tasks are deleted too.
    Deleted,
}

/// Whether CNI DEL must succeed for a network that was never ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strict {
    /// While a failed creation is undone: an address may be allocated, so it is tried until it
    /// works.
    Yes,
    /// For a CRI client: an attachment that never existed must not block the removal of the pod.
    No,
}

impl Room {
    /// Stops a sandbox: kills its containers and its pause process, removes its network.
    pub(super) async fn stop(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<(), Error> {
        release_host_ports(entry);
        let _alone = entry.gate.write().await;
        if !self.entries().contains_key(&entry.id) {
            // It was removed while this call waited.
            return Ok(());
        }
        let stopped = self.stop_alone(entry, Ending::Killed).await;
        // What a caller gives up must not stay for ever; the engine does not give up.
        let has_failed = stopped.is_err() && entry.sandbox().owner == Owner::Cri;
        if has_failed || (stopped.is_ok() && entry.owes(Owed::Pause)) {
            self.finish_stop_later(entry);
        }
        stopped
    }

    /// Removes what a stopped pod still owes, apart from the caller; repeated until it works.
    pub(super) fn finish_stop_later(self: &Arc<Self>, entry: &Arc<Entry>) {
        if entry.is_finishing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (room, entry) = (self.clone(), entry.clone());
        drop(self.deps.base.tasks.spawn_until_drain("sandbox-stop", async move {
            let finish = || async {
                let _alone = entry.gate.write().await;
                let removed = room.entry(&entry.id).is_err();
                if removed || entry.read(|record| record.owed.is_empty()) {
                    return Ok(());
                }
                room.tear_down(&entry, Strict::No, Ending::Deleted).await.inspect_err(|error| {
                    let error = error_chain(error);
                    tracing::warn!(pod = %entry.id, error, "cannot finish the stop of a pod yet");
                })
            };
            Backoff::of_undo().retry(finish).await;
            entry.is_finishing.store(false, Ordering::Release);
        }));
    }

    async fn stop_alone(&self, entry: &Arc<Entry>, ending: Ending) -> Result<(), Error> {
        let sandbox = entry.sandbox();
        let was_ready = sandbox.is_ready();
        // A network that never existed must not block a kubelet. The engine retries until it is
        // certain that no address stays allocated.
        let strict = match sandbox.owner {
            Owner::Cri => Strict::No,
            Owner::Pod => Strict::Yes,
        };
        let stopped = self.tear_down(entry, strict, ending).await;
        if was_ready {
            entry.publish(&self.deps.base, Some(EventKind::Stopped));
        } else {
            entry.publish(&self.deps.base, None);
        }
        stopped
    }

    /// Removes everything owed; stores what is left over in one write at the end.
    pub(super) async fn tear_down(
        &self,
        entry: &Arc<Entry>,
        strict: Strict,
        ending: Ending,
    ) -> Result<(), Error> {
        let record = entry.record();
        let mut errors = Vec::new();
        let mut gone = BTreeSet::new();
        let mut note = |step: Owed, result: Result<(), Error>| match result {
            Ok(()) => {
                gone.insert(step);
            }
            Err(error) => errors.push(error),
        };
        let owes = |step| record.owed.contains(&step);
        let ended = self.end_and_detach(entry, &record, strict, ending).await;
        let ((containers, pause), network) = ended;
        // A task stays owed, but nothing runs any more.
        let has_task = matches!(pause, Ok(Pause::Task));
        if !has_task {
            note(Owed::Pause, pause.map(drop));
        }
        let attached = network.is_err();
        note(Owed::Network, network);
        if owes(Owed::Shm) {
            note(Owed::Shm, self.unmount_shm(entry).await);
        }
        if owes(Owed::Images) {
            note(Owed::Images, self.unmount_images(entry).await);
        }
        if owes(Owed::Userns) {
            note(Owed::Userns, self.unpin_userns(&record).await);
        }
        // Kept if DEL failed, because the next DEL needs the namespace.
        if owes(Owed::Netns) && !attached {
            note(Owed::Netns, self.remove_netns(&record).await);
        }
        if has_task && self.is_task_deleted(entry, Duration::ZERO).await {
            gone.insert(Owed::Pause);
        }
        if let Err(error) = containers {
            errors.push(Error::Container(error));
        }
        if let Err(error) = self.save_torn_down(entry, &record, &gone).await {
            errors.push(error);
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Teardown(TeardownErrors(errors))),
        }
    }

    /// Stores that `gone` is no longer owed and that the pod is not ready, if the record says
    /// otherwise.
    async fn save_torn_down(
        &self,
        entry: &Arc<Entry>,
        record: &SandboxRecord,
        gone: &BTreeSet<Owed>,
    ) -> Result<(), Error> {
        if record.owed.is_disjoint(gone) && record.sandbox.state == SandboxState::NotReady {
            return Ok(());
        }
        let saved = entry.save_end(&self.deps.base, |record| {
            record.owed.retain(|step| !gone.contains(step));
            record.sandbox.state = SandboxState::NotReady;
            if !record.owed.contains(&Owed::Network) {
                record.sandbox.network = None;
            }
        });
        saved.await
    }

    /// Ends the processes and removes the network concurrently; but if there are plugins to be
    /// told, they are told after the processes have ended and before the network is removed.
    async fn end_and_detach(
        &self,
        entry: &Entry,
        record: &SandboxRecord,
        strict: Strict,
        ending: Ending,
    ) -> Ended {
        let ends = self.end_processes(entry, record.owed.contains(&Owed::Pause), ending);
        if !self.has_to_tell_stop(entry).await {
            let both = tokio::join!(ends, async {
                self.intend_stop(entry).await;
                self.detach(record, strict).await
            });
            // For a plugin that joined meanwhile.
            self.tell_stopped(entry, &record.sandbox).await;
            return both;
        }
        let (ended, ()) = tokio::join!(ends, self.intend_stop(entry));
        self.tell_stopped(entry, &record.sandbox).await;
        (ended, self.detach(record, strict).await)
    }

    /// Ends the containers, then the pause process: deleting its task ends the shim, so it must be
    /// the last, or the shim would stay.
    async fn end_processes(
        &self,
        entry: &Entry,
        pause: bool,
        ending: Ending,
    ) -> (Result<(), container::Error>, Result<Pause, Error>) {
        let containers = self.deps.containers.kill_all(&entry.id).await;
        if !pause {
            return (containers, Ok(Pause::Gone));
        }
        if ending == Ending::Killed
            && let Some(killed) = self.end_pause_only(entry).await
        {
            return (containers, killed);
        }
        if self.is_task_deleted(entry, AFTER_KILL).await {
            return (containers, Ok(Pause::Gone));
        }
        self.deps.containers.wait_for_deletions(&entry.id).await;
        (containers, self.end_pause(entry).await)
    }

    /// Starts to delete the task of the ended pause process, once those of the containers are gone.
    fn start_deletion(&self, entry: &Entry) {
        let (containers, runtime) = (self.deps.containers.clone(), self.deps.base.runtime.clone());
        let id = entry.id.clone();
        let delete = async move {
            containers.wait_for_deletions(&id).await;
            runtime.delete_task(Process::init(id.as_str()), false).await.is_ok()
        };
        *entry.deletion.lock() = Some(self.deps.base.tasks.spawn("pause-task", delete));
    }

    /// Whether such a deletion has succeeded; waits for it for at most `limit`.
    async fn is_task_deleted(&self, entry: &Entry, limit: Duration) -> bool {
        let deletion = {
            let mut place = entry.deletion.lock();
            let is_due = |it: &Owned<bool>| !limit.is_zero() || it.has_ended();
            if place.as_ref().is_some_and(is_due) { place.take() } else { None }
        };
        let Some(deletion) = deletion else { return false };
        tokio::time::timeout(limit, deletion.join()).await == Ok(Some(true))
    }

    /// Ends the pause process; its task is deleted later. `None` if containerd refuses to.
    async fn end_pause_only(&self, entry: &Entry) -> Option<Result<Pause, Error>> {
        let (runtime, process) = (&self.deps.base.runtime, Process::init(entry.id.as_str()));
        let ended = async {
            // All, for those that the process has in the host's PID namespace.
            runtime.kill(process, Signal::KILL.number(), true).await?;
            runtime.wait(process).await
        };
        match tokio::time::timeout(AFTER_KILL, ended).await {
            Ok(Ok(_)) => {
                self.start_deletion(entry);
                Some(Ok(Pause::Task))
            }
            Ok(Err(error)) if error.kind != ErrorKind::DeadlineExceeded => None,
            Ok(Err(_)) | Err(_) => Some(self.kill_pause(entry).await),
        }
    }

    /// Stores that the pod is not ready before its network is touched, so that after a crash
    /// half-way the next agent does not take it for ready. It runs while the processes end, so it
    /// costs no time. A store that cannot be written does not block a stop.
    async fn intend_stop(&self, entry: &Entry) {
        if !entry.is_ready() {
            return;
        }
        let not_ready = |record: &mut SandboxRecord| record.sandbox.state = SandboxState::NotReady;
        if let Err(error) = entry.save_end(&self.deps.base, not_ready).await {
            let error = error_chain(&error);
            tracing::warn!(pod = %entry.id, error, "cannot store sandbox state, stopping anyway");
        }
    }

    /// Ends the pause process and deletes its task. If its shim hangs it is killed directly.
    async fn end_pause(&self, entry: &Entry) -> Result<Pause, Error> {
        let process = Process::init(entry.id.as_str());
        let deleted = self.deps.base.runtime.delete_task(process, true);
        match tokio::time::timeout(AFTER_KILL, deleted).await {
            Ok(Err(error)) if error.kind != ErrorKind::DeadlineExceeded => {
                Err(error).step("end the pause process")
            }
            Ok(Ok(_)) => Ok(Pause::Gone),
            Ok(Err(_)) | Err(_) => self.kill_pause(entry).await,
        }
    }

    /// Kills the pause process without its shim.
    async fn kill_pause(&self, entry: &Entry) -> Result<Pause, Error> {
        let would_not_die = || Error::WouldNotDie(entry.id.clone());
        let known = entry.record().pause.filter(|pause| pause.start_time != 0);
        let InitProcess { pid, start_time } = known.ok_or_else(would_not_die)?;
        tracing::warn!(pod = %entry.id, "shim does not respond, killing the pause process");
        let host = &self.deps.base.host;
        host.kill_tree(pid, start_time).await.step("kill the pause process")?;
        let ended = tokio::time::timeout(AFTER_KILL, host.process_end(pid, start_time)).await;
        ended.map_err(|_| would_not_die())?.step("wait for the pause process")?;
        Ok(Pause::Task)
    }

    async fn detach(&self, record: &SandboxRecord, strict: Strict) -> Result<(), Error> {
        let Some(netns) = record.sandbox.netns.as_deref() else { return Ok(()) };
        if !record.owed.contains(&Owed::Network) {
            return Ok(());
        }
        let live = self.deps.base.host.netns_state(netns).await;
        let live = live.step("inspect the network namespace")? == NetnsState::Live;
        let attachment = attachment(&record.sandbox, live.then_some(netns));
        let detached = self.deps.network.detach(&attachment).await;
        match detached.step("disconnect the pod from its network") {
            Err(error) if !record.was_attached && strict == Strict::No => {
                let error = error_chain(&error);
                tracing::warn!(pod = %record.sandbox.id, error, "DEL after a failed ADD failed");
                Ok(())
            }
            other => other,
        }
    }

    async fn remove_netns(&self, record: &SandboxRecord) -> Result<(), Error> {
        let Some(netns) = record.sandbox.netns.as_deref() else { return Ok(()) };
        self.deps.base.host.remove_netns(netns).await.step("remove the network namespace")
    }

    async fn unpin_userns(&self, record: &SandboxRecord) -> Result<(), Error> {
        match self.userns(&record.sandbox) {
            Some(userns) => {
                self.deps.base.host.unmount(&userns).await.step("unpin the user namespace")
            }
            None => Ok(()),
        }
    }

    async fn unmount_shm(&self, entry: &Entry) -> Result<(), Error> {
        match self.shm(&entry.sandbox()) {
            Some(shm) => self.deps.base.host.unmount(&shm).await.step("unmount /dev/shm"),
            None => Ok(()),
        }
    }

    /// Removes a sandbox with all its containers; stops it first if needed.
    pub(super) async fn remove(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        release_host_ports(entry);
        let _alone = entry.gate.write().await;
        if !self.entries().contains_key(&entry.id) {
            return Ok(());
        }
        let record = entry.record();
        if !record.owed.is_empty() || record.sandbox.state != SandboxState::NotReady {
            self.stop_alone(entry, Ending::Deleted).await?;
        }
        if !record.removing {
            entry.save_end(&self.deps.base, |record| record.removing = true).await?;
        }
        self.finish_removal(entry).await
    }

    /// Completes the removal of a stopped sandbox and its containers. Every step is idempotent.
    pub(super) async fn finish_removal(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        self.end_hung_shim(entry).await?;
        self.deps.containers.remove_all(&entry.id).await?;
        self.tell_removed(entry).await;
        self.destroy(entry).await?;
        self.deps.base.board.drop_pod(&entry.id);
        self.forget(entry);
        Ok(())
    }

    /// Removes the remains of a stopped sandbox; its row goes last.
    pub(super) async fn destroy(&self, entry: &Entry) -> Result<(), Error> {
        let base = &self.deps.base;
        let (id, record) = (entry.id.as_str(), entry.record());
        let (dir, files_dir) = (self.dir(&entry.id), self.files_dir(&entry.id));
        let (container, rootfs, mounts, files, ()) = tokio::join!(
            base.runtime.delete_container(id),
            async {
                if !record.pause_snapshot {
                    return Ok(());
                }
                base.runtime.remove_rootfs(&record.handler.snapshotter, id).await
            },
            base.host.remove_tree(&dir),
            base.host.remove_tree(&files_dir),
            self.remove_cgroup(entry),
        );
        container.step("delete the pause container's record")?;
        rootfs.step("remove the pause container's root file system")?;
        mounts.step("remove the pod's run-time directory")?;
        files.step("remove the pod's files")?;
        base.store.write(Batch::new().delete::<SandboxRecord>(id)).await?;
        Ok(())
    }

    /// Removes the empty cgroup that an OCI runtime leaves when it is killed while it creates the
    /// pause container. The pod's own cgroup above it belongs to the caller.
    async fn remove_cgroup(&self, entry: &Entry) {
        let record = entry.record();
        let (driver, parent) =
            (record.handler.cgroup_driver(), &record.sandbox.config.cgroup_parent);
        let cgroup = oci::plain_cgroup(driver, parent, entry.id.as_str());
        let Some(cgroup) = cgroup else { return };
        self.deps.containers.remove_cgroup(&cgroup).await;
    }

    /// Removes a sandbox from the in-memory maps; its name is free again.
    pub(super) fn forget(&self, entry: &Entry) {
        if self.entries().remove(&entry.id).is_some() {
            self.release_level(entry);
        }
        self.release(&entry.record().sandbox.config.metadata, &entry.id);
    }
}
