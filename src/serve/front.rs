//! Middleware for every call: refuses calls before recovery has ended, limits concurrent calls, keeps
//! the client's deadline, writes a log line, catches panics. It never inspects bodies, but a caller
//! has to begin its first message soon.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::auth::Caller;
use super::prompt::Prompt;
use super::quota::{Full, Quota};
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
    calls: Quota,
}

impl FrontLayer {
    /// Gated calls are refused until `ready` is true.
    pub fn new(ready: watch::Receiver<bool>) -> Self {
        Self { ready, calls: Quota::new(MAX_CALLS) }
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
        let place = gated.then(|| self.gate.calls.take(request.extensions().get::<Caller>()));
        let place = match place.transpose() {
            Ok(place) => place,
            Err(full) => {
                let full = too_many(full);
                return Box::pin(async { Ok(full.into_http()) });
            }
        };
        let request = match gated {
            true => request.map(|body| Body::new(Prompt::new(body))),
            false => request,
        };
        let started = Instant::now();
        let limit = timeout(request.headers());
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        // Set before the server's own timer, which would answer `Cancelled`.
        let answer = tokio::time::timeout(limit.unwrap_or(Duration::MAX), answer);
        let work = async move {
            let _place = place;
            let response = match answer.await {
                Ok(Ok(answer)) => answer?,
                Ok(Err(panic)) => after_panic(&*panic),
                Err(_late) => late(limit.unwrap_or_default()),
            };
            note(&response, started);
            Ok(response)
        };
        Box::pin(work.instrument(span))
    }
}

fn too_many(full: Full) -> Status {
    Status::resource_exhausted(match full {
        Full::All(most) => format!("{most} calls are in flight"),
        Full::Yours(most) => format!("{most} calls of yours are in flight"),
    })
}

/// The time that the client grants the call: the `grpc-timeout` header of the gRPC specification, at
/// most eight digits and a unit. A malformed one counts as none.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Answers a call that did not end within the client's time.
fn late(limit: Duration) -> Response<Body> {
    Status::deadline_exceeded(format!("the call did not end within its timeout of {limit:?}"))
        .into_http()
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

#[cfg(test)]
mod tests {
    use super::*;

    use futures::StreamExt as _;
    use tonic::Code;

    #[tokio::test(start_paused = true)]
    async fn a_call_past_the_clients_timeout_is_answered_deadline_exceeded() {
        let (_, ready) = watch::channel(true);
        let endless = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, std::convert::Infallible>>()
        });
        let mut front = FrontLayer::new(ready).layer(endless);
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/runtime.v1.ImageService/PullImage".parse().unwrap();
        request.headers_mut().insert("grpc-timeout", "1500m".parse().unwrap());
        let begun = Instant::now();
        let response = front.call(request).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_millis(1500));
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("1.5s"), "{status}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_caller_sends_nothing_is_given_up() {
        use http_body_util::{BodyExt as _, StreamBody};
        let (_, ready) = watch::channel(true);
        let reads = tower::service_fn(|request: Request<Body>| async {
            let read = request.into_body().collect().await;
            let answer =
                read.map_or_else(|status| status.into_http(), |_| Status::ok("").into_http());
            Ok::<_, std::convert::Infallible>(answer)
        });
        let mut front = FrontLayer::new(ready).layer(reads);
        let mut code = async |seconds: &'static [u64]| {
            let pauses = futures::stream::iter(seconds).then(|pause| async move {
                tokio::time::sleep(Duration::from_secs(*pause)).await;
                Ok::<_, Status>(hyper::body::Frame::data(bytes::Bytes::from_static(b"x")))
            });
            let mut request = Request::new(Body::new(StreamBody::new(pauses)));
            *request.uri_mut() = "/podbay.v1.Pods/Get".parse().unwrap();
            let response = front.call(request).await.unwrap();
            Status::from_header_map(response.headers()).unwrap().code()
        };
        assert_eq!(code(&[9, 60]).await, Code::Ok, "only the first part has to come soon");
        let begun = Instant::now();
        assert_eq!(code(&[3600]).await, Code::DeadlineExceeded);
        assert_eq!(begun.elapsed(), super::super::prompt::PATIENCE);
    }

    #[test]
    fn timeouts_are_read_as_the_specification_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(read("1000u"), Some(Duration::from_millis(1)));
        assert_eq!(read("1000n"), Some(Duration::from_micros(1)));
        for malformed in ["", "S", "5", "5s", "-5S", "+5S", "123456789S", "5 S", "1.5S"] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
