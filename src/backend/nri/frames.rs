//! Framing on a plugin's connection: ttrpc messages in frames of two logical connections.
//!
//! ```text
//! frame:   u32 connection | u32 length | payload          at most 4 MiB + 10 of payload
//! message: u32 length | u32 stream | u8 kind | u8 flags | body     at most 4 MiB of body
//! ```
//! All numbers are big-endian. No frames open or close a logical connection: both ends know the two
//! numbers.

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// The connection on which the runtime calls the plugin.
pub const TO_PLUGIN: u32 = 1;

/// The connection on which the plugin calls the runtime.
pub const TO_RUNTIME: u32 = 2;

/// Maximum size of a message body.
pub const MAX_BODY: usize = 4 << 20;

const MESSAGE_HEADER: usize = 10;
const FRAME_HEADER: usize = 8;
const MAX_PAYLOAD: usize = MAX_BODY + MESSAGE_HEADER;

/// Maximum size of the first frame of a message: the buffer size of the Go implementation. It reads
/// the start of a message through a buffer of this size and fails if the frame does not fit. The
/// rest is read directly into the body, so it can be one frame; it must not be many, because the
/// number of unread frames is limited.
const FIRST_FRAME: usize = 4096;

/// Type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request.
    Request,
    /// A response.
    Response,
    /// Anything else: streams, which NRI does not use.
    Other(u8),
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Other(number) => number,
        }
    }
}

/// A ttrpc message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The logical connection.
    pub connection: u32,
    /// Id shared by request and response.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// The encoded request or response.
    pub body: Bytes,
}

impl Message {
    /// Encodes the message in frames. The caller must not pass a body longer than [`MAX_BODY`],
    /// which no reader accepts.
    pub fn encode(&self) -> Bytes {
        let mut message = BytesMut::with_capacity(MESSAGE_HEADER + self.body.len());
        message.put_u32(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        message.put_u32(self.stream);
        message.put_u8(self.kind.number());
        message.put_u8(0);
        message.put_slice(&self.body);
        let rest = message.split_off(message.len().min(FIRST_FRAME));
        let mut out = BytesMut::with_capacity(2 * FRAME_HEADER + message.len() + rest.len());
        for payload in [message, rest].iter().filter(|payload| !payload.is_empty()) {
            out.put_u32(self.connection);
            out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
            out.put_slice(payload);
        }
        out.freeze()
    }
}

/// Extracts messages from frames of any size. Frames of other connections are skipped.
#[derive(Debug, Default)]
pub struct Frames {
    payloads: BTreeMap<u32, BytesMut>,
}

impl Frames {
    /// The next complete message in the received payloads.
    fn message(&mut self) -> io::Result<Option<Message>> {
        for (connection, payload) in &mut self.payloads {
            let Some(mut header) = payload.get(..MESSAGE_HEADER) else { continue };
            let (length, stream) = (header.get_u32() as usize, header.get_u32());
            let kind = match header.get_u8() {
                1 => Kind::Request,
                2 => Kind::Response,
                other => Kind::Other(other),
            };
            if length > MAX_BODY {
                return Err(broken(format!("a message of {length} bytes")));
            }
            if payload.len() < MESSAGE_HEADER + length {
                continue;
            }
            payload.advance(MESSAGE_HEADER);
            let body = payload.split_to(length).freeze();
            return Ok(Some(Message { connection: *connection, stream, kind, body }));
        }
        Ok(None)
    }
}

impl Decoder for Frames {
    type Item = Message;
    type Error = io::Error;

    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.message()? {
                return Ok(Some(message));
            }
            let Some(mut header) = source.get(..FRAME_HEADER) else { return Ok(None) };
            let (connection, length) = (header.get_u32(), header.get_u32() as usize);
            if length > MAX_PAYLOAD {
                return Err(broken(format!("a frame of {length} bytes")));
            }
            if source.len() < FRAME_HEADER + length {
                source.reserve(FRAME_HEADER + length - source.len());
                return Ok(None);
            }
            source.advance(FRAME_HEADER);
            let payload = source.split_to(length);
            if [TO_PLUGIN, TO_RUNTIME].contains(&connection) {
                self.payloads.entry(connection).or_default().unsplit(payload);
            }
        }
    }
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} breaks the protocol"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(connection: u32, length: usize) -> Message {
        let body = (0..length).map(|index| index as u8).collect::<Vec<_>>();
        Message { connection, stream: 7, kind: Kind::Request, body: body.into() }
    }

    fn lengths_of_frames(mut bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !bytes.is_empty() {
            let length = (&bytes[4..]).get_u32() as usize;
            lengths.push(length);
            bytes = &bytes[8 + length..];
        }
        lengths
    }

    #[test]
    fn a_message_begins_with_a_frame_that_every_reader_takes() {
        for (body, frames) in [
            (0, vec![10]),
            (4086, vec![4096]),
            (4087, vec![4096, 1]),
            (MAX_BODY, vec![4096, MAX_BODY + 10 - 4096]),
        ] {
            assert_eq!(lengths_of_frames(&message(1, body).encode()), frames, "{body}");
        }
        let bytes = message(2, 3).encode();
        assert_eq!(bytes[..18], [0, 0, 0, 2, 0, 0, 0, 13, 0, 0, 0, 3, 0, 0, 0, 7, 1, 0]);
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        let mut frame = BytesMut::new();
        frame.put_u32(1);
        frame.put_u32(u32::try_from(MAX_PAYLOAD).unwrap() + 1);
        assert!(Frames::default().decode(&mut frame).is_err());

        let mut frame = BytesMut::new();
        frame.put_u32(1);
        frame.put_u32(10);
        frame.put_u32(u32::try_from(MAX_BODY).unwrap() + 1);
        frame.put_slice(&[0, 0, 0, 1, 1, 0]);
        assert!(Frames::default().decode(&mut frame).is_err());
    }

    #[test]
    fn frames_of_other_connections_are_skipped() {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&message(3, 20).encode());
        bytes.extend_from_slice(&message(1, 5).encode());
        assert_eq!(Frames::default().decode(&mut bytes).unwrap(), Some(message(1, 5)));
    }

    proptest! {
        /// Messages of both connections, split arbitrarily into frames, and frames into reads.
        #[test]
        fn messages_survive_any_cut(
            bodies in proptest::collection::vec((1u32..=2, 0usize..9000), 1..6),
            cut in 1usize..5000,
            read in 1usize..3000,
        ) {
            let mut wire = BytesMut::new();
            let mut sent: BTreeMap<u32, Vec<Message>> = BTreeMap::new();
            for (connection, length) in bodies {
                let message = message(connection, length);
                let whole = message.encode();
                let mut payload = Vec::new();
                let mut rest = &whole[..];
                while !rest.is_empty() {
                    let length = (&rest[4..]).get_u32() as usize;
                    payload.extend_from_slice(&rest[8..8 + length]);
                    rest = &rest[8 + length..];
                }
                for part in payload.chunks(cut) {
                    wire.put_u32(connection);
                    wire.put_u32(part.len() as u32);
                    wire.put_slice(part);
                }
                sent.entry(connection).or_default().push(message);
            }
            let (mut frames, mut buffer) = (Frames::default(), BytesMut::new());
            let mut got: BTreeMap<u32, Vec<Message>> = BTreeMap::new();
            for part in wire.chunks(read) {
                buffer.extend_from_slice(part);
                while let Some(message) = frames.decode(&mut buffer).unwrap() {
                    got.entry(message.connection).or_default().push(message);
                }
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let (mut frames, mut buffer) = (Frames::default(), BytesMut::from(&bytes[..]));
            while let Ok(Some(_)) = frames.decode(&mut buffer) {}
        }
    }
}
