//! Exec and attach over SPDY: each stream of the process is a SPDY stream, identified by its header
//! `streamType`, and one more carries the result.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::Incoming;
use super::streams::{Stream, WriteHalf};
use crate::model::streams::{Input, Output, ProcessIo, TerminalSize};
use crate::stream::resize::Sizes;

/// The versions of the protocol of remote commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `channel.k8s.io`, also used without negotiation: errors are text.
    V1,
    /// `v2.channel.k8s.io`: like V1, without flaws that clients had to work around.
    V2,
    /// `v3.channel.k8s.io`: adds terminal sizes.
    V3,
    /// `v4.channel.k8s.io`: the error stream carries a `metav1.Status` in JSON.
    V4,
}

impl Version {
    /// All versions, newest first.
    pub const ALL: [Self; 4] = [Self::V4, Self::V3, Self::V2, Self::V1];

    /// Its name in `X-Stream-Protocol-Version` headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "channel.k8s.io",
            Self::V2 => "v2.channel.k8s.io",
            Self::V3 => "v3.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
        }
    }

    /// The version with this name; no name means V1.
    pub fn from_name(name: &str) -> Option<Self> {
        if name.is_empty() {
            return Some(Self::V1);
        }
        Self::ALL.into_iter().find(|version| version.name() == name)
    }
}

/// What client and server agreed on before the first stream.
#[derive(Debug, Clone)]
pub struct Agreement {
    /// The negotiated version.
    pub version: Version,
    /// Whether the client sends a stdin.
    pub stdin: bool,
    /// Whether the client reads stdout.
    pub stdout: bool,
    /// Whether the client reads stderr; never together with `tty`.
    pub stderr: bool,
    /// Whether there is a terminal; from V3 on also with sizes.
    pub tty: bool,
    /// How long the client may take to open its streams.
    pub creation: Duration,
}

/// A client that has opened its streams.
pub struct RemoteCommand {
    /// The streams for the process. Drop them when the process has ended, to end the client's.
    pub io: ProcessIo,
    /// Sends the result.
    pub errors: ErrorStream,
    /// Cancelled once the client is gone.
    pub gone: CancellationToken,
    /// Must be kept until the end.
    pub background: Background,
}

/// Reads terminal sizes and keeps superfluous streams open, until dropped.
#[derive(Debug, Default)]
pub struct Background {
    resize: JoinSet<()>,
    unused: Vec<WriteHalf>,
}

/// The stream for the result of the process.
#[derive(Debug)]
pub struct ErrorStream(WriteHalf);

impl ErrorStream {
    /// Sends `text` and ends the stream. In versions before 4 an empty text means success.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn finish(mut self, text: &[u8]) -> io::Result<()> {
        self.0.write_all(text).await?;
        self.0.shutdown().await
    }
}

/// The client did not open the streams that it had requested.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// The time limit was reached.
    #[error("timed out waiting for the client to create streams: no {}", .missing.join(", no "))]
    TimedOut {
        /// The streams that are missing.
        missing: Vec<&'static str>,
        /// The stream for the error, if it was opened.
        errors: Option<ErrorStream>,
    },
    /// It closed the connection.
    #[error("the client closed the connection before it had created its streams")]
    Gone,
}

/// The stdin stream. Its reverse direction is kept open until this is dropped, because clients stop
/// sending when it ends.
struct Stdin(Stream);

impl AsyncRead for Stdin {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

/// Waits for the client to open the streams of an exec or attach.
///
/// Streams that were not agreed on are accepted and ignored; unknown and duplicate ones are
/// refused.
///
/// # Errors
/// When the client does not open all required streams in time.
pub async fn remote_command(
    mut incoming: Incoming,
    agreement: Agreement,
) -> Result<RemoteCommand, NotStarted> {
    let mut places = Places::new(&agreement);
    let all_there = async {
        while !places.missing().is_empty() {
            let new = incoming.next().await?;
            // A stream without a slot is dropped, and thereby refused.
            if let Some(place) = places.free(new.headers.get("streamtype")) {
                place.take(new.accept());
            }
        }
        Some(())
    };
    // Cancel-safe: the streams are stored in `places`.
    match tokio::time::timeout(agreement.creation, all_there).await {
        Ok(Some(())) => Ok(places.into_command(agreement.tty, incoming.gone())),
        Ok(None) => Err(NotStarted::Gone),
        Err(_) => {
            let missing = places.missing();
            let errors = places.take(ERROR).map(|stream| ErrorStream(stream.into_split().1));
            Err(NotStarted::TimedOut { missing, errors })
        }
    }
}

const ERROR: &str = "error";
const STDIN: &str = "stdin";
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";
const RESIZE: &str = "resize";

/// Slots for the streams of a remote command.
struct Places([Place; 5]);

struct Place {
    name: &'static str,
    agreed: bool,
    stream: Option<Stream>,
}

impl Place {
    fn take(&mut self, stream: Stream) {
        // Unread data must not fill the buffer shared by all streams.
        if !self.agreed || !matches!(self.name, STDIN | RESIZE) {
            stream.ignore_input();
        }
        self.stream = Some(stream);
    }
}

impl Places {
    fn new(agreement: &Agreement) -> Self {
        let place = |name, agreed| Place { name, agreed, stream: None };
        Self([
            place(ERROR, true),
            place(STDIN, agreement.stdin),
            place(STDOUT, agreement.stdout),
            place(STDERR, agreement.stderr && !agreement.tty),
            place(RESIZE, agreement.tty && agreement.version >= Version::V3),
        ])
    }

    fn missing(&self) -> Vec<&'static str> {
        let is_missing = |place: &&Place| place.agreed && place.stream.is_none();
        self.0.iter().filter(is_missing).map(|place| place.name).collect()
    }

    fn free(&mut self, name: Option<&str>) -> Option<&mut Place> {
        let place = self.0.iter_mut().find(|place| Some(place.name) == name)?;
        Some(place).filter(|place| place.stream.is_none())
    }

    /// The stream in a slot, if it was agreed on.
    fn take(&mut self, name: &str) -> Option<Stream> {
        let place = self.0.iter_mut().find(|place| place.agreed && place.name == name)?;
        place.stream.take()
    }

    fn into_command(mut self, tty: bool, gone: CancellationToken) -> RemoteCommand {
        let output = |stream: Stream| Box::pin(stream.into_split().1) as Output;
        let errors = self.take(ERROR).expect("nothing is missing");
        let mut background = Background::default();
        let io = ProcessIo {
            stdin: self.take(STDIN).map(|stream| Box::pin(Stdin(stream)) as Input),
            stdout: self.take(STDOUT).map(output),
            stderr: self.take(STDERR).map(output),
            tty,
            resize: self.take(RESIZE).map(|stream| {
                let (sizes, receiver) = mpsc::channel(1);
                background.resize.spawn(read_sizes(stream, sizes));
                receiver
            }),
        };
        let unused = self.0.into_iter().filter_map(|place| place.stream);
        background.unused = unused.map(|stream| stream.into_split().1).collect();
        RemoteCommand { io, errors: ErrorStream(errors.into_split().1), gone, background }
    }
}

/// Forwards the sizes that a client sends.
async fn read_sizes(mut stream: Stream, sizes: mpsc::Sender<TerminalSize>) {
    let (mut decoder, mut piece) = (Sizes::default(), [0; 512]);
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        if let Some(size) = decoder.push(&piece[..length])
            && sizes.send(size).await.is_err()
        {
            return;
        }
    }
}
