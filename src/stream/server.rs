//! The HTTP server: accepts connections, upgrades each once, and runs its session.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request as HttpRequest, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::session::Talk;
use super::upgrade::{Agreement, Protocol, Refusal, negotiate};
use super::{Error, Request, Sessions, Urls};
use crate::lifecycle::{Handshakes, Tasks};
use crate::locks::Mutex;
use crate::telemetry::Seldom;

/// Maximum number of concurrent sessions of an agent.
pub const MAX_SESSIONS: usize = 1024;

/// Time limit for a client to send its request, and to read a refusal.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long clients may take to read the final message when the agent shuts down.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Maximum size of a request head in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Maximum number of headers in a request.
const MAX_HEADERS: usize = 100;

/// TCP keep-alive: idle time before the first probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// TCP keep-alive: interval of probes.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(10);

/// TCP keep-alive: number of unanswered probes before the connection is closed.
const KEEPALIVE_TRIES: u32 = 3;

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Listening address; port 0 selects a free port.
    pub address: SocketAddr,
    /// Base of the issued URLs; `None` derives it from the address.
    pub base_url: Option<url::Url>,
    /// A session without any data for this long is ended.
    pub idle_timeout: Duration,
    /// How long a client may take to open the streams of its SPDY session.
    pub creation_timeout: Duration,
    /// Maximum number of concurrent sessions. Connections whose request is not accepted yet are not
    /// counted.
    pub sessions: usize,
}

/// A bound server that does not run yet.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    urls: Arc<Urls>,
    talk: Talk,
    address: SocketAddr,
    /// Maximum number of concurrent sessions.
    sessions: usize,
    /// Taken by sessions.
    places: Arc<Semaphore>,
}

impl Server {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub async fn bind(
        options: Options,
        sessions: Arc<dyn Sessions>,
        tasks: Tasks,
    ) -> Result<Self, Error> {
        let address = options.address;
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let urls = Arc::new(Urls::new(options.base_url.as_ref(), bound));
        let places = Arc::new(Semaphore::new(options.sessions));
        let Options { idle_timeout, creation_timeout, sessions: most, .. } = options;
        let talk = Talk { sessions, tasks, idle_timeout, creation_timeout };
        let shared = Shared { urls, talk, address: bound, sessions: most, places };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Issues URLs for this server.
    pub fn urls(&self) -> Arc<Urls> {
        self.shared.urls.clone()
    }

    /// Accepts connections until the drain starts. Sessions observe the drain themselves.
    pub async fn run(self) {
        let Self { listener, shared } = self;
        let draining = shared.talk.tasks.draining();
        // Cancel-safe: an accepted connection is handed on at once.
        tokio::select! {
            () = accept(&listener, &shared) => {}
            () = draining => {}
        }
    }
}

/// Accepts connections. Those whose request has not come yet make room for new ones, so that nobody
/// can keep clients out by saying nothing.
async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let (mut handshakes, mut seldom) = (Handshakes::default(), Seldom::default());
    loop {
        // Cancel-safe: an accepted connection is handed on at once, and an ended handshake has
        // handed on its session.
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => {
                    let shared = shared.clone();
                    handshakes.begin(async move { shared.meet(connection).await });
                }
                Err(error) => {
                    // Does not end the server: a client may have disconnected, or file descriptors
                    // may be exhausted.
                    if let Some(unsaid) = seldom.pass() {
                        let pending = handshakes.pending();
                        tracing::warn!(%error, pending, unsaid,
                            "cannot accept a streaming connection");
                    }
                    tokio::time::sleep(handshakes.make_room()).await;
                }
            },
            _ended = handshakes.next() => {}
        }
    }
}

/// A session that starts once its connection is upgraded.
struct Agreed {
    request: Request,
    protocol: Protocol,
    connection: OnUpgrade,
    place: OwnedSemaphorePermit,
}

impl Shared {
    /// Serves one request per connection, and starts its session, as a task of its own, if it is
    /// accepted.
    async fn meet(self: Arc<Self>, connection: TcpStream) {
        let Some(agreed) = self.serve(connection).await else { return };
        let tasks = self.talk.tasks.clone();
        drop(tasks.spawn("streaming session", async move { self.converse(agreed).await }));
    }

    async fn serve(&self, connection: TcpStream) -> Option<Agreed> {
        if let Err(error) = keep_alive(&connection) {
            tracing::debug!(%error, "cannot set keepalive on streaming connection");
        }
        let agreed = Mutex::new(None);
        let handshake = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .serve_connection(
                TokioIo::new(connection),
                service_fn(|request| {
                    let answer = self.answer(request, &agreed);
                    std::future::ready(Ok::<_, Infallible>(answer))
                }),
            )
            .with_upgrades();
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "streaming request failed"),
            Err(_) => tracing::debug!("no streaming request within {HANDSHAKE:?}"),
        }
        agreed.into_inner()
    }

    /// Answers the request and puts the session into `agreed`.
    fn answer(
        &self,
        mut request: HttpRequest<Incoming>,
        agreed: &Mutex<Option<Agreed>>,
    ) -> Response<Full<Bytes>> {
        let taken = match self.take(&request) {
            Ok(taken) => taken,
            Err(refusal) => return refuse(refusal),
        };
        let (session, Agreement { protocol, headers }, place) = taken;
        let connection = hyper::upgrade::on(&mut request);
        let session = Agreed { request: session, protocol, connection, place };
        *agreed.lock() = Some(session);
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        answer
    }

    /// Checks a request, and takes a place for its session. Its token, if any, is used up in any
    /// case.
    fn take(
        &self,
        request: &HttpRequest<Incoming>,
    ) -> Result<(Request, Agreement, OwnedSemaphorePermit), Refusal> {
        let Some(session) = self.urls.redeem(request.uri().path()) else {
            // The same for every invalid token, so that nobody can probe for valid ones.
            return Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found"));
        };
        if ![Method::GET, Method::POST].contains(request.method()) {
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST");
            return Err(refusal.with(header::ALLOW, "GET, POST"));
        }
        if !request.body().is_end_stream() {
            let text = "unable to upgrade: the request must not have a body";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        let mut head = HttpRequest::new(());
        *head.method_mut() = request.method().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        let agreement = negotiate(&head.into_parts().0, &session)?;
        let full = |_| {
            let text = format!("{} sessions are already open", self.sessions);
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(full)?;
        Ok((session, agreement, place))
    }

    async fn converse(&self, agreed: Agreed) {
        let Agreed { request, protocol, connection, place: _held } = agreed;
        let connection = match connection.await {
            Ok(connection) => TokioIo::new(connection),
            Err(error) => return tracing::debug!(%error, "cannot upgrade streaming connection"),
        };
        let path = request.path();
        tracing::debug!(operation = path, ?protocol, "streaming session started");
        let last_words = async {
            self.talk.tasks.draining().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        // Cancel-safe: a session may be dropped at any time.
        tokio::select! {
            () = self.talk.session(connection, protocol, request) => {}
            () = last_words => {}
        }
        tracing::debug!(operation = path, "streaming session ended");
    }
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    let Refusal { status, mut text, headers } = refusal;
    text.push('\n');
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    // No other request may follow on a connection that was not upgraded.
    let always =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CONNECTION, "close")];
    for (name, value) in always.into_iter().chain(headers) {
        answer.headers_mut().append(name, HeaderValue::from_static(value));
    }
    answer
}

/// Enables TCP keep-alive, which detects a vanished peer within about a minute, also in a session
/// that is idle.
fn keep_alive(connection: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    connection.set_nodelay(true)?;
    sockopt::set_socket_keepalive(connection, true)?;
    sockopt::set_tcp_keepidle(connection, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(connection, KEEPALIVE_PAUSE)?;
    sockopt::set_tcp_keepcnt(connection, KEEPALIVE_TRIES)?;
    Ok(())
}
