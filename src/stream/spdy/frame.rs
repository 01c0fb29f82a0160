//! Encoding and decoding of frames.

use super::headers::{self, BadHeaders, Headers, Inflater};
use super::{Limits, Violation};

/// Size of every frame's header in bytes.
pub(super) const HEAD: usize = 8;
/// Initial window of streams and sessions, in bytes.
pub(super) const INITIAL_WINDOW: i64 = 64 << 10;
/// Maximum window, in bytes.
pub(super) const LARGEST_WINDOW: i64 = (1 << 31) - 1;

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const SETTINGS_INITIAL_WINDOW: u32 = 7;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Status of an RST_STREAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The client violated the rules of one stream.
    Protocol = 1,
    /// Data for a stream that was never opened.
    InvalidStream = 2,
    /// The stream is refused.
    Refused = 3,
    /// The stream is no longer wanted.
    Cancel = 5,
    /// A window exceeded its limit.
    FlowControl = 7,
    /// Data after the end of the stream.
    AlreadyClosed = 9,
}

/// Status of a GOAWAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoAway {
    /// No error.
    Fine = 0,
    /// The client violated the protocol.
    Protocol = 1,
}

/// The 8-byte header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Data of a stream.
    Data {
        /// The stream.
        id: u32,
        /// Whether it is the last frame in its direction.
        fin: bool,
        /// Length of the payload.
        length: usize,
    },
    /// Anything else.
    Control {
        /// Its type.
        kind: u16,
        /// Its flags.
        flags: u8,
        /// Length of the payload.
        length: usize,
    },
}

impl Head {
    /// Parses a header; fails only for another version of SPDY.
    pub fn parse(bytes: [u8; HEAD]) -> Result<Self, Violation> {
        let [first, second] = [&bytes[..4], &bytes[4..]].map(|half| word(half, 0));
        let flags = (second >> 24) as u8;
        let length = (second & 0x00ff_ffff) as usize;
        if first & CONTROL == 0 {
            return Ok(Self::Data { id: first, fin: flags & FIN != 0, length });
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(Violation::Version(version));
        }
        Ok(Self::Control { kind: first as u16, flags, length })
    }
}

/// A control frame from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A new stream.
    SynStream {
        /// Its id.
        id: u32,
        /// Whether the client will send no data.
        fin: bool,
        /// Whether the server may not send data.
        unidirectional: bool,
        /// Its headers.
        headers: Result<Headers, BadHeaders>,
    },
    /// An answer to a stream opened by the server, of which there are none.
    SynReply,
    /// Additional headers, which are ignored.
    Headers {
        /// The stream.
        id: u32,
        /// Whether it ends the client's data.
        fin: bool,
    },
    /// Ends a stream in both directions.
    Reset {
        /// The stream.
        id: u32,
    },
    /// SETTINGS; only one value concerns a server.
    Settings {
        /// Initial window of each stream, in bytes.
        initial_window: Option<u32>,
    },
    /// PING, to be echoed if its id is odd.
    Ping {
        /// Its id.
        id: u32,
    },
    /// The client will open no more streams.
    GoAway,
    /// Allows more data.
    WindowUpdate {
        /// The stream, or 0 for the session.
        id: u32,
        /// Additional bytes.
        delta: u32,
    },
    /// A frame type that must be ignored.
    Unknown,
}

impl Control {
    /// Parses the payload of a control frame. Even ignored headers are decompressed, because the
    /// compression state depends on all previous blocks.
    pub fn parse(
        kind: u16,
        flags: u8,
        payload: &[u8],
        inflater: &mut Inflater,
        limits: &Limits,
    ) -> Result<Self, Violation> {
        let fin = flags & FIN != 0;
        let exactly = |bytes: usize, name| {
            if payload.len() == bytes { Ok(()) } else { Err(Violation::Malformed(name)) }
        };
        let at_least = |bytes: usize, name| {
            if payload.len() >= bytes { Ok(()) } else { Err(Violation::Malformed(name)) }
        };
        match kind {
            SYN_STREAM => {
                at_least(10, "SYN_STREAM")?;
                Ok(Self::SynStream {
                    id: stream_id(payload),
                    fin,
                    unidirectional: flags & UNIDIRECTIONAL != 0,
                    headers: headers::parse(inflater, &payload[10..], limits)?,
                })
            }
            SYN_REPLY => Ok(Self::SynReply),
            HEADERS => {
                at_least(4, "HEADERS")?;
                // Only the state of the inflater matters here.
                let _ = headers::parse(inflater, &payload[4..], limits)?;
                Ok(Self::Headers { id: stream_id(payload), fin })
            }
            RST_STREAM => {
                exactly(8, "RST_STREAM")?;
                Ok(Self::Reset { id: stream_id(payload) })
            }
            SETTINGS => settings(payload, limits),
            PING => {
                exactly(4, "PING")?;
                Ok(Self::Ping { id: word(payload, 0) })
            }
            GOAWAY => {
                exactly(8, "GOAWAY")?;
                Ok(Self::GoAway)
            }
            WINDOW_UPDATE => {
                exactly(8, "WINDOW_UPDATE")?;
                let delta = word(payload, 4) & !CONTROL;
                if delta == 0 {
                    return Err(Violation::Malformed("WINDOW_UPDATE"));
                }
                Ok(Self::WindowUpdate { id: stream_id(payload), delta })
            }
            _ => Ok(Self::Unknown),
        }
    }
}

fn settings(payload: &[u8], limits: &Limits) -> Result<Control, Violation> {
    if payload.len() < 4 {
        return Err(Violation::Malformed("SETTINGS"));
    }
    let count = word(payload, 0);
    if count as usize > limits.settings {
        return Err(Violation::Settings(count));
    }
    if payload.len() != 4 + 8 * count as usize {
        return Err(Violation::Malformed("SETTINGS"));
    }
    let mut initial_window = None;
    for entry in payload[4..].chunks_exact(8) {
        if word(entry, 0) & 0x00ff_ffff == SETTINGS_INITIAL_WINDOW {
            let value = word(entry, 4);
            if i64::from(value) > LARGEST_WINDOW {
                return Err(Violation::Window);
            }
            initial_window = Some(value);
        }
    }
    Ok(Control::Settings { initial_window })
}

/// A control frame sent to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Reply { id: u32 },
    Reset { id: u32, status: Reset },
    Ping { id: u32 },
    GoAway { last: u32, status: GoAway },
    WindowUpdate { id: u32, delta: u32 },
}

impl Answer {
    /// Appends the frame. `first_reply` is true until the zlib stream to the client has begun; it
    /// is updated.
    pub(super) fn encode(self, first_reply: &mut bool, out: &mut Vec<u8>) {
        match self {
            Self::Reply { id } => {
                let block = headers::empty_block(std::mem::take(first_reply));
                control(SYN_REPLY, &[id], &block, out);
            }
            Self::Reset { id, status } => control(RST_STREAM, &[id, status as u32], &[], out),
            Self::Ping { id } => control(PING, &[id], &[], out),
            Self::GoAway { last, status } => control(GOAWAY, &[last, status as u32], &[], out),
            Self::WindowUpdate { id, delta } => control(WINDOW_UPDATE, &[id, delta], &[], out),
        }
    }
}

fn control(kind: u16, words: &[u32], tail: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(CONTROL | u32::from(VERSION) << 16 | u32::from(kind)).to_be_bytes());
    out.extend_from_slice(&((4 * words.len() + tail.len()) as u32).to_be_bytes());
    words.iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
    out.extend_from_slice(tail);
}

/// Appends a data frame. `data` is far below the 16 MiB limit of the length field.
pub(super) fn data(id: u32, fin: bool, data: &[u8], out: &mut Vec<u8>) {
    debug_assert!(data.len() < 1 << 24, "the length field has 24 bits");
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&(u32::from(fin) << 24 | data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn stream_id(payload: &[u8]) -> u32 {
    word(payload, 0) & !CONTROL
}
