//! Transfers frames between a socket and its streams.

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio_util::sync::CancellationToken;

use super::frame::{Control, GoAway, HEAD, Head, Reset};
use super::headers::{Headers, Inflater};
use super::shared::{Shared, Turn};
use super::streams::Stream;
use super::{Error, Limits};

/// Size of the read buffer, and maximum size of a part of a data frame that is transferred at once.
const READ: usize = 16 << 10;
/// A batch buffer that has grown beyond this is freed before a wait.
const KEPT: usize = 16 << 10;
/// How long a client that violated the protocol has to read the last frame.
const LAST_FRAME: Duration = Duration::from_secs(1);
/// How long a client has to close after the last frame. Closing a socket with unread data resets
/// the connection, and the client would lose what it has not read yet.
const LINGER: Duration = Duration::from_secs(10);

/// The server side of a SPDY connection. It works only while [`Connection::run`] is polled.
#[derive(Debug)]
pub struct Connection<Io> {
    io: Io,
    shared: Arc<Shared>,
}

/// The streams that a client opens. Once dropped, further ones are refused; once all streams are
/// dropped too and everything is written, the connection closes by itself.
#[derive(Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
}

/// A new stream that was not accepted yet. Dropping it refuses the stream.
#[derive(Debug)]
pub struct NewStream {
    /// The headers in its SYN_STREAM.
    pub headers: Headers,
    stream: Option<Stream>,
}

impl<Io: AsyncRead + AsyncWrite> Connection<Io> {
    /// A connection over `io`, whose next byte is the first of SPDY, and its incoming streams.
    pub fn server(io: Io, limits: Limits) -> (Self, Incoming) {
        let shared = Arc::new(Shared::new(limits));
        (Self { io, shared: shared.clone() }, Incoming { shared })
    }

    /// Transfers frames until the client or the owner of the streams ends the connection. May be
    /// dropped at any time, in which case all streams fail.
    ///
    /// # Errors
    /// When it ended otherwise. In all cases the streams have failed when this returns.
    pub async fn run(self) -> Result<(), Error> {
        let Self { io, shared } = self;
        let ended = FailStreams(shared.clone());
        let (read, write) = tokio::io::split(io);
        let mut read = BufReader::with_capacity(READ, read);
        let mut written = std::pin::pin!(write_frames(&shared, write));
        // Dropping the reader in the middle of a frame is fine, since nothing is read after that.
        let outcome = tokio::select! {
            result = read_frames(&shared, &mut read) => result.map(|()| false),
            result = &mut written => result.map(|()| true).map_err(Error::Write),
            () = idle(&shared) => Err(Error::Idle(shared.limits.idle)),
        };
        drop(ended);
        let last = match outcome {
            Ok(is_ours) => {
                if is_ours {
                    linger(read).await;
                }
                return Ok(());
            }
            Err(Error::Read(_) | Error::Write(_)) => None,
            Err(Error::Violation(_)) => Some(GoAway::Protocol),
            Err(Error::Idle(_)) => Some(GoAway::Fine),
        };
        if let Some(status) = last {
            shared.lock().give_up = Some(status);
            shared.write.notify_one();
            // If the client does not read it, the closed connection is the answer.
            let _ = tokio::time::timeout(LAST_FRAME, written).await;
        }
        outcome.map(drop)
    }
}

/// Fails all streams when `run` ends or is dropped.
struct FailStreams(Arc<Shared>);

impl Drop for FailStreams {
    fn drop(&mut self) {
        self.0.fail();
    }
}

/// Reads frames until the client closes.
async fn read_frames(shared: &Shared, read: &mut (impl AsyncBufRead + Unpin)) -> Result<(), Error> {
    let mut inflater = Inflater::default();
    let limits = &shared.limits;
    loop {
        shared.wait_for_room().await;
        if read.fill_buf().await.map_err(Error::Read)?.is_empty() {
            return Ok(());
        }
        let mut head = [0; HEAD];
        read.read_exact(&mut head).await.map_err(Error::Read)?;
        match Head::parse(head).map_err(Error::Violation)? {
            Head::Data { id, fin, length } => {
                shared.data_begins(id, length).map_err(Error::Violation)?;
                read_data(shared, read, id, length).await.map_err(Error::Read)?;
                if fin {
                    shared.data_ends(id);
                }
            }
            Head::Control { length, .. } if length > limits.header_bytes => {
                let limit = limits.header_bytes;
                return Err(Error::Violation(super::Violation::FrameLength { length, limit }));
            }
            Head::Control { kind, flags, length } => {
                let payload = read_payload(read, length).await.map_err(Error::Read)?;
                Control::parse(kind, flags, &payload, &mut inflater, limits)
                    .and_then(|control| shared.control(control))
                    .map_err(Error::Violation)?;
            }
        }
    }
}

/// Transfers the payload of a data frame to its stream, in parts as buffer space allows.
async fn read_data(
    shared: &Shared,
    read: &mut (impl AsyncBufRead + Unpin),
    id: u32,
    length: usize,
) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        shared.wait_for_room().await;
        let part = read.fill_buf().await?;
        let part = &part[..part.len().min(left)];
        if part.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        shared.data(id, part);
        let taken = part.len();
        read.consume(taken);
        left -= taken;
    }
    Ok(())
}

/// Reads a whole payload into a buffer that grows with the received data, not with the claimed
/// length.
async fn read_payload(
    read: &mut (impl AsyncBufRead + Unpin),
    length: usize,
) -> io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    read.take(length as u64).read_to_end(&mut payload).await?;
    if payload.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(payload)
}

/// Writes pending frames up to the last one, then closes the writing direction.
async fn write_frames(shared: &Shared, mut write: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        let turn = shared.next_batch(&mut batch);
        if !batch.is_empty() {
            write.write_all(&batch).await?;
            batch.clear();
            write.flush().await?;
        }
        match turn {
            Turn::Write => {}
            Turn::Last => return write.shutdown().await,
            Turn::Nothing => {
                if batch.capacity() > KEPT {
                    batch = Vec::new();
                }
                shared.write.notified().await;
            }
        }
    }
}

/// Completes when the connection was idle for too long.
async fn idle(shared: &Shared) {
    loop {
        tokio::time::sleep(shared.limits.ping_every.min(shared.limits.idle)).await;
        if shared.is_idle() {
            return;
        }
    }
}

/// Waits for the client to close, and discards what it still sends.
async fn linger(mut read: impl AsyncRead + Unpin) {
    let mut nowhere = tokio::io::sink();
    // The result does not matter: everything was sent.
    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut read, &mut nowhere)).await;
}

impl Incoming {
    /// The next stream; `None` when the client opens no more.
    pub async fn next(&mut self) -> Option<NewStream> {
        std::future::poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Some((id, headers)) = state.arrivals.pop_front() {
                let stream = Some(Stream::new(id, &self.shared));
                return Poll::Ready(Some(NewStream { headers, stream }));
            }
            if state.failed || state.going_away {
                return Poll::Ready(None);
            }
            state.arrival_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Cancelled once the connection has ended for any reason.
    pub fn gone(&self) -> CancellationToken {
        self.shared.gone.clone()
    }
}

#[cfg(test)]
impl Incoming {
    pub(super) fn open_streams(&self) -> usize {
        self.shared.lock().streams.len()
    }

    pub(super) fn buffered(&self) -> usize {
        self.shared.lock().buffered
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let arrivals = {
            let mut state = self.shared.lock();
            state.accepting = false;
            std::mem::take(&mut state.arrivals)
        };
        // Dropping each one takes the lock.
        for (id, _) in arrivals {
            Stream::new(id, &self.shared).reset_as(Reset::Refused);
        }
        self.shared.write.notify_one();
    }
}

impl NewStream {
    /// Accepts the stream (SYN_REPLY).
    pub fn accept(mut self) -> Stream {
        let stream = self.stream.take().expect("it is taken here or in drop");
        stream.reply();
        stream
    }

    /// The stream id, chosen by the client.
    pub fn id(&self) -> u32 {
        self.stream.as_ref().map_or(0, Stream::id)
    }
}

impl Drop for NewStream {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.reset_as(Reset::Refused);
        }
    }
}
