//! After a restart of the agent: what the store promised is held against what runs.
//!
//! Nothing that runs is touched. Half-made containers are undone, half-removed ones removed,
//! and exits that nobody saw are read from the shim.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;

use super::entry::Entry;
use super::prepare::chain;
use super::{ContainerRecord, ContainerState, Containers, Error};
use crate::backend::{Process, TaskState, TaskStatus};
use crate::board::now;
use crate::ids::ContainerId;

/// How many containers are looked at side by side: one hung shim must not hold up the rest.
const SIDE_BY_SIDE: usize = 16;

impl Containers {
    /// Takes the remembered containers over. `tasks` is what runs now, by container id.
    pub async fn recover(
        self: &Arc<Self>,
        records: Vec<ContainerRecord>,
        tasks: &BTreeMap<String, TaskStatus>,
    ) {
        futures::stream::iter(records)
            .for_each_concurrent(SIDE_BY_SIDE, |record| async {
                let task = tasks.get(record.container.id.as_str()).cloned();
                self.recover_one(record, task).await;
            })
            .await;
    }

    async fn recover_one(self: &Arc<Self>, record: ContainerRecord, task: Option<TaskStatus>) {
        let entry = Entry::new(record);
        let container = entry.container();
        let name = &container.config.metadata;
        if let Err(other) = self.names.reserve(&entry.pod, name, &entry.id) {
            tracing::warn!(container = %entry.id, %other, "two containers of one name");
        }
        self.entries().insert(entry.id.clone(), entry.clone());
        if container.state == ContainerState::Creating || entry.is_removing() {
            self.finish_removal(&entry).await;
            return;
        }
        if entry.record().limits_before.is_some() {
            // An update that was never acknowledged. Its shim may be mute: nobody waits for it.
            self.take_update_back_later(&entry, std::time::Duration::ZERO);
        }
        match container.state {
            ContainerState::Created => self.recover_created(&entry, task).await,
            ContainerState::Running { started_at, .. }
            | ContainerState::Unknown { started_at: Some(started_at) } => {
                self.recover_running(&entry, task, started_at).await;
            }
            _ => {
                entry.ended.send_replace(true);
                if let Some(task) = task {
                    self.finish_end(&entry, &task).await;
                }
                entry.publish(&self.deps, None);
            }
        }
    }

    /// Created: a task may have been made, even started, without the result being stored.
    async fn recover_created(self: &Arc<Self>, entry: &Arc<Entry>, task: Option<TaskStatus>) {
        match task.as_ref().map(|task| task.state) {
            None | Some(TaskState::Created) => {
                self.take_start_back(entry).await;
                entry.publish(&self.deps, None);
            }
            Some(TaskState::Stopped(exit)) if exit.at > 0 => {
                self.recover_running(entry, task, exit.at.min(now())).await;
            }
            Some(_) => self.recover_running(entry, task, now()).await,
        }
    }

    /// Takes away what a start that was cut has made, so that it can be asked for again. A task
    /// that was not in the list may still have been in the making then.
    async fn take_start_back(&self, entry: &Entry) {
        let dir = self.fifo_dir(entry);
        if self.deps.host.list_dir(&dir).await.is_ok_and(|names| names.is_empty()) {
            return;
        }
        self.delete_leftover_task(entry).await;
        if let Err(error) = self.deps.host.remove_tree(&dir).await {
            tracing::warn!(container = %entry.id, error = chain(&error), "FIFOs stay");
        }
    }

    async fn recover_running(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        task: Option<TaskStatus>,
        started_at: i64,
    ) {
        let rebooted = entry.record().boot_id != self.deps.host.facts().boot_id;
        let Some(task) = task.filter(|_| !rebooted) else {
            entry.set_state(ContainerState::Running { started_at, pid: 0 });
            self.settle(entry, None).await;
            return;
        };
        let stdio = match task.state {
            // It is not known from a shim that does not answer.
            TaskState::Unknown => entry.record().stdio,
            _ => task.stdio.clone(),
        };
        if let Err(error) = self.reopen_streams(entry, &stdio) {
            tracing::warn!(container = %entry.id, error = chain(&error), "log not taken over");
        }
        match task.state {
            TaskState::Stopped(exit) => {
                entry.set_state(ContainerState::Running { started_at, pid: 0 });
                self.settle(entry, Some(exit)).await;
            }
            TaskState::Running => {
                let state = ContainerState::Running { started_at, pid: task.pid };
                if entry.state() != state {
                    let cgroup = self.deps.host.memory_cgroup(task.pid).await.unwrap_or_default();
                    let saved = entry.save(&self.deps, |record| {
                        record.container.state = state;
                        record.memory_cgroup = cgroup;
                        record.stdio = task.stdio;
                    });
                    if let Err(error) = saved.await {
                        tracing::warn!(container = %entry.id, error = chain(&error), "not stored");
                    }
                }
                self.sweep_execs(entry).await;
                entry.publish(&self.deps, None);
                self.watch_exit(entry);
            }
            TaskState::Unknown | TaskState::Created => {
                self.sweep_execs(entry).await;
                let was_created = entry.state() == ContainerState::Created;
                entry.set_state(ContainerState::Unknown { started_at: Some(started_at) });
                entry.publish(&self.deps, None);
                self.watch_unknown(entry, started_at, was_created);
            }
        }
    }

    /// A shim that gives no answer now may give one later: then the container is what it says.
    /// One that had only been created, and whose start came to nothing, is created again.
    fn watch_unknown(self: &Arc<Self>, entry: &Arc<Entry>, started_at: i64, was_created: bool) {
        let (room, entry) = (self.clone(), entry.clone());
        drop(self.deps.tasks.spawn_until_drain("container-unknown", async move {
            let process = Process::init(entry.id.as_str());
            loop {
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                match room.deps.runtime.task(process).await {
                    Ok(Some(TaskStatus { state: TaskState::Running, pid, .. })) => {
                        let _changing = entry.changing.lock().await;
                        if matches!(entry.state(), ContainerState::Unknown { .. }) {
                            entry.set_state(ContainerState::Running { started_at, pid });
                            entry.publish(&room.deps, None);
                            room.watch_exit(&entry);
                        }
                        return;
                    }
                    Ok(Some(TaskStatus { state: TaskState::Stopped(exit), .. })) => {
                        return room.settle(&entry, Some(exit)).await;
                    }
                    Ok(None | Some(TaskStatus { state: TaskState::Created, .. }))
                        if was_created =>
                    {
                        return room.unstart(&entry).await;
                    }
                    Ok(None) => return room.settle(&entry, None).await,
                    Ok(Some(_)) | Err(_) => {}
                }
            }
        }));
    }

    async fn unstart(&self, entry: &Entry) {
        let _changing = entry.changing.lock().await;
        if matches!(entry.state(), ContainerState::Unknown { .. }) {
            self.take_start_back(entry).await;
            entry.set_state(ContainerState::Created);
            entry.publish(&self.deps, None);
        }
    }

    /// An end that was stored and not carried through: the shim may still hold output that the
    /// log does not have.
    async fn finish_end(&self, entry: &Entry, task: &TaskStatus) {
        if let Err(error) = self.reopen_streams(entry, &task.stdio) {
            tracing::warn!(container = %entry.id, error = chain(&error), "log not taken over");
        }
        self.delete_leftover_task(entry).await;
        self.end_log(entry).await;
    }

    async fn delete_leftover_task(&self, entry: &Entry) {
        let process = Process::init(entry.id.as_str());
        if let Err(error) = self.deps.runtime.delete_task(process, true).await {
            tracing::warn!(container = %entry.id, error = chain(&error), "leftover task stays");
        }
    }

    /// Ends a creation that was never acknowledged, or a removal that was cut.
    async fn finish_removal(&self, entry: &Arc<Entry>) {
        match self.destroy(entry).await {
            Ok(()) => self.forget(entry),
            Err(error) => {
                tracing::warn!(container = %entry.id, error = chain(&error), "removal unfinished");
                // It stays listed, so that its pod's removal tries again.
                entry.set_state(ContainerState::Unknown { started_at: None });
                entry.publish(&self.deps, None);
            }
        }
    }

    /// Ids of all known containers, and keys of their root file systems.
    pub fn known(&self) -> BTreeSet<String> {
        self.entries().keys().map(ToString::to_string).collect()
    }

    /// Removes folders of containers that nobody knows, and parts of checkpoints that were cut.
    pub async fn sweep_folders(&self, known: &BTreeSet<String>) {
        let host = &self.deps.host;
        let entries: Vec<_> = self.entries().values().cloned().collect();
        for entry in entries {
            self.finish_checkpoint(&entry).await;
        }
        for dir in [&self.options.state, &self.options.root] {
            for name in host.list_dir(dir).await.unwrap_or_default() {
                if ContainerId::try_from(name.as_str()).is_ok() && !known.contains(&name) {
                    let _ = host.remove_tree(&dir.join(name)).await;
                }
            }
        }
    }

    /// Verbose facts about a container.
    pub async fn info(&self, id: &str) -> Result<serde_json::Value, Error> {
        let container = self.get(id)?;
        let record = self.entry(&container.id)?.record();
        let below = self.deps.runtime.container(container.id.as_str()).await;
        let pid = match container.state {
            ContainerState::Running { pid, .. } => pid,
            _ => 0,
        };
        Ok(serde_json::json!({
            "sandboxID": container.pod,
            "pid": pid,
            "removing": record.removing,
            "snapshotKey": container.id,
            "snapshotter": record.handler.snapshotter,
            "runtimeType": record.handler.runtime_type,
            "runtimeOptions": record.handler,
            "image": record.image_name,
            "runtimeSpec": below.ok().map(|below| below.spec),
        }))
    }
}
