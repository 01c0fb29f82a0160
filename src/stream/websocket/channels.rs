//! Channel data in WebSocket messages.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::PollSender;

/// Maximum number of bytes per message: a slow client occupies a few of them.
const MAX_PIECE: usize = 32 << 10;

/// How channel number and data are encoded in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Binary message: a byte with the number, then the data.
    Binary,
    /// Text message: a digit with the number, then the data in base64.
    Base64,
}

impl Codec {
    /// Encodes a message.
    pub fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut bytes = BytesMut::with_capacity(data.len() + 1);
                bytes.put_u8(channel);
                bytes.put_slice(data);
                Message::Binary(bytes.freeze())
            }
            Self::Base64 => {
                let mut text = String::with_capacity(data.len().div_ceil(3) * 4 + 1);
                text.push(char::from(b'0'.wrapping_add(channel)));
                STANDARD.encode_string(data, &mut text);
                Message::text(text)
            }
        }
    }

    /// Decodes channel and data; `None` for an empty message, which is ignored.
    ///
    /// # Errors
    /// Data that is not base64.
    pub fn decode(self, message: Message) -> Result<Option<(u8, Bytes)>, base64::DecodeError> {
        let mut bytes = message.into_data();
        if bytes.is_empty() {
            return Ok(None);
        }
        let data = bytes.split_off(1);
        match self {
            Self::Binary => Ok(Some((bytes[0], data))),
            Self::Base64 => Ok(Some((bytes[0].wrapping_sub(b'0'), STANDARD.decode(data)?.into()))),
        }
    }
}

/// The writing end of a channel. A write waits while the queue is full, and fails once the queue is
/// no longer sent.
pub struct ChannelWriter {
    queue: PollSender<Message>,
    codec: Codec,
    channel: u8,
}

impl ChannelWriter {
    /// Writes into `queue`.
    pub fn new(queue: mpsc::Sender<Message>, codec: Codec, channel: u8) -> Self {
        Self { queue: PollSender::new(queue), codec, channel }
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.queue.poll_reserve(context)).map_err(closed)?;
        let piece = &data[..data.len().min(MAX_PIECE)];
        let message = self.codec.encode(self.channel, piece);
        self.queue.send_item(message).map_err(closed)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The sender of the queue flushes it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn messages_are_those_of_the_protocol() {
        assert_eq!(Codec::Binary.encode(1, b"\n"), Message::Binary(Bytes::from_static(b"\x01\n")));
        assert_eq!(Codec::Base64.encode(1, b"\n"), Message::text("1Cg=="));
        assert_eq!(Codec::Binary.encode(3, b""), Message::Binary(Bytes::from_static(b"\x03")));
        let data = Codec::Base64.decode(Message::text("0Zm9v")).expect("base64");
        assert_eq!(data, Some((0, Bytes::from_static(b"foo"))));
        for bad in ["0Zm9", "0Zm9v!", "0====", "0Zm 9v"] {
            assert!(Codec::Base64.decode(Message::text(bad)).is_err(), "{bad}");
        }
        for codec in [Codec::Binary, Codec::Base64] {
            assert_eq!(codec.decode(Message::Binary(Bytes::new())), Ok(None));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(channel: u8, data: Vec<u8>) {
            let both = Some((channel, Bytes::from(data.clone())));
            prop_assert_eq!(Codec::Binary.decode(Codec::Binary.encode(channel, &data)), Ok(both.clone()));
            if channel < 64 {
                prop_assert_eq!(Codec::Base64.decode(Codec::Base64.encode(channel, &data)), Ok(both));
            }
        }

        #[test]
        fn any_bytes_are_taken_or_refused(data: Vec<u8>) {
            let message = Message::Binary(data.into());
            let _ = Codec::Base64.decode(message.clone());
            prop_assert!(Codec::Binary.decode(message).is_ok());
        }
    }

    #[tokio::test]
    async fn a_write_waits_for_room_and_ends_with_the_queue() {
        let (queue, mut sent) = mpsc::channel(2);
        let mut writer = ChannelWriter::new(queue, Codec::Binary, 1);
        let data = vec![7; MAX_PIECE * 3];
        let mut writing = Box::pin(writer.write_all(&data));
        assert!(futures::poll!(&mut writing).is_pending(), "two pieces fill the queue");
        assert_eq!(sent.recv().await.expect("a piece").len(), MAX_PIECE + 1);
        assert!(futures::poll!(&mut writing).is_ready(), "then there is room for the last");
        drop(writing);
        drop(sent);
        let error = writer.write_all(b"x").await.expect_err("nobody sends");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
