//! The body of a call whose caller has to begin to send it soon: a call is counted from its head on,
//! so heads alone must not take the slots of others.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

/// How long a caller may take to begin its first message.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A body that fails if nothing of it comes in time.
pub(super) struct Prompt {
    body: Body,
    wait: Option<Wait>,
}

/// Nothing has come yet.
struct Wait {
    until: Instant,
    /// Started when the body is not there at once.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Prompt {
    pub fn new(body: Body) -> Self {
        Self { body, wait: Some(Wait { until: Instant::now() + PATIENCE, sleep: None }) }
    }
}

impl HttpBody for Prompt {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.wait = None;
            return Poll::Ready(frame);
        }
        let Some(Wait { until, sleep }) = &mut self.wait else { return Poll::Pending };
        let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(*until)));
        if sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.wait = None;
        let late = format!("the first message did not begin within {PATIENCE:?}");
        Poll::Ready(Some(Err(Status::deadline_exceeded(late))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
