//! Port-forward over WebSocket: two channels per port, one for data and one for an error. Each
//! begins with the port number as two bytes, little-endian.

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::SplitStream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;

use super::channels::ChannelWriter;
use super::{Dialect, QUEUE, accept, converse, receive};
use crate::stream::session::{Activity, Talk};
use crate::stream::{PortForward, Sessions};
use crate::telemetry::error_chain;

/// Buffer for data that a port has not accepted yet, in bytes.
const BUFFER: usize = 64 << 10;

/// Maximum number of bytes read from a port at once.
const PIECE: usize = 32 << 10;

impl Talk {
    /// Connects to all ports and copies until all have ended, or the client is gone.
    pub async fn channels_ports<S>(&self, connection: S, dialect: Dialect, forward: &PortForward)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (sink, source) = accept(connection).await.split();
        let (frames, queue) = mpsc::channel(QUEUE);
        let (activity, gone) = (Activity::new(self.idle_timeout), CancellationToken::new());
        let (inputs, pairs): (Vec<_>, Vec<_>) = (0..=u8::MAX)
            .step_by(2)
            .zip(&forward.ports)
            .map(|(channel, port)| {
                let (input, data) = tokio::io::duplex(BUFFER);
                let writer = |channel| ChannelWriter::new(frames.clone(), dialect.codec, channel);
                let pair = Pair {
                    port: *port,
                    input: data,
                    data: writer(channel),
                    error: writer(channel + 1),
                };
                (Some(input), pair)
            })
            .unzip();
        let session = async {
            let all =
                join_all(pairs.into_iter().map(|pair| pair.forward(&*self.sessions, forward)));
            // Cancel-safe: connections may be dropped at any time, the others only wait.
            tokio::select! {
                _ = all => {}
                () = gone.cancelled() => {}
                _ = activity.idle() => {}
                () = self.tasks.draining() => {}
            }
            None
        };
        let reader = read(source, dialect, &activity, inputs);
        converse(sink, (&frames, queue), (&activity, &gone), session, reader).await;
    }
}

/// Forwards received messages until the client is gone.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut source: SplitStream<WebSocketStream<S>>,
    dialect: Dialect,
    activity: &Activity,
    mut inputs: Vec<Option<DuplexStream>>,
) {
    while let Some(message) = receive(&mut source, activity).await {
        let (channel, data) = match dialect.codec.decode(message) {
            Ok(Some(piece)) => piece,
            Ok(None) => continue,
            Err(error) => return tracing::debug!(%error, "WebSocket client failed"),
        };
        // Odd channels are written only by the server. Like Go's servers, ignore data on them and
        // on unknown channels.
        if channel % 2 != 0 {
            continue;
        }
        if let Some(slot) = inputs.get_mut(usize::from(channel / 2))
            && let Some(input) = slot
            && input.write_all(&data).await.is_err()
        {
            *slot = None;
        }
    }
}

/// One port.
struct Pair {
    port: u16,
    input: DuplexStream,
    data: ChannelWriter,
    error: ChannelWriter,
}

impl Pair {
    /// Copies until the pod closes the connection. A failure is sent on the error channel and ends
    /// only this pair.
    async fn forward(mut self, sessions: &dyn Sessions, forward: &PortForward) {
        let number = self.port.to_le_bytes();
        // When the client is gone the whole session is dropped.
        let _ = self.data.write_all(&number).await;
        let _ = self.error.write_all(&number).await;
        let failure = match sessions.port_forward(&forward.pod, self.port).await {
            Ok(connection) => match self.copy(connection).await {
                Ok(()) => return,
                Err(error) => error.to_string(),
            },
            Err(error) => error_chain(&error),
        };
        let text = format!("error forwarding port {}: {failure}", self.port);
        tracing::debug!(pod = %forward.pod, text);
        let _ = self.error.write_all(text.as_bytes()).await;
    }

    async fn copy(&mut self, connection: TcpStream) -> std::io::Result<()> {
        let (mut from, mut to) = connection.into_split();
        let (input, data) = (&mut self.input, &mut self.data);
        let up = async {
            // A pod that stops reading may still write.
            if tokio::io::copy(input, &mut to).await.is_ok() {
                let _ = to.shutdown().await;
            }
            std::future::pending::<std::io::Result<()>>().await
        };
        let down = async {
            let mut piece = vec![0; PIECE];
            loop {
                let length = from.read(&mut piece).await?;
                if length == 0 {
                    return Ok(());
                }
                data.write_all(&piece[..length]).await?;
            }
        };
        // Cancel-safe: the pair is over when either ends.
        tokio::select! {
            ended = up => ended,
            ended = down => ended,
        }
    }
}
