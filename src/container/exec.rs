//! Commands in running containers.
//!
//! ```text
//!   FIFOs made ─► registered ─► started ─► output copied until the end ──────► deleted, FIFOs
//!                                     └─► time is up, or nobody waits ─► killed ──┘ removed
//! ```
//!
//! Each exec runs in an owned task, so that a disconnected caller leaves nothing behind. When an
//! exec cannot be deleted, the deletion is repeated for some minutes and again by the next agent,
//! which finds it by its FIFO directory; that directory is removed last.

mod cleanup;
mod run;
mod sync;

pub(super) use sync::BUDGET;
pub use sync::ExecOutput;

use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use super::error::Error;
use super::streams::Sink;
use super::{ContainerState, Containers};
use crate::ids::ContainerId;
use crate::model::streams::ProcessIo;
use run::{Command, Streams};

/// The operation's name in the error for a container that does not run.
const OPERATION: &str = "exec in";

impl Containers {
    /// Checks that a command can run in a container now, and returns the container's full id.
    pub fn check_exec(&self, id: &str) -> Result<ContainerId, Error> {
        Ok(self.running(id, OPERATION)?.id.clone())
    }

    /// Runs a command with the client's streams. Returns the exit code after the command has ended
    /// and the client has received its output. A slow client slows the command down.
    ///
    /// The command and all its descendants are killed when the caller drops this future, when the
    /// client no longer accepts any output, and when the agent drains.
    pub async fn exec(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        io: ProcessIo,
    ) -> Result<i32, Error> {
        let entry = self.running(id, OPERATION)?;
        let (room, command) = (self.clone(), command.to_vec());
        self.while_wanted("exec", |unwanted| async move {
            let called_off = room.clone().called_off(unwanted);
            let command =
                Command { words: &command, stdin: io.stdin.is_some(), tty: io.tty, limit: None };
            let mut streams = Streams {
                stdin: io.stdin,
                stdout: Sink::of(io.stdout),
                stderr: Sink::of(io.stderr.filter(|_| !io.tty)),
                resize: io.resize.filter(|_| io.tty),
            };
            room.run(&entry, command, &mut streams, called_off).await
        })
        .await
    }

    /// Finds a container and fails unless it runs.
    pub(super) fn running(&self, id: &str, operation: &'static str) -> Result<Arc<Entry>, Error> {
        let entry = self.find(id)?.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        match entry.state() {
            ContainerState::Running { .. } => Ok(entry),
            _ => Err(entry.wrong_state(operation)),
        }
    }

    /// Runs work in an owned task and waits for it. When the caller drops this future the work
    /// continues, but its token is cancelled so that it can end in order.
    pub(super) async fn while_wanted<T, W>(
        &self,
        name: &'static str,
        work: impl FnOnce(CancellationToken) -> W,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let unwanted = CancellationToken::new();
        let _wanted = unwanted.clone().drop_guard();
        let task = self.deps.tasks.spawn(name, work(unwanted));
        task.join().await.unwrap_or(Err(Error::Panicked))
    }

    /// Completes when a session must end: its client is gone, or the agent drains. Cancel-safe.
    pub(super) async fn called_off(self: Arc<Self>, unwanted: CancellationToken) -> Error {
        // Cancel-safe: both branches only observe.
        tokio::select! {
            () = unwanted.cancelled() => Error::ClientGone,
            () = self.deps.tasks.draining() => Error::ShuttingDown,
        }
    }
}
