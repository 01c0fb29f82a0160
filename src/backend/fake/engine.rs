//! The state of the fake runtime and the lifecycle of its processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::super::{
    Error, ErrorKind, Exit, HandlerFeatures, NewTask, Process, Result, RootfsMount,
    RuntimeContainer, RuntimeEvent, RuntimeInfo, Stdio,
};
use super::program::{Program, SIGKILL};
use super::steps::Steps;
use super::task::{End, Proc, Streams, Task};
use super::world::{World, cgroup_of, unavailable};
use crate::clock::now;
use crate::lifecycle::Tasks;
use crate::locks::{Mutex, MutexGuard};
use crate::model::StringMap;
use crate::model::image::ChainId;

/// State shared by all handles of a fake runtime.
pub(super) struct Inner {
    pub(super) steps: Steps,
    pub(super) world: Arc<World>,
    /// The running programs.
    pub(super) running: Tasks,
    /// The tokio runtime of the programs, which continue when their caller is gone.
    pub(super) home: tokio::runtime::Handle,
    pub(super) state: Mutex<State>,
}

/// The data of the fake runtime.
pub(super) struct State {
    pub(super) info: RuntimeInfo,
    pub(super) features: HandlerFeatures,
    pub(super) containers: BTreeMap<String, RuntimeContainer>,
    pub(super) tasks: BTreeMap<String, Task>,
    pub(super) resources: BTreeMap<String, serde_json::Value>,
    /// Labels asked for of root file systems.
    pub(super) root_labels: BTreeMap<String, StringMap>,
}

impl State {
    pub(super) fn proc(&mut self, process: Process<'_>) -> Option<&mut Proc> {
        let task = self.tasks.get_mut(process.container)?;
        match process.exec {
            None => Some(&mut task.init),
            Some(exec) => task.execs.get_mut(exec),
        }
    }

    pub(super) fn freeze(&mut self, id: &str, frozen: bool) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.frozen = frozen;
        }
    }

    /// The process, if it exists and its shim answers.
    pub(super) fn answering(&mut self, tried: &str, process: Process<'_>) -> Result<&mut Proc> {
        if self.tasks.get(process.container).is_some_and(|task| task.mute) {
            return Err(Error::new(ErrorKind::DeadlineExceeded, tried));
        }
        self.proc(process).ok_or_else(|| Error::new(ErrorKind::NotFound, tried))
    }

    pub(super) fn snapshotter(&self, tried: &str, name: &str) -> Result<()> {
        if self.info.snapshotters.iter().any(|known| known.name == name) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidArgument, tried)
            .because(format!("snapshotter {name:?} is not loaded")))
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A step that accesses only the state.
    pub(super) async fn step<T>(
        &self,
        step: &'static str,
        subject: &str,
        work: impl FnOnce(&str, &mut State) -> Result<T> + Send,
    ) -> Result<T> {
        let tried = format!("{step} {subject}");
        self.steps
            .run(step, subject, async {
                self.world.present(&tried)?;
                work(&tried, &mut self.lock())
            })
            .await
    }

    /// A new snapshot on `parent`.
    pub(super) fn new_root(
        &self,
        tried: &str,
        name: (&str, &str),
        parent: Option<&ChainId>,
    ) -> Result<Vec<RootfsMount>> {
        let mut world = self.world.lock();
        let (snapshotter, key) = (name.0.to_owned(), name.1.to_owned());
        if let Some(parent) = parent
            && !world.chains.contains_key(&(snapshotter.clone(), parent.clone()))
        {
            return Err(Error::new(ErrorKind::NotFound, tried).because("no such parent chain"));
        }
        let mounts = mounts(&key);
        let place = (snapshotter, key);
        if world.roots.contains_key(&place) {
            return Err(Error::new(ErrorKind::AlreadyExists, tried));
        }
        world.roots.insert(place, parent.cloned());
        Ok(mounts)
    }

    /// Checks that there is a snapshot with this key.
    pub(super) fn root(&self, tried: &str, snapshotter: &str, key: &str) -> Result<()> {
        let place = (snapshotter.to_owned(), key.to_owned());
        if self.world.lock().roots.contains_key(&place) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, tried))
    }

    pub(super) async fn create_task(&self, tried: &str, task: &NewTask) -> Result<u32> {
        self.world.present(tried)?;
        let program = {
            let state = self.lock();
            let record = state.containers.get(&task.id);
            let record = record.ok_or_else(|| Error::new(ErrorKind::NotFound, tried))?;
            if state.tasks.contains_key(&task.id) {
                return Err(Error::new(ErrorKind::AlreadyExists, tried));
            }
            Program::of(&record.spec["process"])
        };
        if program.fails_create {
            return Err(Error::new(ErrorKind::Other, tried).because("runc create failed"));
        }
        let (streams, stdin_holder) = self.open_streams(tried, &task.stdio).await?;
        let mut state = self.lock();
        if state.tasks.contains_key(&task.id) {
            return Err(Error::new(ErrorKind::AlreadyExists, tried));
        }
        let pid = self.world.lock().bear(&task.id);
        let mut init = Proc::new(task.stdio.clone(), program);
        (init.pid, init.streams, init.stdin_holder) = (pid, Some(streams), stdin_holder);
        state.tasks.insert(task.id.clone(), Task::new(init));
        Ok(pid)
    }

    async fn open_streams(
        &self,
        tried: &str,
        stdio: &Stdio,
    ) -> Result<(Streams, Option<std::fs::File>)> {
        let stdio = stdio.clone();
        let mut opening = JoinSet::new();
        opening.spawn_on(async move { Streams::open(&stdio).await }, &self.home);
        let opened = opening.join_next().await.and_then(std::result::Result::ok);
        opened.unwrap_or_else(|| Err(Error::new(ErrorKind::Other, tried)))
    }

    pub(super) async fn start(self: &Arc<Self>, tried: &str, process: Process<'_>) -> Result<u32> {
        self.world.present(tried)?;
        let stdio = {
            let mut state = self.lock();
            let init_ended =
                state.proc(Process::init(process.container)).is_some_and(|init| !init.is_running());
            let proc = state.answering(tried, process)?;
            let refused = |why: &str| {
                Err(Error::new(ErrorKind::FailedPrecondition, tried).because(why.to_owned()))
            };
            if proc.started || proc.exit().is_some() {
                return refused("it was started before");
            }
            if process.exec.is_some() && init_ended {
                return refused("its container does not run");
            }
            if proc.program.fails_start {
                return Err(Error::new(ErrorKind::Other, tried).because("exec: no such file"));
            }
            process.exec.map(|_| proc.stdio.clone())
        };
        // An init process opened its streams when it was created.
        let opened = match stdio {
            Some(stdio) => Some(self.open_streams(tried, &stdio).await?),
            None => None,
        };
        let mut state = self.lock();
        let proc = state.answering(tried, process)?;
        if let Some((streams, holder)) = opened {
            proc.pid = self.world.lock().bear(process.container);
            (proc.streams, proc.stdin_holder) = (Some(streams), holder);
        }
        let Some(mut streams) = proc.streams.take() else {
            return Err(Error::new(ErrorKind::FailedPrecondition, tried));
        };
        let (killer, killed) = oneshot::channel();
        (proc.started, proc.killer) = (true, Some(killer));
        let (pid, program, inner) = (proc.pid, proc.program.clone(), Arc::clone(self));
        let id = process.container.to_owned();
        let exec = process.exec.map(ToOwned::to_owned);
        let _home = self.home.enter();
        drop(self.running.spawn("fake process", async move {
            // Cancel-safe: a killed program is not polled again.
            let code = tokio::select! {
                biased;
                code = killed => code.unwrap_or(128 + SIGKILL.unsigned_abs()),
                code = program.run(&mut streams) => code,
            };
            drop(streams);
            inner.ended(Process { container: &id, exec: exec.as_deref() }, pid, code);
        }));
        Ok(pid)
    }

    /// Records the end of the process that had `pid`.
    pub(super) fn ended(&self, process: Process<'_>, pid: u32, code: u32) {
        let mut state = self.lock();
        // Programs of a lost task run on for a moment; they are ignored.
        let Some(proc) = state.proc(process).filter(|proc| proc.pid == pid) else { return };
        self.world.lock().processes.remove(&pid);
        (proc.pid, proc.killer, proc.streams, proc.stdin_holder) = (0, None, None, None);
        proc.end.send_replace(End::Exited(Exit { code, at: now() }));
        if process.exec.is_none()
            && let Some(task) = state.tasks.get_mut(process.container)
        {
            // The kernel kills the remaining processes in the PID namespace.
            for exec in task.execs.values_mut() {
                exec.signal(SIGKILL);
            }
        }
        drop(state);
        let container = process.container.to_owned();
        let exec = process.exec.map(ToOwned::to_owned);
        self.world.publish(RuntimeEvent::Exit { container, exec });
    }

    pub(super) fn kill(
        &self,
        tried: &str,
        process: Process<'_>,
        signal: i32,
        all: bool,
    ) -> Result<()> {
        let ended_at_once = {
            let mut state = self.lock();
            let proc = state.answering(tried, process)?;
            if proc.exit().is_some() {
                return Err(Error::new(ErrorKind::NotFound, tried).because("it has ended"));
            }
            if process.exec.is_some() && !proc.started {
                return Err(Error::new(ErrorKind::FailedPrecondition, tried));
            }
            proc.signal(signal);
            // A process that was not started yet has no signal handlers.
            let waits = !proc.started && proc.program.is_ended_by(signal);
            let pid = waits.then_some(proc.pid);
            if all && let Some(task) = state.tasks.get_mut(process.container) {
                for exec in task.execs.values_mut() {
                    exec.signal(signal);
                }
            }
            pid
        };
        if let Some(pid) = ended_at_once {
            self.ended(process, pid, 128 + signal.unsigned_abs());
        }
        Ok(())
    }

    pub(super) async fn wait(&self, tried: &str, process: Process<'_>) -> Result<Exit> {
        self.world.present(tried)?;
        let mut end = {
            let mut state = self.lock();
            let proc = state.proc(process).ok_or_else(|| Error::new(ErrorKind::NotFound, tried))?;
            proc.end.subscribe()
        };
        // Cancel-safe: both branches only observe.
        tokio::select! {
            biased;
            () = self.world.gone() => Err(unavailable(tried)),
            end = end.wait_for(|end| *end != End::NotYet) => match end.as_deref() {
                Ok(End::Exited(exit)) => Ok(*exit),
                Ok(_) => Err(Error::new(ErrorKind::Unavailable, tried).because("the shim died")),
                // Deleted without an exit: an exec that was never started.
                Err(_) => Err(Error::new(ErrorKind::NotFound, tried)),
            },
        }
    }

    pub(super) async fn delete(
        &self,
        tried: &str,
        process: Process<'_>,
        kill: bool,
    ) -> Result<Option<Exit>> {
        self.world.present(tried)?;
        if kill {
            match self.kill(tried, process, SIGKILL, process.exec.is_none()) {
                Ok(()) => drop(self.wait(tried, process).await?),
                Err(error)
                    if matches!(
                        error.kind,
                        ErrorKind::NotFound | ErrorKind::FailedPrecondition
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        let mut state = self.lock();
        let proc = match state.answering(tried, process) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        if proc.is_running() {
            return Err(Error::new(ErrorKind::FailedPrecondition, tried).because("it runs"));
        }
        let (exit, pid) = (proc.exit(), proc.pid);
        self.world.lock().processes.remove(&pid);
        match process.exec {
            Some(exec) => {
                if let Some(task) = state.tasks.get_mut(process.container) {
                    task.execs.remove(exec);
                }
            }
            None => {
                // The kernel has killed the remaining processes in the PID namespace.
                let task = state.tasks.remove(process.container);
                for exec in task.iter().flat_map(|task| task.execs.values()) {
                    self.world.lock().processes.remove(&exec.pid);
                }
                self.world.lock().cgroups.remove(&cgroup_of(process.container));
                state.resources.remove(process.container);
            }
        }
        // Never started: as a shim reports a process that it killed.
        Ok(Some(exit.unwrap_or_else(|| Exit { code: 128 + SIGKILL.unsigned_abs(), at: now() })))
    }
}

pub(super) fn mounts(key: &str) -> Vec<RootfsMount> {
    vec![RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![format!("upperdir=/fake/{key}/fs")],
    }]
}
