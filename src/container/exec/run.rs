//! The life of one exec.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::super::entry::Entry;
use super::super::error::{Error, Step};
use super::super::streams::{
    Audience, Sink, Source, close_stdin, copy_input, open_input, pass_sizes,
};
use super::super::{Containers, InitProcess};
use super::cleanup::{Ends, Known, new_exec_id};
use crate::backend::{Exit, NewExec, Process, Stdio, wait_for_end};
use crate::logs::{open_fifo_guard, open_fifo_reader};
use crate::model::signal::Signal;
use crate::model::streams::{Input, TerminalSize};
use crate::oci::exec_process;
use crate::telemetry::error_chain;

/// How long a command may take to end after SIGKILL.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// Exit code reported when the real one is unknown.
const UNKNOWN: i32 = 255;

/// A command to run.
pub(super) struct Command<'a> {
    pub(super) words: &'a [String],
    /// Whether it has a stdin.
    pub(super) stdin: bool,
    /// Whether it gets a terminal.
    pub(super) tty: bool,
    /// Time limit.
    pub(super) limit: Option<Duration>,
}

/// When a command's time is up.
#[derive(Clone, Copy)]
struct Time {
    /// How long it may run; for ever without one.
    limit: Option<Duration>,
    up: Option<Instant>,
}

impl Time {
    /// It runs from now on.
    fn of(command: &Command<'_>) -> Self {
        let limit = command.limit;
        Self { limit, up: limit.and_then(|limit| Instant::now().checked_add(limit)) }
    }

    /// Ends when it is up.
    async fn runs_out(self) {
        match self.up {
            Some(up) => tokio::time::sleep_until(up).await,
            None => std::future::pending().await,
        }
    }

    /// Does this work, and drops it when the time is up before its end.
    async fn bound<T>(self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.up {
            Some(up) => tokio::time::timeout_at(up, work).await.unwrap_or_else(|_| self.exceeded()),
            None => work.await,
        }
    }

    fn exceeded<T>(self) -> Result<T, Error> {
        Err(Error::ExecTimeout(self.limit.unwrap_or_default()))
    }
}

/// The streams of a command.
pub(super) struct Streams {
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Sink,
    pub(super) stderr: Sink,
    pub(super) resize: Option<mpsc::Receiver<TerminalSize>>,
}

/// A started exec.
struct Started {
    known: Known,
    /// PID and start time of the command; the start time detects reuse of the PID.
    leader: Option<InitProcess>,
    stdin: Option<PathBuf>,
    outputs: [Option<pipe::Receiver>; 2],
}

impl Containers {
    /// Runs a command to its end and returns its exit code. It is killed at its time limit, and
    /// when `called_off` completes, whose error is then returned.
    pub(super) async fn run(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        command: Command<'_>,
        streams: &mut Streams,
        called_off: impl Future<Output = Error>,
    ) -> Result<i32, Error> {
        // The start counts: a shim that hangs in it holds up nobody longer than asked for.
        let time = Time::of(&command);
        let id = new_exec_id();
        let known = Known { entry: entry.clone(), dir: self.fifo_dir(entry).join(&id), id };
        let mut ends = Ends::default();
        let start = self.start_exec(&known, &command, &mut ends);
        let started = match time.bound(start).await {
            Ok(started) => started,
            Err(error) => {
                // It may exist although the answer was lost.
                self.clean_up_exec(known, ends);
                return Err(error);
            }
        };
        let (known, leader) = (started.known.clone(), started.leader);
        let ended = self.follow(started, command.tty, time, streams, called_off).await;
        if ended.is_err() {
            self.kill_exec(&known, leader).await;
        }
        self.clean_up_exec(known, Ends::default());
        Ok(ended?.map_or(UNKNOWN, |exit| i32::try_from(exit.code).unwrap_or(i32::MAX)))
    }

    /// Starts a command. Until it has started, the agent's ends of its outputs are in `ends`, which
    /// survive when this future is dropped.
    async fn start_exec(
        &self,
        known: &Known,
        command: &Command<'_>,
        ends: &mut Ends,
    ) -> Result<Started, Error> {
        // Both outputs always exist, even if nobody reads them: some commands fail without one.
        let stdio = Stdio {
            stdin: command.stdin.then(|| known.dir.join("stdin")),
            stdout: Some(known.dir.join("stdout")),
            stderr: (!command.tty).then(|| known.dir.join("stderr")),
            terminal: command.tty,
        };
        let template = self.exec_template(&known.entry, command.words, command.tty);
        let (process, ()) = tokio::try_join!(template, self.make_fifos(&stdio))?;
        for (output, path) in ends.outputs.iter_mut().zip([&stdio.stdout, &stdio.stderr]) {
            let Some(path) = path else { continue };
            let opened = open_fifo_reader(path).and_then(pipe::Receiver::from_owned_fd);
            *output = Some(opened.step("open an output of the exec")?);
            ends.guards.push(open_fifo_guard(path).step("guard an output of the exec")?);
        }
        let stdin = stdio.stdin.clone();
        let runtime = &self.deps.runtime;
        let id = known.entry.id.to_string();
        let exec = NewExec { id, exec_id: known.id.clone(), process, stdio };
        runtime.exec(&exec).await.step("register the exec")?;
        let pid = runtime.start(known.process()).await.step("start the exec")?;
        // The shim has the outputs open now: from here on they end when the shim closes them.
        let Ends { outputs, .. } = std::mem::take(ends);
        let leader = self.init_process(pid).await;
        Ok(Started { known: known.clone(), leader, stdin, outputs })
    }

    /// Copies the streams until the command has ended and all its output was copied.
    async fn follow(
        &self,
        started: Started,
        tty: bool,
        time: Time,
        streams: &mut Streams,
        called_off: impl Future<Output = Error>,
    ) -> Result<Option<Exit>, Error> {
        let runtime = &*self.deps.runtime;
        let process = started.known.process();
        let has_ended = watch::Sender::new(false);
        let audience = Audience::of([&streams.stdout, &streams.stderr]);
        let [stdout, stderr] =
            started.outputs.map(|fifo| fifo.map(|fifo| Source::new(fifo, has_ended.subscribe())));
        let end = async {
            let exit = wait_for_end(runtime, process).await;
            has_ended.send_replace(true);
            exit
        };
        let outputs = async {
            tokio::join!(
                copy(stdout, &mut streams.stdout, &audience),
                copy(stderr, &mut streams.stderr, &audience),
                end
            )
        };
        let sizes = pass_sizes(runtime, process, streams.resize.take());
        let input = self.send_input(process, started.stdin, streams.stdin.take(), tty);
        let late = async {
            time.runs_out().await;
            if *has_ended.borrow() {
                // It ended in time; only output is left to wait for.
                std::future::pending().await
            }
        };
        // Cancel-safe: the branch that finishes first ends the others.
        tokio::select! {
            ((), (), exit) = outputs => Ok(exit),
            never = sizes => match never {},
            never = input => match never {},
            () = late => time.exceeded(),
            () = audience.gone() => Err(Error::ClientGone),
            error = called_off => Err(error),
        }
    }

    /// Forwards a client's input and then its end-of-file. Never returns.
    async fn send_input(
        &self,
        process: Process<'_>,
        path: Option<PathBuf>,
        input: Option<Input>,
        tty: bool,
    ) -> Infallible {
        if let (Some(path), Some(input)) = (path, input) {
            let fifo = open_input(&path).await;
            if let Err(error) = &fifo {
                tracing::warn!(id = process.container, %error, "cannot open stdin of exec");
            }
            copy_input(input, fifo.ok()).await;
            if !tty {
                // For a terminal, closing would be a hang-up.
                close_stdin(&*self.deps.runtime, process).await;
            }
        }
        std::future::pending().await
    }

    /// Kills a command and its descendants, and waits for its end.
    pub(super) async fn kill_exec(&self, known: &Known, leader: Option<InitProcess>) {
        let (runtime, host, process) = (&*self.deps.runtime, &self.deps.host, known.process());
        let kill = async {
            if let Some(InitProcess { pid, start_time }) = leader
                && let Err(error) = host.kill_tree(pid, start_time).await
            {
                tracing::warn!(container = %known.entry.id, error = error_chain(&error),
                    "children of killed exec process may still run");
            }
            if let Err(error) = runtime.kill(process, Signal::KILL.number(), false).await {
                tracing::debug!(container = %known.entry.id, error = error_chain(&error),
                    "cannot kill exec process");
            }
            wait_for_end(runtime, process).await
        };
        if tokio::time::timeout_at(Instant::now() + AFTER_KILL, kill).await.is_err() {
            tracing::warn!(container = %known.entry.id, exec = known.id,
                "exec process did not exit after SIGKILL");
        }
    }

    async fn exec_template(
        &self,
        entry: &Entry,
        command: &[String],
        tty: bool,
    ) -> Result<serde_json::Value, Error> {
        let template = match entry.process() {
            Some(template) => template,
            None => {
                let record = self.deps.runtime.container(entry.id.as_str()).await;
                let spec = record.step("read the container's spec")?.spec;
                entry.set_process(&spec);
                spec
            }
        };
        Ok(exec_process(&template, command, tty)?)
    }
}

async fn copy(source: Option<Source>, sink: &mut Sink, audience: &Audience) {
    if let Some(mut source) = source {
        source.copy_to(sink, audience).await;
    }
}
