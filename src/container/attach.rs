//! Attach: connects clients to the streams of a running container.
//!
//! Output is taken from the log copier, from the moment of attaching and without replay. Any
//! number of clients can listen, and none can block the container or its log: a client that reads
//! too slowly is disconnected. The input of all clients is interleaved into the one stdin. stdin
//! stays open when a client leaves, except for a container with `stdin_once`, whose stdin closes
//! after its first client.

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

/// How long a disconnected slow client may take to read the output still queued for it.
const AFTER_CUT: Duration = Duration::from_secs(5);

impl Containers {
    /// Checks that a client can attach to a container now, and returns the container's full id.
    /// `tty` must match the container's configuration (CRI). A client may always offer stdin; it is
    /// ignored if the container has none.
    pub fn check_attach(&self, id: &str, tty: bool) -> Result<ContainerId, Error> {
        Ok(self.attachable(id, tty)?.id.clone())
    }

    fn attachable(&self, id: &str, tty: bool) -> Result<Arc<Entry>, Error> {
        let entry = self.running(id, "attach to")?;
        match (entry.config().tty, tty) {
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

    /// Connects a client to a container until either ends. The end of the client's stdin ends the
    /// session, except with `stdin_once`: there it closes the container's stdin and output
    /// continues.
    ///
    /// # Errors
    /// [`Error::TooSlow`] when the client was disconnected for reading too slowly;
    /// [`Error::ClientGone`] when it accepts no more output or the caller drops this future.
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
        let config = entry.config();
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
        // Cancel-safe: the branch that finishes first ends the whole session.
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
        let fifo = match &entry.record().stdio.stdin {
            Some(path) => entry.stdin.writer(path).await,
            None => Ok(None),
        };
        let fifo = fifo.unwrap_or_else(|error| {
            tracing::warn!(container = %entry.id, %error, "cannot open stdin");
            None
        });
        // Cancel-safe: once stdin is closed, remaining client input has no destination.
        tokio::select! {
            () = copy_input(input, fifo) => {}
            () = entry.stdin.until_closed() => {}
        }
    }

    /// Closes the container's stdin for all clients. The shim is told again even if it was told
    /// before: the earlier call may have been cancelled when its client left.
    async fn close_container_stdin(&self, entry: &Entry) {
        entry.stdin.close();
        let process = Process::init(entry.id.as_str());
        // Cancel-safe: the stdin of an ended container need not be closed.
        tokio::select! {
            () = close_stdin(&*self.deps.runtime, process) => {}
            () = entry.wait_ended() => {}
            () = self.deps.tasks.draining() => {}
        }
    }
}

/// Sends output to a client until the output ends or the client stops accepting it.
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
        // The client was not reading, so do not wait for it for long.
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
    // Cancel-safe: the branch that finishes first ends the whole session.
    let was_cut = tokio::select! {
        was_cut = copying => was_cut,
        () = too_slow => true,
        () = audience.gone() => return Err(Error::ClientGone),
    };
    if was_cut { Err(Error::TooSlow(entry.id.clone())) } else { Ok(()) }
}

/// The agent's end of a container's stdin. It is opened for the first client and then kept open, so
/// that the process does not see end-of-file when a client leaves.
#[derive(Default)]
pub(super) struct Stdin {
    kept: Mutex<Option<OwnedFd>>,
    closed: watch::Sender<bool>,
}

impl Stdin {
    fn kept(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.kept.lock()
    }

    /// Opens a write end for one client; `None` when stdin was closed.
    async fn writer(&self, path: &Path) -> io::Result<Option<pipe::Sender>> {
        if *self.closed.borrow() {
            return Ok(None);
        }
        let writer = match open_input(path).await {
            // A previous agent process closed it.
            Err(error) if is_unread(&error) => return Ok(None),
            writer => writer?,
        };
        let mut kept = self.kept();
        // Checked under the same lock that `close` takes.
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
