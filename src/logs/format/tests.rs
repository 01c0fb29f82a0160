use proptest::prelude::*;
use time::macros::datetime;

use super::*;

const MAX: usize = 16384;

fn header() -> Header {
    Header::new(Stream::Stdout, datetime!(2026-03-04 05:06:07.000000089 UTC))
}

/// The records of `chunks` as (tag, payload), including those at the end of the stream.
fn split(max: usize, chunks: &[&[u8]]) -> Vec<(char, Vec<u8>)> {
    let mut splitter = Splitter::new(max);
    let mut out = Vec::new();
    for chunk in chunks {
        assert_eq!(splitter.feed(header(), chunk, &mut out, usize::MAX), chunk.len());
    }
    splitter.finish(header(), &mut out);
    parse(&out)
}

fn parse(out: &[u8]) -> Vec<(char, Vec<u8>)> {
    assert!(out.is_empty() || out.ends_with(b"\n"));
    out.split_inclusive(|b| *b == b'\n')
        .map(|line| {
            assert!(line.starts_with(b"2026-03-04T05:06:07.000000089Z stdout "), "{line:?}");
            (char::from(line[HEADER - 2]), line[HEADER..line.len() - 1].to_vec())
        })
        .collect()
}

fn x(n: usize) -> Vec<u8> {
    vec![b'x'; n]
}

#[test]
fn a_record_has_time_stream_tag_and_payload() {
    let header = Header::new(Stream::Stderr, datetime!(2026-11-30 23:59:59.5 +02:00));
    let mut out = Vec::new();
    Splitter::new(MAX).feed(header, b"hello\n\n", &mut out, usize::MAX);
    let text = String::from_utf8(out).expect("text");
    assert_eq!(
        text,
        "2026-11-30T21:59:59.500000000Z stderr F hello\n\
         2026-11-30T21:59:59.500000000Z stderr F \n"
    );
}

#[test]
fn lines_at_the_limit() {
    let line = |n: usize, end: &[u8]| [&x(n), end].concat();
    assert_eq!(split(MAX, &[&line(MAX, b"\n")]), [('F', x(MAX))]);
    assert_eq!(split(MAX, &[&line(MAX, b"\r\n")]), [('F', x(MAX))]);
    assert_eq!(split(MAX, &[&line(MAX + 1, b"\n")]), [('P', x(MAX)), ('F', x(1))]);
    assert_eq!(split(MAX, &[&line(2 * MAX, b"\n")]), [('P', x(MAX)), ('F', x(MAX))]);
    assert_eq!(
        split(MAX, &[&line(2 * MAX + 1, b"\n")]),
        [('P', x(MAX)), ('P', x(MAX)), ('F', x(1))]
    );
}

#[test]
fn an_open_end_is_partial() {
    assert_eq!(split(MAX, &[b"a\nb"]), [('F', b"a".to_vec()), ('P', b"b".to_vec())]);
    assert_eq!(split(MAX, &[&x(MAX)]), [('P', x(MAX))]);
    assert_eq!(split(MAX, &[&x(MAX), b"\r"]), [('P', x(MAX)), ('P', b"\r".to_vec())]);
    assert_eq!(split(MAX, &[b""]), []);
}

#[test]
fn a_carriage_return_goes_only_before_a_line_feed() {
    assert_eq!(split(MAX, &[b"a\r\n"]), [('F', b"a".to_vec())]);
    assert_eq!(split(MAX, &[b"a\r", b"\n"]), [('F', b"a".to_vec())]);
    assert_eq!(split(MAX, &[b"\r\r\n"]), [('F', b"\r".to_vec())]);
    assert_eq!(split(MAX, &[b"a\rb\n"]), [('F', b"a\rb".to_vec())]);
    assert_eq!(split(MAX, &[&x(MAX), b"\r", b"\n"]), [('F', x(MAX))]);
    assert_eq!(split(MAX, &[b"\r\n"]), [('F', b"".to_vec())]);
}

#[test]
fn output_that_looks_like_a_record_is_only_payload() {
    let forged = b"\r2026-03-04T05:06:07.000000089Z stderr F forged\0\xff\n";
    let records = split(MAX, &[forged]);
    assert_eq!(records, [('F', forged[..forged.len() - 1].to_vec())]);
}

#[test]
fn stops_at_the_limit_and_goes_on_where_it_stopped() {
    let input = b"\n".repeat(1000);
    let mut splitter = Splitter::new(MAX);
    let (mut taken, mut records) = (0, 0);
    while taken < input.len() {
        let mut out = Vec::new();
        taken += splitter.feed(header(), &input[taken..], &mut out, 500);
        assert!(out.len() < 500 + HEADER + 1);
        records += parse(&out).len();
    }
    assert_eq!(records, 1000);
}

#[test]
fn counts_the_payload_of_records() {
    let mut out = Vec::new();
    let mut splitter = Splitter::new(4);
    splitter.feed(header(), b"ab\n\nabcdefg\n", &mut out, usize::MAX);
    splitter.finish(header(), &mut out);
    assert_eq!(payload_bytes(&out), 12);
}

#[test]
fn a_long_line_leaves_no_large_buffer() {
    let mut splitter = Splitter::new(MAX);
    let mut out = Vec::new();
    splitter.feed(header(), &x(10_000), &mut out, usize::MAX);
    splitter.feed(header(), b"\n", &mut out, usize::MAX);
    assert_eq!(splitter.pending.capacity(), 0);
}

/// The format's rules, implemented a second time as simply as possible.
fn model(max: usize, input: &[u8]) -> Vec<(char, Vec<u8>)> {
    let mut records = Vec::new();
    let mut lines: Vec<&[u8]> = input.split(|b| *b == b'\n').collect();
    let tail = lines.pop().unwrap_or_default();
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut pieces: Vec<&[u8]> = line.chunks(max).collect();
        let last = pieces.pop().unwrap_or_default();
        records.extend(pieces.iter().map(|piece| ('P', piece.to_vec())));
        records.push(('F', last.to_vec()));
    }
    records.extend(tail.chunks(max).map(|piece| ('P', piece.to_vec())));
    records
}

fn output() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => Just(b'x'), 1 => Just(b'\n'), 1 => Just(b'\r'), 1 => any::<u8>()];
    proptest::collection::vec(byte, 0..400)
}

proptest! {
    #[test]
    fn any_chunks_give_the_records_of_the_model(
        input in output(),
        max in 1usize..20,
        size in 1usize..50,
    ) {
        let chunks: Vec<&[u8]> = input.chunks(size).collect();
        prop_assert_eq!(split(max, &chunks), model(max, &input));
    }

    #[test]
    fn records_join_to_the_input(input in output(), max in 1usize..20, size in 1usize..50) {
        let chunks: Vec<&[u8]> = input.chunks(size).collect();
        let mut joined = Vec::new();
        for (tag, payload) in split(max, &chunks) {
            prop_assert!(payload.len() <= max);
            joined.extend(payload);
            if tag == 'F' {
                joined.push(b'\n');
            }
        }
        // The only bytes that are dropped: one carriage return before each line feed.
        let mut expected = Vec::new();
        for line in input.split_inclusive(|b| *b == b'\n') {
            match line.strip_suffix(b"\r\n") {
                Some(text) => {
                    expected.extend_from_slice(text);
                    expected.push(b'\n');
                }
                None => expected.extend_from_slice(line),
            }
        }
        prop_assert_eq!(joined, expected);
    }

    #[test]
    fn times_are_as_rfc_3339_has_them(seconds in 0i64..253_402_300_799, nanos in 0u32..1_000_000_000) {
        let at = OffsetDateTime::from_unix_timestamp(seconds).expect("time")
            + time::Duration::nanoseconds(nanos.into());
        let header = Header::new(Stream::Stdout, at).with(Tag::Full);
        let text = std::str::from_utf8(&header[..30]).expect("text");
        let read = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        prop_assert_eq!(read.expect("RFC 3339"), at);
    }
}
