//! Sessions over WebSocket: each message carries data of one channel.

mod channels;
mod command;
mod ports;
mod tunnel;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

pub use channels::Codec;
pub use tunnel::tunnel;

use super::session::{Activity, FAREWELL};

/// Maximum number of ports in a session: each needs two channels, and the channel number is a byte
/// whose last value is reserved.
pub const MAX_PORTS: usize = 127;

/// Maximum size of a message or frame. Go's servers accept 32 MiB, but their clients send at most
/// 32 KiB; larger messages would only waste memory.
const MAX_MESSAGE: usize = 2 << 20;

/// Size of the read buffer; it grows for larger messages.
const READ_BUFFER: usize = 16 << 10;

/// Maximum number of messages queued for a slow client, each as large as one write.
const QUEUE: usize = 4;

/// Interval of pings. They also detect a vanished client while a process does not read its input,
/// when the connection is not read either.
const PING: Duration = Duration::from_secs(30);

/// How long a client may take to close its side after the last message.
const LINGER: Duration = Duration::from_secs(5);

/// A subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Encoding of messages.
    pub codec: Codec,
    /// Whether the result is a `metav1.Status` in JSON; else it is text, sent only for an error.
    pub json_status: bool,
    /// Whether a client can close a single channel.
    pub half_close: bool,
}

/// Creates the server's end of an upgraded connection.
async fn accept<S: AsyncRead + AsyncWrite + Unpin>(connection: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// The close message that ends every session.
fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// A message that could not be sent.
struct Unsent {
    error: WebSocketError,
    /// Whether it was the close message, after which there are no more.
    was_last: bool,
}

/// Sends queued messages until a close message was sent.
async fn send_all<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    queue: &mut mpsc::Receiver<Message>,
    activity: &Activity,
) -> Result<(), Unsent> {
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Cancel-safe: a message is received completely, and a missed tick does no harm.
        let message = tokio::select! {
            message = queue.recv() => message.unwrap_or_else(farewell),
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        let last = message.is_close();
        if !message.is_ping() {
            activity.touch();
        }
        let sent = async {
            sink.feed(message).await?;
            if last || queue.is_empty() { sink.flush().await } else { Ok(()) }
        };
        sent.await.map_err(|error| Unsent { error, was_last: last })?;
        if last {
            return Ok(());
        }
    }
}

/// Receives the next message with data; `None` when the client is gone or violates the protocol.
async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    source: &mut SplitStream<WebSocketStream<S>>,
    activity: &Activity,
) -> Option<Message> {
    loop {
        match source.next().await? {
            Ok(message @ (Message::Binary(_) | Message::Text(_))) => {
                activity.touch();
                return Some(message);
            }
            // The library answers these at the next read, and ends the stream after a close.
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "WebSocket client failed");
                return None;
            }
        }
    }
}

/// The two ends of the queue of messages to a client.
type Queue<'a> = (&'a mpsc::Sender<Message>, mpsc::Receiver<Message>);

/// Runs the parts of a session: `session` returns its result, if the client is to get one, which is
/// sent before the close message; `reader` ends when the client is gone, which is signalled by
/// `gone`. A client that does not read is disconnected a while after the session has ended.
///
/// If a client still sends when its session has ended, its data is read for a while: closing
/// earlier would make its kernel discard what the client has not read yet.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    (frames, mut queue): Queue<'_>,
    parts: (&Activity, &CancellationToken),
    session: impl Future<Output = Option<Message>>,
    reader: impl Future<Output = ()>,
) {
    let (activity, gone) = parts;
    let writer = async {
        if let Err(Unsent { error, was_last }) = send_all(&mut sink, &mut queue, activity).await {
            tracing::debug!(%error, "cannot send to WebSocket client");
            gone.cancel();
            // Discards further output, so that the process does not block.
            while !was_last && queue.recv().await.is_some_and(|message| !message.is_close()) {}
        }
    };
    let reader = async {
        reader.await;
        gone.cancel();
    };
    let ending = async {
        let result = session.await;
        let parting = async {
            for message in result.into_iter().chain([farewell()]) {
                // The writer takes messages until it ends, and the session with it.
                let _ = frames.send(message).await;
            }
            std::future::pending::<()>().await;
        };
        let _ = tokio::time::timeout(FAREWELL, parting).await;
    };
    let talk = async {
        // Cancel-safe: the session is over when either ends.
        tokio::select! {
            () = writer => {}
            () = ending => {}
        }
    };
    tokio::pin!(reader, talk);
    // Cancel-safe: both are pinned.
    tokio::select! {
        () = &mut talk => {
            let _ = tokio::time::timeout(LINGER, reader).await;
        }
        () = &mut reader => talk.await,
    }
}
