//! The CRI log line format, pure: bytes in, records out, no I/O and no clock.
//!
//! A record is `<RFC 3339 time> <stdout|stderr> <F|P> <payload>\n`. A line of at most `max_line`
//! bytes is one `F` record; a longer one is cut into `P` records of exactly `max_line` bytes and
//! a last `F`. A carriage return before the line feed is removed. What stands after the last line
//! feed when a stream ends is written as `P`. That is byte for byte what containerd's own CRI
//! plugin writes, so that a kubelet reads both alike.
//!
//! Nothing in the payload can forge a record: the only byte that ends a record is a line feed,
//! and a payload never holds one.

use time::OffsetDateTime;

/// One of the two output streams of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output; with a terminal, the merged output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Whether a record ends its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The line continues in the next record of the same stream.
    Partial,
    /// The line is complete.
    Full,
}

/// Length of everything before the payload: 30 of time, 6 of stream name, 1 of tag, 3 spaces.
pub(crate) const HEADER: usize = 40;

/// The bytes before the payload, shared by one batch of records; the tag is filled in for each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header([u8; HEADER]);

impl Header {
    /// The header of records of `stream` written at `at`: UTC, always nine digits of fraction,
    /// so that text order is time order.
    pub(crate) fn new(stream: Stream, at: OffsetDateTime) -> Self {
        let mut text = *b"0000-00-00T00:00:00.000000000Z stdout F ";
        let at = at.to_offset(time::UtcOffset::UTC);
        digits(&mut text[0..4], at.year().clamp(0, 9999).unsigned_abs());
        digits(&mut text[5..7], u8::from(at.month()).into());
        digits(&mut text[8..10], at.day().into());
        digits(&mut text[11..13], at.hour().into());
        digits(&mut text[14..16], at.minute().into());
        digits(&mut text[17..19], at.second().into());
        digits(&mut text[20..29], at.nanosecond());
        if stream == Stream::Stderr {
            text[31..37].copy_from_slice(b"stderr");
        }
        Self(text)
    }

    /// Only the time.
    pub(super) fn time(&self) -> [u8; 30] {
        let mut time = [0; 30];
        time.copy_from_slice(&self.0[..30]);
        time
    }

    fn with(mut self, tag: Tag) -> [u8; HEADER] {
        self.0[HEADER - 2] = match tag {
            Tag::Partial => b'P',
            Tag::Full => b'F',
        };
        self.0
    }
}

fn digits(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Appends one record whose payload is `a` and `b` joined.
pub(crate) fn record(out: &mut Vec<u8>, header: Header, tag: Tag, a: &[u8], b: &[u8]) {
    out.reserve(HEADER + a.len() + b.len() + 1);
    out.extend_from_slice(&header.with(tag));
    out.extend_from_slice(a);
    out.extend_from_slice(b);
    out.push(b'\n');
}

/// Splits one stream into records. Between calls it keeps at most `max_line` + 1 bytes: the
/// unfinished line, and a carriage return whose next byte is not known yet.
#[derive(Debug)]
pub(crate) struct Splitter {
    max_line: usize,
    pending: Vec<u8>,
}

impl Splitter {
    /// A splitter for one stream. It allocates only when a line stays unfinished.
    pub(crate) fn new(max_line: usize) -> Self {
        Self { max_line: max_line.max(1), pending: Vec::new() }
    }

    /// Takes output and appends the completed records, until all is taken or `out` has at least
    /// `limit` bytes. Returns the number of bytes taken; call again with the rest.
    pub(crate) fn feed(
        &mut self,
        header: Header,
        chunk: &[u8],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> usize {
        let mut taken = 0;
        while taken < chunk.len() {
            if out.len() >= limit {
                return taken;
            }
            let rest = &chunk[taken..];
            if let Some(end) = memchr::memchr(b'\n', rest) {
                self.end_line(header, &rest[..end], out);
                taken += end + 1;
            } else {
                self.keep_open(header, rest, out);
                taken = chunk.len();
            }
        }
        taken
    }

    /// Handles the end of the stream: the rest of an unfinished line becomes `P` records.
    pub(crate) fn finish(&mut self, header: Header, out: &mut Vec<u8>) {
        let pending = std::mem::take(&mut self.pending);
        for piece in pending.chunks(self.max_line) {
            record(out, header, Tag::Partial, piece, &[]);
        }
    }

    /// `end` is what is between the buffered part of the line and its line feed.
    fn end_line(&mut self, header: Header, end: &[u8], out: &mut Vec<u8>) {
        let (mut a, mut b) = (self.pending.as_slice(), end);
        if let Some(stripped) = b.strip_suffix(b"\r") {
            b = stripped;
        } else if b.is_empty() {
            a = a.strip_suffix(b"\r").unwrap_or(a);
        }
        (a, b) = cut(self.max_line, a.len() + b.len(), (a, b), header, out);
        record(out, header, Tag::Full, a, b);
        self.pending = shrink(std::mem::take(&mut self.pending));
    }

    /// Appends `more` to the unfinished line. A final carriage return does not count yet: it is
    /// dropped if a line feed follows.
    fn keep_open(&mut self, header: Header, more: &[u8], out: &mut Vec<u8>) {
        let sure = self.pending.len() + more.len() - usize::from(more.ends_with(b"\r"));
        let (a, b) = cut(self.max_line, sure, (&self.pending, more), header, out);
        let (kept, new) = (a.len(), b.len());
        self.pending.drain(..self.pending.len() - kept);
        self.pending.extend_from_slice(&more[more.len() - new..]);
    }
}

/// Writes `P` records from the front of the line `a` + `b` while more than `max` of its first
/// `sure` bytes would remain, and returns the remainder.
fn cut<'a>(
    max: usize,
    mut sure: usize,
    (mut a, mut b): (&'a [u8], &'a [u8]),
    header: Header,
    out: &mut Vec<u8>,
) -> (&'a [u8], &'a [u8]) {
    while sure > max {
        let from_a = a.len().min(max);
        let from_b = max - from_a;
        record(out, header, Tag::Partial, &a[..from_a], &b[..from_b]);
        (a, b) = (&a[from_a..], &b[from_b..]);
        sure -= max;
    }
    (a, b)
}

/// Empties the buffer and frees a large one, so that 500 logs that each had one long line do not
/// keep 16 KiB each.
fn shrink(mut buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > 1024 {
        return Vec::new();
    }
    buffer.clear();
    buffer
}

/// How many bytes of output these complete records represent: payloads, plus one per line end.
pub(crate) fn payload_bytes(records: &[u8]) -> u64 {
    let mut total = 0;
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', records) {
        let record = &records[start..end];
        let full = record.get(HEADER - 2) == Some(&b'F');
        total += (record.len().saturating_sub(HEADER) + usize::from(full)) as u64;
        start = end + 1;
    }
    total
}

#[cfg(test)]
mod tests;
