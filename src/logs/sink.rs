//! The only writer of a log file, and what it does while the file cannot be written.
//!
//! ```text
//!   Open --- write fails ---> Failed { lost } --- reopened, marker written ---> Open
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::file::open_log;
use super::format::{HEADER, Header, Stream, Tag, payload_bytes, record};
use super::tap::Shared;

/// Time from a failure until new output triggers another attempt.
const RETRY: Duration = Duration::from_millis(400);

/// Additional time after which a log without output tries by itself. Output has priority: it is
/// written together with the line that reports the loss, so that on a disk that stays full the two
/// do not alternate for ever.
const QUIET: Duration = Duration::from_millis(200);

#[derive(Debug)]
enum State {
    Open(File),
    Failed {
        /// Description of the cause.
        cause: String,
        /// Bytes of output dropped since then.
        lost: u64,
        /// Time of the next attempt.
        retry: Instant,
    },
}

/// Writes complete records only; a partly written record is removed again.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    longest: usize,
    marker: Stream,
    shared: Arc<Shared>,
    state: State,
}

impl Sink {
    /// A sink that is not open yet. The record that reports a loss is marked with the stream
    /// `marker`.
    pub(super) fn new(path: PathBuf, max_line: usize, marker: Stream, shared: Arc<Shared>) -> Self {
        let cause = "not opened yet".to_owned();
        let state = State::Failed { cause, lost: 0, retry: Instant::now() };
        Self { path, longest: HEADER + max_line + 1, marker, shared, state }
    }

    /// Opens the file for the first time; a failure is returned, and retried later.
    pub(super) fn open_first(&mut self) -> Result<(), (io::ErrorKind, String)> {
        self.reopen().map_err(|error| {
            self.fail(&error, 0);
            (error.kind(), error.to_string())
        })
    }

    /// Opens the path again and closes the old file. If it cannot be opened, the old file stays in
    /// use. If it can be opened but not written (the disk is still full), the state is that after
    /// any failed write.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let file = self.open()?;
        if let Err(error) = self.begin(file, &[]) {
            self.fail(&error, 0);
        }
        Ok(())
    }

    /// Writes complete records, or counts them as lost.
    pub(super) fn append(&mut self, records: &[u8]) {
        match &mut self.state {
            State::Open(file) => {
                if let Err((written, error)) = write_records(file, records) {
                    self.fail(&error, payload_bytes(&records[written..]));
                }
            }
            State::Failed { retry, .. } if *retry <= Instant::now() => {
                if let Err(error) = self.open().and_then(|file| self.begin(file, records)) {
                    self.fail(&error, payload_bytes(records));
                }
            }
            State::Failed { lost, .. } => {
                let more = payload_bytes(records);
                *lost += more;
                self.shared.dropped.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// When to call [`Sink::retry`] if there is no output; `None` unless a write failed.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match &self.state {
            State::Open(_) => None,
            State::Failed { retry, .. } => Some(*retry + QUIET),
        }
    }

    /// Tries to write again after a failure.
    pub(super) fn retry(&mut self) {
        if let Err(error) = self.reopen() {
            self.fail(&error, 0);
        }
    }

    fn open(&self) -> io::Result<File> {
        open_log(&self.path, self.longest)
    }

    /// Continues with this file: writes the record about a loss and these records, all or nothing.
    fn begin(&mut self, mut file: File, records: &[u8]) -> io::Result<()> {
        let mut first = Vec::new();
        if let State::Failed { cause, lost: lost @ 1.., .. } = &self.state {
            marker(&mut first, self.marker, *lost, cause);
        }
        first.extend_from_slice(records);
        let before = file.metadata()?.len();
        if let Err((_, error)) = write_records(&mut file, &first) {
            let _ = file.set_len(before);
            return Err(error);
        }
        if !first.is_empty() {
            tracing::warn!(path = %self.path.display(), "log file can be written again");
        }
        self.state = State::Open(file);
        Ok(())
    }

    fn fail(&mut self, error: &io::Error, more: u64) {
        self.shared.dropped.fetch_add(more, Ordering::Relaxed);
        let retry = Instant::now() + RETRY;
        match &mut self.state {
            // The first cause is the one to report.
            State::Failed { lost, retry: at, .. } if *lost > 0 => {
                *lost += more;
                *at = retry;
            }
            _ => {
                tracing::warn!(path = %self.path.display(), %error,
                    "log file cannot be written; output is dropped until it can");
                self.state = State::Failed { cause: error.to_string(), lost: more, retry };
            }
        }
    }
}

/// Writes all records; on failure returns how many bytes, in complete records, were written.
fn write_records(file: &mut File, records: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < records.len() {
        match file.write(&records[written..]) {
            Ok(0) => {
                return Err((keep_whole(file, records, written), io::ErrorKind::WriteZero.into()));
            }
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((keep_whole(file, records, written), error)),
        }
    }
    Ok(())
}

/// After a write that stopped inside a record: truncates that record's beginning from the file. If
/// that fails, the next opening of the file does it.
fn keep_whole(file: &File, records: &[u8], written: usize) -> usize {
    let whole = memchr::memrchr(b'\n', &records[..written]).map_or(0, |end| end + 1);
    if whole < written
        && let Ok(meta) = file.metadata()
    {
        let _ = file.set_len(meta.len().saturating_sub((written - whole) as u64));
    }
    whole
}

/// The record that reports lost output to readers of the log.
fn marker(out: &mut Vec<u8>, stream: Stream, lost: u64, cause: &str) {
    let text = format!("[{lost} bytes of output lost: {cause}]").replace('\n', " ");
    let header = Header::new(stream, OffsetDateTime::now_utc());
    record(out, header, Tag::Full, text.as_bytes(), &[]);
}
