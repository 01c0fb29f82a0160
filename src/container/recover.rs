//! Recovery after a restart of the agent: compares stored records with what runs.
//!
//! Running containers are not touched. Half-made containers are undone, half-removed ones are
//! removed, and missed exits are read from the shim.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::entry::Entry;
use super::{ContainerRecord, ContainerState, Containers, Error};
use crate::backend::{End, Process, RuntimeContainer, Stdio, TaskState, TaskStatus};
use crate::clock::now;
use crate::ids::ContainerId;
use crate::lifecycle::wait_a_while;
use crate::telemetry::error_chain;

/// How many containers are recovered concurrently.
const SIDE_BY_SIDE: usize = 64;

/// How long the start waits for recovery. What takes longer continues in the background: one hung
/// shim must not delay the agent.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long one removal may take before its container is listed anyway; less than [`PATIENCE`].
const REMOVAL_PATIENCE: Duration = Duration::from_secs(2);

/// How long verbose information waits for containerd; crictl gives up after two seconds.
const INFO_LIMIT: Duration = Duration::from_secs(1);

/// How long a shim may take to answer a query before its container is stopped without it.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Delay between two queries to a shim that does not answer.
const ASK_PAUSE: Duration = Duration::from_secs(2);

/// The result of querying a shim that had not answered.
enum Found {
    /// Its task, running or stopped.
    Task(TaskStatus),
    Ended(End),
    /// The container had only been created, and its start had no effect.
    Unstarted,
}

impl Containers {
    /// Takes over the stored containers. `tasks` is what runs now, by container id. On return all
    /// containers are known, and those whose shims answered in time are up to date.
    pub async fn recover(
        self: &Arc<Self>,
        records: Vec<ContainerRecord>,
        tasks: &BTreeMap<String, TaskStatus>,
    ) {
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        let entries: Vec<_> = records.into_iter().map(|record| self.remember(record)).collect();
        let settled = entries.into_iter().map(|entry| {
            let task = tasks.get(entry.id.as_str()).cloned();
            let (room, places) = (self.clone(), places.clone());
            self.deps.tasks.spawn_until_drain("container-recovery", async move {
                // The semaphore is never closed.
                let _place = places.acquire().await;
                room.recover_one(entry, task).await;
            })
        });
        if !wait_a_while(PATIENCE, settled.collect()).await {
            tracing::warn!("some containers are not recovered yet: their shims are slow");
        }
    }

    /// Makes an entry from a stored record.
    fn remember(&self, record: ContainerRecord) -> Arc<Entry> {
        let entry = Entry::new(record);
        let container = entry.container();
        let name = &container.config.metadata;
        if let Err(other) = self.names.reserve(&entry.pod, name, &entry.id) {
            tracing::warn!(container = %entry.id, %other, "two containers have the same name");
        }
        self.entries().insert(entry.id.clone(), entry.clone());
        if container.state != ContainerState::Creating && !entry.is_removing() {
            entry.publish(&self.deps, None);
        }
        entry
    }

    async fn recover_one(self: &Arc<Self>, entry: Arc<Entry>, task: Option<TaskStatus>) {
        let container = entry.container();
        if container.state == ContainerState::Creating || entry.is_removing() {
            self.finish_removal(&entry).await;
            return;
        }
        if entry.record().limits_before.is_some() {
            // An unacknowledged update. Undone in the background, since its shim may hang.
            self.take_update_back_later(&entry, std::time::Duration::ZERO);
        }
        match container.state {
            ContainerState::Created => self.recover_created(&entry, task).await,
            ContainerState::Running { .. } if self.is_unstarted(&entry, task.as_ref()) => {
                self.unstart(&entry).await;
            }
            ContainerState::Running { started_at, .. }
            | ContainerState::Unknown { started_at: Some(started_at) } => {
                self.recover_running(&entry, task, started_at).await;
            }
            _ => {
                entry.ended.send_replace(true);
                if let Some(task) = task {
                    self.finish_end(&entry, &task).await;
                }
            }
        }
    }

    /// Whether a start was stored but not carried out before the agent died.
    fn is_unstarted(&self, entry: &Entry, task: Option<&TaskStatus>) -> bool {
        task.is_some_and(|task| task.state == TaskState::Created) && !self.was_rebooted_since(entry)
    }

    /// Whether the host was started again after the container.
    fn was_rebooted_since(&self, entry: &Entry) -> bool {
        entry.record().boot_id != self.deps.host.facts().boot_id
    }

    /// Recovers a created container: its task may have been made, even started, without the result
    /// being stored.
    async fn recover_created(self: &Arc<Self>, entry: &Arc<Entry>, task: Option<TaskStatus>) {
        match task.as_ref().map(|task| task.state) {
            None | Some(TaskState::Created) => {
                let _changing = entry.changing.lock().await;
                // Clients may have been faster if a slow shim has delayed this.
                if entry.state() == ContainerState::Created && !self.is_leaving(entry) {
                    self.take_start_back(entry).await;
                }
            }
            Some(TaskState::Stopped(exit)) if exit.at > 0 => {
                self.recover_running(entry, task, exit.at.min(now())).await;
            }
            Some(_) => self.recover_running(entry, task, now()).await,
        }
    }

    /// Undoes an interrupted start, so that it can be requested again. A task that was not listed
    /// may have been just about to appear.
    async fn take_start_back(&self, entry: &Entry) {
        let dir = self.fifo_dir(entry);
        if self.deps.host.list_dir(&dir).await.is_ok_and(|names| names.is_empty()) {
            return;
        }
        self.delete_leftover_task(entry).await;
        if let Err(error) = self.deps.host.remove_tree(&dir).await {
            tracing::warn!(container = %entry.id, error = error_chain(&error),
                "cannot remove FIFOs");
        }
    }

    async fn recover_running(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        task: Option<TaskStatus>,
        started_at: i64,
    ) {
        let Some(task) = task.filter(|_| !self.was_rebooted_since(entry)) else {
            entry.set_state(ContainerState::Running { started_at, pid: 0 });
            self.settle(entry, None).await;
            return;
        };
        let stdio = match task.state {
            // A shim that does not answer does not report its streams either.
            TaskState::Unknown => entry.record().stdio.clone(),
            _ => task.stdio.clone(),
        };
        self.follow_output(entry, &stdio);
        match task.state {
            TaskState::Stopped(exit) => {
                entry.set_state(ContainerState::Running { started_at, pid: 0 });
                self.settle(entry, Some(exit)).await;
            }
            TaskState::Running => {
                self.sweep_execs(entry).await;
                self.take_over(entry, task, started_at).await;
            }
            TaskState::Unknown | TaskState::Created => {
                self.sweep_execs(entry).await;
                self.recover_mute(entry, task.state, started_at).await;
            }
        }
    }

    /// Reads the output of a container from now on, unless its streams are not known yet.
    fn follow_output(&self, entry: &Entry, stdio: &Stdio) {
        if *stdio == Stdio::default() {
            return;
        }
        if let Err(error) = self.reopen_streams(entry, stdio) {
            tracing::warn!(container = %entry.id, error = error_chain(&error),
                "cannot reopen container output");
        }
    }

    /// Publishes and watches a container whose task runs, and stores what is new about it.
    async fn take_over(self: &Arc<Self>, entry: &Arc<Entry>, task: TaskStatus, started_at: i64) {
        let state = ContainerState::Running { started_at, pid: task.pid };
        let known = entry.record().init.is_some_and(|init| init.pid == task.pid);
        if entry.state() != state || !known {
            let cgroup = self.deps.host.memory_cgroup(task.pid).await.unwrap_or_default();
            let init = self.init_process(task.pid).await;
            let saved = entry.save(&self.deps, |record| {
                record.container.state = state.clone();
                record.memory_cgroup = cgroup;
                record.init = init;
                record.stdio = task.stdio;
            });
            if let Err(error) = saved.await {
                tracing::warn!(container = %entry.id, error = error_chain(&error),
                    "cannot store container");
                entry.set_state(state);
            }
        }
        entry.publish(&self.deps, None);
        self.watch_exit(entry);
    }

    /// Takes over a container of unknown state whose shim answers again.
    async fn resume(self: &Arc<Self>, entry: &Arc<Entry>, task: TaskStatus, started_at: i64) {
        let changing = entry.changing.lock().await;
        if !matches!(entry.state(), ContainerState::Unknown { .. }) {
            return;
        }
        if entry.pump().is_none() {
            self.follow_output(entry, &task.stdio);
        }
        match task.state {
            TaskState::Stopped(exit) => {
                drop(changing);
                self.settle(entry, Some(exit)).await;
            }
            _ => self.take_over(entry, task, started_at).await,
        }
    }

    /// Queries the shim of a container of unknown state once more. Returns whether the container
    /// runs.
    pub(super) async fn is_found_running(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        started_at: Option<i64>,
    ) -> bool {
        let Some(started_at) = started_at else { return false };
        let asked = self.deps.runtime.task(Process::init(entry.id.as_str()));
        match tokio::time::timeout(ASK_LIMIT, asked).await {
            Ok(Ok(Some(task))) if task.state == TaskState::Running => {
                self.resume(entry, task, started_at).await;
                matches!(entry.state(), ContainerState::Running { .. })
            }
            _ => false,
        }
    }

    /// Recovers a container whose shim does not answer. While its process runs it is running: a
    /// slow shim is no reason for anybody to end it.
    async fn recover_mute(self: &Arc<Self>, entry: &Arc<Entry>, task: TaskState, started_at: i64) {
        let living = match task {
            TaskState::Unknown => self.living_init(entry).await,
            _ => None,
        };
        if let Some(pid) = living {
            entry.set_state(ContainerState::Running { started_at, pid });
            entry.publish(&self.deps, None);
            self.watch_exit(entry);
            self.doubt_start(entry);
            return;
        }
        let was_created = entry.state() == ContainerState::Created;
        entry.set_state(ContainerState::Unknown { started_at: Some(started_at) });
        entry.publish(&self.deps, None);
        self.watch_unknown(entry, started_at, was_created);
    }

    /// Watches a shim that does not answer: once it does, the container takes the state that it
    /// reports. A container whose start had no effect becomes created again.
    fn watch_unknown(self: &Arc<Self>, entry: &Arc<Entry>, started_at: i64, was_created: bool) {
        let (room, entry) = (self.clone(), entry.clone());
        drop(self.deps.tasks.spawn_until_drain("container-unknown", async move {
            // Both branches are cancel-safe: they only observe.
            let found = tokio::select! {
                found = room.answer(&entry, was_created) => found,
                end = room.end_beside_shim(&entry) => Found::Ended(end),
            };
            match found {
                Found::Task(task) => room.resume(&entry, task, started_at).await,
                Found::Ended(end) => room.settle_as(&entry, end).await,
                Found::Unstarted => room.unstart(&entry).await,
            }
        }));
    }

    /// Asks a shim that does not answer yet whether the living process of its container was ever
    /// started: the agent may have died before that.
    fn doubt_start(self: &Arc<Self>, entry: &Arc<Entry>) {
        let (room, entry) = (self.clone(), entry.clone());
        drop(self.deps.tasks.spawn_until_drain("container-doubt", async move {
            if let Found::Unstarted = room.answer(&entry, false).await {
                room.unstart(&entry).await;
            }
        }));
    }

    /// Queries a shim until it answers. Cancel-safe.
    async fn answer(&self, entry: &Entry, was_created: bool) -> Found {
        let process = Process::init(entry.id.as_str());
        loop {
            tokio::time::sleep(ASK_PAUSE).await;
            match self.deps.runtime.task(process).await {
                Ok(Some(task))
                    if matches!(task.state, TaskState::Running | TaskState::Stopped(_)) =>
                {
                    return Found::Task(task);
                }
                Ok(Some(TaskStatus { state: TaskState::Created, .. })) => return Found::Unstarted,
                Ok(None) if was_created => return Found::Unstarted,
                Ok(None) => return Found::Ended(End::Told(None)),
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }

    /// Makes a container whose start had no effect a created one again.
    async fn unstart(&self, entry: &Entry) {
        let _changing = entry.changing.lock().await;
        if !matches!(entry.state(), ContainerState::Unknown { .. } | ContainerState::Running { .. })
            || self.is_leaving(entry)
        {
            return;
        }
        let created = |record: &mut ContainerRecord| {
            record.container.state = ContainerState::Created;
            record.init = None;
        };
        if let Err(error) = entry.save(&self.deps, created).await {
            tracing::warn!(container = %entry.id, error = error_chain(&error),
                "cannot store container");
            entry.set_state(ContainerState::Created);
        }
        self.take_start_back(entry).await;
        entry.publish(&self.deps, None);
    }

    /// Completes an exit that was stored but not finished: the shim may still hold output that is
    /// missing from the log.
    async fn finish_end(&self, entry: &Entry, task: &TaskStatus) {
        self.follow_output(entry, &task.stdio);
        self.delete_leftover_task(entry).await;
        self.end_log(entry).await;
    }

    async fn delete_leftover_task(&self, entry: &Entry) {
        let process = Process::init(entry.id.as_str());
        if let Err(error) = self.deps.runtime.delete_task(process, true).await {
            tracing::warn!(container = %entry.id, error = error_chain(&error),
                "cannot delete leftover task");
        }
    }

    /// Completes the undo of an unacknowledged creation, or an interrupted removal.
    async fn finish_removal(&self, entry: &Arc<Entry>) {
        let _changing = entry.changing.lock().await;
        // Listed anyway, so that removing its pod tries again.
        let list = || {
            entry.set_state(ContainerState::Unknown { started_at: None });
            entry.publish(&self.deps, None);
        };
        let destroy = self.destroy(entry);
        tokio::pin!(destroy);
        let destroyed = match tokio::time::timeout(REMOVAL_PATIENCE, &mut destroy).await {
            Ok(destroyed) => destroyed,
            Err(_) => {
                list();
                destroy.await
            }
        };
        match destroyed {
            Ok(()) => {
                self.deps.board.drop_container(&entry.id);
                self.forget(entry);
            }
            Err(error) => {
                tracing::warn!(container = %entry.id, error = error_chain(&error),
                    "cannot finish container removal");
                list();
            }
        }
    }

    /// Ids of all known containers, which are also the keys of their root file systems.
    pub fn known(&self) -> BTreeSet<String> {
        self.entries().keys().map(ToString::to_string).collect()
    }

    /// Removes leftovers of interrupted checkpoints; waits for at most `limit`.
    pub async fn finish_checkpoints(self: &Arc<Self>, limit: Duration) {
        let entries: Vec<_> = self.entries().values().cloned().collect();
        let finished = entries.into_iter().map(|entry| {
            let room = self.clone();
            let finish = async move { room.finish_checkpoint(&entry).await };
            self.deps.tasks.spawn_until_drain("checkpoint-recovery", finish)
        });
        wait_a_while(limit, finished.collect()).await;
    }

    /// Removes directories of unknown containers, and in the `folders_of_pods` those of unknown
    /// pods. `known` is called after the directories were listed, so that what is made meanwhile is
    /// not mistaken for unknown.
    pub async fn sweep_folders(
        &self,
        folders_of_pods: [&PathBuf; 2],
        known: impl Fn() -> BTreeSet<String>,
    ) {
        let host = &self.deps.host;
        let own = [&self.options.state, &self.options.root];
        for dir in folders_of_pods.into_iter().chain(own) {
            let all = host.list_dir(dir).await.unwrap_or_default();
            let known = known();
            for name in all {
                // Ids of pods have the same form.
                if ContainerId::try_from(name.as_str()).is_ok() && !known.contains(&name) {
                    let _ = host.remove_tree(&dir.join(name)).await;
                }
            }
        }
    }

    /// Verbose information about a container, for `ContainerStatus.info`.
    pub async fn info(&self, id: &str) -> Result<serde_json::Value, Error> {
        let container = self.get(id)?;
        let record = self.entry(&container.id)?.record();
        let below = self.look_below(container.id.as_str()).await;
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
            "runtimeSpec": below.map(|below| below.spec),
        }))
    }

    /// containerd's record of a container or pod, for verbose information; `None` if it does not
    /// answer at once: the information is worth more than its part.
    pub(crate) async fn look_below(&self, id: &str) -> Option<RuntimeContainer> {
        let record = tokio::time::timeout(INFO_LIMIT, self.deps.runtime.container(id)).await;
        record.ok()?.ok()
    }
}
