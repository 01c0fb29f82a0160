//! A byte stream inside WebSocket messages, for clients that use SPDY through proxies that support
//! only WebSocket.

use std::io;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, future};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::accept;

/// The byte stream inside an upgraded connection. A text message is an error.
pub async fn tunnel<S>(connection: S) -> impl AsyncRead + AsyncWrite + Send + Unpin + 'static
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sink, source) = accept(connection).await.split();
    let received = source.filter_map(|message| {
        future::ready(match message {
            Ok(Message::Binary(data)) => Some(Ok(data)),
            Ok(Message::Text(_)) => {
                Some(Err(io::Error::new(io::ErrorKind::InvalidData, "a text message in a tunnel")))
            }
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    });
    let sent = sink
        .sink_map_err(io::Error::other)
        .with(|data: Bytes| future::ready(Ok::<_, io::Error>(Message::Binary(data))));
    tokio::io::join(StreamReader::new(received), SinkWriter::new(CopyToBytes::new(sent)))
}
