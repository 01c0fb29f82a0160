//! Tasks of the fake runtime: a minimal shim.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use super::super::{Error, ErrorKind, Exit, Result, Stdio, TaskState, TaskStatus};
use super::program::Program;

/// How long to wait for the other end of a FIFO, the same as a real shim.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
const OPEN_PAUSE: Duration = Duration::from_millis(2);
const ENXIO: i32 = nix::libc::ENXIO;

/// A task with its processes.
pub(super) struct Task {
    pub(super) init: Proc,
    pub(super) execs: BTreeMap<String, Proc>,
    /// Whether the shim does not answer.
    pub(super) mute: bool,
    /// Whether its processes are frozen.
    pub(super) frozen: bool,
}

impl Task {
    pub(super) fn new(init: Proc) -> Self {
        Self { init, execs: BTreeMap::new(), mute: false, frozen: false }
    }
}

/// The result of waiting for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    NotYet,
    Exited(Exit),
    /// The shim was killed.
    Lost,
}

/// One process.
pub(super) struct Proc {
    /// 0 before the process exists and after its end.
    pub(super) pid: u32,
    pub(super) stdio: Stdio,
    pub(super) program: Program,
    pub(super) started: bool,
    pub(super) end: watch::Sender<End>,
    /// Ends the running program with this code.
    pub(super) killer: Option<oneshot::Sender<u32>>,
    /// Created at create, used at start.
    pub(super) streams: Option<Streams>,
    /// Keeps stdin open until `close_stdin`.
    pub(super) stdin_holder: Option<File>,
    pub(super) size: Option<(u32, u32)>,
}

impl Proc {
    pub(super) fn new(stdio: Stdio, program: Program) -> Self {
        Self {
            pid: 0,
            stdio,
            program,
            started: false,
            end: watch::Sender::new(End::NotYet),
            killer: None,
            streams: None,
            stdin_holder: None,
            size: None,
        }
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        match *self.end.borrow() {
            End::Exited(exit) => Some(exit),
            End::NotYet | End::Lost => None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.started && self.exit().is_none()
    }

    pub(super) fn status(&self, id: &str, mute: bool) -> TaskStatus {
        let state = match self.exit() {
            _ if mute => TaskState::Unknown,
            Some(exit) => TaskState::Stopped(exit),
            None if self.started => TaskState::Running,
            None => TaskState::Created,
        };
        TaskStatus { id: id.to_owned(), pid: self.pid, state, stdio: self.stdio.clone() }
    }

    /// Sends a signal. If it ends the process, the program is told its exit code.
    pub(super) fn signal(&mut self, signal: i32) {
        if self.program.is_ended_by(signal)
            && let Some(killer) = self.killer.take()
        {
            // The program may have ended already.
            let _ = killer.send(128 + signal.unsigned_abs());
        }
    }
}

/// The process's ends of its FIFOs.
pub(super) struct Streams {
    pub(super) stdin: Option<pipe::Receiver>,
    pub(super) stdout: Option<pipe::Sender>,
    pub(super) stderr: Option<pipe::Sender>,
    pub(super) terminal: bool,
    /// Like a real shim, keeps reading ends too, so that a dead agent does not break the pipes.
    _readers: Vec<File>,
}

impl Streams {
    /// Opens the FIFOs as a shim does: waits for readers of the outputs. The second value keeps
    /// stdin open.
    pub(super) async fn open(stdio: &Stdio) -> Result<(Self, Option<File>)> {
        let mut readers = Vec::new();
        let mut outputs = Vec::new();
        for path in [&stdio.stdout, &stdio.stderr] {
            let sender = match path {
                Some(path) => {
                    let sender = sender(path).await?;
                    let flags = nix::libc::O_NONBLOCK;
                    readers.push(holder(path, File::options().read(true).custom_flags(flags))?);
                    Some(sender)
                }
                None => None,
            };
            outputs.push(sender);
        }
        let (stdin, stdin_holder) = match &stdio.stdin {
            Some(path) => {
                let stdin = pipe::OpenOptions::new().open_receiver(path);
                let stdin = stdin.map_err(|error| opening(path, error))?;
                (Some(stdin), Some(holder(path, File::options().write(true))?))
            }
            None => (None, None),
        };
        let (stderr, stdout) = (outputs.pop().flatten(), outputs.pop().flatten());
        let terminal = stdio.terminal;
        Ok((Self { stdin, stdout, stderr, terminal, _readers: readers }, stdin_holder))
    }
}

fn opening(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Other, format!("open FIFO {}", path.display())).because(error)
}

fn holder(path: &Path, options: &std::fs::OpenOptions) -> Result<File> {
    options.open(path).map_err(|error| opening(path, error))
}

/// Opens the write end once there is a reader.
async fn sender(path: &PathBuf) -> Result<pipe::Sender> {
    let until = tokio::time::Instant::now() + OPEN_LIMIT;
    loop {
        match pipe::OpenOptions::new().open_sender(path) {
            Ok(sender) => return Ok(sender),
            Err(error) if error.raw_os_error() != Some(ENXIO) => return Err(opening(path, error)),
            Err(error) if tokio::time::Instant::now() >= until => return Err(opening(path, error)),
            Err(_) => tokio::time::sleep(OPEN_PAUSE).await,
        }
    }
}
