//! ExecSync: a command in a running container, with its whole output.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::entry::Entry;
use super::error::{Error, Step};
use super::prepare::chain;
use super::{ContainerState, Containers};
use crate::backend::{Exit, NewExec, Process, Stdio, wait_for_end};
use crate::logs::{open_fifo_guard, open_fifo_reader};
use crate::model::signal::Signal;
use crate::oci::exec_process;

/// What is kept of both streams together, so that the answer fits into a message of 16 MiB; the
/// rest is drained and dropped.
const OUTPUT_MAX: usize = (16 << 20) - (64 << 10);
/// How long output may go on after the command has ended: a child of it that holds the stream
/// must not block the answer for ever.
const OUTPUT_DRAIN: Duration = Duration::from_secs(2);
/// How long a killed command may take to end.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// Output of a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutput {
    /// With `stderr` a little less than 16 MiB at most; what came later is missing.
    pub stdout: Vec<u8>,
    /// When both are long, each has half of that.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub code: i32,
}

impl Containers {
    /// Runs a command and waits for its end, without limit when `timeout` is `None`. When time
    /// is up the command is killed and the answer is [`Error::ExecTimeout`].
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        let entry = self.find(id)?.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        if !matches!(entry.state(), ContainerState::Running { .. }) {
            return Err(entry.wrong_state("exec in"));
        }
        let exec_id = format!("exec-{}", hex::encode(rand::random::<[u8; 8]>()));
        let dir = self.fifo_dir(&entry).join(&exec_id);
        let result = self.run_exec(&entry, &exec_id, &dir, (command, timeout)).await;
        if let Err(error) = self.deps.host.remove_tree(&dir).await {
            tracing::warn!(container = %entry.id, error = chain(&error), "exec folder stays");
        }
        result
    }

    async fn run_exec(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        exec_id: &str,
        dir: &Path,
        (command, timeout): (&[String], Option<Duration>),
    ) -> Result<ExecOutput, Error> {
        let stdio = Stdio {
            stdin: None,
            stdout: Some(dir.join("stdout")),
            stderr: Some(dir.join("stderr")),
            terminal: false,
        };
        let (process, ()) =
            tokio::try_join!(self.exec_template(entry, command), self.make_fifos(&stdio))?;
        let mut stdout = Output::open(stdio.stdout.as_ref()).step("open the exec's stdout")?;
        let mut stderr = Output::open(stdio.stderr.as_ref()).step("open the exec's stderr")?;
        let (id, runtime) = (entry.id.to_string(), &self.deps.runtime);
        let exec = NewExec { id: id.clone(), exec_id: exec_id.to_owned(), process, stdio };
        let process = Process::exec(&id, exec_id);
        let registered = runtime.exec(&exec).await.step("register the exec");
        let started = match registered {
            Ok(()) => runtime.start(process).await.step("start the exec").map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            // It may be there although the answer was lost.
            self.delete_exec(&id, exec_id).await;
            return Err(error);
        }
        stdout.guard = None;
        stderr.guard = None;
        let finished = self.collect(process, (&mut stdout, &mut stderr), timeout).await;
        match finished {
            Ok((exit, drained)) => {
                if drained {
                    self.delete_exec(&id, exec_id).await;
                } else {
                    // The shim waits for the stream that a child holds; nobody else has to.
                    self.delete_exec_later(id.clone(), exec_id.to_owned());
                }
                let code = exit.map_or(255, |exit| i32::try_from(exit.code).unwrap_or(i32::MAX));
                share_room(&mut stdout.kept, &mut stderr.kept);
                Ok(ExecOutput { stdout: stdout.kept, stderr: stderr.kept, code })
            }
            Err(error) => {
                self.delete_exec_later(id.clone(), exec_id.to_owned());
                Err(error)
            }
        }
    }

    /// Reads both streams until the command has ended and its output with it.
    async fn collect(
        &self,
        process: Process<'_>,
        (stdout, stderr): (&mut Output, &mut Output),
        timeout: Option<Duration>,
    ) -> Result<(Option<Exit>, bool), Error> {
        let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        let reading = async { tokio::join!(stdout.read_to_end(), stderr.read_to_end()) };
        tokio::pin!(reading);
        let end = wait_for_end(&*self.deps.runtime, process);
        tokio::pin!(end);
        let mut read = false;
        let exit = loop {
            // Cancel-safe: all three futures are pinned outside and polled again.
            tokio::select! {
                exit = &mut end => break exit,
                _ = &mut reading, if !read => read = true,
                () = until(deadline) => {
                    self.kill_exec(process).await;
                    return Err(Error::ExecTimeout(timeout.unwrap_or_default()));
                }
            }
        };
        let drained = read || tokio::time::timeout(OUTPUT_DRAIN, &mut reading).await.is_ok();
        Ok((exit, drained))
    }

    async fn kill_exec(&self, process: Process<'_>) {
        let runtime = &self.deps.runtime;
        if let Err(error) = runtime.kill(process, Signal::KILL.number(), false).await {
            tracing::debug!(id = process.container, error = chain(&error), "exec not killed");
        }
        let ended = tokio::time::timeout(AFTER_KILL, wait_for_end(&**runtime, process)).await;
        if ended.is_err() {
            tracing::warn!(id = process.container, "timed-out exec survives SIGKILL");
        }
    }

    async fn exec_template(
        &self,
        entry: &Entry,
        command: &[String],
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
        Ok(exec_process(&template, command, false)?)
    }

    async fn delete_exec(&self, id: &str, exec_id: &str) {
        let deleted = self.deps.runtime.delete_task(Process::exec(id, exec_id), true).await;
        if let Err(error) = deleted {
            tracing::debug!(container = id, error = chain(&error), "exec not deleted");
        }
    }

    fn delete_exec_later(self: &Arc<Self>, id: String, exec_id: String) {
        let room = self.clone();
        drop(self.deps.tasks.spawn("exec-delete", async move {
            room.delete_exec(&id, &exec_id).await;
        }));
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// One output stream of a command.
struct Output {
    receiver: pipe::Receiver,
    /// Keeps the stream from seeming ended before the shim has opened it.
    guard: Option<std::os::fd::OwnedFd>,
    kept: Vec<u8>,
}

impl Output {
    fn open(path: Option<&PathBuf>) -> io::Result<Self> {
        let path = path.ok_or(io::ErrorKind::NotFound)?;
        let receiver = pipe::Receiver::from_owned_fd(open_fifo_reader(path)?)?;
        Ok(Self { receiver, guard: Some(open_fifo_guard(path)?), kept: Vec::new() })
    }

    /// Reads on until the end; keeps what fits. Cancel-safe: what was read is kept.
    async fn read_to_end(&mut self) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = self.receiver.read(&mut buffer).await {
            let room = OUTPUT_MAX - self.kept.len();
            self.kept.extend_from_slice(&buffer[..count.min(room)]);
        }
    }
}

/// Cuts both to [`OUTPUT_MAX`] together; one that has less than half of it stays whole.
fn share_room(stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) {
    let half = OUTPUT_MAX / 2;
    stderr.truncate(half.max(OUTPUT_MAX.saturating_sub(stdout.len())));
    stdout.truncate(OUTPUT_MAX - stderr.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_fit_together_and_a_short_one_stays_whole() {
        let (half, all) = (OUTPUT_MAX / 2, OUTPUT_MAX);
        for (given, kept) in [
            ((5, 7), (5, 7)),
            ((all, 0), (all, 0)),
            ((all, 7), (all - 7, 7)),
            ((7, all), (7, all - 7)),
            ((all, all), (half, half)),
        ] {
            let (mut stdout, mut stderr) = (vec![0; given.0], vec![0; given.1]);
            share_room(&mut stdout, &mut stderr);
            assert_eq!((stdout.len(), stderr.len()), kept, "{given:?}");
        }
    }
}
