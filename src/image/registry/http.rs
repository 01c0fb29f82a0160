//! HTTP exchanges: own redirect rules, delays after failures, bounded bodies.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::auth::reachable;
use crate::image::Error;

/// Maximum number of redirects.
const MAX_HOPS: usize = 5;
/// Maximum delay that a server may request; the callers of pulls have their own back-off.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// A request to send.
#[derive(Clone)]
pub(super) struct Call {
    pub method: Method,
    pub url: Url,
    /// Headers sent to every host of a redirect chain.
    pub common: Vec<(HeaderName, HeaderValue)>,
    /// Headers sent to the first host only: authorization and the host's configured headers.
    pub headers: HeaderMap,
    body: Option<String>,
}

impl Call {
    pub fn new(method: Method, url: Url) -> Self {
        Self { method, url, common: Vec::new(), headers: HeaderMap::new(), body: None }
    }

    pub fn with_form(mut self, form: String) -> Self {
        self.common
            .push((CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")));
        self.body = Some(form);
        self
    }

    /// URL for errors and logs, without user and query.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, place(&self.url))
    }
}

fn place(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}{}", url.host_str().unwrap_or_default(), url.path())
}

/// Sends a request and follows redirects. Authorization is sent only to the first host, TLS is
/// never downgraded, and a request with a body is never redirected.
pub(super) async fn exchange(client: &Client, call: Call) -> Result<Response, Error> {
    let first = call.url.clone();
    let name = call.name();
    let mut url = call.url;
    let mut own = call.headers;
    for _ in 0..=MAX_HOPS {
        let mut request = client.request(call.method.clone(), url.clone()).headers(own.clone());
        for (key, value) in &call.common {
            request = request.header(key, value);
        }
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        tracing::debug!(method = %call.method, to = %place(&url), "registry request");
        let reply = request.send().await.map_err(|error| unavailable(&name, error))?;
        let Some(next) = redirect(&url, &reply).map_err(|problem| refused(&name, problem))? else {
            return Ok(reply);
        };
        if call.body.is_some() {
            return Err(refused(&name, "it redirects a request that holds credentials"));
        }
        if next.origin() != first.origin() {
            own.clear();
        }
        url = next;
    }
    Err(refused(&name, "it redirects too often"))
}

fn redirect(from: &Url, reply: &Response) -> Result<Option<Url>, &'static str> {
    if !matches!(reply.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = reply.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or("it redirects to nowhere")?;
    redirect_target(from, location).map(Some)
}

/// The target of a redirect, if it is allowed.
fn redirect_target(from: &Url, location: &str) -> Result<Url, &'static str> {
    let next = from.join(location).map_err(|_| "it redirects to an invalid address")?;
    match (from.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => return Err("it redirects from https to http"),
        _ => return Err("it redirects to an invalid address"),
    }
    if reachable(from, &next) { Ok(next) } else { Err("it redirects to a forbidden address") }
}

fn refused(name: &str, problem: &str) -> Error {
    Error::bad(format!("the reply to {name}"), problem)
}

/// A transport error. The URL with its query is removed from the source.
pub(super) fn unavailable(name: &str, error: reqwest::Error) -> Error {
    let problem = if error.is_connect() {
        "cannot connect"
    } else if error.is_timeout() {
        "timed out"
    } else {
        "connection failed"
    };
    Error::RegistryUnavailable {
        tried: format!("{name}: {problem}"),
        source: Some(Arc::new(error.without_url())),
    }
}

/// Reads a body of at most `max` bytes.
pub(super) async fn small_body(
    mut reply: Response,
    max: usize,
    name: &str,
) -> Result<Bytes, Error> {
    let too_large = || refused(name, &format!("it is larger than {max} bytes"));
    if reply.content_length().is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = reply.chunk().await.map_err(|error| unavailable(name, error))? {
        if body.len() + chunk.len() > max {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Whether a status may be temporary.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// The delay after attempt number `attempt`: what the server asks for, else doubling each time,
/// with jitter so that many hosts do not retry at the same time. `None` when the server asks for a
/// longer delay than a pull should wait.
pub(super) fn delay(base: Duration, attempt: u32, headers: Option<&HeaderMap>) -> Option<Duration> {
    let asked = headers.and_then(|headers| retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?));
    let jitter = rand::random_range(0.0..0.5);
    match asked {
        Some(asked) if asked > MAX_WAIT => None,
        Some(asked) => Some(asked + base.mul_f64(jitter)),
        None => {
            let grown = base.saturating_mul(1 << attempt.min(10)).min(Duration::from_secs(10));
            Some(grown.mul_f64(0.75 + jitter))
        }
    }
}

fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_to_the_rules() {
        for (from, location, want) in [
            ("https://r.io/v2/x", "https://cdn.io/b?sig=1", Some("https://cdn.io/b?sig=1")),
            ("https://r.io/v2/x", "/other", Some("https://r.io/other")),
            ("https://r.io/v2/x", "http://r.io/other", None),
            ("http://r.io/v2/x", "http://cdn.io/b", Some("http://cdn.io/b")),
            ("http://r.io/v2/x", "http://169.254.169.254/latest/meta-data", None),
            ("https://r.io/v2/x", "https://169.254.169.254/", None),
            ("http://r.io/v2/x", "http://127.0.0.1/", None),
            ("http://127.0.0.1:1/v2/x", "http://127.0.0.1:2/", Some("http://127.0.0.1:2/")),
            ("https://r.io/", "file:///etc/passwd", None),
            ("https://r.io/", "https://", None),
        ] {
            let found = redirect_target(&Url::parse(from).unwrap(), location);
            assert_eq!(found.ok().as_ref().map(Url::as_str), want, "{from} {location}");
        }
    }

    #[test]
    fn waits_grow_and_obey_the_server() {
        let base = Duration::from_millis(200);
        for attempt in 0..20 {
            let wait = delay(base, attempt, None).unwrap();
            let grown = base.saturating_mul(1 << attempt.min(10)).min(Duration::from_secs(10));
            assert!(wait >= grown.mul_f64(0.74) && wait <= grown.mul_f64(1.26), "{wait:?}");
        }
        let with = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            delay(base, 0, Some(&headers)).map(|wait| wait.as_secs())
        };
        assert_eq!((with("3"), with("86400")), (Some(3), None));
        assert_eq!((with("Wed, 21 Oct 2015 07:28:00 GMT"), with("soon")), (Some(0), Some(0)));
    }

    #[test]
    fn names_hold_no_secrets() {
        let url = Url::parse("https://u:S3CRET@r.io:5000/v2/a?sig=S3CRET").unwrap();
        assert_eq!(Call::new(Method::GET, url).name(), "GET r.io:5000/v2/a");
    }
}
