//! Pod events: a bounded list, and its followers.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::face::Error;
use super::object::PodKey;
use super::view::{Event, EventType};
use super::watch::Hub;
use crate::clock::now;
use crate::locks::{Mutex, MutexGuard};

/// Maximum number of stored events.
const KEPT: usize = 1000;

/// How many events a follower may lag behind.
const QUEUE: usize = 1000;

/// The object of an event: key and uid of the pod, and the container.
pub(super) type Whose = (PodKey, String, Option<String>);

/// The events since the start of this agent.
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

    /// Adds an event. An equal one is counted, keeps its number, and becomes the newest.
    pub(super) fn add(
        &self,
        (pod, uid, container): Whose,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) {
        let at = now();
        let mut kept = self.kept();
        let same = |event: &Event| {
            event.uid == uid
                && event.reason == reason
                && event.container == container
                && event.message == message
        };
        let old = kept.events.iter().position(same).and_then(|place| kept.events.remove(place));
        let event = match old {
            Some(old) => Event { last: at, count: old.count.saturating_add(1), ..old },
            None => {
                kept.number += 1;
                let number = kept.number;
                let (first, last, count) = (at, at, 1);
                Event { number, pod, uid, container, kind, reason, message, first, last, count }
            }
        };
        kept.events.push_back(event.clone());
        if kept.events.len() > KEPT {
            kept.events.pop_front();
        }
        // Under the lock, so that a new follower gets each event once. It is fine if nobody
        // listens.
        let _ = self.news.send(event);
    }

    /// The stored events and then, with `follow`, new ones.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_that_occurs_again_keeps_its_number_and_becomes_the_newest() {
        let start = crate::store::Revision { epoch: String::new(), number: 0 };
        let hub = Arc::new(Hub::new(start, crate::pod::watch::HubOptions::default()));
        let log = Arc::new(EventLog::new());
        let add = |message: &str| {
            let whose = (PodKey::new("n", "web"), "u".to_owned(), None);
            log.add(whose, EventType::Normal, "Pulled", message.to_owned());
        };
        let mut news = log.read(|_| true, true, hub.clone());
        ["a", "b", "a", "c"].into_iter().for_each(add);
        let short = |event: Event| (event.number, event.message, event.count);
        let kept: Vec<_> =
            log.read(|_| true, false, hub).map(|event| event.map(short)).collect().await;
        let kept: Vec<_> = kept.into_iter().map(|event| event.expect("an event")).collect();
        let told = |number, message: &str, count| (number, message.to_owned(), count);
        assert_eq!(kept, [told(2, "b", 1), told(1, "a", 2), told(3, "c", 1)]);
        let mut followed = Vec::new();
        while followed.len() < 4 {
            followed.push(short(news.next().await.expect("an event").expect("no fault")).0);
        }
        assert_eq!(followed, [1, 2, 1, 3]);
    }
}
