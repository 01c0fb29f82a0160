//! Executing one plugin: CNI specification, section 2.
//!
//! A plugin runs in its own process group, so that a time-out also ends its children. The execution
//! is over when the plugin itself has exited; children that still hold its output open are not
//! waited for.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::super::trust::is_trusted_program;
use super::config::is_plugin_name;
use super::error::{Failure, TEXT_LIMIT, presentable};
use super::result::{self, PluginError};

/// Maximum size of a plugin's output.
const OUTPUT_LIMIT: usize = 1 << 20;

/// How many times, and after which delay, an executable that is just being written is tried again.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How long to wait for a killed plugin before waiting for it elsewhere.
const DEATH_LIMIT: Duration = Duration::from_secs(2);

/// A CNI command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Status,
    Version,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// The parameters of an execution beside its configuration.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub verb: Verb,
    /// Container id; empty for commands that concern no pod.
    pub container: &'a str,
    /// `None` when it no longer exists.
    pub netns: Option<&'a Path>,
    pub if_name: &'a str,
    pub args: &'a str,
}

impl Call<'_> {
    /// A call that concerns no pod.
    pub(super) fn about_no_pod(verb: Verb) -> Self {
        Self { verb, container: "", netns: None, if_name: "", args: "" }
    }
}

/// Finds and executes plugins.
#[derive(Debug)]
pub(super) struct Runner {
    dirs: Vec<PathBuf>,
    path: OsString,
}

/// The output of a plugin.
struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Runner {
    /// Plugins are searched for in these directories, in this order.
    pub(super) fn new(dirs: Vec<PathBuf>) -> Self {
        let mut path = OsString::new();
        for dir in &dirs {
            if !path.is_empty() {
                path.push(":");
            }
            path.push(dir);
        }
        Self { dirs, path }
    }

    /// The path of a plugin's executable.
    pub(super) fn find(&self, kind: &str) -> Result<PathBuf, Failure> {
        if !is_plugin_name(kind) {
            return Err(Failure::BadName(kind.to_owned()));
        }
        for dir in &self.dirs {
            let path = dir.join(kind);
            let Ok(meta) = fs::metadata(&path) else { continue };
            if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
                continue;
            }
            return match is_trusted_program(&path) {
                Ok(()) => Ok(path),
                Err(problem) => Err(Failure::Unsafe { path, problem }),
            };
        }
        Err(Failure::Missing { kind: kind.to_owned(), dirs: self.dirs.clone() })
    }

    /// Executes a plugin and returns its output. It is killed after `limit`.
    pub(super) fn run(
        &self,
        kind: &str,
        call: &Call<'_>,
        config: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let binary = self.find(kind)?;
        let execute = |source: io::Error| Failure::Execute { kind: kind.to_owned(), source };
        let started = Instant::now();
        let mut child = self.spawn(&binary, call, config).map_err(execute)?;
        let talk = Talk { kind, started, limit };
        let output = match talk.listen(&mut child) {
            Ok(output) => output,
            Err(failure) => {
                kill_group(child);
                return Err(failure);
            }
        };
        if output.status.success() {
            return Ok(output.stdout);
        }
        let (code, text) = failure_text(&output);
        Err(Failure::Failed { kind: kind.to_owned(), code, text })
    }

    fn spawn(&self, binary: &Path, call: &Call<'_>, config: &[u8]) -> io::Result<Child> {
        let mut command = Command::new(binary);
        command
            .env("CNI_COMMAND", call.verb.as_str())
            .env("CNI_CONTAINERID", call.container)
            .env("CNI_NETNS", call.netns.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", call.if_name)
            .env("CNI_ARGS", call.args)
            .env("CNI_PATH", &self.path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for tries_left in (0..BUSY_TRIES).rev() {
            command.stdin(in_memory(config)?);
            match command.spawn() {
                // The executable is being installed right now (ETXTBSY).
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy && tries_left > 0 =>
                {
                    std::thread::sleep(BUSY_PAUSE);
                }
                other => return other,
            }
        }
        Err(io::ErrorKind::ExecutableFileBusy.into())
    }
}

/// The configuration as a file in memory, so that nothing blocks if the plugin does not read it.
fn in_memory(config: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("cni", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(config)?;
    file.rewind()?;
    Ok(file)
}

/// Why a plugin failed: from its output, or else from its stderr.
fn failure_text(output: &Output) -> (u32, String) {
    if let Ok(error) = serde_json::from_slice::<PluginError>(&output.stdout)
        && (error.code != 0 || !error.msg.is_empty())
    {
        let text = match (error.msg, error.details) {
            (msg, details) if details.is_empty() => msg,
            (msg, details) => format!("{msg}; {details}"),
        };
        return (error.code, presentable(text.as_bytes()));
    }
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let text = format!("{}, {}", output.status, String::from_utf8_lossy(said));
    (0, presentable(text.as_bytes()).trim_end_matches([',', ' ']).to_owned())
}

struct Talk<'a> {
    kind: &'a str,
    started: Instant,
    limit: Duration,
}

impl Talk<'_> {
    /// Reads the plugin's output until it exits.
    fn listen(&self, child: &mut Child) -> Result<Output, Failure> {
        let execute = |source: io::Error| Failure::Execute { kind: self.kind.to_owned(), source };
        let ended = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())
            .map_err(|error| execute(error.into()))?;
        let mut stdout = Capture::new(child.stdout.take().map(OwnedFd::from)).map_err(execute)?;
        let mut stderr = Capture::new(child.stderr.take().map(OwnedFd::from)).map_err(execute)?;
        loop {
            let over = self.wait(&ended, &stdout, &stderr).map_err(execute)?;
            stdout.read().map_err(execute)?;
            stderr.read().map_err(execute)?;
            stderr.keep_last(TEXT_LIMIT);
            if stdout.taken.len() > OUTPUT_LIMIT {
                let kind = self.kind.to_owned();
                return Err(Failure::TooMuchOutput { kind, limit: OUTPUT_LIMIT });
            }
            if over {
                let status = child.wait().map_err(execute)?;
                return Ok(Output { status, stdout: stdout.taken, stderr: stderr.taken });
            }
            if self.left().is_zero() {
                return Err(Failure::TimedOut {
                    kind: self.kind.to_owned(),
                    after: self.limit,
                    text: presentable(&stderr.taken),
                });
            }
        }
    }

    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }

    /// Waits for the next event; returns whether the plugin has exited.
    fn wait(&self, ended: &OwnedFd, stdout: &Capture, stderr: &Capture) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        for pipe in [&stdout.pipe, &stderr.pipe].into_iter().flatten() {
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        // Rounded up, so that the last wait is not a busy loop.
        let left = self.left() + Duration::from_millis(1);
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds[0].any().unwrap_or(false))
    }
}

/// The reading end of a pipe, non-blocking.
struct Capture {
    pipe: Option<File>,
    taken: Vec<u8>,
}

impl Capture {
    fn new(pipe: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            rustix::fs::fcntl_setfl(pipe, rustix::fs::OFlags::NONBLOCK)?;
        }
        Ok(Self { pipe: pipe.map(File::from), taken: Vec::new() })
    }

    /// Reads what is available, up to slightly more than the limit.
    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut part = [0; 16 << 10];
        let mut budget = OUTPUT_LIMIT + 1;
        while budget > 0 {
            match pipe.read(&mut part) {
                Ok(0) => {
                    self.pipe = None;
                    return Ok(());
                }
                Ok(length) => {
                    self.taken.extend_from_slice(&part[..length]);
                    budget = budget.saturating_sub(length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep_last(&mut self, limit: usize) {
        let surplus = self.taken.len().saturating_sub(limit);
        self.taken.drain(..surplus);
    }
}

/// Kills a plugin with its children and ensures that it is reaped.
fn kill_group(mut child: Child) {
    // The process group id cannot have been reused: its leader was not reaped yet.
    let group = Pid::from_child(&child);
    if let Err(error) = rustix::process::kill_process_group(group, Signal::KILL) {
        tracing::warn!(pid = child.id(), %error, "cannot kill CNI plugin");
    }
    let give_up = Instant::now() + DEATH_LIMIT;
    if let Ok(ended) = rustix::process::pidfd_open(group, PidfdFlags::empty()) {
        let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        let left = give_up.saturating_duration_since(Instant::now());
        let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    }
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    // It is stuck in the kernel. The pod must not wait for it.
    let pid = child.id();
    tracing::warn!(pid, "CNI plugin did not exit after SIGKILL");
    let reaper = std::thread::Builder::new().name("cni-reaper".to_owned());
    if let Err(error) = reaper.spawn(move || drop(child.wait())) {
        tracing::warn!(pid, %error, "cannot reap killed CNI plugin");
    }
}

/// Parses a plugin's output.
pub(super) fn answer(kind: &str, stdout: &[u8]) -> Result<serde_json::Value, Failure> {
    result::parse(stdout).map_err(|source| Failure::Malformed { kind: kind.to_owned(), source })
}

#[cfg(test)]
mod tests;
