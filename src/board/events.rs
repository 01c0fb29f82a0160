//! Event subscriptions: each subscriber has a bounded queue of its own, so that a slow one blocks
//! nobody.

use tokio::sync::mpsc;

use std::sync::Arc;

use super::{Container, Sandbox};
use crate::model::UnixNanos;

/// How many events a subscriber may lag behind before it is disconnected.
const QUEUE: usize = 4096;

/// A kind of event (CRI `ContainerEventType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Created.
    Created,
    /// Started.
    Started,
    /// Ended.
    Stopped,
    /// Removed.
    Deleted,
}

/// An event of a container, or of a sandbox (then `container` is the pod id).
#[derive(Debug, Clone)]
pub struct Event {
    /// Kind of the event.
    pub kind: EventKind,
    /// Container id, or pod id for the sandbox itself.
    pub container: String,
    /// Time of the event.
    pub at: UnixNanos,
    /// The pod at that time.
    pub sandbox: Arc<Sandbox>,
    /// The pod's containers at that time.
    pub containers: Vec<Arc<Container>>,
}

/// A subscriber's queue: first the current state as events, then new events.
#[derive(Debug)]
pub struct Subscription {
    present: std::vec::IntoIter<Event>,
    news: mpsc::Receiver<Event>,
}

impl Subscription {
    /// A subscription to new events only, without the current state.
    #[cfg(test)]
    pub(crate) fn from_queue(news: mpsc::Receiver<Event>) -> Self {
        Self { present: Vec::new().into_iter(), news }
    }

    /// The next event; `None` once this subscriber has lagged too far behind. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        match self.present.next() {
            Some(event) => Some(event),
            None => self.news.recv().await,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Subscribers(Vec<mpsc::Sender<Event>>);

impl Subscribers {
    pub(super) fn add(&mut self, present: Vec<Event>) -> Subscription {
        let (sender, news) = mpsc::channel(QUEUE);
        self.0.push(sender);
        Subscription { present: present.into_iter(), news }
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.0.retain(|sender| !sender.is_closed());
        self.0.is_empty()
    }

    /// Sends to all. A subscriber whose queue is full is disconnected: its stream ends after the
    /// events already queued.
    pub(super) fn send(&mut self, event: &Event) {
        self.0.retain(|sender| sender.try_send(event.clone()).is_ok());
    }
}
