//! What happened to pods: a bounded list of events, and those who follow it.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::face::Error;
use super::object::PodKey;
use super::view::{Event, EventType};
use super::watch::Hub;
use crate::board::now;
use crate::locks::{Mutex, MutexGuard};

/// Events that are kept.
const KEPT: usize = 1000;

/// Events that a follower may be behind.
const QUEUE: usize = 1000;

/// Whose event: key and uid of the pod, and the container.
pub(super) type Whose = (PodKey, String, Option<String>);

/// The events of this agent's life.
pub(super) struct EventLog {
    kept: Mutex<Kept>,
    news: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Kept {
    number: u64,
    events: VecDeque<Event>,
}

impl EventLog {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::default(), news: broadcast::channel(QUEUE).0 }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }

    /// Adds an event. One that is there already is counted and becomes the newest.
    pub(super) fn add(
        &self,
        (pod, uid, container): Whose,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) {
        let at = now();
        let mut kept = self.kept();
        kept.number += 1;
        let same = |event: &Event| {
            event.uid == uid
                && event.reason == reason
                && event.container == container
                && event.message == message
        };
        let old = kept.events.iter().position(same).and_then(|place| kept.events.remove(place));
        let number = kept.number;
        let event = match old {
            Some(old) => Event { number, last: at, count: old.count.saturating_add(1), ..old },
            None => Event {
                number,
                pod,
                uid,
                container,
                kind,
                reason,
                message,
                first: at,
                last: at,
                count: 1,
            },
        };
        kept.events.push_back(event.clone());
        if kept.events.len() > KEPT {
            kept.events.pop_front();
        }
        // Under the lock: a new follower has each event once. Nobody listening is fine.
        let _ = self.news.send(event);
    }

    /// The kept events, then, with `follow`, those to come.
    pub(super) fn read(
        self: &Arc<Self>,
        wanted: impl Fn(&Event) -> bool + Send + Sync + 'static,
        follow: bool,
        hub: Arc<Hub>,
    ) -> super::face::Events {
        let (kept, news) = {
            let kept = self.kept();
            let news = follow.then(|| self.news.subscribe());
            (kept.events.iter().cloned().collect::<Vec<_>>(), news)
        };
        let stream = async_stream::stream! {
            for event in kept {
                if wanted(&event) {
                    yield Ok(event);
                }
            }
            let Some(mut news) = news else { return };
            loop {
                match news.recv().await {
                    Ok(event) if wanted(&event) => yield Ok(event),
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(_)) => {
                        yield Err(Error::TooSlow { current: hub.revision() });
                        return;
                    }
                }
            }
        };
        stream.boxed()
    }
}
