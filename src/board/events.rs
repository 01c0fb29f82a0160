//! News for subscribers: each has a bounded queue of its own, so a slow one blocks nobody.

use tokio::sync::mpsc;

use super::{Container, Sandbox};
use crate::model::UnixNanos;

/// Events a subscriber may fall behind before it is cut off.
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

/// Something happened to a container, or to a sandbox (then `container` is the pod's id).
#[derive(Debug, Clone)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// Container id, or pod id for the sandbox itself.
    pub container: String,
    /// When.
    pub at: UnixNanos,
    /// The pod at that moment.
    pub sandbox: Sandbox,
    /// Its containers at that moment.
    pub containers: Vec<Container>,
}

/// One subscriber's queue: first the present state, then the news.
#[derive(Debug)]
pub struct Subscription {
    present: std::vec::IntoIter<Event>,
    news: mpsc::Receiver<Event>,
}

impl Subscription {
    /// News from a queue alone, without a present state.
    #[cfg(test)]
    pub(crate) fn from_queue(news: mpsc::Receiver<Event>) -> Self {
        Self { present: Vec::new().into_iter(), news }
    }

    /// The next event; `None` once this subscriber has fallen too far behind. Cancel-safe.
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

    /// Sends to all; one whose queue is full is cut off, and its stream ends after what it has.
    pub(super) fn send(&mut self, event: &Event) {
        self.0.retain(|sender| sender.try_send(event.clone()).is_ok());
    }
}
