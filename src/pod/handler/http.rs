//! HTTP GET for probes and hooks, like the kubelet's: no proxy, no certificate verification, one
//! connection per request.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue,
    LOCATION, TRAILER, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{HTTPGetAction, HTTPHeader};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::tls::{Stream, encrypt};
use super::{Error, MOST_READ, Outcome, Subject, dial, join_host_port};

/// Maximum number of redirects, all on the same host.
const MOST_REDIRECTS: usize = 10;
/// Maximum number of header lines in a response.
const MOST_HEADERS: usize = 64;
/// Maximum size of a response's head in bytes.
const LONGEST_HEAD: usize = 64 << 10;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct HttpGet {
    url: Url,
    /// The `Host` header, always with the port.
    authority: HeaderValue,
    headers: HeaderMap,
}

/// There was no response; the complete message, worded as in Go programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Get {:?}: {problem}", url.as_str())]
pub(crate) struct HttpError {
    url: Url,
    problem: String,
    /// Whether the server answered the TLS handshake without TLS.
    pub plain_server: bool,
}

impl HttpGet {
    /// The request for an action; `agent` is the default `User-Agent`.
    pub(crate) fn new(
        action: &HTTPGetAction,
        subject: &Subject<'_>,
        agent: &'static str,
    ) -> Result<Self, Error> {
        let port = subject.port(&action.port)?;
        let host = subject.host(action.host.as_deref())?;
        let https =
            action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let address = join_host_port(host, port);
        let base = format!("{}://{address}/", if https { "https" } else { "http" });
        let invalid = || Error::Request { what: "address", value: address.clone() };
        let mut url = Url::parse(&base).map_err(|_| invalid())?;
        // Not parsed as a URL reference, because a path starting with two slashes must not name
        // another host.
        let path = action.path.as_deref().unwrap_or_default();
        let path = path.split_once('#').map_or(path, |(path, _)| path);
        match path.split_once('?') {
            Some((path, query)) => {
                url.set_path(path);
                url.set_query(Some(query));
            }
            None => url.set_path(path),
        }
        let headers = headers(action.http_headers.as_deref().unwrap_or_default(), agent)?;
        let authority = HeaderValue::from_str(&address).map_err(|_| invalid())?;
        Ok(Self { url, authority, headers })
    }

    /// Sends it; 200 to 399 is success.
    pub(super) async fn probe(self, limit: Duration) -> Result<Outcome, Error> {
        let answer = match self.send(limit).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Outcome::Failure(error.to_string())),
        };
        let status = answer.status;
        let body = answer.body().await?;
        Ok(match status.as_u16() {
            200..=299 => Outcome::Success,
            300..=399 => {
                Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            // Without the body: those who see the message may not be allowed to see the body.
            code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        })
    }

    /// Sends it, follows redirects on the same host, and waits for the head of the last response.
    pub(crate) async fn send(mut self, limit: Duration) -> Result<Answer, HttpError> {
        let deadline = Instant::now() + limit;
        let host = self.url.host_str().map(str::to_owned);
        for _ in 0..=MOST_REDIRECTS {
            let answer = match timeout_at(deadline, self.exchange(limit)).await {
                Ok(answer) => answer?,
                Err(_) => return Err(self.late()),
            };
            let (status, connection) = answer;
            let answer = Answer { status, connection, deadline, url: self.url.clone() };
            let Some(next) = self.redirect(&answer)? else { return Ok(answer) };
            if next.host_str().map(str::to_owned) != host {
                return Ok(answer);
            }
            self.follow(next)?;
        }
        Err(self.failed(format!("stopped after {MOST_REDIRECTS} redirects")))
    }

    /// The same request without TLS, and without headers that only TLS may carry.
    pub(crate) fn without_tls(&self) -> Self {
        let mut plain = self.clone();
        // Never fails: both schemes are special and the URL has a host.
        let port = plain.url.port_or_known_default();
        let _ = plain.url.set_scheme("http");
        let _ = plain.url.set_port(port);
        plain.headers.remove(AUTHORIZATION);
        plain
    }

    /// Its destination, for messages.
    pub(crate) fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    async fn exchange(&self, limit: Duration) -> Result<(StatusCode, Connection), HttpError> {
        let host = self.url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_or_known_default().unwrap_or_default();
        let stream = dial::dial(host, port, limit).await;
        let stream = stream.map_err(|error| self.failed(error.to_string()))?;
        let stream = if self.url.scheme() == "https" {
            encrypt(stream, host, false).await.map_err(|error| self.not_encrypted(&error))?
        } else {
            Box::new(stream)
        };
        let connection = Connection::open(stream, self.request()).await;
        let connection = connection.map_err(|error| self.failed(told(&error)))?;
        Ok((connection.response.status(), connection))
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        let target = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        // A URL accepted by the parser is a valid target; the default avoids a panic anyway.
        *request.uri_mut() = target.parse().unwrap_or_default();
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        headers.entry(HOST).or_insert_with(|| self.authority.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        request
    }

    /// The target of a redirect.
    fn redirect(&self, answer: &Answer) -> Result<Option<Url>, HttpError> {
        let location = answer.connection.response.headers().get(LOCATION);
        let Some(location) =
            location.filter(|_| matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308))
        else {
            return Ok(None);
        };
        let unclear = || self.failed(format!("failed to parse Location header {location:?}"));
        let next = self.url.join(location.to_str().map_err(|_| unclear())?);
        Ok(Some(next.map_err(|_| unclear())?))
    }

    fn follow(&mut self, next: Url) -> Result<(), HttpError> {
        if !["http", "https"].contains(&next.scheme()) {
            let problem = format!("unsupported protocol scheme {:?}", next.scheme());
            return Err(self.failed(problem));
        }
        let moved = (next.scheme(), next.port_or_known_default())
            != (self.url.scheme(), self.url.port_or_known_default());
        if moved {
            let authority = &next[url::Position::BeforeHost..url::Position::AfterPort];
            let bad = |_| self.failed(format!("unclear host {authority:?}"));
            self.authority = HeaderValue::from_str(authority).map_err(bad)?;
            self.headers.remove(HOST);
        }
        self.url = next;
        Ok(())
    }

    fn not_encrypted(&self, error: &io::Error) -> HttpError {
        use rustls::{Error as Tls, InvalidMessage};
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
        let plain = matches!(inner, Some(Tls::InvalidMessage(InvalidMessage::InvalidContentType)));
        let mut failed = self.failed(if plain {
            "http: server gave HTTP response to HTTPS client".to_owned()
        } else {
            format!("tls: {error}")
        });
        failed.plain_server = plain;
        failed
    }

    fn failed(&self, problem: String) -> HttpError {
        HttpError { url: self.url.clone(), problem, plain_server: false }
    }

    fn late(&self) -> HttpError {
        self.failed(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
        )
    }
}

/// The given headers as a kubelet sends them: plus its `User-Agent` and `Accept: */*` unless they
/// are given, without them if they are given empty, and without headers that frame the message.
fn headers(given: &[HTTPHeader], agent: &'static str) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for HTTPHeader { name, value } in given {
        let invalid = |what, value: &str| Error::Request { what, value: value.to_owned() };
        let key = HeaderName::from_bytes(name.as_bytes());
        let key = key.map_err(|_| invalid("header name", name))?;
        let value = HeaderValue::from_str(value.trim());
        let value = value.map_err(|_| invalid("value of header", name))?;
        if key == HOST && !value.is_empty() {
            headers.entry(HOST).or_insert(value);
        } else if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER, CONNECTION].contains(&key) {
            headers.append(key, value);
        }
    }
    for (key, own) in [(USER_AGENT, agent), (ACCEPT, "*/*")] {
        let first = headers.entry(&key).or_insert(HeaderValue::from_static(own));
        if first.is_empty() {
            headers.remove(key);
        }
    }
    Ok(headers)
}

/// A response whose body was not read yet.
pub(crate) struct Answer {
    status: StatusCode,
    connection: Connection,
    deadline: Instant,
    url: Url,
}

impl Answer {
    /// The first [`MOST_READ`] bytes of the body.
    pub(crate) async fn body(mut self) -> Result<String, Error> {
        let url = self.url.to_string();
        match timeout_at(self.deadline, self.connection.read(MOST_READ)).await {
            Ok(Ok(body)) => Ok(String::from_utf8_lossy(&body).into_owned()),
            Ok(Err(error)) => Err(Error::Body { url, problem: told(&error) }),
            Err(_) => Err(Error::Body {
                url,
                problem: "context deadline exceeded (Client.Timeout or context cancellation \
                          while reading body)"
                    .to_owned(),
            }),
        }
    }
}

/// A connection with its response. It is polled by the reader, so it needs no task and ends when
/// dropped.
struct Connection {
    driver: Pin<Box<http1::Connection<TokioIo<Stream>, Empty<Bytes>>>>,
    over: bool,
    response: Response<Incoming>,
}

impl Connection {
    async fn open(stream: Stream, request: Request<Empty<Bytes>>) -> hyper::Result<Self> {
        let (mut sender, driver) = http1::Builder::new()
            .title_case_headers(true)
            .max_headers(MOST_HEADERS)
            .max_buf_size(LONGEST_HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        let (mut driver, mut over) = (Box::pin(driver), false);
        let response = driven(&mut driver, &mut over, sender.send_request(request)).await?;
        Ok(Self { driver, over, response })
    }

    async fn read(&mut self, most: usize) -> hyper::Result<Vec<u8>> {
        let mut read = Vec::new();
        while read.len() < most {
            let frame = self.response.body_mut().frame();
            let Some(frame) = driven(&mut self.driver, &mut self.over, frame).await else { break };
            if let Ok(data) = frame?.into_data() {
                read.extend_from_slice(&data[..data.len().min(most - read.len())]);
            }
        }
        Ok(read)
    }
}

/// Waits for `work` while driving the connection. If the connection fails, `work` fails too.
async fn driven<T>(
    driver: &mut Pin<Box<http1::Connection<TokioIo<Stream>, Empty<Bytes>>>>,
    over: &mut bool,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| {
        if !*over && driver.as_mut().poll(context).is_ready() {
            *over = true;
        }
        work.as_mut().poll(context)
    })
    .await
}

/// The error of a connection, with the cause that hyper keeps separately.
fn told(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error);
    match cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
        Some(cause) => dial::plain(cause),
        None => match cause {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}
