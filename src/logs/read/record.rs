//! Parsing of a record. Pure.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::format::{Header, Stream};

/// Length of a timestamp as this agent writes it.
const TIME: usize = 30;

/// One record of a log file, without its line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Time of the record, RFC 3339.
    pub(super) time: &'a [u8],
    /// The stream it came from.
    pub(super) stream: Stream,
    /// Whether it is the last record of its line.
    pub(super) full: bool,
    /// The output of the container.
    pub(super) payload: &'a [u8],
}

/// Maximum number of leading bytes of a record that [`parse_head`] needs.
pub(super) const LONGEST_HEAD: usize = 64;

/// Parses a record; `None` when the line is not one.
pub(super) fn parse(line: &[u8]) -> Option<Record<'_>> {
    let (time, rest) = word(line)?;
    let (stream, rest) = word(rest)?;
    let (tags, payload) = word(rest).unwrap_or((rest, &[]));
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // If there are several tags, the first says whether the line ends.
    let full = match tags.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let like_a_time = (20..=35).contains(&time.len())
        && time[4] == b'-'
        && time[10] == b'T'
        && time[0].is_ascii_digit();
    like_a_time.then_some(Record { time, stream, full, payload })
}

/// Stream and tag of the record that begins with these bytes; its payload may be cut off.
pub(super) fn parse_head(head: &[u8]) -> Option<(Stream, bool)> {
    parse(&head[..head.len().min(LONGEST_HEAD)]).map(|record| (record.stream, record.full))
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b' ', text)?;
    Some((&text[..end], &text[end + 1..]))
}

/// A time to compare records with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: OffsetDateTime,
    text: [u8; TIME],
}

impl Moment {
    /// From nanoseconds since the Unix epoch.
    pub(super) fn new(nanos: i64) -> Self {
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanos.into())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self { at, text: Header::new(Stream::Stdout, at).time() }
    }

    /// Whether a record has this time or a later one. An unparsable time counts as later.
    pub(super) fn is_reached_by(&self, time: &[u8]) -> bool {
        if is_fixed(time) {
            // The format makes text order equal to time order.
            return time >= self.text.as_slice();
        }
        moment(time).is_none_or(|time| time >= self.at)
    }

    /// Like [`Moment::is_reached_by`], for a file's modification time.
    pub(super) fn is_reached_by_file(&self, changed: std::time::SystemTime) -> bool {
        OffsetDateTime::from(changed) >= self.at
    }
}

/// Writes the time with nine fractional digits.
pub(super) fn write_time(out: &mut Vec<u8>, time: &[u8]) {
    match moment(time) {
        Some(at) if !is_fixed(time) && at.offset().is_utc() => {
            out.extend_from_slice(&Header::new(Stream::Stdout, at).time());
        }
        // From another writer, with a time zone: written unchanged.
        _ => out.extend_from_slice(time),
    }
}

fn is_fixed(time: &[u8]) -> bool {
    time.len() == TIME && time.last() == Some(&b'Z')
}

fn moment(time: &[u8]) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(std::str::from_utf8(time).ok()?, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_apart() {
        let record = parse(b"2026-01-02T03:04:05.000000006Z stderr P a b ").unwrap();
        assert_eq!(record.time, b"2026-01-02T03:04:05.000000006Z");
        assert_eq!((record.stream, record.full), (Stream::Stderr, false));
        assert_eq!(record.payload, b"a b ");
        let empty = [&b"2026-01-02T03:04:05Z stdout F "[..], b"2026-01-02T03:04:05Z stdout F"];
        for line in empty {
            assert_eq!(parse(line).unwrap().payload, b"");
        }
        assert!(parse(b"2026-01-02T03:04:05+02:00 stdout F:x:y z").unwrap().full);
    }

    #[test]
    fn anything_else_is_no_record() {
        for line in [
            "",
            "hello",
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05Z stdout",
            "2026-01-02T03:04:05Z stdin F x",
            "2026-01-02T03:04:05Z stdout X x",
            "2026-01-02T03:04:05Z stdout  x",
            "yesterday stdout F x",
            "{\"log\":\"x\\n\",\"stream\":\"stdout\"} stdout F x",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn times_are_compared_and_padded() {
        let since = Moment::new(1_767_323_045_000_000_006);
        for (time, reached) in [
            ("2026-01-02T03:04:05.000000006Z", true),
            ("2026-01-02T03:04:05.000000005Z", false),
            ("2026-01-02T03:04:06Z", true),
            ("2026-01-02T05:04:05.1+02:00", true),
            ("2026-01-02T03:04:05.1+02:00", false),
            ("2026-13-45T99:99:99Z", true),
        ] {
            assert_eq!(since.is_reached_by(time.as_bytes()), reached, "{time}");
        }
        for (time, shown) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000000Z"),
            ("2026-01-02T03:04:05.25Z", "2026-01-02T03:04:05.250000000Z"),
            ("2026-01-02T03:04:05.000000005Z", "2026-01-02T03:04:05.000000005Z"),
            ("2026-01-02T05:04:05.1+02:00", "2026-01-02T05:04:05.1+02:00"),
        ] {
            let mut out = Vec::new();
            write_time(&mut out, time.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), shown);
        }
    }
}
