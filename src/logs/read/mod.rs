//! Reads container logs for display: the payloads of CRI log files as lines, across rotations.
//!
//! ```text
//!  0.log.20260101-090000.gz   0.log.20260101-120000   0.log  <-- written now
//!  '---- oldest first, all opened before anything is read ---'
//!        | records              pieces of a line are joined
//!        v
//!  lines of stdout, stderr or both --> bytes
//! ```
//!
//! Files are found by the name of the live one, read piece by piece on blocking threads, and never
//! opened through a link, since a container may be able to write to the directory of its log. A
//! follower waits for writes with inotify (one instance for all followers), or polls five times a
//! second if no inotify watch is available.

mod cursor;
mod files;
mod lines;
mod notice;
mod record;
mod tail;

use std::io;
use std::path::Path;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch;

use cursor::{Cursor, Step};
use notice::Notice;

/// Which of a container's streams are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Selected {
    /// Both, in the order in which they were written.
    #[default]
    All,
    /// Standard output only.
    Stdout,
    /// Standard error only.
    Stderr,
}

/// Which part of a log to read, and how to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Only the last lines, this many.
    pub tail: Option<u64>,
    /// Only lines from this time on, in nanoseconds since the Unix epoch. The time of a line is
    /// that of its first piece.
    pub since: Option<i64>,
    /// Maximum number of bytes of text, including timestamps.
    pub limit_bytes: Option<u64>,
    /// Prefix each line with its time (RFC 3339, nine fractional digits) and a space.
    pub timestamps: bool,
    /// Continue with new output until the container has ended.
    pub follow: bool,
    /// Which streams to read.
    pub streams: Selected,
}

/// Opens the log whose live file is `path` (`<folder>/<n>.log`, absolute), with the files rotated
/// from it, `<n>.log.<time>` and `<n>.log.<time>.gz`.
///
/// The stream yields pieces of text of any size. Lines that are not log records are passed on
/// unchanged. It ends at the end of the log or after an error; with `follow`, after `ended` has
/// become true (or its sender was dropped) and everything written before was read.
///
/// # Errors
/// `NotFound` when there is no such log; with `follow` it waits for a log that does not exist
/// yet. `InvalidInput` for an unsuitable path, a link, or anything but a regular file.
pub async fn open(
    path: &Path,
    options: ReadOptions,
    ended: watch::Receiver<bool>,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
    let path = path.to_owned();
    let wait = options.follow && !has_ended(&ended);
    let cursor = blocking(move || Cursor::open(&path, options, wait)).await?;
    Ok(pieces(cursor, ended))
}

fn pieces(
    mut cursor: Cursor,
    mut ended: watch::Receiver<bool>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    async_stream::try_stream! {
        let mut notice = None;
        loop {
            // Checked before reading to the end of the file, so that nothing written before the end
            // is missed.
            let last = has_ended(&ended);
            let step;
            (cursor, step) = blocking(move || cursor.step(last).map(|step| (cursor, step))).await?;
            match step {
                Step::Text(text) => yield text,
                Step::More => {}
                Step::End => break,
                // Created at the first wait; from then on no change between a look and a wait is
                // missed.
                Step::Wait => match &mut notice {
                    None => notice = Some(Notice::new(cursor.folder().to_owned()).await),
                    // Cancel-safe: both branches only wait.
                    Some(notice) => tokio::select! {
                        () = notice.changed() => {}
                        () = until_ended(&mut ended), if !last => {}
                    },
                },
            }
        }
    }
}

fn has_ended(ended: &watch::Receiver<bool>) -> bool {
    // A dropped sender cannot report the end any more, so it counts as the end.
    *ended.borrow() || ended.has_changed().is_err()
}

async fn until_ended(ended: &mut watch::Receiver<bool>) {
    let _ = ended.wait_for(|ended| *ended).await;
}

/// Runs file I/O on a blocking thread, where a hanging disk delays nothing else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
