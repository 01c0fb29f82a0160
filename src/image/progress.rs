//! Progress events of pulls.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast;

use crate::model::image::Digest;

/// How many events are kept for a slow subscriber; it misses older ones.
const WINDOW: usize = 1024;
/// Bytes between two events of one layer.
const STRIDE: u64 = 1 << 20;

/// A progress event of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// Normalised reference.
    pub reference: String,
    /// The layer; `None` for the whole image.
    pub digest: Option<Digest>,
    /// Bytes so far.
    pub done: u64,
    /// Total bytes; 0 if unknown.
    pub total: u64,
    /// What happened.
    pub state: PullState,
}

/// State of a layer or an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullState {
    /// The registry is resolving the reference.
    Resolving,
    /// The layer waits for other layers, or the image for other pulls.
    Waiting,
    /// Bytes are arriving.
    Downloading,
    /// Stored, now or already before.
    Stored,
    /// The layer is unpacked into its snapshot.
    Unpacked,
    /// The image has its names.
    Done,
    /// The pull failed; nothing is left of it.
    Failed,
}

/// Sends progress events.
pub(super) struct Announcer(broadcast::Sender<PullProgress>);

impl Announcer {
    pub fn new() -> Self {
        Self(broadcast::Sender::new(WINDOW))
    }

    pub fn subscribe(&self) -> broadcast::Receiver<PullProgress> {
        self.0.subscribe()
    }

    /// A reporter for one pull.
    pub fn of<'a>(&'a self, reference: &'a str) -> Report<'a> {
        Report { announcer: self, reference }
    }
}

/// Reports the progress of one pull.
#[derive(Clone, Copy)]
pub(super) struct Report<'a> {
    announcer: &'a Announcer,
    reference: &'a str,
}

impl Report<'_> {
    /// Reports on the whole image.
    pub fn image(&self, state: PullState, total: u64) {
        self.send(None, total, total, state);
    }

    /// Reports on a layer.
    pub fn layer(&self, digest: &Digest, done: u64, total: u64, state: PullState) {
        self.send(Some(digest), done, total, state);
    }

    fn send(&self, digest: Option<&Digest>, done: u64, total: u64, state: PullState) {
        if self.announcer.0.receiver_count() > 0 {
            let (reference, digest) = (self.reference.to_owned(), digest.cloned());
            // It is fine if nobody listens.
            let _ = self.announcer.0.send(PullProgress { reference, digest, done, total, state });
        }
    }
}

/// Limits events to one for each stride of bytes.
#[derive(Default)]
pub(super) struct Strides(AtomicU64);

impl Strides {
    /// Whether `done` bytes have reached the next stride.
    pub fn reached(&self, done: u64) -> bool {
        let stride = done / STRIDE + 1;
        self.0.fetch_max(stride, Ordering::Relaxed) < stride
    }
}
