//! Encoding of frames and header blocks.

use proptest::prelude::*;

use super::client::{HeaderWriter, control, syn_stream, words};
use crate::stream::spdy::frame::{Answer, GoAway, Reset, data};
use crate::stream::spdy::headers::{BadHeaders, Inflater};
use crate::stream::spdy::{Control, Head, Limits, Violation};

/// What `spdystream` 0.5.1, the library of all Go clients, writes for ten frames.
const FROM_GO: &str = "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c68\
    51c29a0a0a6800000000ffff800300010000001700000003000000000000c22e555c92929907000000ffff0000000\
    30000000568656c6c6f800300010000001b00000005000000000000824ab114e417815238938501000000ffff8003\
    00060000000400000001000000030100000080030003000000080000000500000005800300040000000c000000010\
    0000007000100008003000900000008000000030000100080030007000000080000000000000000";

fn parse(kind: u16, flags: u8, payload: &[u8]) -> Result<Control, Violation> {
    Control::parse(kind, flags, payload, &mut Inflater::default(), &Limits::default())
}

#[test]
fn the_frames_of_a_go_client_are_read() {
    let bytes = hex::decode(FROM_GO).unwrap();
    let mut rest = bytes.as_slice();
    let mut inflater = Inflater::default();
    let mut seen = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk() {
        let head = Head::parse(*head).unwrap();
        let (Head::Data { length, .. } | Head::Control { length, .. }) = head;
        let (payload, after) = after.split_at(length);
        rest = after;
        seen.push(match head {
            Head::Data { id, fin, .. } => format!("data {id} {fin} {payload:?}"),
            Head::Control { kind, flags, .. } => {
                let limits = Limits::default();
                match Control::parse(kind, flags, payload, &mut inflater, &limits).unwrap() {
                    Control::SynStream { id, fin, unidirectional, headers } => {
                        let headers = headers.unwrap();
                        let values = (headers.get("streamtype"), headers.get("port"));
                        format!("open {id} {fin} {unidirectional} {values:?}")
                    }
                    other => format!("{other:?}"),
                }
            }
        });
    }
    assert!(rest.is_empty(), "all bytes are read");
    let expected = [
        "open 1 false false (Some(\"error\"), None)",
        "open 3 false false (Some(\"stdin\"), None)",
        "data 3 false [104, 101, 108, 108, 111]",
        "open 5 false false (None, Some(\"80\"))",
        "Ping { id: 1 }",
        "data 3 true []",
        "Reset { id: 5 }",
        "Settings { initial_window: Some(65536) }",
        "WindowUpdate { id: 3, delta: 4096 }",
        "GoAway",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn answers_are_the_bytes_that_a_go_client_reads() {
    let mut first = true;
    let mut out = Vec::new();
    // spdystream 0.5.1 was able to read the two replies.
    for answer in [
        Answer::Reply { id: 1 },
        Answer::Reply { id: 3 },
        Answer::Reset { id: 5, status: Reset::Refused },
        Answer::Ping { id: 2 },
        Answer::WindowUpdate { id: 3, delta: 32768 },
        Answer::GoAway { last: 5, status: GoAway::Protocol },
    ] {
        answer.encode(&mut first, &mut out);
    }
    data(3, true, b"hi", &mut out);
    let expected = [
        "800300020000001800000001 7820e3c6a7c2 000400fbff00000000 000000ffff",
        "800300020000001200000003 000400fbff00000000 000000ffff",
        "80030003000000080000000500000003",
        "800300060000000400000002",
        "80030009000000080000000300008000",
        "80030007000000080000000500000001",
        "00000003010000026869",
    ];
    assert_eq!(hex::encode(out), expected.concat().replace(' ', ""));
}

#[test]
fn a_malformed_frame_is_a_violation() {
    let head = |text: &str| Head::parse(hex::decode(text).unwrap().try_into().unwrap());
    assert_eq!(head("8002000100000000"), Err(Violation::Version(2)));
    assert_eq!(head("ffff000100000000"), Err(Violation::Version(0x7fff)));
    let cases: [(u16, Vec<u8>, Violation); 13] = [
        (1, vec![0; 9], Violation::Malformed("SYN_STREAM")),
        (8, vec![0; 3], Violation::Malformed("HEADERS")),
        (3, vec![0; 7], Violation::Malformed("RST_STREAM")),
        (3, vec![0; 9], Violation::Malformed("RST_STREAM")),
        (4, vec![0; 3], Violation::Malformed("SETTINGS")),
        (4, words(&[2, 7, 1]), Violation::Malformed("SETTINGS")),
        (4, words(&[0, 7, 1]), Violation::Malformed("SETTINGS")),
        (4, words(&[u32::MAX]), Violation::Settings(u32::MAX)),
        (4, words(&[1, 7, 1 << 31]), Violation::Window),
        (6, vec![0; 5], Violation::Malformed("PING")),
        (7, vec![0; 4], Violation::Malformed("GOAWAY")),
        (9, words(&[1]), Violation::Malformed("WINDOW_UPDATE")),
        (9, words(&[1, 1 << 31]), Violation::Malformed("WINDOW_UPDATE")),
    ];
    for (kind, payload, violation) in cases {
        assert_eq!(parse(kind, 0, &payload), Err(violation), "{kind} {payload:?}");
    }
    assert_eq!(parse(0x55, 0, b"anything"), Ok(Control::Unknown));
}

#[test]
fn as_many_settings_as_allowed_are_read() {
    let limits = Limits::default();
    let mut entries = vec![limits.settings as u32];
    (0..limits.settings).for_each(|_| entries.extend([7, 9]));
    assert_eq!(parse(4, 0, &words(&entries)), Ok(Control::Settings { initial_window: Some(9) }));
    entries[0] += 1;
    entries.extend([7, 9]);
    assert_eq!(parse(4, 0, &words(&entries)), Err(Violation::Settings(1001)));
}

fn headers_of(plain: &[u8]) -> Result<Control, Violation> {
    parse(1, 0, &syn_stream(1, &HeaderWriter::new().compress(plain)))
}

#[test]
fn headers_that_are_not_allowed_end_their_stream() {
    let long = "x".repeat(Limits::default().stream_header_bytes);
    let cases = [
        (vec![("a", long.as_str())], BadHeaders::Long),
        (vec![("", "x")], BadHeaders::Name),
        (vec![("Port", "80")], BadHeaders::Name),
        (vec![("port", "80"), ("port", "81")], BadHeaders::Twice),
    ];
    for (fields, error) in cases {
        let block = HeaderWriter::new().block(&fields);
        match parse(1, 0, &syn_stream(1, &block)) {
            Ok(Control::SynStream { headers, .. }) => assert_eq!(headers, Err(error)),
            other => panic!("{fields:?}: {other:?}"),
        }
    }
    let not_text = [&words(&[1, 1])[..], b"a", &words(&[1]), &[0xff]].concat();
    match headers_of(&not_text) {
        Ok(Control::SynStream { headers, .. }) => assert_eq!(headers, Err(BadHeaders::Text)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_header_block_that_does_not_add_up_is_a_violation() {
    let cases = [
        vec![0, 0, 0],
        words(&[1]),
        words(&[1, 1 << 31]),
        words(&[1, u32::MAX, 0]),
        [&words(&[1, 1])[..], b"a"].concat(),
        [&words(&[1, 1])[..], b"a", &words(&[2]), b"b"].concat(),
        [&words(&[0])[..], b"left over"].concat(),
    ];
    for plain in cases {
        assert_eq!(headers_of(&plain), Err(Violation::HeaderBlock), "{plain:?}");
    }
}

#[test]
fn headers_that_do_not_inflate_are_a_violation() {
    let bad =
        |block: &[u8]| assert_eq!(parse(1, 0, &syn_stream(1, block)), Err(Violation::Compression));
    bad(b"no zlib at all");
    // A dictionary with a different id.
    bad(&hex::decode("7820deadbeef000400fbff00000000000000ffff").unwrap());
    // A zlib stream that ends, although the next headers should continue it.
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &words(&[0])).unwrap();
    bad(&encoder.finish().unwrap());
}

#[test]
fn a_zlib_bomb_stops_at_the_limit() {
    let limits = Limits::default();
    let value = "x".repeat(limits.header_bytes - 4 - 4 - 1 - 4);
    let fits = HeaderWriter::new().block(&[("a", &value)]);
    assert!(matches!(
        parse(1, 0, &syn_stream(1, &fits)),
        Ok(Control::SynStream { headers: Err(BadHeaders::Long), .. })
    ));
    let over = HeaderWriter::new().block(&[("a", &(value + "x"))]);
    assert!(over.len() < 10_000, "it is a small frame: {} bytes", over.len());
    let limit = limits.header_bytes;
    assert_eq!(parse(1, 0, &syn_stream(1, &over)), Err(Violation::HeaderBytes(limit)));
    let bomb = HeaderWriter::new().compress(&vec![0; 8 << 20]);
    assert_eq!(parse(1, 0, &syn_stream(1, &bomb)), Err(Violation::HeaderBytes(limit)));
}

#[test]
fn too_many_headers_are_a_violation() {
    let names: Vec<String> = (0..1_001).map(|number| format!("h{number}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let fits = HeaderWriter::new().block(&fields[..1_000]);
    assert!(matches!(
        parse(1, 0, &syn_stream(1, &fits)),
        Ok(Control::SynStream { headers: Ok(_), .. })
    ));
    let over = HeaderWriter::new().block(&fields);
    assert_eq!(parse(1, 0, &syn_stream(1, &over)), Err(Violation::HeaderCount(1_001)));
    assert_eq!(headers_of(&words(&[1_000_000])), Err(Violation::HeaderCount(1_000_000)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn headers_come_back_as_they_were_sent(
        blocks in prop::collection::vec(
            prop::collection::btree_map("[a-z][a-z0-9-]{0,20}", "[ -~\u{e4}\u{20ac}]{0,40}", 0..8), 1..5)
    ) {
        let mut writer = HeaderWriter::new();
        let mut inflater = Inflater::default();
        for block in blocks {
            let fields: Vec<(&str, &str)> =
                block.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let payload = syn_stream(1, &writer.block(&fields));
            let control = Control::parse(1, 0, &payload, &mut inflater, &Limits::default());
            let Ok(Control::SynStream { headers: Ok(headers), .. }) = control else {
                panic!("{control:?}");
            };
            for (name, value) in &block {
                prop_assert_eq!(headers.get(name), Some(value.as_str()));
            }
            prop_assert_eq!(headers.get("NOT THERE"), None);
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(
        kind in 0u16..12, flags: u8, payload: Vec<u8>, blocks: Vec<Vec<u8>>
    ) {
        let mut inflater = Inflater::default();
        let limits = Limits::default();
        let _ = Control::parse(kind, flags, &payload, &mut inflater, &limits);
        let mut writer = HeaderWriter::new();
        for plain in blocks {
            let payload = syn_stream(1, &writer.compress(&plain));
            let _ = Control::parse(1, flags, &payload, &mut inflater, &limits);
        }
    }
}

#[test]
fn the_head_of_a_control_frame_is_read() {
    let frame = control(1, 3, &[0; 300]);
    let head = Head::parse(*frame.first_chunk().unwrap());
    assert_eq!(head, Ok(Head::Control { kind: 1, flags: 3, length: 300 }));
}
