//! Exec and attach over WebSocket: channels 0 to 2 for stdin, stdout and stderr, 3 for the result
//! and 4 for terminal sizes.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::SplitStream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::channels::ChannelWriter;
use super::{Dialect, QUEUE, accept, converse, receive};
use crate::model::streams::{Output, ProcessIo, TerminalSize};
use crate::stream::Streams;
use crate::stream::outcome::{status_json, status_text};
use crate::stream::resize::Sizes;
use crate::stream::session::{Activity, Command, Talk};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// v5: channel number of a message that closes the channel in its next byte.
const CLOSE: u8 = 255;

/// Buffer for input that the process has not read yet, in bytes.
const STDIN_BUFFER: usize = 64 << 10;

/// Number of terminal sizes queued for a process; when full, only the newest is kept.
const SIZES: usize = 4;

impl Talk {
    /// Runs a command or attaches; ends when the client got the result, or is gone.
    pub async fn channels_command<S>(&self, connection: S, dialect: Dialect, command: Command)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (sink, source) = accept(connection).await.split();
        let (frames, queue) = mpsc::channel(QUEUE);
        let (io, inputs) = plumb(command.streams(), dialect, &frames);
        let (activity, gone) = (Activity::new(self.idle_timeout), CancellationToken::new());
        let session = async {
            greet(command.streams(), dialect, &frames).await;
            let outcome = self.outcome(&command, io, &gone, activity.idle()).await?;
            let status = match dialect.json_status {
                true => status_json(&outcome),
                false => status_text(&outcome).unwrap_or_default().into_bytes(),
            };
            (!status.is_empty()).then(|| dialect.codec.encode(ERROR, &status))
        };
        let reader = inputs.read(source, dialect, &activity);
        converse(sink, (&frames, queue), (&activity, &gone), session, reader).await;
    }
}

/// An empty message on the first output channel, which tells the client that the session is set up.
async fn greet(streams: Streams, dialect: Dialect, frames: &mpsc::Sender<Message>) {
    let channel = match streams {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    let _ = frames.send(dialect.codec.encode(channel, &[])).await;
}

/// Creates the process's ends of the channels, and the server's ends of the client's channels.
fn plumb(
    streams: Streams,
    dialect: Dialect,
    frames: &mpsc::Sender<Message>,
) -> (ProcessIo, Inputs) {
    let output = |wanted: bool, channel| {
        let writer = || ChannelWriter::new(frames.clone(), dialect.codec, channel);
        wanted.then(|| Box::pin(writer()) as Output)
    };
    let (stdin, read) = streams.stdin.then(|| tokio::io::duplex(STDIN_BUFFER)).unzip();
    let (sizes, resize) = streams.tty.then(|| mpsc::channel(SIZES)).unzip();
    let io = ProcessIo {
        stdin: read.map(|read| Box::pin(read) as _),
        stdout: output(streams.stdout, STDOUT),
        stderr: output(streams.stderr, STDERR),
        tty: streams.tty,
        resize,
    };
    (io, Inputs { stdin, sizes, decoder: Sizes::default(), newest: None })
}

/// The channels that the client writes.
struct Inputs {
    stdin: Option<DuplexStream>,
    sizes: Option<mpsc::Sender<TerminalSize>>,
    decoder: Sizes,
    /// A terminal size that is not queued yet.
    newest: Option<TerminalSize>,
}

/// A protocol error; the session ends as if the client were gone.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("data is not base64")]
    Base64(#[from] base64::DecodeError),
    #[error("a close signal names no channel: {0:?}")]
    CloseSignal(Bytes),
}

impl Inputs {
    /// Forwards received messages until the client is gone, which ends the input.
    async fn read<S: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        mut source: SplitStream<WebSocketStream<S>>,
        dialect: Dialect,
        activity: &Activity,
    ) {
        loop {
            // Cancel-safe: a slot for a size is only taken when it is used, and a message is
            // received completely or not at all.
            let message = tokio::select! {
                () = hand_on(&self.sizes, &mut self.newest) => continue,
                message = receive(&mut source, activity) => message,
            };
            let Some(message) = message else { return };
            if let Err(error) = self.take(message, dialect).await {
                tracing::debug!(%error, "WebSocket client failed");
                return;
            }
        }
    }

    async fn take(&mut self, message: Message, dialect: Dialect) -> Result<(), Broken> {
        let Some((channel, data)) = dialect.codec.decode(message)? else { return Ok(()) };
        match channel {
            CLOSE if dialect.half_close => match data[..] {
                [STDIN] => self.stdin = None,
                [STDOUT..=RESIZE] => {}
                _ => return Err(Broken::CloseSignal(data)),
            },
            STDIN => self.write(&data).await,
            RESIZE if self.sizes.is_some() => {
                if let Some(size) = self.decoder.push(&data) {
                    self.newest = Some(size);
                }
            }
            // Ignored, as in Go's servers, so clients may send it.
            _ => {}
        }
        Ok(())
    }

    /// Writes input, waiting while the process does not read. Input is discarded once it has closed
    /// stdin.
    async fn write(&mut self, data: &[u8]) {
        if let Some(stdin) = &mut self.stdin
            && stdin.write_all(data).await.is_err()
        {
            self.stdin = None;
        }
    }
}

/// Queues the newest size as soon as there is a slot; never completes when there is no size.
async fn hand_on(sizes: &Option<mpsc::Sender<TerminalSize>>, newest: &mut Option<TerminalSize>) {
    let (Some(sizes), Some(size)) = (sizes, *newest) else { return std::future::pending().await };
    // It fails once the process has ended and needs no more sizes.
    if let Ok(room) = sizes.reserve().await {
        room.send(size);
    }
    *newest = None;
}
