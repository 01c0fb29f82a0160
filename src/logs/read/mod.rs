//! Reads container logs for people: the payloads of CRI log files as lines, over rotation.
//!
//! ```text
//!  0.log.20260101-090000.gz   0.log.20260101-120000   0.log  <-- written now
//!  '---- oldest first, all opened before anything is read ---'
//!        | records              pieces of a line are joined
//!        v
//!  lines of stdout, stderr or both --> bytes
//! ```
//!
//! Files are found by the name of the live one, read on blocking threads a piece at a time, and
//! never reached through a link: a container may be able to write to the folder of its log. Who
//! follows is told of writes by inotify, or looks five times a second where there is none left.

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
    /// Both, as they were written.
    #[default]
    All,
    /// Standard output only.
    Stdout,
    /// Standard error only.
    Stderr,
}

/// Which part of a log is read, and how it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Only this many last lines.
    pub tail: Option<u64>,
    /// Only lines of this time or later, in nanoseconds since the Unix epoch. A line has the time
    /// of its first piece.
    pub since: Option<i64>,
    /// No more bytes than this, the times included.
    pub limit_bytes: Option<u64>,
    /// Each line with its time and a space before it, RFC 3339 with nine digits of fraction.
    pub timestamps: bool,
    /// Go on with what is written, until the container has ended.
    pub follow: bool,
    /// Which streams.
    pub streams: Selected,
}

/// Opens the log whose live file is `path` (`<folder>/<n>.log`, absolute) with the files that
/// were rotated away from it, `<n>.log.<time>` and `<n>.log.<time>.gz`.
///
/// The stream gives pieces of text of any size. Lines that are no log records are given as they
/// are. It ends at the end of the log or after an error; with `follow` once `ended` is true (or
/// its sender is gone) and all is read that was written before.
///
/// # Errors
/// `NotFound` when there is no such log; with `follow` a log that does not exist yet is waited
/// for. `InvalidInput` for a path that is not plain, a link, or anything but a file.
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
            // Looked at before the end of the file: what is written before the end is read.
            let last = has_ended(&ended);
            let step;
            (cursor, step) = blocking(move || cursor.step(last).map(|step| (cursor, step))).await?;
            match step {
                Step::Text(text) => yield text,
                Step::More => {}
                Step::End => break,
                // From the first wait on, nothing is missed between a look and a wait.
                Step::Wait => match &mut notice {
                    None => notice = Some(Notice::new(cursor.folder())),
                    // Cancel-safe: both arms only wait.
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
    // A sender that is gone will not tell any more.
    *ended.borrow() || ended.has_changed().is_err()
}

async fn until_ended(ended: &mut watch::Receiver<bool>) {
    let _ = ended.wait_for(|ended| *ended).await;
}

/// Runs file work where a disk that hangs holds up nobody else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
