//! Attach: clients at the streams of a running container.
//!
//! Output comes from the log's copier, from now on and without replay, so any number of clients
//! can listen and none can hold the container or its log up: one that reads too slowly is cut.
//! Input of all clients goes into the one stdin, in pieces as they come. stdin outlives them, but
//! for a container that wants it closed after its first client (`stdin_once`).

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::Containers;
use super::entry::Entry;
use super::error::{Error, Step};
use super::streams::{Audience, Sink, close_stdin, copy_input, is_unread, open_input, pass_sizes};
use crate::backend::Process;
use crate::ids::ContainerId;
use crate::locks::{Mutex, MutexGuard};
use crate::logs::{Stream, Tap};
use crate::model::streams::{Input, ProcessIo};

/// How long a client that was cut off may take to read what waits for it.
const AFTER_CUT: Duration = Duration::from_secs(5);

impl Containers {
    /// Whether a client can attach to a container now: its whole id, when it can. `tty` must be
    /// what the container has (CRI). A client may always offer a stdin: one that the container
    /// does not have is not read.
    pub fn check_attach(&self, id: &str, tty: bool) -> Result<ContainerId, Error> {
        Ok(self.attachable(id, tty)?.id.clone())
    }

    fn attachable(&self, id: &str, tty: bool) -> Result<Arc<Entry>, Error> {
        let entry = self.running(id, "attach to")?;
        match (entry.container().config.tty, tty) {
            (true, false) => {
                let problem = format!("container {} has a terminal: attach with one", entry.id);
                Err(Error::invalid("tty", problem))
            }
            (false, true) => {
                let problem = format!("container {} did not allocate a terminal", entry.id);
                Err(Error::invalid("tty", problem))
            }
            _ => Ok(entry),
        }
    }

    /// Connects a client with a container until one of them ends. Its stdin's end ends the
    /// session, unless it ends the container's stdin (`stdin_once`): then the output goes on.
    ///
    /// # Errors
    /// [`Error::TooSlow`] when the client was cut off; [`Error::ClientGone`] when it takes no
    /// output any more, or the caller drops this future.
    pub async fn attach(self: &Arc<Self>, id: &str, io: ProcessIo) -> Result<(), Error> {
        let entry = self.attachable(id, io.tty)?;
        let room = self.clone();
        self.while_wanted("attach", |unwanted| async move {
            let called_off = room.clone().called_off(unwanted);
            room.run_attach(&entry, io, called_off).await
        })
        .await
    }

    async fn run_attach(
        &self,
        entry: &Arc<Entry>,
        io: ProcessIo,
        called_off: impl Future<Output = Error>,
    ) -> Result<(), Error> {
        let tap = entry.pump().map(|pump| pump.tap());
        let tap = tap.ok_or(io::ErrorKind::NotConnected).map_err(io::Error::from);
        let tap = tap.step("listen to the container's output")?;
        let config = entry.container().config;
        let once = config.stdin_once && !config.tty;
        let stdin = io.stdin.filter(|_| config.stdin);
        let has_stdin = stdin.is_some();
        let process = Process::init(entry.id.as_str());
        let input = async {
            let Some(stdin) = stdin else { return std::future::pending().await };
            self.send_input_of_client(entry, stdin).await;
            if once {
                self.close_container_stdin(entry).await;
                std::future::pending::<()>().await;
            }
        };
        let sizes = pass_sizes(&*self.deps.runtime, process, io.resize.filter(|_| config.tty));
        // Cancel-safe: the first to end ends them all.
        let ended = tokio::select! {
            ended = give_output(entry, tap, Sink::of(io.stdout), Sink::of(io.stderr)) => ended,
            () = input => Ok(()),
            never = sizes => match never {},
            error = called_off => Err(error),
        };
        if has_stdin && once {
            self.close_container_stdin(entry).await;
        }
        ended
    }

    async fn send_input_of_client(&self, entry: &Entry, input: Input) {
        let fifo = match entry.record().stdio.stdin {
            Some(path) => entry.stdin.writer(&path).await,
            None => Ok(None),
        };
        let fifo = fifo.unwrap_or_else(|error| {
            tracing::warn!(container = %entry.id, %error, "stdin cannot be opened");
            None
        });
        // Cancel-safe: when stdin is closed, what a client still sends has nowhere to go.
        tokio::select! {
            () = copy_input(input, fifo) => {}
            () = entry.stdin.until_closed() => {}
        }
    }

    /// Ends the container's stdin for all. The shim is told so again when it was told before: a
    /// client that leaves may have cut that short.
    async fn close_container_stdin(&self, entry: &Entry) {
        entry.stdin.close();
        let process = Process::init(entry.id.as_str());
        // Cancel-safe: a container that has ended needs no end of its stdin.
        tokio::select! {
            () = close_stdin(&*self.deps.runtime, process) => {}
            () = entry.wait_ended() => {}
            () = self.deps.tasks.draining() => {}
        }
    }
}

/// Gives output to a client until there is no more, or nobody to take it.
async fn give_output(
    entry: &Entry,
    mut tap: Tap,
    mut stdout: Sink,
    mut stderr: Sink,
) -> Result<(), Error> {
    let audience = Audience::of([&stdout, &stderr]);
    let cut = tap.cut();
    let too_slow = async {
        cut.await;
        // It was not reading; it is not waited for much longer.
        tokio::time::sleep(AFTER_CUT).await;
    };
    let copying = async {
        while let Some((stream, bytes)) = tap.recv().await {
            let sink = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
            sink.take(&bytes, &audience).await;
        }
        if !tap.was_cut() {
            stdout.end().await;
            stderr.end().await;
        }
        tap.was_cut()
    };
    // Cancel-safe: the first to end ends them all.
    let was_cut = tokio::select! {
        was_cut = copying => was_cut,
        () = too_slow => true,
        () = audience.gone() => return Err(Error::ClientGone),
    };
    if was_cut { Err(Error::TooSlow(entry.id.clone())) } else { Ok(()) }
}

/// The agent's end of a container's stdin. It is opened for the first client and then kept, so
/// that the process never takes the leaving of a client for the end of its input.
#[derive(Default)]
pub(super) struct Stdin {
    kept: Mutex<Option<OwnedFd>>,
    closed: watch::Sender<bool>,
}

impl Stdin {
    fn kept(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.kept.lock()
    }

    /// A write end for one client; `None` when stdin was closed.
    async fn writer(&self, path: &Path) -> io::Result<Option<pipe::Sender>> {
        if *self.closed.borrow() {
            return Ok(None);
        }
        let writer = match open_input(path).await {
            // Closed by an agent before this one.
            Err(error) if is_unread(&error) => return Ok(None),
            writer => writer?,
        };
        let mut kept = self.kept();
        // Looked at under the lock that a close takes.
        if *self.closed.borrow() {
            return Ok(None);
        }
        if kept.is_none() {
            *kept = Some(writer.as_fd().try_clone_to_owned()?);
        }
        Ok(Some(writer))
    }

    /// Closes the agent's end for good.
    pub(super) fn close(&self) {
        let mut kept = self.kept();
        kept.take();
        self.closed.send_replace(true);
    }

    /// Cancel-safe.
    async fn until_closed(&self) {
        // The sender lives in self.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}
