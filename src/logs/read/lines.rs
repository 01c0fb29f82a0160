//! Converts records to the text that is shown. Pure.

use super::super::format::Stream;
use super::record::{self, Moment};
use super::{ReadOptions, Selected};

/// Maximum number of bytes of an unfinished line that are held back; a longer line is shown in
/// pieces as it arrives.
pub(super) const HELD: usize = 256 << 10;

/// Joins the pieces of lines, drops what was not requested, and counts bytes.
#[derive(Debug)]
pub(super) struct Lines {
    since: Option<Moment>,
    timestamps: bool,
    streams: Selected,
    /// How many lines to skip before the first one is shown.
    skip: u64,
    /// How many bytes may still be shown.
    left: u64,
    open: [Open; 2],
    /// The stream whose unfinished line was shown last.
    shown: Option<Stream>,
    /// Whether the last record was recent enough; text that is not a record is treated like the
    /// record before it.
    recent: bool,
}

/// The unfinished line of a stream.
#[derive(Debug, Default)]
struct Open {
    /// Whether there is one.
    begun: bool,
    /// Whether it is recent enough.
    recent: bool,
    /// The part not shown yet, with its time in front if requested.
    text: Vec<u8>,
}

impl Lines {
    /// `skip` lines are skipped first.
    pub(super) fn new(options: &ReadOptions, skip: u64) -> Self {
        Self {
            since: options.since.map(Moment::new),
            timestamps: options.timestamps,
            streams: options.streams,
            skip,
            left: options.limit_bytes.unwrap_or(u64::MAX),
            open: <[Open; 2]>::default(),
            shown: None,
            recent: options.since.is_none(),
        }
    }

    /// Whether the byte limit is reached.
    pub(super) fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Handles a record, given without its line feed.
    pub(super) fn record(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(record) = record::parse(line) else { return self.garbage(line, out) };
        if !selects(self.streams, record.stream) {
            return;
        }
        self.recent = self.since.is_none_or(|since| since.is_reached_by(record.time));
        let (recent, timestamps) = (self.recent, self.timestamps);
        let open = &mut self.open[index(record.stream)];
        if !open.begun {
            open.begun = true;
            open.recent = recent;
            if timestamps {
                record::write_time(&mut open.text, record.time);
                open.text.push(b' ');
            }
        }
        open.text.extend_from_slice(record.payload);
        if record.full {
            self.end_line(record.stream, out);
        } else if open.text.len() > HELD {
            self.spill(record.stream, out);
        }
    }

    /// At the end of the log: unfinished lines are shown as they are.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.open[index(stream)].begun {
                self.spill(stream, out);
                self.open[index(stream)] = Open::default();
            }
        }
    }

    fn end_line(&mut self, stream: Stream, out: &mut Vec<u8>) {
        let mut line = std::mem::take(&mut self.open[index(stream)]);
        if self.skip > 0 {
            self.skip -= 1;
        } else if line.recent {
            line.text.push(b'\n');
            self.show(stream, &line.text, out);
            self.shown = None;
        }
        // The buffer is reused unless it has grown large.
        if line.text.capacity() <= 1024 {
            line.text.clear();
            self.open[index(stream)].text = line.text;
        }
    }

    fn spill(&mut self, stream: Stream, out: &mut Vec<u8>) {
        let open = &mut self.open[index(stream)];
        let text = std::mem::take(&mut open.text);
        if self.skip == 0 && open.recent && !text.is_empty() {
            self.show(stream, &text, out);
            self.shown = Some(stream);
        }
    }

    fn garbage(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.recent {
            self.cut_shown(None, out);
            self.put(line, out);
            self.put(b"\n", out);
        }
    }

    fn show(&mut self, stream: Stream, text: &[u8], out: &mut Vec<u8>) {
        self.cut_shown(Some(stream), out);
        self.put(text, out);
    }

    /// Ends the unfinished line shown last, unless it belongs to this stream.
    fn cut_shown(&mut self, stream: Option<Stream>, out: &mut Vec<u8>) {
        if self.shown.is_some() && self.shown != stream {
            self.put(b"\n", out);
            self.shown = None;
        }
    }

    fn put(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(text.len());
        out.extend_from_slice(&text[..fits]);
        self.left -= fits as u64;
    }
}

/// Whether records of this stream are selected.
pub(super) fn selects(selected: Selected, stream: Stream) -> bool {
    match selected {
        Selected::All => true,
        Selected::Stdout => stream == Stream::Stdout,
        Selected::Stderr => stream == Stream::Stderr,
    }
}

/// Index of a stream in a pair.
pub(super) fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(options: &ReadOptions, skip: u64, records: &[&str]) -> String {
        let (mut lines, mut out) = (Lines::new(options, skip), Vec::new());
        for record in records {
            lines.record(record.as_bytes(), &mut out);
        }
        lines.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    const MIXED: [&str; 6] = [
        "2026-01-01T00:00:01.000000000Z stdout P he",
        "2026-01-01T00:00:02.000000000Z stderr F oops",
        "2026-01-01T00:00:03.000000000Z stdout F llo",
        "what is this",
        "2026-01-01T00:00:04.000000000Z stdout F ",
        "2026-01-01T00:00:05.000000000Z stdout P > ",
    ];

    #[test]
    fn pieces_are_joined_across_the_other_stream() {
        let all = shown(&ReadOptions::default(), 0, &MIXED);
        assert_eq!(all, "oops\nhello\nwhat is this\n\n> ");
        let options = ReadOptions { streams: Selected::Stderr, ..Default::default() };
        assert_eq!(shown(&options, 0, &MIXED), "oops\nwhat is this\n");
        assert_eq!(shown(&ReadOptions::default(), 2, &MIXED), "what is this\n\n> ");
    }

    #[test]
    fn a_line_has_the_time_of_its_first_piece() {
        let options = ReadOptions { timestamps: true, ..Default::default() };
        let text = shown(&options, 1, &MIXED[..3]);
        assert_eq!(text, "2026-01-01T00:00:01.000000000Z hello\n");
        // Two seconds after midnight: a line that began earlier is dropped with all its pieces.
        let since = Some(1_767_225_602_000_000_000);
        let options = ReadOptions { since, ..Default::default() };
        assert_eq!(shown(&options, 0, &MIXED), "oops\nwhat is this\n\n> ");
    }

    #[test]
    fn what_is_no_record_goes_with_the_record_before() {
        let old = ["a", "2026-01-01T00:00:01Z stdout F b", "c", "2026-01-01T00:00:09Z stdout F d"];
        let options = ReadOptions { since: Some(1_767_225_605_000_000_000), ..Default::default() };
        assert_eq!(shown(&options, 0, &old), "d\n");
        assert_eq!(shown(&ReadOptions::default(), 0, &old), "a\nb\nc\nd\n");
    }

    #[test]
    fn bytes_are_limited_to_the_byte() {
        for limit in 0..30 {
            let options = ReadOptions { limit_bytes: Some(limit), ..Default::default() };
            let text = shown(&options, 0, &MIXED);
            let whole = "oops\nhello\nwhat is this\n\n> ";
            assert_eq!(text, whole[..whole.len().min(limit as usize)]);
        }
    }

    #[test]
    fn an_endless_line_is_shown_as_it_comes_and_glued_to_nothing() {
        let piece = "x".repeat(HELD / 2 + 1);
        let long = format!("2026-01-01T00:00:01.000000000Z stdout P {piece}");
        let (mut lines, mut out) = (Lines::new(&ReadOptions::default(), 0), Vec::new());
        for _ in 0..5 {
            lines.record(long.as_bytes(), &mut out);
        }
        assert_eq!(out.len(), 4 * piece.len(), "two pieces at a time");
        lines.record(b"2026-01-01T00:00:01.000000000Z stderr F other", &mut out);
        assert!(out.ends_with(b"x\nother\n"));
        lines.record(b"2026-01-01T00:00:01.000000000Z stdout F end", &mut out);
        assert!(out.ends_with(format!("\n{piece}end\n").as_bytes()));
    }
}
