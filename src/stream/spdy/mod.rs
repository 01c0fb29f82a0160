//! The server side of SPDY/3.1, as far as Kubernetes clients use it.
//!
//! A [`Connection`] transfers frames between a socket and its streams while its `run` is polled.
//! [`remote_command()`] and [`port_forward()`] implement the two kinds of sessions over it.
//!
//! Go clients (all that matter) neither obey flow control windows nor send WINDOW_UPDATE. So
//! windows limit what is sent only after a client has shown that it supports them. What is received
//! is limited by not reading while [`Limits::buffer`] is full.

mod connection;
mod frame;
mod headers;
mod port_forward;
mod remote_command;
mod shared;
mod state;
mod streams;

use std::io;
use std::time::Duration;

pub use connection::{Connection, Incoming, NewStream};
#[doc(hidden)]
pub use frame::{Control, Head};
#[doc(hidden)]
pub use headers::Inflater;
pub use headers::{BadHeaders, Headers};
pub use port_forward::{PortForward, port_forward};
pub use remote_command::{
    Agreement, Background, ErrorStream, NotStarted, RemoteCommand, Version, remote_command,
};
pub use streams::{ReadHalf, Stream, WriteHalf};

/// The name of the protocol in `Upgrade` headers.
pub const UPGRADE: &str = "SPDY/3.1";

/// Resource limits per connection. [`Default`] gives the limits of the Go server, where it has any.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum number of open streams; more are refused.
    pub streams: usize,
    /// Maximum number of headers in a frame.
    pub headers: usize,
    /// Maximum size of a frame's headers, both compressed and not; also of any other control frame.
    pub header_bytes: usize,
    /// Maximum size of a stream's header names and values; larger ones reset the stream.
    pub stream_header_bytes: usize,
    /// Maximum number of entries in a SETTINGS frame.
    pub settings: usize,
    /// Maximum number of received but unread bytes of all streams; reading pauses at this limit.
    pub buffer: usize,
    /// Maximum number of bytes queued for sending per stream; its writer waits at this limit.
    pub stream_buffer: usize,
    /// The connection is closed after this time without data, new streams or PINGs from the client.
    pub idle: Duration,
    /// Interval of PINGs, by which the kernel detects a dead client.
    pub ping_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 256,
            headers: 1_000,
            header_bytes: 1 << 20,
            stream_header_bytes: 8 << 10,
            settings: 1_000,
            buffer: 1 << 20,
            stream_buffer: 128 << 10,
            idle: Duration::from_secs(4 * 60 * 60),
            ping_every: Duration::from_secs(30),
        }
    }
}

/// Why a connection ended, if neither its client nor its owner ended it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client violated the protocol or a limit.
    #[error("a SPDY client broke the protocol")]
    Violation(#[source] Violation),
    /// Reading from the socket failed.
    #[error("reading from a SPDY client")]
    Read(#[source] io::Error),
    /// Writing to the socket failed.
    #[error("writing to a SPDY client")]
    Write(#[source] io::Error),
    /// The connection was idle for this long.
    #[error("a SPDY connection was idle for {0:?}")]
    Idle(Duration),
}

/// A violation that ends a connection with GOAWAY and the status PROTOCOL_ERROR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A control frame of another version of SPDY.
    #[error("control frame of SPDY version {0}, not 3")]
    Version(u16),
    /// A control frame longer than [`Limits::header_bytes`].
    #[error("control frame of {length} bytes, over the limit of {limit}")]
    FrameLength {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A control frame with an inconsistent length or invalid values.
    #[error("malformed {0} frame")]
    Malformed(&'static str),
    /// SETTINGS with too many entries.
    #[error("SETTINGS of {0} entries")]
    Settings(u32),
    /// Too many headers.
    #[error("{0} headers in one frame")]
    HeaderCount(u32),
    /// Headers that decompress to more than [`Limits::header_bytes`].
    #[error("headers inflate to over {0} bytes")]
    HeaderBytes(usize),
    /// Headers that are not a zlib stream with SPDY's dictionary.
    #[error("headers that do not inflate")]
    Compression,
    /// A header block with inconsistent lengths.
    #[error("malformed header block")]
    HeaderBlock,
    /// A stream id that a client must not use.
    #[error("stream id {0} from a client")]
    StreamId(u32),
    /// A frame that is only valid as an answer to a stream of the server.
    #[error("SYN_REPLY to a stream that was never opened")]
    Reply,
    /// A flow control window larger than 2^31 - 1.
    #[error("session window over 2^31 - 1 bytes")]
    Window,
}

#[cfg(test)]
mod tests;
