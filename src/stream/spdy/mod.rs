//! SPDY/3.1, the server's side, as far as clients of Kubernetes use it.
//!
//! A [`Connection`] moves frames between a socket and its streams; whoever made it drives its
//! `run`. [`remote_command()`] and [`port_forward()`] are the two sessions that clients hold over it.
//!
//! Clients written in Go (all that matter) neither keep to flow control windows nor send
//! WINDOW_UPDATE. So windows bind what is sent only to a client that has shown that it knows
//! them, and what is received is bounded by reading no further while [`Limits::buffer`] is full.

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

/// What a client may make a connection hold. [`Default`] gives the limits of the Go server where
/// it has any.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams open at once; more are refused.
    pub streams: usize,
    /// Headers in one frame.
    pub headers: usize,
    /// Bytes of one frame's headers, compressed and not; also of any other control frame.
    pub header_bytes: usize,
    /// Bytes of the names and values of one stream; with more, the stream is reset.
    pub stream_header_bytes: usize,
    /// Entries of one SETTINGS frame.
    pub settings: usize,
    /// Bytes received and not yet read, of all streams together; reading stops there.
    pub buffer: usize,
    /// Bytes to be sent of one stream; its writer waits there.
    pub stream_buffer: usize,
    /// How long no data, no new stream and no PING of the client may pass before the connection
    /// is closed.
    pub idle: Duration,
    /// How often a PING is sent, so that a dead client is found by the kernel.
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

/// Why a connection ended other than by the will of its client or its owner.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client broke the protocol or a limit.
    #[error("a SPDY client broke the protocol")]
    Violation(#[source] Violation),
    /// The connection broke while reading.
    #[error("reading from a SPDY client")]
    Read(#[source] io::Error),
    /// The connection broke while writing.
    #[error("writing to a SPDY client")]
    Write(#[source] io::Error),
    /// Nothing passed for too long.
    #[error("a SPDY connection was idle for {0:?}")]
    Idle(Duration),
}

/// What ends a connection with GOAWAY and the status PROTOCOL_ERROR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A control frame of another version of SPDY.
    #[error("control frame of SPDY version {0}, not 3")]
    Version(u16),
    /// A control frame over [`Limits::header_bytes`].
    #[error("control frame of {length} bytes, over the limit of {limit}")]
    FrameLength {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A control frame that its own length or values contradict.
    #[error("malformed {0} frame")]
    Malformed(&'static str),
    /// SETTINGS with more entries than allowed.
    #[error("SETTINGS of {0} entries")]
    Settings(u32),
    /// More headers than allowed.
    #[error("{0} headers in one frame")]
    HeaderCount(u32),
    /// Headers that inflate to more than [`Limits::header_bytes`].
    #[error("headers inflate to over {0} bytes")]
    HeaderBytes(usize),
    /// Headers that are no zlib stream or none of SPDY's dictionary.
    #[error("headers that do not inflate")]
    Compression,
    /// A header block whose lengths do not add up.
    #[error("malformed header block")]
    HeaderBlock,
    /// A stream id that a client may not use.
    #[error("stream id {0} from a client")]
    StreamId(u32),
    /// A frame that only an answer to a stream of ours could be.
    #[error("SYN_REPLY to a stream that was never opened")]
    Reply,
    /// A flow control window over 2^31 - 1.
    #[error("session window over 2^31 - 1 bytes")]
    Window,
}

#[cfg(test)]
mod tests;
