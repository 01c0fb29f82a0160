//! What a pull is doing, for whoever watches.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast;

use crate::model::image::Digest;

/// Events kept for a slow watcher; older ones are lost to it.
const WINDOW: usize = 1024;
/// Bytes between two events of one layer.
const STRIDE: u64 = 1 << 20;

/// One step of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// Normalised reference.
    pub reference: String,
    /// The layer, or `None` when the whole image is meant.
    pub digest: Option<Digest>,
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all; 0 while it is not known.
    pub total: u64,
    /// What happens.
    pub state: PullState,
}

/// What happens to a layer or an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullState {
    /// The registry is asked what the reference means.
    Resolving,
    /// The layer is part of the image; others are before it.
    Waiting,
    /// Bytes arrive.
    Downloading,
    /// Stored: just now or already before.
    Stored,
    /// The layer is in its snapshot.
    Unpacked,
    /// The image has its names.
    Done,
    /// The pull failed; nothing is left of it.
    Failed,
}

/// Tells about pulls.
pub(super) struct Announcer(broadcast::Sender<PullProgress>);

impl Announcer {
    pub fn new() -> Self {
        Self(broadcast::Sender::new(WINDOW))
    }

    pub fn subscribe(&self) -> broadcast::Receiver<PullProgress> {
        self.0.subscribe()
    }

    /// Of one pull.
    pub fn of<'a>(&'a self, reference: &'a str) -> Report<'a> {
        Report { announcer: self, reference }
    }
}

/// Tells about one pull.
#[derive(Clone, Copy)]
pub(super) struct Report<'a> {
    announcer: &'a Announcer,
    reference: &'a str,
}

impl Report<'_> {
    /// About the whole image.
    pub fn image(&self, state: PullState, total: u64) {
        self.send(None, total, total, state);
    }

    /// About a layer.
    pub fn layer(&self, digest: &Digest, done: u64, total: u64, state: PullState) {
        self.send(Some(digest), done, total, state);
    }

    fn send(&self, digest: Option<&Digest>, done: u64, total: u64, state: PullState) {
        if self.announcer.0.receiver_count() > 0 {
            let (reference, digest) = (self.reference.to_owned(), digest.cloned());
            // Nobody listening is fine.
            let _ = self.announcer.0.send(PullProgress { reference, digest, done, total, state });
        }
    }
}

/// Lets through one event for each stride of bytes.
#[derive(Default)]
pub(super) struct Strides(AtomicU64);

impl Strides {
    /// Whether `done` bytes are worth an event.
    pub fn reached(&self, done: u64) -> bool {
        let stride = done / STRIDE + 1;
        self.0.fetch_max(stride, Ordering::Relaxed) < stride
    }
}
