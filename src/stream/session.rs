//! The common part of the sessions of all protocols: how they run and end.

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

/// The result of a session.
pub(super) type Outcome = Result<i32, SessionError>;

/// How long a process may still read what a client sent before it disconnected.
const LAST_INPUT: Duration = Duration::from_secs(5);

/// How long a client may take to read the end of a session.
pub(super) const FAREWELL: Duration = Duration::from_secs(30);

/// What sessions need from the server.
pub(super) struct Talk {
    pub sessions: Arc<dyn Sessions>,
    pub tasks: Tasks,
    /// A session without any data for this long is ended.
    pub idle_timeout: Duration,
    /// How long a client may take to open its streams.
    pub creation_timeout: Duration,
}

impl Talk {
    /// Runs a command to its result; `None` when its client disconnected before.
    pub async fn outcome(
        &self,
        command: &Command,
        io: ProcessIo,
        gone: &CancellationToken,
        idle: impl Future<Output = SessionError>,
    ) -> Option<Outcome> {
        // Cancel-safe: `run` is safe to drop, and the others only wait.
        tokio::select! {
            outcome = run(&*self.sessions, command, io, gone.cancelled()) => outcome,
            idle = idle => Some(Err(idle)),
            () = self.tasks.draining() => Some(Err(SessionError::Stopping)),
        }
    }
}

/// A request that connects a client to the streams of a process.
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

/// Runs a command until it ends or its client is `gone`; in the latter case nobody needs the
/// result. The process first reads the input that the client had sent: in protocols before v5
/// closing the connection is the only way to end the input.
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
        // An error means that the input was dropped, so it is no longer read.
        let _ = all_read.await;
        // The end of its input does not end a process with a terminal; and an attached container
        // continues anyway.
        if tty || matches!(command, Command::Attach(_)) {
            return;
        }
        std::future::pending::<()>().await;
    };
    // Cancel-safe: when one ends, the session is over.
    tokio::select! {
        _ = &mut work => {}
        () = last => {}
        () = tokio::time::sleep(LAST_INPUT) => {}
    }
    None
}

/// Input that signals when its end was read.
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
            // While the client is connected nobody waits for it.
            let _ = end.send(());
        }
        read
    }
}

/// Time of the last data in a session.
pub(super) struct Activity {
    last: Mutex<Instant>,
    limit: Duration,
}

impl Activity {
    pub fn new(limit: Duration) -> Self {
        Self { last: Mutex::new(Instant::now()), limit }
    }

    /// Notes that data was sent.
    pub fn touch(&self) {
        *self.last.lock() = Instant::now();
    }

    /// Completes when no data was sent for the whole limit.
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
