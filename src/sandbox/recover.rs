//! Recovery after a restart of the agent: compares stored records with what runs.
//!
//! Running sandboxes are not touched. Half-made ones are undone, half-removed ones are removed, and
//! resources on the host without a record are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::entry::Entry;
use super::error::{Error, Step};
use super::record::{Owed, SandboxRecord};
use super::{Room, SandboxState, Sandboxes, volumes};
use crate::backend::{ErrorKind, Process, RuntimeContainer, Stdio, TaskState, TaskStatus};
use crate::container::{ContainerRecord, ContainerState, KIND_LABEL};
use crate::ids::PodId;
use crate::lifecycle::wait_a_while;
use crate::oci::resources_of;
use crate::telemetry::error_chain;

const SIDE_BY_SIDE: usize = 16;

/// How many shims are queried concurrently.
const ASKED_SIDE_BY_SIDE: usize = 64;

/// How long containerd may take to list its tasks.
const LIST_LIMIT: Duration = Duration::from_secs(4);

/// How long a shim may take to report the state of its task before it counts as hung.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// How long the start waits for undoing and sweeping; what takes longer continues in the
/// background.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long undoing one pod may take before it is listed anyway; less than [`PATIENCE`].
const UNDO_PATIENCE: Duration = Duration::from_secs(2);

impl Sandboxes {
    /// Takes over what a previous agent process left: sandboxes, containers, interrupted work.
    /// containerd must answer; a hung shim or network plugin delays only its own pod. After one
    /// success further calls do nothing.
    pub async fn recover(&self) -> Result<(), Error> {
        let room = &self.room;
        let mut recovered = room.recovered.lock().await;
        if *recovered {
            return Ok(());
        }
        let base = &room.deps.base;
        let pods = base.store.load::<SandboxRecord>()?;
        let containers = base.store.load::<ContainerRecord>()?;
        for fault in pods.faults.iter().chain(&containers.faults) {
            tracing::error!(?fault, "cannot read stored record: its resources are left alone");
        }
        let faults = pods.faults.iter().chain(&containers.faults);
        room.leave_alone(faults.map(|fault| fault.key.clone()));
        let (mut pods, mut containers) = (pods.records, containers.records);
        let below = base.runtime.container_ids().await.step("list the records")?;
        room.find_half_made(&mut containers, &below).await;
        for id in unknown(below, &pods, &containers) {
            if room.is_left_alone(&id) {
                continue;
            }
            let record = base.runtime.container(&id).await.step("read an unknown container")?;
            if !adopt(&record, &mut pods, &mut containers) {
                room.leave_alone([id]);
            }
        }
        let tasks = room.find_tasks(&pods, &containers).await?;
        tracing::info!(
            pods = pods.len(),
            containers = containers.len(),
            "recovering pods and containers"
        );
        futures::stream::iter(pods)
            .for_each_concurrent(SIDE_BY_SIDE, |record| async {
                let task = tasks.get(record.sandbox.id.as_str()).cloned();
                room.recover_one(record, task).await;
            })
            .await;
        room.deps.containers.recover(containers, &tasks).await;
        room.finish_half_done().await;
        room.finish_stops();
        room.deps.containers.finish_checkpoints(PATIENCE).await;
        let sweeper = room.clone();
        let sweep = async move { sweeper.sweep().await };
        wait_a_while(PATIENCE, vec![base.tasks.spawn_until_drain("sweep", sweep)]).await;
        *recovered = true;
        Ok(())
    }
}

/// Ids of pods and containers that should have a task; with `all`, also of those that may still
/// have one.
fn expected<'a>(
    pods: &'a [SandboxRecord],
    containers: &'a [ContainerRecord],
    all: bool,
) -> impl Iterator<Item = &'a str> {
    let pods = pods.iter().filter(move |record| all || record.sandbox.is_ready());
    let containers = containers
        .iter()
        .filter(move |record| all || !matches!(record.container.state, ContainerState::Exited(_)));
    pods.map(|record| record.sandbox.id.as_str())
        .chain(containers.map(|record| record.container.id.as_str()))
}

/// Records that the store does not have.
fn unknown(
    below: Vec<String>,
    pods: &[SandboxRecord],
    containers: &[ContainerRecord],
) -> Vec<String> {
    let pods = pods.iter().map(|record| record.sandbox.id.as_str());
    let containers = containers.iter().map(|record| record.container.id.as_str());
    let known: BTreeSet<&str> = pods.chain(containers).collect();
    below.into_iter().filter(|id| !known.contains(id.as_str())).collect()
}

/// Adopts a record from containerd that the store does not have, because the store was lost.
/// Returns whether the record could be read.
fn adopt(
    record: &RuntimeContainer,
    pods: &mut Vec<SandboxRecord>,
    containers: &mut Vec<ContainerRecord>,
) -> bool {
    let (extension, spec) = (record.extension.clone(), &record.spec);
    let is_pod = record.labels.get(KIND_LABEL).is_some_and(|kind| kind == "sandbox");
    let adopted = if is_pod {
        serde_json::from_value(extension).map(|mut record: SandboxRecord| {
            // This copy was written before the network was set up, so it is unknown whether it ever
            // was.
            record.sandbox.state = SandboxState::Ready { pid: 0 };
            record.was_attached = true;
            pods.push(record);
        })
    } else {
        serde_json::from_value(extension).map(|mut record: ContainerRecord| {
            // A running one is taken over. One that does not run may have run before, so it must
            // never be started again.
            let started_at = Some(record.container.created_at);
            record.container.state = ContainerState::Unknown { started_at };
            // The limits may have been updated since the container was created.
            record.container.resources = resources_of(spec);
            containers.push(record);
        })
    };
    match &adopted {
        Ok(()) => tracing::warn!(id = record.id, "record rebuilt from containerd"),
        Err(error) => tracing::warn!(id = record.id, %error, "leaving unknown record alone"),
    }
    adopted.is_ok()
}

impl Room {
    /// The tasks of these pods and containers, by id.
    async fn find_tasks(
        &self,
        pods: &[SandboxRecord],
        containers: &[ContainerRecord],
    ) -> Result<BTreeMap<String, TaskStatus>, Error> {
        let by_id = |tasks: Vec<TaskStatus>| tasks.into_iter().map(|task| (task.id.clone(), task));
        let listed = self.list_tasks().await?;
        let expected = expected(pods, containers, listed.is_none());
        let mut tasks: BTreeMap<_, _> = by_id(listed.unwrap_or_default()).collect();
        let missing = expected.filter(|id| !tasks.contains_key(*id)).map(str::to_owned).collect();
        tasks.extend(by_id(self.ask_for_tasks(missing).await));
        Ok(tasks)
    }

    /// The tasks that containerd lists. `None` if that takes too long: it asks all shims one after
    /// another, so a few that hang are enough.
    async fn list_tasks(&self) -> Result<Option<Vec<TaskStatus>>, Error> {
        let listed = tokio::time::timeout(LIST_LIMIT, self.deps.base.runtime.list_tasks()).await;
        match listed {
            Ok(Err(error)) if error.kind != ErrorKind::DeadlineExceeded => {
                Err(error).step("list running tasks")
            }
            Ok(Ok(tasks)) => Ok(Some(tasks)),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("containerd does not list its tasks in time, querying each");
                Ok(None)
            }
        }
    }

    /// Queries tasks one by one: the lists of containerd 2.x omit tasks whose shims do not answer.
    async fn ask_for_tasks(&self, ids: Vec<String>) -> Vec<TaskStatus> {
        let asked = futures::stream::iter(ids).map(|id| async move {
            let mute = || TaskStatus {
                id: id.clone(),
                pid: 0,
                state: TaskState::Unknown,
                stdio: Stdio::default(),
            };
            let asked = self.deps.base.runtime.task(Process::init(&id));
            match tokio::time::timeout(ASK_LIMIT, asked).await {
                Ok(Ok(task)) => task,
                Ok(Err(error)) => {
                    tracing::warn!(id, error = error_chain(&error), "shim does not respond");
                    Some(mute())
                }
                Err(_) => {
                    tracing::warn!(id, "shim did not respond in time");
                    Some(mute())
                }
            }
        });
        asked.buffer_unordered(ASKED_SIDE_BY_SIDE).filter_map(std::future::ready).collect().await
    }

    async fn recover_one(self: &Arc<Self>, record: SandboxRecord, task: Option<TaskStatus>) {
        let entry = Entry::new(record);
        let sandbox = entry.sandbox();
        if let Err(other) = self.reserve(&sandbox.config.metadata, &entry.id) {
            tracing::warn!(pod = %entry.id, %other, "two sandboxes have the same name");
        }
        if let Some(level) = &entry.record().selinux_level {
            self.levels.hold(level);
        }
        entry.has_ports.store(true, std::sync::atomic::Ordering::Relaxed);
        self.entries().insert(entry.id.clone(), entry.clone());
        self.recall_images(&entry).await;
        match sandbox.state {
            // An unacknowledged creation: undone later, when its containers are known too.
            SandboxState::Creating => {}
            SandboxState::NotReady => entry.publish(&self.deps.base, None),
            SandboxState::Ready { .. } => self.recover_ready(&entry, task).await,
        }
    }

    async fn recover_ready(self: &Arc<Self>, entry: &Arc<Entry>, task: Option<TaskStatus>) {
        let base = &self.deps.base;
        let record = entry.record();
        let rebooted = record.boot_id != base.host.facts().boot_id;
        let pid = match task.filter(|_| !rebooted) {
            Some(task) if task.state == TaskState::Running => Some(task.pid),
            // Its shim is busy, for instance with another container, so the process itself is
            // checked.
            Some(task) if task.state == TaskState::Unknown => self.living_pause(&record).await,
            _ => None,
        };
        let Some(pid) = pid else {
            tracing::info!(pod = %entry.id, rebooted, "pause process is gone");
            return self.mark_not_ready(entry).await;
        };
        if self.has_lost_netns(entry).await {
            return self.netns_lost(entry).await;
        }
        if record.sandbox.state != (SandboxState::Ready { pid }) {
            let network = self.recall_network(entry).await;
            entry.change(|record| {
                record.sandbox.state = SandboxState::Ready { pid };
                record.sandbox.network = record.sandbox.network.take().or(network);
            });
            if let Err(error) = entry.save(base, |_| {}).await {
                tracing::warn!(pod = %entry.id, error = error_chain(&error),
                    "cannot store sandbox");
            }
        }
        entry.publish(base, None);
        self.watch_pause(entry);
    }

    /// PID of the recorded pause process if it is alive. A PID alone may belong to another process
    /// by now.
    async fn living_pause(&self, record: &SandboxRecord) -> Option<u32> {
        let pause = record.pause?;
        let lives = self.deps.base.host.process_lives(pause.pid, pause.start_time).await;
        lives.unwrap_or(false).then_some(pause.pid)
    }

    /// The addresses of a pod whose record was lost, from the network backend's own cache.
    async fn recall_network(&self, entry: &Entry) -> Option<crate::backend::NetworkStatus> {
        let sandbox = entry.sandbox();
        let netns = sandbox.netns.as_deref()?;
        let attachment = super::create::attachment(&sandbox, Some(netns));
        self.deps.network.recall(&attachment).await.ok().flatten()
    }

    /// Undoes unacknowledged creations and completes interrupted removals. A pod for which that
    /// takes too long is listed as not ready and finished in the background.
    async fn finish_half_done(self: &Arc<Self>) {
        let half_done: Vec<_> = {
            let half_done = |entry: &Arc<Entry>| {
                let record = entry.record();
                record.removing || record.undoing || record.sandbox.state == SandboxState::Creating
            };
            self.entries().values().filter(|entry| half_done(entry)).cloned().collect()
        };
        self.end_cut_calls().await;
        let undone = half_done.into_iter().map(|entry| {
            tracing::info!(pod = %entry.id, "finishing interrupted sandbox creation or removal");
            let room = self.clone();
            let finish = async move { room.finish_one(&entry).await };
            self.deps.base.tasks.spawn_until_drain("sandbox-recovery", finish)
        });
        wait_a_while(PATIENCE, undone.collect()).await;
    }

    /// Finishes what an interrupted stop put off: the deletion of tasks. After a reboot nothing of
    /// a pod is left that anybody could want, so all of it is removed, its addresses too.
    fn finish_stops(self: &Arc<Self>) {
        let boot_id = &self.deps.base.host.facts().boot_id;
        let is_wanted = |record: &SandboxRecord| {
            record.owed.iter().eq([&Owed::Pause])
                || (!record.owed.is_empty() && record.boot_id != *boot_id)
        };
        let entries: Vec<_> = self.entries().values().cloned().collect();
        for entry in entries.iter().filter(|it| !it.is_ready() && it.read(is_wanted)) {
            self.finish_stop_later(entry);
        }
    }

    async fn finish_one(self: &Arc<Self>, entry: &Arc<Entry>) {
        let _alone = entry.gate.write().await;
        if !entry.record().removing {
            entry.change(|record| record.undoing = true);
        }
        let undo = self.try_undo(entry);
        tokio::pin!(undo);
        let undone = match tokio::time::timeout(UNDO_PATIENCE, &mut undo).await {
            Ok(undone) => undone,
            Err(_) => {
                tracing::warn!(pod = %entry.id,
                    "sandbox cleanup takes too long, continuing in the background");
                entry.change(|record| record.sandbox.state = SandboxState::NotReady);
                entry.publish(&self.deps.base, None);
                undo.await
            }
        };
        if let Err(error) = undone {
            tracing::warn!(pod = %entry.id, error = error_chain(&error),
                "cannot finish sandbox cleanup yet");
            self.mark_not_ready(entry).await;
            self.undo_later(entry);
        }
    }

    /// Ends CNI plugins that the previous agent process started: one that still runs could allocate
    /// an address for a pod after that address was released.
    async fn end_cut_calls(&self) {
        let entries: Vec<_> = self.entries().values().cloned().collect();
        let owing = entries.iter().filter(|entry| {
            let record = entry.record();
            !record.sandbox.is_ready() && record.owed.contains(&Owed::Network)
        });
        let pods: Vec<PodId> = owing.map(|entry| entry.id.clone()).collect();
        if pods.is_empty() {
            return;
        }
        if let Err(error) = self.deps.network.end_cut_calls(&pods).await {
            tracing::warn!(
                error = error_chain(&error),
                "CNI plugins of an earlier agent may still run"
            );
        }
    }

    /// Remembers ids whose resources must not be removed, because it is unknown what they are for.
    fn leave_alone(&self, ids: impl IntoIterator<Item = String>) {
        self.unread.lock().extend(ids);
    }

    fn is_left_alone(&self, id: &str) -> bool {
        self.unread.lock().contains(id)
    }

    /// Ids of all known pods and containers, and of records that cannot be read.
    pub(super) fn known(&self) -> BTreeSet<String> {
        let mut known = self.deps.containers.known();
        known.extend(self.entries().keys().map(ToString::to_string));
        known.extend(self.unread.lock().iter().cloned());
        known
    }

    /// A container is stored as created while its parts are made; one that lacks a part was not
    /// created to the end.
    async fn find_half_made(&self, containers: &mut [ContainerRecord], below: &[String]) {
        let runtime = &self.deps.base.runtime;
        let below: BTreeSet<&str> = below.iter().map(String::as_str).collect();
        let mut rootfs: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
        let is_new = |record: &&mut ContainerRecord| {
            record.container.state == ContainerState::Created && !record.removing
        };
        for record in containers.iter_mut().filter(is_new) {
            let snapshotter = &record.handler.snapshotter;
            if !rootfs.contains_key(snapshotter) {
                let listed = runtime.list_rootfs(snapshotter).await;
                rootfs.insert(snapshotter.clone(), listed.ok().map(BTreeSet::from_iter));
            }
            let id = record.container.id.as_str();
            let made = rootfs.get(snapshotter).and_then(Option::as_ref);
            // A snapshotter that does not answer proves nothing.
            if !below.contains(id) || made.is_some_and(|made| !made.contains(id)) {
                record.container.state = ContainerState::Creating;
            }
        }
    }

    /// Removes resources on the host that belong to no record: made after the last write of an
    /// agent that died, or left over after their record was removed. New pods may be made
    /// meanwhile; so the resources are listed first, and the known ids after that.
    async fn sweep(&self) {
        let base = &self.deps.base;
        let all = base.host.list_netns().await.unwrap_or_default();
        let known = self.known();
        for netns in all {
            let name = netns.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let id = name.strip_prefix(&self.options.netns_prefix).unwrap_or_default();
            if PodId::try_from(id).is_ok() && !known.contains(id) {
                tracing::info!(?netns, "removing a network namespace without a pod");
                let _ = base.host.remove_netns(&netns).await;
            }
        }
        let handlers = self.options.handlers.values();
        let snapshotters: BTreeSet<_> =
            handlers.map(|handler| handler.snapshotter.as_str()).collect();
        for snapshotter in snapshotters {
            let all = base.runtime.list_rootfs(snapshotter).await.unwrap_or_default();
            let known = self.known();
            for key in all {
                if !known.contains(volumes::owner_of(&key)) {
                    tracing::info!(key, "removing a root file system without a container");
                    let _ = base.runtime.remove_rootfs(snapshotter, &key).await;
                }
            }
        }
        let folders = [&self.options.state, &self.options.files];
        self.deps.containers.sweep_folders(folders, || self.known()).await;
    }
}
