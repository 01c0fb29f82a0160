//! Middleware for every call: refuses calls before recovery has ended, limits concurrent calls,
//! writes a log line, catches panics. It never inspects bodies.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::status::not_ready;

/// Maximum number of concurrent calls; a kubelet with hundreds of pods stays far below.
const MAX_CALLS: usize = 1024;

/// Calls of these services are gated and counted; health and reflection are not.
const GATED: [&str; 2] = ["/runtime.v1.", "/podbay.v1."];

/// The one call that is always answered.
const ALWAYS: &str = "/runtime.v1.RuntimeService/Version";

/// Wraps a service with [`Front`].
#[derive(Clone)]
pub(super) struct FrontLayer {
    ready: watch::Receiver<bool>,
    calls: Arc<Semaphore>,
}

impl FrontLayer {
    /// Gated calls are refused until `ready` is true.
    pub fn new(ready: watch::Receiver<bool>) -> Self {
        Self { ready, calls: Arc::new(Semaphore::new(MAX_CALLS)) }
    }
}

impl<S> Layer<S> for FrontLayer {
    type Service = Front<S>;

    fn layer(&self, inner: S) -> Front<S> {
        Front { inner, gate: self.clone() }
    }
}

/// The service that every call passes through.
#[derive(Clone)]
pub(super) struct Front<S> {
    inner: S,
    gate: FrontLayer,
}

impl<S> Service<Request<Body>> for Front<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let span = tracing::debug_span!("rpc", method = path);
        let gated = GATED.iter().any(|package| path.starts_with(package));
        if gated && path != ALWAYS && !*self.gate.ready.borrow() {
            let refused = not_ready();
            span.in_scope(|| tracing::debug!(code = ?refused.code(), "request refused"));
            return Box::pin(async { Ok(refused.into_http()) });
        }
        let place = gated.then(|| Arc::clone(&self.gate.calls).try_acquire_owned());
        let Ok(place) = place.transpose() else {
            let full = Status::resource_exhausted(format!("{MAX_CALLS} calls are in flight"));
            return Box::pin(async { Ok(full.into_http()) });
        };
        let started = Instant::now();
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let work = async move {
            let _place = place;
            let response = match answer.await {
                Ok(answer) => answer?,
                Err(panic) => after_panic(&*panic),
            };
            note(&response, started);
            Ok(response)
        };
        Box::pin(work.instrument(span))
    }
}

/// Answers a call whose handler panicked; the connection stays open.
fn after_panic(panic: &(dyn Any + Send)) -> Response<Body> {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("unknown"), "handler panicked");
    Status::internal("internal error: the call panicked, see the agent's log").into_http()
}

/// Logs one line per call. An error is in the response head; a stream may still end later.
fn note(response: &Response<Body>, started: Instant) {
    let elapsed = started.elapsed();
    match Status::from_header_map(response.headers()) {
        None => tracing::debug!(code = "Ok", ?elapsed, "request finished"),
        Some(status) => {
            tracing::debug!(code = ?status.code(), ?elapsed, error = status.message(),
                "request finished");
        }
    }
}
