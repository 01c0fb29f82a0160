//! What sessions of all protocols have in common: how one runs and how it ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Attach, Exec, SessionError, Sessions, Streams};
use crate::lifecycle::Tasks;
use crate::locks::Mutex;
use crate::model::streams::{Input, ProcessIo};

/// How a session ended.
pub(super) type Outcome = Result<i32, SessionError>;

/// How long a process may still read what a client sent before it left.
const LAST_INPUT: Duration = Duration::from_secs(5);

/// How long a client may take to read the last of a session.
pub(super) const FAREWELL: Duration = Duration::from_secs(30);

/// What sessions need of the server.
pub(super) struct Talk {
    pub sessions: Arc<dyn Sessions>,
    pub tasks: Tasks,
    /// A session in which nothing is sent for so long is ended.
    pub idle_timeout: Duration,
    /// How long a client may take to open its streams.
    pub creation_timeout: Duration,
}

impl Talk {
    /// Runs a command to its outcome; `None` when its client went away before.
    pub async fn outcome(
        &self,
        command: &Command,
        io: ProcessIo,
        gone: &CancellationToken,
        idle: impl Future<Output = SessionError>,
    ) -> Option<Outcome> {
        // Cancel-safe: `run` is safe to drop, the others only wait.
        tokio::select! {
            outcome = run(&*self.sessions, command, io, gone.cancelled()) => outcome,
            idle = idle => Some(Err(idle)),
            () = self.tasks.draining() => Some(Err(SessionError::Stopping)),
        }
    }
}

/// A request that joins the streams of a process.
pub(super) enum Command {
    Exec(Exec),
    Attach(Attach),
}

impl Command {
    pub fn streams(&self) -> Streams {
        match self {
            Self::Exec(exec) => exec.streams,
            Self::Attach(attach) => attach.streams,
        }
    }

    async fn run(&self, sessions: &dyn Sessions, io: ProcessIo) -> Outcome {
        match self {
            Self::Exec(exec) => sessions.exec(exec, io).await,
            Self::Attach(attach) => sessions.attach(attach, io).await.map(|()| 0),
        }
    }
}

/// Runs a command until it ends, or its client is `gone`; then there is nobody to tell the
/// outcome. What the client had sent is read out by the process first: closing the connection is
/// the only end of input that protocols before v5 have.
async fn run(
    sessions: &dyn Sessions,
    command: &Command,
    mut io: ProcessIo,
    gone: impl Future<Output = ()>,
) -> Option<Outcome> {
    let mut all_read = None;
    io.stdin = io.stdin.map(|input| {
        let (input, end) = Watched::new(input);
        all_read = Some(end);
        Box::pin(input) as Input
    });
    let tty = io.tty;
    let work = command.run(sessions, io);
    tokio::pin!(work);
    // Cancel-safe: `work` is pinned outside, the other only waits.
    tokio::select! {
        outcome = &mut work => return Some(outcome),
        () = gone => {}
    }
    let all_read = all_read?;
    let last = async {
        // Nobody listens: an error says that the input was dropped, so not read any more.
        let _ = all_read.await;
        // A terminal does not end with its input, and a container is not ours to wait for.
        if tty || matches!(command, Command::Attach(_)) {
            return;
        }
        std::future::pending::<()>().await;
    };
    // Cancel-safe: whichever ends, the session is over.
    tokio::select! {
        _ = &mut work => {}
        () = last => {}
        () = tokio::time::sleep(LAST_INPUT) => {}
    }
    None
}

/// Input that tells when its end was read.
struct Watched {
    input: Input,
    end: Option<oneshot::Sender<()>>,
}

impl Watched {
    fn new(input: Input) -> (Self, oneshot::Receiver<()>) {
        let (end, ended) = oneshot::channel();
        (Self { input, end: Some(end) }, ended)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let room = buffer.remaining() > 0;
        let read = self.input.as_mut().poll_read(context, buffer);
        let ended = match &read {
            Poll::Ready(Ok(())) => room && buffer.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended && let Some(end) = self.end.take() {
            // Nobody waits while the client is there.
            let _ = end.send(());
        }
        read
    }
}

/// When something was last sent in a session.
pub(super) struct Activity {
    last: Mutex<Instant>,
    limit: Duration,
}

impl Activity {
    pub fn new(limit: Duration) -> Self {
        Self { last: Mutex::new(Instant::now()), limit }
    }

    /// Something was sent.
    pub fn touch(&self) {
        *self.last.lock() = Instant::now();
    }

    /// Ends when nothing was sent for the whole limit.
    pub async fn idle(&self) -> SessionError {
        loop {
            let end = *self.last.lock() + self.limit;
            if end <= Instant::now() {
                return SessionError::Idle(self.limit);
            }
            tokio::time::sleep_until(end).await;
        }
    }
}
