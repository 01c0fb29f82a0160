//! Sessions over WebSocket: each message is one piece of a channel.

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

/// Ports of one session: two channels each, and channels are counted in a byte whose last value
/// is a signal.
pub const MAX_PORTS: usize = 127;

/// Largest message and frame that is taken. The Go servers take 32 MiB, and their clients send 32 KiB
/// at most: what is larger costs memory of ours for nobody's good.
const MAX_MESSAGE: usize = 2 << 20;

/// Buffer for what comes in; it grows for larger messages.
const READ_BUFFER: usize = 16 << 10;

/// Messages that wait for a slow client. Each is as large as one write of its stream.
const QUEUE: usize = 4;

/// A client is asked for a sign of life so often. The question also finds out that it is gone
/// while a process reads none of its input, for then nothing is read from the connection.
const PING: Duration = Duration::from_secs(30);

/// How long a client may take to close its side after the last message.
const LINGER: Duration = Duration::from_secs(5);

/// A subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// How messages are written.
    pub codec: Codec,
    /// Whether the end is told as a `metav1.Status` in JSON; else as text, and only if it is bad.
    pub json_status: bool,
    /// Whether a client can close a channel alone.
    pub half_close: bool,
}

/// The server's end of an upgraded connection.
async fn accept<S: AsyncRead + AsyncWrite + Unpin>(connection: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// The last message of every session.
fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// Sends what is queued until it has sent a close message.
async fn send_all<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    queue: &mut mpsc::Receiver<Message>,
    activity: &Activity,
) -> Result<(), WebSocketError> {
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Cancel-safe: a message is taken whole, a tick is only a tick.
        let message = tokio::select! {
            message = queue.recv() => message.unwrap_or_else(farewell),
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        let last = message.is_close();
        if !message.is_ping() {
            activity.touch();
        }
        sink.feed(message).await?;
        if last || queue.is_empty() {
            sink.flush().await?;
        }
        if last {
            return Ok(());
        }
    }
}

/// Receives the next message with data; `None` when the client is gone or does not keep to the
/// protocol.
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
            // The library answers these on the next read, and ends the stream after a close.
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a WebSocket client");
                return None;
            }
        }
    }
}

/// Joins the parts of a session: `session` ends it by queueing a close message; `reader` ends when
/// the client is gone, which `gone` tells the others.
///
/// A client that still sends when its session has ended is heard out for a while: to close the
/// connection before would make its kernel throw away what it has not read yet.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut queue: mpsc::Receiver<Message>,
    parts: (&Activity, &CancellationToken),
    session: impl Future<Output = ()>,
    reader: impl Future<Output = ()>,
) {
    let (activity, gone) = parts;
    let writer = async {
        if let Err(error) = send_all(&mut sink, &mut queue, activity).await {
            tracing::debug!(%error, "send to a WebSocket client");
            gone.cancel();
            // What the process still says is dropped: it must not wait for nobody.
            while queue.recv().await.is_some_and(|message| !message.is_close()) {}
        }
    };
    let reader = async {
        reader.await;
        gone.cancel();
    };
    let ending = async {
        session.await;
        tokio::time::sleep(FAREWELL).await;
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
