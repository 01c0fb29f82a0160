//! The blocking part of reading a log: reads its files one after another.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use super::ReadOptions;
use super::files::{LogFile, Place, Set, Unpacked};
use super::lines::Lines;
use super::record::Moment;
use super::tail;

/// Bytes per read.
const PIECE: usize = 64 << 10;

/// How many pieces are read before returning to the caller, if none of them has anything to show.
const PIECES: usize = 64;

/// Maximum length of a line; a longer one is not a log record and is split. Records are at most 1
/// MiB.
const LONGEST: usize = (1 << 20) + 4096;

/// The result of reading on.
#[derive(Debug)]
pub(super) enum Step {
    /// Text to show.
    Text(Bytes),
    /// Nothing to show yet; there is more to read.
    More,
    /// Everything available was read: wait for more.
    Wait,
    /// The end of the log.
    End,
}

/// A position in a log.
#[derive(Debug)]
pub(super) struct Cursor {
    place: Place,
    follow: bool,
    /// Files still to read, oldest first.
    next: VecDeque<LogFile>,
    now: Option<Now>,
    /// Time in the name of the newest rotated file when the last of `next` was found.
    newest: Option<String>,
    /// Offset at which to start in the next file.
    offset: u64,
    lines: Lines,
    /// Bytes read after the last line feed.
    open: Vec<u8>,
    done: bool,
}

/// The file being read.
#[derive(Debug)]
struct Now {
    log: LogFile,
    offset: u64,
    /// Rest of the text of a compressed file.
    text: Option<Unpacked>,
    /// A newer file was seen, so no more will be written to this one.
    last: bool,
}

impl Cursor {
    /// Finds and opens all files. With `wait` it is fine if there are none yet.
    pub(super) fn open(path: &Path, options: ReadOptions, wait: bool) -> io::Result<Self> {
        let place = Place::new(path)?;
        let Set { mut files, newest } = place.open_all()?;
        if files.is_empty() && !wait {
            return Err(place.absent());
        }
        if let Some(since) = options.since.map(Moment::new) {
            // Not the newest file, since more may be written to it.
            let rotated = files.len().saturating_sub(1);
            let old = |file: &&LogFile| !since.is_reached_by_file(file.changed());
            let old = files[..rotated].iter().take_while(old).count();
            files.drain(..old);
        }
        let start = match options.tail {
            Some(wanted) => tail::start(&files, wanted, options.streams)?,
            None => tail::Start::default(),
        };
        files.drain(..start.file);
        Ok(Self {
            place,
            follow: options.follow,
            next: files.into(),
            now: None,
            newest,
            offset: start.offset,
            lines: Lines::new(&options, start.skip),
            open: Vec::new(),
            done: false,
        })
    }

    /// The directory of the log.
    pub(super) fn folder(&self) -> &Path {
        self.place.folder()
    }

    /// Reads on. `last` means that the writer had ended before this call, so there is nothing to
    /// wait for.
    pub(super) fn step(&mut self, last: bool) -> io::Result<Step> {
        let mut out = Vec::new();
        for _ in 0..PIECES {
            if self.done || self.lines.is_full() {
                self.done = true;
                return Ok(if out.is_empty() { Step::End } else { Step::Text(out.into()) });
            }
            let wait = match self.read()? {
                0 => !self.end_of_file(last, &mut out)?,
                _ => {
                    self.take_lines(&mut out);
                    false
                }
            };
            if out.len() >= PIECE || (wait && !out.is_empty()) {
                break;
            }
            if wait {
                return Ok(Step::Wait);
            }
        }
        Ok(if out.is_empty() { Step::More } else { Step::Text(out.into()) })
    }

    /// Reads a piece of the current file; 0 at its end, or when there is none.
    fn read(&mut self) -> io::Result<usize> {
        if self.now.is_none() {
            let Some(log) = self.next.pop_front() else { return Ok(0) };
            let offset = std::mem::take(&mut self.offset);
            let text = log.packed.then(|| log.unpacked());
            self.now = Some(Now { log, offset, text, last: false });
        }
        let Some(now) = &mut self.now else { return Ok(0) };
        let begin = self.open.len();
        self.open.resize(begin + PIECE, 0);
        let read = match &mut now.text {
            // The rest of this file is damaged or unwanted.
            Some(_) if now.offset == u64::MAX => Ok(0),
            Some(text) => Ok(text.read(&mut self.open[begin..]).unwrap_or(0)),
            None => now.log.file.read_at(&mut self.open[begin..], now.offset),
        };
        self.open.truncate(begin + *read.as_ref().unwrap_or(&0));
        if now.text.is_none() {
            now.offset += *read.as_ref().unwrap_or(&0) as u64;
        }
        read
    }

    fn take_lines(&mut self, out: &mut Vec<u8>) {
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', &self.open) {
            self.lines.record(&self.open[begin..end], out);
            begin = end + 1;
        }
        self.open.drain(..begin);
        if self.open.len() > LONGEST {
            self.end_line(out);
        }
    }

    /// At the end of a file: an unterminated line is taken as it is.
    fn end_line(&mut self, out: &mut Vec<u8>) {
        if !self.open.is_empty() {
            self.lines.record(&self.open, out);
        }
        self.open = Vec::new();
    }

    /// At the end of a file, or without one: returns whether there is something to do besides
    /// waiting.
    fn end_of_file(&mut self, last: bool, out: &mut Vec<u8>) -> io::Result<bool> {
        if !self.next.is_empty() {
            self.end_line(out);
            self.now = None;
            return Ok(true);
        }
        let found = match &mut self.now {
            Some(now) if now.is_truncated()? => {
                now.offset = 0;
                self.open.clear();
                return Ok(true);
            }
            Some(now) if self.follow => self.place.newer(&now.log, self.newest.as_deref())?,
            Some(_) => Set::default(),
            None => self.place.open_all()?,
        };
        match &mut self.now {
            _ if found.files.is_empty() => {}
            // More may have been written to it before the newer file was created.
            Some(now) if !now.last => {
                now.last = true;
                return Ok(true);
            }
            _ => {
                self.end_line(out);
                self.now = None;
                self.next = found.files.into();
                self.newest = found.newest;
                return Ok(true);
            }
        }
        if self.follow && !last {
            return Ok(false);
        }
        self.end_line(out);
        self.lines.finish(out);
        self.done = true;
        Ok(true)
    }
}

impl Now {
    fn is_truncated(&self) -> io::Result<bool> {
        Ok(self.text.is_none() && self.log.file.metadata()?.len() < self.offset)
    }
}
