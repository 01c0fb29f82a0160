//! Raw output for attached clients, and the state shared by a log's copier and its handles.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::format::Stream;
use crate::locks::{Mutex, MutexGuard};

/// Maximum number of chunks queued for one client.
const MAX_CHUNKS: usize = 1024;

/// Maximum number of bytes queued for one client.
const MAX_BYTES: usize = 1 << 20;

/// State shared by both ends of a tap.
#[derive(Debug, Default)]
struct Gauge {
    waiting: AtomicUsize,
    cut: watch::Sender<bool>,
}

/// Receives the output of a process as it is read. Dropping it detaches the client.
#[derive(Debug)]
pub struct Tap {
    chunks: mpsc::Receiver<(Stream, Bytes)>,
    gauge: Arc<Gauge>,
    shared: Arc<Shared>,
}

impl Tap {
    /// The next piece of output; `None` when the log has ended or this client was disconnected.
    /// Cancel-safe.
    pub async fn recv(&mut self) -> Option<(Stream, Bytes)> {
        let (stream, bytes) = self.chunks.recv().await?;
        self.gauge.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        Some((stream, bytes))
    }

    /// Whether this client was disconnected because it read too slowly, so that later output is
    /// missing.
    pub fn was_cut(&self) -> bool {
        *self.gauge.cut.borrow()
    }

    /// Completes when this client is disconnected, otherwise never. Cancel-safe.
    pub fn cut(&self) -> impl Future<Output = ()> + use<> {
        let gauge = Arc::clone(&self.gauge);
        async move {
            // The gauge holds the sender.
            let _ = gauge.cut.subscribe().wait_for(|cut| *cut).await;
        }
    }
}

impl Drop for Tap {
    /// Without this, a silent log would keep a dropped client in its list for ever.
    fn drop(&mut self) {
        if let Some(clients) = self.shared.lock().as_mut() {
            clients.retain(|client| !Arc::ptr_eq(&client.gauge, &self.gauge));
        }
    }
}

#[derive(Debug)]
struct Client {
    chunks: mpsc::Sender<(Stream, Bytes)>,
    gauge: Arc<Gauge>,
}

impl Client {
    /// Queues output for the client; returns false if it has left or reads too slowly.
    fn offer(&self, stream: Stream, bytes: &Bytes) -> bool {
        let waiting = self.gauge.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        if waiting + bytes.len() <= MAX_BYTES {
            match self.chunks.try_send((stream, bytes.clone())) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
                Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        self.gauge.cut.send_replace(true);
        false
    }
}

/// State shared by the copier of a log and its handles.
#[derive(Debug)]
pub(crate) struct Shared {
    /// `None` once the log has ended.
    clients: Mutex<Option<Vec<Client>>>,
    /// Bytes of output that were lost.
    pub(crate) dropped: AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self { clients: Mutex::new(Some(Vec::new())), dropped: AtomicU64::new(0) }
    }

    /// Adds a client; if the log has ended, its output ends at once.
    pub(crate) fn tap(self: &Arc<Self>) -> Tap {
        let (sender, chunks) = mpsc::channel(MAX_CHUNKS);
        let gauge = Arc::new(Gauge::default());
        if let Some(clients) = self.lock().as_mut() {
            clients.push(Client { chunks: sender, gauge: Arc::clone(&gauge) });
        }
        Tap { chunks, gauge, shared: Arc::clone(self) }
    }

    /// Passes output to all clients and removes those that left or are too slow.
    pub(crate) fn offer(&self, stream: Stream, chunk: &[u8]) {
        if let Some(clients) = self.lock().as_mut().filter(|clients| !clients.is_empty()) {
            let bytes = Bytes::copy_from_slice(chunk);
            clients.retain(|client| client.offer(stream, &bytes));
        }
    }

    /// Ends the log: clients receive what is queued for them, then the end.
    pub(crate) fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Client>>> {
        // The list is whole at every point where a holder could panic.
        self.clients.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_leaves_a_silent_log_is_forgotten() {
        let shared = Arc::new(Shared::new());
        let stays = shared.tap();
        for _ in 0..1000 {
            drop(shared.tap());
        }
        let clients = || shared.lock().as_ref().map(Vec::len);
        assert_eq!(clients(), Some(1));
        drop(stays);
        assert_eq!(clients(), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_learns_that_it_was_cut() {
        let shared = Arc::new(Shared::new());
        let mut tap = shared.tap();
        let cut = tap.cut();
        let wait = tokio::time::timeout(std::time::Duration::from_secs(3600), tap.cut());
        assert!(wait.await.is_err() && !tap.was_cut());
        shared.offer(Stream::Stdout, &vec![0; MAX_BYTES]);
        shared.offer(Stream::Stdout, b"more");
        cut.await;
        assert!(tap.was_cut());
        assert_eq!(tap.recv().await.map(|(_, bytes)| bytes.len()), Some(MAX_BYTES));
        assert_eq!(tap.recv().await, None);
    }
}
