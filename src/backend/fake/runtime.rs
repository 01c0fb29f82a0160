//! The fake runtime: records, roots, tasks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::broadcast::error::RecvError;

use super::super::{
    Error, ErrorKind, Exit, FsUsage, HandlerFeatures, NewExec, NewTask, Process, Result,
    RootfsMount, RootfsOptions, Runtime, RuntimeContainer, RuntimeEvent, RuntimeHandler,
    RuntimeInfo, SnapshotterInfo, TaskStatus,
};
use super::SNAPSHOTTER;
use super::engine::{Inner, State, mounts};
use super::program::{Program, SIGKILL};
use super::steps::Steps;
use super::task::{End, Proc};
use super::world::{World, cgroup_of};
use crate::lifecycle::Tasks;
use crate::locks::Mutex;
use crate::model::StringMap;
use crate::model::image::ChainId;

/// Runs simulated processes on real FIFOs; their arguments select what they do (see the `program`
/// module).
pub struct FakeRuntime(Arc<Inner>);

impl FakeRuntime {
    pub(super) fn new(steps: Steps, world: Arc<World>) -> Self {
        let info = RuntimeInfo {
            version: "v2.0.0-fake".into(),
            revision: "0".into(),
            uuid: "00000000-0000-4000-8000-000000000000".into(),
            cri_plugin_enabled: false,
            snapshotters: vec![SnapshotterInfo {
                name: SNAPSHOTTER.into(),
                root: "/".into(),
                capabilities: vec!["remap-ids".into()],
            }],
        };
        let features = HandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: true,
            id_mapped_mounts: true,
            seccomp: true,
            apparmor: false,
            oci_version_max: "1.2.0".into(),
            runc_version: "1.4.3".into(),
        };
        let state = State {
            info,
            features,
            containers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            resources: BTreeMap::new(),
            root_labels: BTreeMap::new(),
        };
        let state = Mutex::new(state);
        let home = tokio::runtime::Handle::current();
        Self(Arc::new(Inner { steps, world, running: Tasks::new(), home, state }))
    }

    /// The process ends by itself with this code; nothing when it does not run.
    pub fn end(&self, process: Process<'_>, code: u32) {
        let mut state = self.0.lock();
        if let Some(killer) = state.proc(process).and_then(|process| process.killer.take()) {
            // It may have ended already.
            let _ = killer.send(code);
        }
    }

    /// Simulates that the container hits its memory limit: init is killed, and its cgroup counts
    /// it.
    pub fn oom(&self, container: &str) {
        self.count_oom(container);
        self.tell_oom(container);
        self.end(Process::init(container), 128 + SIGKILL.unsigned_abs());
    }

    /// Counts an OOM kill in the cgroup of a container, and nothing else.
    pub fn count_oom(&self, container: &str) {
        if let Some(kills) = self.0.world.lock().cgroups.get_mut(&cgroup_of(container)) {
            *kills += 1;
        }
    }

    /// Sends the OOM event of a container, and nothing else.
    pub fn tell_oom(&self, container: &str) {
        self.0.world.publish(RuntimeEvent::Oom { container: container.to_owned() });
    }

    /// Makes the shim of a container hang or answer again: while it hangs the state is unknown and
    /// calls time out.
    pub fn set_mute(&self, container: &str, mute: bool) {
        if let Some(task) = self.0.lock().tasks.get_mut(container) {
            task.mute = mute;
        }
    }

    /// Ends the process of a container while its shim is stopped, so that nothing reports it.
    pub fn end_unheard(&self, container: &str) {
        let pid = self.0.lock().tasks.get_mut(container).map(|task| {
            task.mute = true;
            task.init.pid
        });
        self.0.world.lock().processes.retain(|found, _| Some(*found) != pid);
    }

    /// The labels asked for of a root file system.
    pub fn root_labels(&self, key: &str) -> StringMap {
        self.0.lock().root_labels.get(key).cloned().unwrap_or_default()
    }

    /// Removes the record of a container.
    pub fn forget_container(&self, container: &str) {
        self.0.lock().containers.remove(container);
    }

    /// Whether the processes of a container are frozen.
    pub fn is_frozen(&self, container: &str) -> bool {
        self.0.lock().tasks.get(container).is_some_and(|task| task.frozen)
    }

    /// Kills the shim of a container with all its processes; exit codes are lost.
    pub fn lose_task(&self, container: &str) {
        let task = self.0.lock().tasks.remove(container);
        self.0.world.lock().cgroups.remove(&cgroup_of(container));
        for lost in task.into_iter().flat_map(|task| {
            std::iter::once(task.init).chain(task.execs.into_values()).collect::<Vec<_>>()
        }) {
            self.0.world.lock().processes.remove(&lost.pid);
            lost.end.send_replace(End::Lost);
        }
    }

    pub(super) fn lose_all_tasks(&self) {
        let ids: Vec<String> = self.0.lock().tasks.keys().cloned().collect();
        for id in ids {
            self.lose_task(&id);
        }
    }

    /// The limits last set on a live task.
    pub fn resources(&self, container: &str) -> Option<serde_json::Value> {
        self.0.lock().resources.get(container).cloned()
    }

    /// The terminal size last set.
    pub fn terminal_size(&self, process: Process<'_>) -> Option<(u32, u32)> {
        self.0.lock().proc(process)?.size
    }

    pub(super) fn leftovers(&self) -> Vec<String> {
        let state = self.0.lock();
        let containers = state.containers.keys().map(|id| format!("container {id}"));
        let tasks = state.tasks.iter().flat_map(|(id, task)| {
            let execs = task.execs.keys().map(move |exec| format!("exec {exec} of {id}"));
            std::iter::once(format!("task {id}")).chain(execs)
        });
        containers.chain(tasks).collect()
    }
}

fn named(process: Process<'_>) -> String {
    match process.exec {
        None => process.container.to_owned(),
        Some(exec) => format!("{exec} of {}", process.container),
    }
}

fn put_file(tried: &str, file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|error| Error::io(tried, error))
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn probe(&self) -> Result<RuntimeInfo> {
        self.0.step("probe", "", |_, state| Ok(state.info.clone())).await
    }

    async fn features(&self, handler: &RuntimeHandler) -> Result<HandlerFeatures> {
        self.0.step("features", &handler.name, |_, state| Ok(state.features.clone())).await
    }

    async fn prepare_rootfs(
        &self,
        snapshotter: &str,
        key: &str,
        parent: Option<&ChainId>,
        options: &RootfsOptions,
    ) -> Result<Vec<RootfsMount>> {
        let work = |tried: &str, state: &mut State| {
            state.snapshotter(tried, snapshotter)?;
            state.root_labels.insert(key.to_owned(), options.labels.clone());
            self.0.new_root(tried, (snapshotter, key), parent)
        };
        self.0.step("prepare_rootfs", key, work).await
    }

    async fn view_rootfs(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &ChainId,
    ) -> Result<Vec<RootfsMount>> {
        let work = |tried: &str, state: &mut State| {
            state.snapshotter(tried, snapshotter)?;
            self.0.new_root(tried, (snapshotter, key), Some(parent))
        };
        self.0.step("view_rootfs", key, work).await
    }

    async fn rootfs_mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<RootfsMount>> {
        let work =
            |tried: &str, _: &mut State| self.0.root(tried, snapshotter, key).map(|()| mounts(key));
        self.0.step("rootfs_mounts", key, work).await
    }

    async fn remove_rootfs(&self, snapshotter: &str, key: &str) -> Result<()> {
        let work = |_: &str, _: &mut State| {
            self.0.world.lock().roots.remove(&(snapshotter.to_owned(), key.to_owned()));
            Ok(())
        };
        self.0.step("remove_rootfs", key, work).await
    }

    async fn list_rootfs(&self, snapshotter: &str) -> Result<Vec<String>> {
        let work = |_: &str, _: &mut State| {
            let world = self.0.world.lock();
            let ours = world.roots.keys().filter(|(name, _)| name == snapshotter);
            Ok(ours.map(|(_, key)| key.clone()).collect())
        };
        self.0.step("list_rootfs", snapshotter, work).await
    }

    async fn rootfs_usage(&self, snapshotter: &str, key: &str) -> Result<FsUsage> {
        let work = |tried: &str, _: &mut State| {
            self.0.root(tried, snapshotter, key).map(|()| FsUsage { bytes: 4096, inodes: 1 })
        };
        self.0.step("rootfs_usage", key, work).await
    }

    async fn create_container(&self, container: &RuntimeContainer) -> Result<()> {
        let work = |tried: &str, state: &mut State| {
            if state.containers.contains_key(&container.id) {
                return Err(Error::new(ErrorKind::AlreadyExists, tried));
            }
            state.containers.insert(container.id.clone(), container.clone());
            Ok(())
        };
        self.0.step("create_container", &container.id, work).await
    }

    async fn container(&self, id: &str) -> Result<RuntimeContainer> {
        let work = |tried: &str, state: &mut State| {
            state.containers.get(id).cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, tried))
        };
        self.0.step("container", id, work).await
    }

    async fn list_containers(&self) -> Result<Vec<RuntimeContainer>> {
        let all = |_: &str, state: &mut State| Ok(state.containers.values().cloned().collect());
        self.0.step("list_containers", "", all).await
    }

    async fn container_ids(&self) -> Result<Vec<String>> {
        let all = |_: &str, state: &mut State| Ok(state.containers.keys().cloned().collect());
        self.0.step("container_ids", "", all).await
    }

    async fn update_container_spec(&self, id: &str, spec: &serde_json::Value) -> Result<()> {
        let work = |tried: &str, state: &mut State| {
            let record = state.containers.get_mut(id);
            record.ok_or_else(|| Error::new(ErrorKind::NotFound, tried))?.spec = spec.clone();
            Ok(())
        };
        self.0.step("update_container_spec", id, work).await
    }

    async fn delete_container(&self, id: &str) -> Result<()> {
        let work = |tried: &str, state: &mut State| {
            if state.tasks.contains_key(id) {
                return Err(
                    Error::new(ErrorKind::FailedPrecondition, tried).because("it has a task")
                );
            }
            state.containers.remove(id);
            Ok(())
        };
        self.0.step("delete_container", id, work).await
    }

    async fn create_task(&self, task: &NewTask) -> Result<u32> {
        let tried = format!("create task {}", task.id);
        self.0.steps.run("create_task", &task.id, self.0.create_task(&tried, task)).await
    }

    async fn exec(&self, exec: &NewExec) -> Result<()> {
        let named = format!("{} of {}", exec.exec_id, exec.id);
        let work = |tried: &str, state: &mut State| {
            if state.answering(tried, Process::init(&exec.id))?.exit().is_some() {
                return Err(Error::new(ErrorKind::FailedPrecondition, tried));
            }
            let task = state.tasks.get_mut(&exec.id);
            let task = task.ok_or_else(|| Error::new(ErrorKind::NotFound, tried))?;
            if task.execs.contains_key(&exec.exec_id) {
                return Err(Error::new(ErrorKind::AlreadyExists, tried));
            }
            let proc = Proc::new(exec.stdio.clone(), Program::of(&exec.process));
            task.execs.insert(exec.exec_id.clone(), proc);
            Ok(())
        };
        self.0.step("exec", &named, work).await
    }

    async fn start(&self, process: Process<'_>) -> Result<u32> {
        let tried = format!("start {}", named(process));
        self.0.steps.run("start", named(process), self.0.start(&tried, process)).await
    }

    async fn wait(&self, process: Process<'_>) -> Result<Exit> {
        let tried = format!("wait for {}", named(process));
        self.0.steps.run("wait", named(process), self.0.wait(&tried, process)).await
    }

    async fn kill(&self, process: Process<'_>, signal: i32, all: bool) -> Result<()> {
        let tried = format!("send signal {signal} to {}", named(process));
        let work = async {
            self.0.world.present(&tried)?;
            self.0.kill(&tried, process, signal, all)
        };
        self.0.steps.run("kill", named(process), work).await
    }

    async fn delete_task(&self, process: Process<'_>, kill: bool) -> Result<Option<Exit>> {
        let tried = format!("delete {}", named(process));
        let work = self.0.delete(&tried, process, kill);
        self.0.steps.run("delete_task", named(process), work).await
    }

    async fn task(&self, process: Process<'_>) -> Result<Option<TaskStatus>> {
        let work = |_: &str, state: &mut State| {
            let mute = state.tasks.get(process.container).is_some_and(|task| task.mute);
            Ok(state.proc(process).map(|proc| proc.status(process.container, mute)))
        };
        self.0.step("task", &named(process), work).await
    }

    async fn list_tasks(&self) -> Result<Vec<TaskStatus>> {
        let all = |_: &str, state: &mut State| {
            // As in containerd 2.x.
            let answering = state.tasks.iter().filter(|(_, task)| !task.mute);
            Ok(answering.map(|(id, task)| task.init.status(id, false)).collect())
        };
        self.0.step("list_tasks", "", all).await
    }

    async fn close_stdin(&self, process: Process<'_>) -> Result<()> {
        let work = |tried: &str, state: &mut State| {
            state.answering(tried, process)?.stdin_holder = None;
            Ok(())
        };
        self.0.step("close_stdin", &named(process), work).await
    }

    async fn resize(&self, process: Process<'_>, width: u32, height: u32) -> Result<()> {
        let work = |tried: &str, state: &mut State| {
            state.answering(tried, process)?.size = Some((width, height));
            Ok(())
        };
        self.0.step("resize", &named(process), work).await
    }

    async fn update_resources(&self, id: &str, resources: &serde_json::Value) -> Result<()> {
        let work = |tried: &str, state: &mut State| {
            if state.answering(tried, Process::init(id))?.exit().is_some() {
                return Err(Error::new(ErrorKind::NotFound, tried).because("it has ended"));
            }
            state.resources.insert(id.to_owned(), resources.clone());
            Ok(())
        };
        self.0.step("update_resources", id, work).await
    }

    async fn pause(&self, id: &str) -> Result<()> {
        let work = |tried: &str, state: &mut State| {
            if !state.answering(tried, Process::init(id))?.is_running() {
                return Err(Error::new(ErrorKind::FailedPrecondition, tried));
            }
            state.freeze(id, true);
            Ok(())
        };
        self.0.step("pause", id, work).await
    }

    async fn resume(&self, id: &str) -> Result<()> {
        let work = |_: &str, state: &mut State| {
            state.freeze(id, false);
            Ok(())
        };
        self.0.step("resume", id, work).await
    }

    async fn checkpoint(&self, id: &str, images: &Path, work: &Path, _: Duration) -> Result<()> {
        let work = |tried: &str, state: &mut State| {
            state.answering(tried, Process::init(id))?;
            if !state.tasks.get(id).is_some_and(|task| task.frozen) {
                return Err(Error::new(ErrorKind::FailedPrecondition, tried));
            }
            let files = [(images.join("inventory.img"), "inventory"), (work.join("dump.log"), "")];
            files.iter().try_for_each(|(file, text)| put_file(tried, file, text))
        };
        self.0.step("checkpoint", id, work).await
    }

    async fn export_changes(&self, snapshotter: &str, key: &str, file: &Path) -> Result<()> {
        let work = |tried: &str, _: &mut State| {
            self.0.root(tried, snapshotter, key)?;
            put_file(tried, file, "a tar of the changes")
        };
        self.0.step("export_changes", key, work).await
    }

    async fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let work = |tried: &str, state: &mut State| {
            state.answering(tried, Process::init(id))?;
            let all = state.tasks.get(id).into_iter().flat_map(|task| {
                std::iter::once(&task.init).chain(task.execs.values()).map(|proc| proc.pid)
            });
            Ok(all.filter(|pid| *pid != 0).collect())
        };
        self.0.step("pids", id, work).await
    }

    fn shim_arguments(&self) -> Vec<String> {
        vec!["fake-shim".into()]
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let mut events = self.0.world.events.subscribe();
        let away = self.0.world.is_away();
        async_stream::stream! {
            if !away {
                yield RuntimeEvent::Connected;
            }
            loop {
                match events.recv().await {
                    Ok(event) => yield event,
                    // Events were missed, as after a lost connection.
                    Err(RecvError::Lagged(_)) => yield RuntimeEvent::Connected,
                    Err(RecvError::Closed) => break,
                }
            }
        }
        .boxed()
    }
}
