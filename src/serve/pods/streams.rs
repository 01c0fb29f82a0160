//! Streaming answers: watches, events, logs, stats.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::{Pods, Shown, convert};
use crate::pod::{self, LogLines, Selector, Watch, WatchEvent};
use crate::proto::podbay::v1;
use crate::serve::auth::Caller;
use crate::serve::quota::{Full, Place, Quota};
use crate::serve::status::bad_field;

/// Maximum number of endless answers; each holds a queue.
const MAX_ENDLESS: usize = 1024;

/// Maximum number of exec, attach and port-forward sessions, the same as in the streaming server.
const MAX_SESSIONS: usize = 1024;

/// Maximum number of log bytes in one message.
const PIECE: usize = 64 << 10;

/// Default interval of resource usage reports.
const INTERVAL: Duration = Duration::from_secs(10);

/// Minimum interval of resource usage reports.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The slots for endless answers, and the token that ends them.
#[derive(Clone)]
pub(super) struct Places {
    free: Quota,
    sessions: Quota,
    closing: CancellationToken,
    /// Who takes them; `None` for a caller on this host, and in the original of all copies.
    caller: Option<Caller>,
}

/// A stream that holds a slot while it exists.
pub(super) fn hold<T: Send + 'static>(place: Place, stream: BoxStream<T>) -> BoxStream<T> {
    Box::pin(stream.map(move |item| {
        let _held = &place;
        item
    }))
}

impl Places {
    pub fn new(closing: CancellationToken) -> Self {
        let (free, sessions) = (Quota::new(MAX_ENDLESS), Quota::new(MAX_SESSIONS));
        Self { free, sessions, closing, caller: None }
    }

    /// The same slots, for the call of this caller.
    pub fn of(&self, caller: Option<&Caller>) -> Self {
        Self { caller: caller.cloned(), ..self.clone() }
    }

    /// Cancelled when the endless answers have to end.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    pub fn take(&self) -> Result<Place, Status> {
        self.free.take(self.caller.as_ref()).map_err(|full| {
            Status::resource_exhausted(match full {
                Full::All(most) => format!("{most} callers are already following"),
                Full::Yours(most) => format!("you are already following {most} times"),
            })
        })
    }

    /// A slot for an exec, attach or port-forward session.
    pub fn session(&self) -> Result<Place, Status> {
        self.sessions.take(self.caller.as_ref()).map_err(|full| {
            Status::resource_exhausted(match full {
                Full::All(most) => format!("{most} sessions are already open"),
                Full::Yours(most) => format!("{most} sessions of yours are already open"),
            })
        })
    }

    /// A stream that holds a slot and ends normally when the agent stops.
    fn endless<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Result<BoxStream<T>, Status> {
        let place = self.take()?;
        let closing = self.closing.clone();
        let held = stream.map(move |item| {
            let _held = &place;
            item
        });
        Ok(Box::pin(held.take_until(closing.cancelled_owned())))
    }
}

impl Pods {
    pub(super) fn watch(
        &self,
        request: v1::WatchRequest,
    ) -> Result<BoxStream<v1::WatchResponse>, Status> {
        let selector = convert::selector(request.selector);
        let after = convert::after(request.after)?;
        let resumed = after.is_some();
        let watch = self.face.watch(selector, after)?;
        self.places.endless(news(watch, Arc::clone(&self.shown), resumed))
    }

    pub(super) fn events(
        &self,
        request: v1::EventsRequest,
    ) -> Result<BoxStream<v1::EventsResponse>, Status> {
        let events = self.face.events(convert::selector(request.selector), request.follow)?;
        self.places.endless(
            events.map(|event| Ok(v1::EventsResponse { event: Some(convert::event(event?)) })),
        )
    }

    pub(super) async fn logs(
        &self,
        request: v1::LogsRequest,
    ) -> Result<BoxStream<v1::LogsResponse>, Status> {
        let (key, options) = convert::logs(request, crate::clock::now())?;
        let lines = self.face.logs(&key, options).await?;
        self.places.endless(pieces(lines))
    }

    pub(super) fn watch_stats(
        &self,
        request: v1::WatchStatsRequest,
    ) -> Result<BoxStream<v1::WatchStatsResponse>, Status> {
        let interval = convert::duration("interval", request.interval)?.unwrap_or(INTERVAL);
        if interval < MIN_INTERVAL {
            return Err(bad_field("interval", "must be at least one second"));
        }
        let selector = convert::selector(request.selector);
        // Reports an invalid selector at once.
        self.face.list(&selector)?;
        let pods = self.clone();
        self.places.endless(async_stream::try_stream! {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let v1::StatsResponse { pods, node } = pods.stats(&selector).await?;
                yield v1::WatchStatsResponse { pods, node };
            }
        })
    }

    pub(super) async fn stats(&self, selector: &Selector) -> Result<v1::StatsResponse, Status> {
        let listed = self.face.list(selector)?.pods;
        let sandbox = |view: &pod::PodView| self.face.sandbox(&view.key()).ok();
        let sandboxes: Vec<_> = listed.iter().map(sandbox).collect();
        let running: Vec<_> = sandboxes.iter().flatten().cloned().collect();
        let measured = self.meters.pods(&running).await;
        let mut by_id: HashMap<_, _> =
            measured.into_iter().map(|stats| (stats.sandbox.id.clone(), stats)).collect();
        let shown = listed
            .iter()
            .zip(sandboxes)
            .map(|(view, id)| convert::pod_stats(view, id.and_then(|id| by_id.remove(&id))));
        let pods = shown.collect();
        let node = convert::node_stats(self.node.to_string(), self.meters.node().await);
        Ok(v1::StatsResponse { pods, node: Some(node) })
    }
}

/// Converts watch events. Before the first bookmark of a watch that was not resumed, no event has a
/// revision to resume from.
fn news(
    watch: Watch,
    shown: Arc<Shown>,
    resumed: bool,
) -> impl Stream<Item = Result<v1::WatchResponse, Status>> + Send {
    use v1::WatchEventType as Type;
    let mut placed = resumed;
    watch.map(move |event| {
        let (kind, view) = match event? {
            WatchEvent::Added(view) => (Type::Added, view),
            WatchEvent::Modified(view) => (Type::Modified, view),
            WatchEvent::Deleted(view) => (Type::Deleted, view),
            WatchEvent::Bookmark(revision) => {
                placed = true;
                return Ok(v1::WatchResponse {
                    r#type: Type::Bookmark.into(),
                    pod: None,
                    revision: Some(convert::revision(revision)),
                });
            }
        };
        Ok(v1::WatchResponse {
            r#type: kind.into(),
            pod: Some(shown.pod(&view)),
            revision: placed.then(|| convert::revision(view.revision)),
        })
    })
}

/// Sends a log in pieces below the message size limit.
fn pieces(lines: LogLines) -> impl Stream<Item = Result<v1::LogsResponse, Status>> + Send {
    lines.flat_map(|text| {
        let pieces: Vec<_> = match text {
            Ok(text) => {
                let piece = |data: &[u8]| Ok(v1::LogsResponse { data: data.to_vec() });
                text.chunks(PIECE).map(piece).collect()
            }
            Err(error) => vec![Err(Status::from(error))],
        };
        futures::stream::iter(pieces)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_holds_its_place_until_its_stream_is_dropped() {
        let places = Places::new(CancellationToken::new());
        let open = || {
            let place = places.session()?;
            Ok::<_, Status>(hold::<()>(place, Box::pin(futures::stream::pending())))
        };
        let mut sessions: Vec<_> = (0..MAX_SESSIONS).map(|_| open().unwrap()).collect();
        let Err(refused) = open() else { panic!("one too many") };
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(places.take().is_ok(), "they take no place of those who follow something");
        sessions.pop();
        assert!(open().is_ok());
    }
}
