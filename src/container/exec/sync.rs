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
/// and discarded, and its command fails.
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
    /// are also killed when the caller drops this future. [`Error::OutputLost`] if output within
    /// the limit was discarded because other commands' output takes all memory set aside for it.
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        let (entry, kept) = self.exec_kept(id, command, timeout, OUTPUT_MAX).await?;
        kept.whole().ok_or_else(|| Error::OutputLost(entry.id.clone()))
    }

    /// Like [`Containers::exec_sync`], but returns at most `most` bytes of each stream, and does not
    /// fail if less could be kept: for callers to whom the exit code matters.
    pub async fn exec_brief(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        most: usize,
    ) -> Result<ExecOutput, Error> {
        let (entry, kept) = self.exec_kept(id, command, timeout, most).await?;
        if kept.is_cut {
            tracing::warn!(container = %entry.id,
                "exec output truncated: other execs hold too much output");
        }
        Ok(kept.output)
    }

    async fn exec_kept(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        most: usize,
    ) -> Result<(Arc<Entry>, KeptOutput), Error> {
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
            Ok((entry, KeptOutput::of(code, streams.stdout, streams.stderr)))
        })
        .await
    }
}

/// The output of a command, as far as it could be kept.
struct KeptOutput {
    output: ExecOutput,
    /// Whether the common budget was used up.
    is_cut: bool,
}

impl KeptOutput {
    fn of(code: i32, stdout: Sink, stderr: Sink) -> Self {
        let kept = |sink| match sink {
            Sink::Kept(kept) => (kept.bytes, kept.cut),
            Sink::Client(_) | Sink::Nowhere => (Vec::new(), false),
        };
        let ((mut stdout, out_cut), (mut stderr, err_cut)) = (kept(stdout), kept(stderr));
        share_room(&mut stdout, &mut stderr);
        Self { output: ExecOutput { stdout, stderr, code }, is_cut: out_cut || err_cut }
    }

    /// The output, unless a part of it is missing for want of memory.
    fn whole(self) -> Option<ExecOutput> {
        (!self.is_cut).then_some(self.output)
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
    use tokio::sync::Semaphore;

    use super::super::super::streams::Sink;
    use super::*;

    #[test]
    fn output_that_others_left_no_memory_for_is_not_passed_off_as_whole() {
        let kept = |cut| {
            let mut kept = Kept::new(10, Arc::new(Semaphore::new(1)));
            (kept.bytes, kept.cut) = (b"abc".to_vec(), cut);
            Sink::Kept(kept)
        };
        let whole = KeptOutput::of(3, kept(false), Sink::Nowhere).whole().unwrap();
        assert_eq!((whole.stdout.as_slice(), whole.code), (&b"abc"[..], 3));
        assert_eq!(KeptOutput::of(0, kept(true), kept(false)).whole(), None);
        assert_eq!(KeptOutput::of(0, kept(false), kept(true)).whole(), None);
    }

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
