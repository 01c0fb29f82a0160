//! After a restart of the agent: what the store promised is held against what runs.
//!
//! Nothing that runs is touched. Half-made sandboxes are undone, half-removed ones removed, and
//! what stands on the host without a record is taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;

use super::entry::Entry;
use super::error::{Error, Step};
use super::record::SandboxRecord;
use super::{Room, SandboxState, Sandboxes, volumes};
use crate::backend::{Process, RuntimeContainer, Stdio, TaskState, TaskStatus};
use crate::container::{ContainerRecord, ContainerState, KIND_LABEL};
use crate::ids::PodId;
use crate::oci::resources_of;
use crate::telemetry::error_chain;

const SIDE_BY_SIDE: usize = 16;

impl Sandboxes {
    /// Takes over what an agent before this one left: sandboxes, containers, half-done work.
    /// Containerd must answer.
    pub async fn recover(&self) -> Result<(), Error> {
        let room = &self.room;
        let base = &room.deps.base;
        let pods = base.store.load::<SandboxRecord>()?;
        let containers = base.store.load::<ContainerRecord>()?;
        for fault in pods.faults.iter().chain(&containers.faults) {
            tracing::error!(?fault, "a stored record cannot be read");
        }
        let (mut pods, mut containers) = (pods.records, containers.records);
        let (below, tasks) =
            tokio::try_join!(base.runtime.container_ids(), base.runtime.list_tasks())
                .step("list what runs")?;
        for id in unknown(below, &pods, &containers) {
            let record = base.runtime.container(&id).await.step("read an unknown container")?;
            adopt(&record, &mut pods, &mut containers);
        }
        let mut tasks: BTreeMap<_, _> =
            tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
        let missing = expected(&pods, &containers).filter(|id| !tasks.contains_key(*id));
        let asked = room.ask_for_tasks(missing.map(str::to_owned).collect()).await;
        tasks.extend(asked.into_iter().map(|task| (task.id.clone(), task)));
        tracing::info!(pods = pods.len(), containers = containers.len(), "recovering");
        futures::stream::iter(pods)
            .for_each_concurrent(SIDE_BY_SIDE, |record| async {
                let task = tasks.get(record.sandbox.id.as_str()).cloned();
                room.recover_one(record, task).await;
            })
            .await;
        room.deps.containers.recover(containers, &tasks).await;
        room.finish_half_done().await;
        room.sweep().await;
        Ok(())
    }
}

/// Ids of those that may have a task.
fn expected<'a>(
    pods: &'a [SandboxRecord],
    containers: &'a [ContainerRecord],
) -> impl Iterator<Item = &'a str> {
    let pods = pods.iter().filter(|record| record.sandbox.is_ready());
    let containers = containers
        .iter()
        .filter(|record| !matches!(record.container.state, ContainerState::Exited(_)));
    pods.map(|record| record.sandbox.id.as_str())
        .chain(containers.map(|record| record.container.id.as_str()))
}

/// Those that the store does not have.
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

/// Takes a record from containerd that the store does not have: the store was lost.
fn adopt(
    record: &RuntimeContainer,
    pods: &mut Vec<SandboxRecord>,
    containers: &mut Vec<ContainerRecord>,
) {
    let (extension, spec) = (record.extension.clone(), &record.spec);
    let is_pod = record.labels.get(KIND_LABEL).is_some_and(|kind| kind == "sandbox");
    let adopted = if is_pod {
        serde_json::from_value(extension).map(|mut record: SandboxRecord| {
            // Written before the network was there: whether it ever was is not known.
            record.sandbox.state = SandboxState::Ready { pid: 0 };
            record.was_attached = true;
            pods.push(record);
        })
    } else {
        serde_json::from_value(extension).map(|mut record: ContainerRecord| {
            // What runs is taken over. What does not may have run: never run it again.
            let started_at = Some(record.container.created_at);
            record.container.state = ContainerState::Unknown { started_at };
            // They may have been updated since it was created.
            record.container.resources = resources_of(spec);
            containers.push(record);
        })
    };
    match adopted {
        Ok(()) => tracing::warn!(id = record.id, "rebuilt from its containerd record"),
        Err(error) => tracing::warn!(id = record.id, %error, "unknown record left alone"),
    }
}

impl Room {
    /// Lists of containerd 2.x leave out tasks whose shims give no answer, which are not gone.
    async fn ask_for_tasks(&self, ids: Vec<String>) -> Vec<TaskStatus> {
        let asked = futures::stream::iter(ids).map(|id| async move {
            let mute = || TaskStatus {
                id: id.clone(),
                pid: 0,
                state: TaskState::Unknown,
                stdio: Stdio::default(),
            };
            let task = self.deps.base.runtime.task(Process::init(&id)).await;
            task.unwrap_or_else(|error| {
                tracing::warn!(id, error = error_chain(&error), "its shim does not answer");
                Some(mute())
            })
        });
        asked.buffer_unordered(SIDE_BY_SIDE).filter_map(std::future::ready).collect().await
    }

    async fn recover_one(self: &Arc<Self>, record: SandboxRecord, task: Option<TaskStatus>) {
        let entry = Entry::new(record);
        let sandbox = entry.sandbox();
        if let Err(other) = self.reserve(&sandbox.config.metadata, &entry.id) {
            tracing::warn!(pod = %entry.id, %other, "two sandboxes of one name");
        }
        if let Some(level) = entry.record().selinux_level {
            self.levels.hold(&level);
        }
        entry.has_ports.store(true, std::sync::atomic::Ordering::Relaxed);
        self.entries().insert(entry.id.clone(), entry.clone());
        self.recall_images(&entry).await;
        match sandbox.state {
            // Never acknowledged: undone once its containers are known too.
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
            // Its shim is busy, with another container for instance: the process itself tells.
            Some(task) if task.state == TaskState::Unknown => self.living_pause(&record).await,
            _ => None,
        };
        let Some(pid) = pid else {
            tracing::info!(pod = %entry.id, rebooted, "the pause process is gone");
            return self.mark_not_ready(entry).await;
        };
        if record.sandbox.state != (SandboxState::Ready { pid }) {
            let network = self.recall_network(entry).await;
            entry.change(|record| {
                record.sandbox.state = SandboxState::Ready { pid };
                record.sandbox.network = record.sandbox.network.take().or(network);
            });
            if let Err(error) = entry.save(base, |_| {}).await {
                tracing::warn!(pod = %entry.id, error = error_chain(&error), "not stored");
            }
        }
        entry.publish(base, None);
        self.watch_pause(entry);
    }

    /// PID of the remembered pause process while it lives. A PID alone may be another process's.
    async fn living_pause(&self, record: &SandboxRecord) -> Option<u32> {
        let pause = record.pause?;
        let start_time = self.deps.base.host.process_start_time(pause.pid).await.ok().flatten();
        (start_time == Some(pause.start_time)).then_some(pause.pid)
    }

    /// The addresses of a pod whose stored record was lost, from the network's own memory.
    async fn recall_network(&self, entry: &Entry) -> Option<crate::backend::NetworkStatus> {
        let sandbox = entry.sandbox();
        let netns = sandbox.netns.as_deref()?;
        let attachment = super::create::attachment(&sandbox, Some(netns));
        self.deps.network.recall(&attachment).await.ok().flatten()
    }

    /// Undoes creations that were never acknowledged, and ends removals that were cut.
    async fn finish_half_done(self: &Arc<Self>) {
        let half_done: Vec<_> = {
            let half_done = |entry: &Arc<Entry>| {
                let record = entry.record();
                record.removing || record.sandbox.state == SandboxState::Creating
            };
            self.entries().values().filter(|entry| half_done(entry)).cloned().collect()
        };
        for entry in half_done {
            tracing::info!(pod = %entry.id, "finishing what was cut");
            let _alone = entry.gate.write().await;
            if let Err(error) = self.try_undo(&entry).await {
                tracing::warn!(pod = %entry.id, error = error_chain(&error), "not undone yet");
                self.mark_not_ready(&entry).await;
                self.undo_later(&entry);
            }
        }
    }

    /// Takes away what stands on the host for no record: it was made after the last write of an
    /// agent that died, or its record was removed and its thing was not.
    async fn sweep(&self) {
        let base = &self.deps.base;
        let mut known = self.deps.containers.known();
        known.extend(self.entries().keys().map(ToString::to_string));
        for netns in base.host.list_netns().await.unwrap_or_default() {
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
            for key in base.runtime.list_rootfs(snapshotter).await.unwrap_or_default() {
                if !known.contains(volumes::owner_of(&key)) {
                    tracing::info!(key, "removing a root file system without a container");
                    let _ = base.runtime.remove_rootfs(snapshotter, &key).await;
                }
            }
        }
        self.sweep_folders(&known).await;
    }

    async fn sweep_folders(&self, known: &BTreeSet<String>) {
        let host = &self.deps.base.host;
        for name in host.list_dir(&self.options.state).await.unwrap_or_default() {
            if PodId::try_from(name.as_str()).is_ok() && !known.contains(&name) {
                let _ = host.remove_tree(&self.options.state.join(name)).await;
            }
        }
        self.deps.containers.sweep_folders(known).await;
    }
}
