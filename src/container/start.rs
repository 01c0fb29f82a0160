//! StartContainer, and reopening logs.

use std::path::PathBuf;
use std::sync::Arc;

use super::entry::Entry;
use super::error::{Error, Step};
use super::{
    ContainerRecord, ContainerState, Containers, EndReason, EventKind, Exited, PodContext,
};
use crate::backend::{ContainerMoment, NewTask, Process, RootfsMount, Stdio};
use crate::clock::now;
use crate::lifecycle::Backoff;
use crate::logs::{Pump, PumpSpec, open_fifo_guard, open_fifo_reader};
use crate::model::container::ContainerConfig;
use crate::model::security::NamespaceMode;
use crate::oci::selinux;
use crate::telemetry::error_chain;

/// Exit code of a container that failed to start.
const START_ERROR: i32 = 128;

impl Containers {
    /// Starts a created container of a ready pod. On failure the container stays, exited with
    /// code 128 and reason `StartError`.
    pub async fn start(self: &Arc<Self>, pod: &PodContext, id: &str) -> Result<(), Error> {
        let entry = self.find(id)?.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        let _changing = entry.changing.lock().await;
        if entry.is_removing() || entry.state() != ContainerState::Created {
            return Err(entry.wrong_state("start"));
        }
        // On failure here nothing was tried yet, so it can still be started later.
        self.take_update_back(&entry).await?;
        if self.deps.store.health().is_err() {
            // Nothing is started that cannot be recorded.
            entry.save(&self.deps, |_| {}).await?;
        }
        if let Err(error) = self.launch(&entry, pod).await {
            self.start_failed(&entry, &error).await;
            return Err(error);
        }
        Ok(())
    }

    /// Records that a start was refused because of the pod: for the container that counts as a
    /// failed start. One that cannot be started anyway is left alone.
    pub async fn refuse_start(&self, id: &str, message: String) {
        let Ok(Some(entry)) = self.find(id) else { return };
        let _changing = entry.changing.lock().await;
        if !entry.is_removing() && entry.state() == ContainerState::Created {
            tracing::warn!(container = %entry.id, error = message, "container start failed");
            self.mark_exited(&entry, start_error(message)).await;
        }
    }

    async fn launch(self: &Arc<Self>, entry: &Arc<Entry>, pod: &PodContext) -> Result<(), Error> {
        self.check_target(entry, pod).await?;
        let (mut rootfs, stdio) = tokio::try_join!(self.rootfs_of(entry), self.make_stdio(entry))?;
        if let Some(labels) = self.labels(pod, &entry.config())? {
            set_label(&mut rootfs, &labels.files);
        }
        let (pump, guards) = self.open_log(entry, &stdio)?;
        entry.set_pump(Some(pump.clone()));
        pump.opened().await.step("open the log")?;
        let id = entry.id.as_str();
        let task = NewTask { id: id.to_owned(), rootfs, stdio: stdio.clone() };
        let runtime = &self.deps.runtime;
        let starting = entry.begin_start();
        let pid = runtime.create_task(&task).await.step("create the task")?;
        // The shim has the FIFOs open now: from here on the streams end when it closes them.
        drop(guards);
        let (cgroup, init) =
            tokio::join!(self.deps.host.memory_cgroup(pid), self.init_process(pid));
        let cgroup = cgroup.unwrap_or_default();
        let _hold = self.ask_about_start(entry, pid).await?;
        // Taken before the call: a short process may end before the call returns, and its end must
        // not precede its start.
        let started_at = now();
        let start = async {
            runtime.start(Process::init(id)).await.step("start the task")?;
            drop(starting);
            Ok(())
        };
        // Stored meanwhile: recovery sees by the task whether the start took place.
        let running = |record: &mut ContainerRecord| {
            record.stdio = stdio;
            record.memory_cgroup = cgroup;
            record.init = init;
            record.boot_id = self.deps.host.facts().boot_id.clone();
            record.container.state = ContainerState::Running { started_at, pid };
        };
        entry.save_during(&self.deps, running, start).await?;
        entry.publish(&self.deps, Some(EventKind::Started));
        self.watch_exit(entry);
        self.tell(entry, ContainerMoment::PostStart).await;
        Ok(())
    }

    /// The SELinux labels of a container, if it has any.
    pub(super) fn labels(
        &self,
        pod: &PodContext,
        config: &ContainerConfig,
    ) -> Result<Option<selinux::Labels>, Error> {
        let (facts, settings) = (self.deps.host.facts(), &self.options.oci);
        let level = pod.selinux_level.as_deref();
        Ok(selinux::container_labels(&pod.config, config, level, facts, settings)?)
    }

    async fn rootfs_of(&self, entry: &Entry) -> Result<Vec<RootfsMount>, Error> {
        if let Some(rootfs) = entry.take_rootfs() {
            return Ok(rootfs);
        }
        let record = entry.record();
        let snapshotter = &record.handler.snapshotter;
        let mounts = self.deps.runtime.rootfs_mounts(snapshotter, entry.id.as_str()).await;
        mounts.step("find the root file system")
    }

    /// Checks that the container whose PID namespace is joined still runs with the PID in the spec.
    async fn check_target(&self, entry: &Entry, pod: &PodContext) -> Result<(), Error> {
        let config = entry.config();
        if config.security.namespaces.pid != NamespaceMode::Target {
            return Ok(());
        }
        let pid = self.target_pid(pod, &config)?.unwrap_or_default();
        let record = self.deps.runtime.container(entry.id.as_str()).await;
        let spec = record.step("read the container's spec")?.spec;
        let path = format!("/proc/{pid}/ns/pid");
        let namespaces = spec["linux"]["namespaces"].as_array().map(Vec::as_slice);
        let same = namespaces.unwrap_or_default().iter().any(|ns| ns["path"] == *path);
        let problem = "the target container was restarted since this container was created";
        if same { Ok(()) } else { Err(Error::invalid("namespace_options.target_id", problem)) }
    }

    async fn make_stdio(&self, entry: &Entry) -> Result<Stdio, Error> {
        let config = entry.config();
        let dir = self.fifo_dir(entry);
        let stdio = Stdio {
            stdin: config.stdin.then(|| dir.join("stdin")),
            stdout: Some(dir.join("stdout")),
            stderr: (!config.tty).then(|| dir.join("stderr")),
            terminal: config.tty,
        };
        self.make_fifos(&stdio).await?;
        Ok(stdio)
    }

    /// Makes the FIFOs of a process in their own directory.
    pub(super) async fn make_fifos(&self, stdio: &Stdio) -> Result<(), Error> {
        let host = &self.deps.host;
        let paths: Vec<PathBuf> =
            [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten().cloned().collect();
        if let Some(dir) = paths.first().and_then(|path| path.parent()) {
            host.create_dir(dir, 0o700).await.step("make the folder of the FIFOs")?;
        }
        host.make_fifos(&paths).await.step("make the FIFOs")
    }

    /// Run-time directory of a container.
    pub(super) fn fifo_dir(&self, entry: &Entry) -> PathBuf {
        self.options.state.join(entry.id.as_str())
    }

    /// Opens the reading ends and starts the log writer. The returned guards hold the streams open
    /// until the shim has opened them.
    fn open_log(
        &self,
        entry: &Entry,
        stdio: &Stdio,
    ) -> Result<(Pump, Vec<std::os::fd::OwnedFd>), Error> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(open_fifo_reader).transpose();
        let stdout = open(&stdio.stdout).step("open the stdout FIFO")?;
        let stderr = open(&stdio.stderr).step("open the stderr FIFO")?;
        let outputs = [&stdio.stdout, &stdio.stderr].into_iter().flatten();
        let guards: std::io::Result<Vec<_>> = outputs.map(|path| open_fifo_guard(path)).collect();
        let guards = guards.step("open the FIFO guards")?;
        Ok((self.start_pump(entry, stdout, stderr)?, guards))
    }

    fn start_pump(
        &self,
        entry: &Entry,
        stdout: Option<std::os::fd::OwnedFd>,
        stderr: Option<std::os::fd::OwnedFd>,
    ) -> Result<Pump, Error> {
        let path = entry.record().container.log_path.clone();
        let spec = PumpSpec { path, stdout, stderr, max_line: self.options.max_log_line };
        self.deps.pumps.pump(spec).step("open the log")
    }

    /// Reopens the streams of a container that a previous agent process started. If the task has
    /// ended meanwhile, the streams are already at their end. The kernel reports end-of-file on a
    /// FIFO only to a reader that has seen a writer, so a writer is opened and closed for each.
    pub(super) fn reopen_streams(&self, entry: &Entry, stdio: &Stdio) -> Result<(), Error> {
        let open = |path: &Option<PathBuf>| match path.as_deref().map(open_fifo_reader) {
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other.transpose(),
        };
        let stdout = open(&stdio.stdout).step("reopen the stdout FIFO")?;
        let stderr = open(&stdio.stderr).step("reopen the stderr FIFO")?;
        for path in [&stdio.stdout, &stdio.stderr].into_iter().flatten() {
            // Opening fails only if there is no reader, and then nothing needs to be signalled.
            drop(open_fifo_guard(path));
        }
        entry.set_pump(Some(self.start_pump(entry, stdout, stderr)?));
        Ok(())
    }

    async fn start_failed(self: &Arc<Self>, entry: &Arc<Entry>, error: &Error) {
        let message = error_chain(error);
        tracing::warn!(container = %entry.id, error = message, "container start failed");
        let process = Process::init(entry.id.as_str());
        if let Err(error) = self.deps.runtime.delete_task(process, true).await {
            tracing::warn!(container = %entry.id, error = error_chain(&error),
                "cannot delete task");
            self.delete_task_later(entry);
        }
        if let Some(pump) = entry.set_pump(None) {
            pump.stop();
        }
        self.mark_exited(entry, start_error(message)).await;
    }

    /// Deletes the task of a failed start in the background: its process may run, and nothing may
    /// run in a container that is shown as exited.
    fn delete_task_later(self: &Arc<Self>, entry: &Arc<Entry>) {
        let (room, entry) = (self.clone(), entry.clone());
        let delete = async move { room.delete_task_until_gone(&entry).await };
        drop(self.deps.tasks.spawn_until_drain("start-undo", delete));
    }

    /// Deletes a task; repeats until it works.
    pub(super) async fn delete_task_until_gone(&self, entry: &Entry) {
        let process = Process::init(entry.id.as_str());
        let delete = || self.deps.runtime.delete_task(process, true);
        Backoff::of_undo().retry_later(delete).await;
    }

    /// ReopenContainerLog: switches to a new file of the same name. After it returns nothing more
    /// is written to the old file.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let entry = self.find(id)?.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        let running = matches!(entry.state(), ContainerState::Running { .. });
        match entry.pump().filter(|_| running) {
            Some(pump) => pump.reopen().await.step("reopen the log"),
            None => Err(entry.wrong_state("reopen the log of")),
        }
    }
}

fn start_error(message: String) -> Exited {
    let (code, reason) = (START_ERROR, EndReason::StartError);
    Exited { started_at: None, finished_at: now(), code, reason, message }
}

/// Makes all files of a root file system appear with one SELinux label. Only an overlay mount
/// belongs to one container alone; other file systems keep the labels of their files.
fn set_label(rootfs: &mut [RootfsMount], label: &str) {
    for mount in rootfs.iter_mut().filter(|mount| mount.kind == "overlay") {
        mount.options.push(format!("context=\"{label}\""));
    }
}
