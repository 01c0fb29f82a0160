//! The two halves of a stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::Reset;
use super::shared::Shared;
use super::state::End;

/// An accepted stream. Dropping it ends the server's direction, and discards what the client still
/// sends.
#[derive(Debug)]
pub struct Stream {
    read: ReadHalf,
    write: WriteHalf,
}

/// Reads what the client sends. After a drop the rest is discarded.
#[derive(Debug)]
pub struct ReadHalf(Handle);

/// Writes to the client. `flush` does nothing: data is sent as soon as the connection allows.
/// Dropping it ends this direction after all data was sent.
#[derive(Debug)]
pub struct WriteHalf(Handle);

#[derive(Debug)]
struct Handle {
    id: u32,
    shared: Arc<Shared>,
}

impl Stream {
    /// The two halves of the existing stream `id`.
    pub(super) fn new(id: u32, shared: &Arc<Shared>) -> Self {
        let handle = || Handle { id, shared: shared.clone() };
        Self { read: ReadHalf(handle()), write: WriteHalf(handle()) }
    }

    /// The stream id, chosen by the client.
    pub fn id(&self) -> u32 {
        self.write.0.id
    }

    /// Discards everything that the client sends from now on.
    pub fn ignore_input(&self) {
        self.read.0.stop_reading();
    }

    /// Ends the stream in both directions at once; unsent data is discarded.
    pub fn reset(self) {
        self.reset_as(Reset::Cancel);
    }

    pub(super) fn reset_as(self, status: Reset) {
        self.write.0.reset(status);
    }

    pub(super) fn reply(&self) {
        self.write.0.shared.lock().reply(self.id());
        self.write.0.shared.write.notify_one();
    }

    /// Splits into two halves with separate owners.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }
}

impl WriteHalf {
    /// Ends the stream in both directions at once; unsent data is discarded.
    pub fn reset(&self) {
        self.0.reset(Reset::Cancel);
    }

    /// Completes when the stream was reset or the connection has ended. Cancel-safe; must not be
    /// awaited concurrently with a write in another task.
    pub async fn broken_off(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.shared.lock();
            let failed = state.failed;
            match state.streams.get_mut(&self.0.id) {
                Some(entry) if !failed && !entry.reset => {
                    entry.write_waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl Handle {
    fn stop_reading(&self) {
        self.shared.lock().drop_reader(self.id);
        self.shared.room.notify_one();
        self.shared.write.notify_one();
    }

    fn reset(&self, status: Reset) {
        self.shared.lock().reset(self.id, status);
        self.shared.write.notify_one();
        self.shared.room.notify_one();
    }
}

fn broken(kind: io::ErrorKind, what: &str) -> io::Error {
    io::Error::new(kind, what.to_owned())
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Handle { id, shared } = &self.0;
        let mut state = shared.lock();
        let failed = state.failed;
        let Some(entry) = state.streams.get_mut(id).filter(|_| !failed) else {
            let error = broken(io::ErrorKind::ConnectionReset, "the client is gone");
            return Poll::Ready(Err(error));
        };
        if entry.reset {
            let error = broken(io::ErrorKind::ConnectionReset, "the stream was reset");
            return Poll::Ready(Err(error));
        }
        if entry.received.is_empty() && !entry.received_all {
            entry.read_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = entry.received.len().min(buf.remaining());
        buf.put_slice(&entry.received[..length]);
        entry.received.advance(length);
        shared.was_read(&mut state, *id, length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Handle { id, shared } = &self.0;
        let mut state = shared.lock();
        let failed = state.failed;
        let Some(entry) = state.streams.get_mut(id).filter(|_| !failed) else {
            let error = broken(io::ErrorKind::BrokenPipe, "the client is gone");
            return Poll::Ready(Err(error));
        };
        if entry.reset || entry.end != End::Open {
            let error = broken(io::ErrorKind::BrokenPipe, "the stream has ended");
            return Poll::Ready(Err(error));
        }
        let length = bytes.len().min(shared.limits.stream_buffer - entry.to_send.len());
        if length == 0 && !bytes.is_empty() {
            entry.write_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        entry.to_send.extend_from_slice(&bytes[..length]);
        state.enqueue(*id);
        drop(state);
        shared.write.notify_one();
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shared.lock().finish(self.0.id);
        self.0.shared.write.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().write).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().write).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().write).poll_shutdown(cx)
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.0.stop_reading();
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.shared.lock().drop_writer(self.0.id);
        self.0.shared.write.notify_one();
    }
}
