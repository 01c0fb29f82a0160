//! Copies between the streams of a process and those of its clients.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::backend::{Process, Runtime};
use crate::lifecycle::Backoff;
use crate::model::streams::{Input, Output, TerminalSize};
use crate::telemetry::error_chain;

/// Size of one read, in bytes.
const CHUNK: usize = 16 << 10;
/// Limits on reading an output after its process has ended: total waiting time and bytes. What the
/// process itself wrote is already in the pipe by then. More can only come from children that hold
/// the stream open, and they must not delay the answer.
const AFTER_END: (Duration, usize) = (Duration::from_secs(2), 16 << 20);
/// How long a shim may take to open its end of a stdin.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Output collected in memory.
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    most: usize,
    budget: Arc<Semaphore>,
    /// Permits held of the budget, each worth [`PLACE`] bytes.
    places: Option<OwnedSemaphorePermit>,
    /// Output was discarded because the budget was used up.
    pub(super) cut: bool,
}

/// Bytes per permit of the common budget.
pub(super) const PLACE: usize = 64 << 10;

impl Kept {
    /// Keeps at most `most` bytes, while the shared budget has permits left.
    pub(super) fn new(most: usize, budget: Arc<Semaphore>) -> Self {
        Self { bytes: Vec::new(), most, budget, places: None, cut: false }
    }

    fn take(&mut self, bytes: &[u8]) {
        let wanted = bytes.len().min(self.most.saturating_sub(self.bytes.len()));
        let had = self.places.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let needed = (self.bytes.len() + wanted).div_ceil(PLACE).saturating_sub(had);
        let mut room = had * PLACE - self.bytes.len();
        // One permit is enough: a read is never longer than [`PLACE`].
        if needed > 0
            && let Ok(place) = self.budget.clone().try_acquire_owned()
        {
            room += PLACE;
            match &mut self.places {
                Some(places) => places.merge(place),
                none => *none = Some(place),
            }
        }
        self.cut |= room < wanted;
        self.bytes.extend_from_slice(&bytes[..wanted.min(room)]);
    }
}

/// The destination of an output stream.
pub(super) enum Sink {
    /// To a client. A slow client slows the process down.
    Client(Output),
    /// Into memory, up to its limits; the rest is discarded.
    Kept(Kept),
    /// Discarded.
    Nowhere,
}

impl Sink {
    pub(super) fn of(client: Option<Output>) -> Self {
        client.map_or(Self::Nowhere, Self::Client)
    }

    /// Takes a piece of output. A client whose stream fails is dropped.
    pub(super) async fn take(&mut self, bytes: &[u8], audience: &Audience) {
        match self {
            Self::Client(client) => {
                let written = async {
                    client.write_all(bytes).await?;
                    client.flush().await
                };
                if written.await.is_err() {
                    *self = Self::Nowhere;
                    audience.leave();
                }
            }
            Self::Kept(kept) => kept.take(bytes),
            Self::Nowhere => {}
        }
    }

    /// Tells the client that the output has ended.
    pub(super) async fn end(&mut self) {
        if let Self::Client(client) = self {
            // A failure means that the client is gone already.
            let _ = client.shutdown().await;
        }
    }
}

/// Counts the outputs that clients still accept.
pub(super) struct Audience(watch::Sender<usize>);

impl Audience {
    pub(super) fn of(sinks: [&Sink; 2]) -> Self {
        let clients = sinks.iter().filter(|sink| matches!(sink, Sink::Client(_))).count();
        // With no clients from the start, the count never reaches zero.
        Self(watch::Sender::new(if clients == 0 { usize::MAX } else { clients }))
    }

    fn leave(&self) {
        self.0.send_modify(|left| *left -= 1);
    }

    /// Completes when the last output with a client has failed. Cancel-safe.
    pub(super) async fn gone(&self) {
        // `self` holds the sender.
        let _ = self.0.subscribe().wait_for(|left| *left == 0).await;
    }
}

/// One output of a process, as the agent reads it.
pub(super) struct Source {
    fifo: pipe::Receiver,
    ended: watch::Receiver<bool>,
    /// Time and bytes left for reading; `None` while the process runs.
    left: Option<(Duration, usize)>,
}

impl Source {
    /// `ended` becomes true when the process has ended.
    pub(super) fn new(fifo: pipe::Receiver, ended: watch::Receiver<bool>) -> Self {
        Self { fifo, ended, left: None }
    }

    /// Copies to the end of the stream, or up to the limits of [`AFTER_END`]. Cancel-safe when the
    /// sink is `Kept`.
    pub(super) async fn copy_to(&mut self, sink: &mut Sink, audience: &Audience) {
        let mut buffer = vec![0; CHUNK];
        while let Some(count @ 1..) = self.read(&mut buffer).await {
            sink.take(&buffer[..count], audience).await;
        }
        sink.end().await;
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.left.is_none() {
            // Cancel-safe: the documentation of both calls says so.
            tokio::select! {
                count = self.fifo.read(buffer) => return count.ok(),
                _ = self.ended.wait_for(|ended| *ended) => self.left = Some(AFTER_END),
            }
        }
        let (time, bytes) = self.left.as_mut().filter(|(_, bytes)| *bytes > 0)?;
        let began = Instant::now();
        let count = tokio::time::timeout(*time, self.fifo.read(buffer)).await.ok()?.ok()?;
        *time = time.saturating_sub(began.elapsed());
        *bytes = bytes.saturating_sub(count);
        Some(count)
    }
}

/// Opens the write end of a process's stdin once its shim has opened the reading end, which may be
/// a moment after the start.
///
/// # Errors
/// `ENXIO` when there is no reader: the stdin was closed, or the process has ended.
pub(super) async fn open_input(path: &Path) -> io::Result<pipe::Sender> {
    let until = Instant::now() + OPEN_LIMIT;
    let mut pauses = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));
    loop {
        match pipe::OpenOptions::new().open_sender(path) {
            Err(error) if is_unread(&error) && Instant::now() < until => {
                tokio::time::sleep(pauses.next()).await;
            }
            opened => return opened,
        }
    }
}

/// Whether opening a FIFO failed because it has no reader.
pub(super) fn is_unread(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::ENXIO)
}

/// Copies a client's input to its end. Input that the process no longer reads is discarded, so that
/// the client is not blocked.
pub(super) async fn copy_input(mut from: Input, mut to: Option<pipe::Sender>) {
    let mut buffer = vec![0; CHUNK];
    // A read error counts as the end of the input.
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if let Some(fifo) = &mut to
            && fifo.write_all(&buffer[..count]).await.is_err()
        {
            to = None;
        }
    }
}

/// Tells the shim that a stdin has ended; repeats until the call succeeds.
pub(super) async fn close_stdin(runtime: &dyn Runtime, process: Process<'_>) {
    let close = || async {
        match runtime.close_stdin(process).await {
            Err(error) if !error.is_not_found() => {
                tracing::debug!(
                    id = process.container,
                    error = error_chain(&error),
                    "cannot close stdin"
                );
                Err(())
            }
            _ => Ok(()),
        }
    };
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5)).retry(close).await;
}

/// Forwards a client's terminal sizes, skipping all but the newest of those queued. Never returns.
pub(super) async fn pass_sizes(
    runtime: &dyn Runtime,
    process: Process<'_>,
    sizes: Option<mpsc::Receiver<TerminalSize>>,
) -> Infallible {
    let mut sizes = match sizes {
        Some(sizes) => sizes,
        None => std::future::pending().await,
    };
    while let Some(mut size) = sizes.recv().await {
        while let Ok(newer) = sizes.try_recv() {
            size = newer;
        }
        let (width, height) = (u32::from(size.width), u32::from(size.height));
        if let Err(error) = runtime.resize(process, width, height).await {
            tracing::debug!(
                id = process.container,
                error = error_chain(&error),
                "cannot resize terminal"
            );
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests;
