//! Finds the start of the last lines, scanning backwards from the end.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::super::format::Stream;
use super::Selected;
use super::files::LogFile;
use super::lines::{HELD, index, selects};
use super::record::{LONGEST_HEAD, parse_head};

const PIECE: u64 = 64 << 10;

/// The position at which to start reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Start {
    /// Index of the first file to read; equal to the number of files if none is to be read.
    pub(super) file: usize,
    /// Offset in that file.
    pub(super) offset: u64,
    /// How many of the lines that end after this position to skip.
    pub(super) skip: u64,
}

/// The start of the last `wanted` lines of these files, which are sorted oldest first.
///
/// Lines are counted by their ends. Pieces of a wanted line that precede the end of an unwanted
/// line are included as far back as a reader would hold them back.
pub(super) fn start(files: &[LogFile], wanted: u64, streams: Selected) -> io::Result<Start> {
    let mut scan = Scan::new(wanted, streams);
    for (number, file) in files.iter().enumerate().rev() {
        if wanted == 0 {
            let offset = if file.packed { u64::MAX } else { file.file.metadata()?.len() };
            return Ok(Start { file: number, offset, skip: 0 });
        }
        if !file.packed {
            if let Some(offset) = backwards(file, &mut scan)? {
                return Ok(Start { file: number, offset, skip: scan.skip });
            }
        } else if scan.found >= wanted {
            return Ok(Start { file: number + 1, offset: 0, skip: scan.skip });
        } else {
            let ends = count(file, streams);
            if scan.found + ends > wanted {
                return Ok(Start { file: number, offset: 0, skip: scan.found + ends - wanted });
            }
            scan.found += ends;
        }
    }
    Ok(Start { skip: scan.skip, ..Start::default() })
}

/// State of the backward scan.
#[derive(Debug)]
struct Scan {
    streams: Selected,
    wanted: u64,
    found: u64,
    skip: u64,
    /// Whether the start of a stream's first wanted line may be further back.
    open: [bool; 2],
    met: [bool; 2],
    /// How far back to look for it, in bytes.
    budget: u64,
}

/// What to do after a record.
enum Next {
    /// Continue backwards.
    Back,
    /// Reading starts with this record.
    Here,
    /// Reading starts after it.
    Behind,
}

impl Scan {
    fn new(wanted: u64, streams: Selected) -> Self {
        let budget = HELD as u64;
        Self { streams, wanted, found: 0, skip: 0, open: [false; 2], met: [false; 2], budget }
    }

    fn record(&mut self, head: &[u8], length: u64) -> Next {
        let parsed = parse_head(head);
        if let Some((stream, full)) = parsed
            && selects(self.streams, stream)
        {
            self.of_stream(stream, full);
        } else if parsed.is_none() {
            self.end(None);
        }
        if self.found < self.wanted {
            return Next::Back;
        }
        if self.open == [false; 2] {
            // This was the end of an unwanted line, or the start of the last wanted one.
            return if self.skip > 0 { Next::Behind } else { Next::Back };
        }
        self.budget = self.budget.saturating_sub(length);
        if self.budget == 0 { Next::Here } else { Next::Back }
    }

    fn of_stream(&mut self, stream: Stream, full: bool) {
        let first = !std::mem::replace(&mut self.met[index(stream)], true);
        // The last line of a stream may be unfinished.
        if full || (first && self.found < self.wanted) {
            self.end(Some(stream));
        }
    }

    fn end(&mut self, stream: Option<Stream>) {
        let wanted = self.found < self.wanted;
        if wanted {
            self.found += 1
        } else {
            self.skip += 1
        }
        if let Some(stream) = stream {
            self.open[index(stream)] = wanted;
        }
    }
}

/// Scans a file backwards; returns the offset where reading starts, if it is in this file.
fn backwards(log: &LogFile, scan: &mut Scan) -> io::Result<Option<u64>> {
    let size = log.file.metadata()?.len();
    let (mut high, mut behind) = (size, size);
    let mut buffer = Vec::new();
    while high > 0 {
        let low = high.saturating_sub(PIECE);
        let own = (high - low) as usize;
        // The head of a record that begins at the end of this piece continues in the piece read
        // before.
        let after = buffer[..buffer.len().min(LONGEST_HEAD)].to_vec();
        buffer.resize(own, 0);
        log.file.read_exact_at(&mut buffer, low)?;
        buffer.extend_from_slice(&after);
        let feeds = memchr::memrchr_iter(b'\n', &buffer[..own]).map(|feed| feed + 1);
        for begin in feeds.chain((low == 0).then_some(0)) {
            let at = low + begin as u64;
            if at == size {
                continue;
            }
            match scan.record(head(&buffer[begin..]), behind - at) {
                Next::Back => {}
                Next::Here => return Ok(Some(at)),
                Next::Behind => {
                    scan.skip -= 1;
                    return Ok(Some(behind));
                }
            }
            behind = at;
        }
        high = low;
    }
    Ok(None)
}

fn head(text: &[u8]) -> &[u8] {
    let text = &text[..text.len().min(LONGEST_HEAD)];
    &text[..memchr::memchr(b'\n', text).unwrap_or(text.len())]
}

/// How many lines end in a compressed file, as far as it can be read.
fn count(log: &LogFile, streams: Selected) -> u64 {
    let mut text = log.unpacked();
    let (mut piece, mut line, mut ends) = (vec![0; PIECE as usize], Vec::new(), 0);
    let is_end = |line: &[u8]| match parse_head(line) {
        Some((stream, full)) => full && selects(streams, stream),
        None => true,
    };
    while let Ok(length @ 1..) = text.read(&mut piece) {
        let mut rest = &piece[..length];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            keep_head(&mut line, &rest[..end]);
            ends += u64::from(is_end(&line));
            line.clear();
            rest = &rest[end + 1..];
        }
        keep_head(&mut line, rest);
    }
    ends + u64::from(!line.is_empty() && is_end(&line))
}

fn keep_head(line: &mut Vec<u8>, more: &[u8]) {
    let room = LONGEST_HEAD.saturating_sub(line.len());
    line.extend_from_slice(&more[..more.len().min(room)]);
}
