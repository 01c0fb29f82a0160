//! ExecSync: runs a command and returns its whole output.

use std::sync::Arc;
use std::time::Duration;

use super::super::entry::Entry;
use super::super::streams::{Kept, PLACE, Sink};
use super::super::{Containers, Error};
use super::OPERATION;
use super::run::{Command, Streams};

/// Maximum output of both streams together, so that the answer fits into a 16 MiB message; the rest
/// is read and discarded.
const OUTPUT_MAX: usize = (16 << 20) - (64 << 10);

/// Output budget of all running commands together, in units of [`PLACE`]; output beyond it is read
/// and discarded.
pub(in crate::container) const BUDGET: usize = (64 << 20) / PLACE;

/// Output of a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutput {
    /// stdout; together with `stderr` slightly under 16 MiB. Later output is discarded.
    pub stdout: Vec<u8>,
    /// stderr; when both streams are long, each gets half of the limit.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub code: i32,
}

impl Containers {
    /// Runs a command and waits for its end, without limit when `timeout` is `None`. At the limit
    /// the command and its descendants are killed, and the result is [`Error::ExecTimeout`]. They
    /// are also killed when the caller drops this future.
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        self.exec_brief(id, command, timeout, OUTPUT_MAX).await
    }

    /// Like [`Containers::exec_sync`], but returns at most `most` bytes of each stream.
    pub async fn exec_brief(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        most: usize,
    ) -> Result<ExecOutput, Error> {
        let entry = self.running(id, OPERATION)?;
        let (room, command) = (self.clone(), command.to_vec());
        self.while_wanted("exec-sync", |unwanted| async move {
            let called_off = async {
                unwanted.cancelled().await;
                Error::ClientGone
            };
            let keep = || Sink::Kept(Kept::new(most, room.exec_budget.clone()));
            let (stdout, stderr) = (keep(), keep());
            let mut streams = Streams { stdin: None, stdout, stderr, resize: None };
            let command = Command { words: &command, stdin: false, tty: false, limit: timeout };
            let code = room.run(&entry, command, &mut streams, called_off).await?;
            let (mut stdout, mut stderr) =
                (kept(&entry, streams.stdout), kept(&entry, streams.stderr));
            share_room(&mut stdout, &mut stderr);
            Ok(ExecOutput { stdout, stderr, code })
        })
        .await
    }
}

fn kept(entry: &Entry, sink: Sink) -> Vec<u8> {
    match sink {
        Sink::Kept(kept) => {
            if kept.cut {
                tracing::warn!(container = %entry.id,
                    "exec output truncated: other execs hold too much output");
            }
            kept.bytes
        }
        Sink::Client(_) | Sink::Nowhere => Vec::new(),
    }
}

/// Cuts both to [`OUTPUT_MAX`] together; one that is shorter than half of it is kept whole.
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
