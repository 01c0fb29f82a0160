//! Negotiation of the protocol when a connection is upgraded. Pure.
//!
//! The first protocol in the client's list that the server supports is chosen. Refusals are the
//! same as those of the Go servers, which clients know.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, request};
use sha1::{Digest, Sha1};

use super::websocket::{Codec, Dialect, MAX_PORTS};
use super::{Request, spdy};

/// Subprotocol for ports over SPDY inside WebSocket.
const TUNNELLED_PORTS: &str = "SPDY/3.1+portforward.k8s.io";

/// Header with the client's SPDY protocols, and in the answer the chosen one.
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Header with the SPDY protocols that the server supports, in a refusal.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The constant that every WebSocket server appends to the client's key (RFC 6455, 1.3).
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A negotiated protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// SPDY with the streams of a process.
    SpdyCommand(spdy::Version),
    /// SPDY with pairs of streams for ports.
    SpdyPorts,
    /// Channels in WebSocket messages.
    Channels(Dialect),
    /// SPDY inside WebSocket messages.
    Tunnel,
}

/// An accepted request: the negotiated protocol, and the headers of the answer.
#[derive(Debug)]
pub(super) struct Agreement {
    pub protocol: Protocol,
    pub headers: HeaderMap,
}

/// A refused request.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub text: String,
    pub headers: Vec<(HeaderName, &'static str)>,
}

impl Refusal {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), headers: Vec::new() }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// Negotiates the protocol with a client for `request`.
pub(super) fn negotiate(head: &request::Parts, request: &Request) -> Result<Agreement, Refusal> {
    if head.version != http::Version::HTTP_11 {
        return Err(Refusal::bad("unable to upgrade: HTTP/1.1 is required"));
    }
    let upgrade = words(&head.headers, header::CONNECTION).any(|word| is(word, "upgrade"));
    let mut wanted = words(&head.headers, header::UPGRADE);
    if upgrade && wanted.any(|word| is(word, "websocket")) {
        over_websocket(head, request)
    } else {
        over_spdy(&head.headers, request, upgrade)
    }
}

fn is(word: &str, name: &str) -> bool {
    word.eq_ignore_ascii_case(name)
}

/// The comma-separated words in all headers with that name.
fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn over_spdy(headers: &HeaderMap, request: &Request, upgrade: bool) -> Result<Agreement, Refusal> {
    let known: Vec<(&'static str, Protocol)> = match request {
        Request::Exec(_) | Request::Attach(_) => spdy::Version::ALL
            .map(|version| (version.name(), Protocol::SpdyCommand(version)))
            .into(),
        Request::PortForward(_) => vec![(spdy::PortForward::PROTOCOL, Protocol::SpdyPorts)],
    };
    let mut offered = words(headers, PROTOCOL).peekable();
    if offered.peek().is_none() {
        return Err(Refusal::bad("unable to upgrade: X-Stream-Protocol-Version is required"));
    }
    let mut chosen = offered.filter_map(|word| known.iter().find(|known| known.0 == word));
    let Some((name, protocol)) = chosen.next() else {
        let names: Vec<_> = known.iter().map(|known| known.0).collect();
        let text =
            format!("unable to upgrade: unable to negotiate protocol: server accepts {names:?}");
        let refusal = Refusal::new(StatusCode::FORBIDDEN, text);
        return Err(names.into_iter().fold(refusal, |refusal, name| refusal.with(ACCEPTED, name)));
    };
    if !upgrade || !words(headers, header::UPGRADE).any(|word| is(word, spdy::UPGRADE)) {
        return Err(Refusal::bad("unable to upgrade: missing upgrade headers in request"));
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::UPGRADE, HeaderValue::from_static(spdy::UPGRADE));
    headers.insert(PROTOCOL, HeaderValue::from_static(name));
    Ok(Agreement { protocol: *protocol, headers })
}

/// The handshake of RFC 6455, 4.2.
fn over_websocket(head: &request::Parts, request: &Request) -> Result<Agreement, Refusal> {
    if head.method != Method::GET {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket starts with GET");
        return Err(refusal.with(header::ALLOW, "GET"));
    }
    let headers = &head.headers;
    if !words(headers, header::SEC_WEBSOCKET_VERSION).eq(["13"]) {
        let refusal =
            Refusal::new(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is required");
        return Err(refusal.with(header::SEC_WEBSOCKET_VERSION, "13"));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).into_iter();
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) if STANDARD.decode(key).is_ok_and(|key| key.len() == 16) => key,
        _ => return Err(Refusal::bad("Sec-WebSocket-Key must be 16 bytes in base64")),
    };
    let (protocol, name) = dialect(headers, request)?;
    let accept =
        STANDARD.encode(Sha1::new().chain_update(key).chain_update(WEBSOCKET_GUID).finalize());
    let accept = HeaderValue::try_from(accept).map_err(|e| Refusal::bad(e.to_string()))?;
    let mut headers = HeaderMap::new();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !name.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(Agreement { protocol, headers })
}

/// Chooses the subprotocol; a client that names none uses the oldest.
fn dialect(headers: &HeaderMap, request: &Request) -> Result<(Protocol, &'static str), Refusal> {
    use Codec::{Base64, Binary};
    let channels = |codec, json_status, half_close| {
        Protocol::Channels(Dialect { codec, json_status, half_close })
    };
    let known: &[(&'static str, Protocol)] = match request {
        Request::Exec(_) | Request::Attach(_) => &[
            ("v5.channel.k8s.io", channels(Binary, true, true)),
            ("v4.channel.k8s.io", channels(Binary, true, false)),
            ("v4.base64.channel.k8s.io", channels(Base64, true, false)),
            ("channel.k8s.io", channels(Binary, false, false)),
            ("base64.channel.k8s.io", channels(Base64, false, false)),
            ("", channels(Binary, false, false)),
        ],
        Request::PortForward(_) => &[
            (TUNNELLED_PORTS, Protocol::Tunnel),
            ("v4.channel.k8s.io", channels(Binary, false, false)),
            ("v4.base64.channel.k8s.io", channels(Base64, false, false)),
            ("", channels(Binary, false, false)),
        ],
    };
    let mut offered = words(headers, header::SEC_WEBSOCKET_PROTOCOL).peekable();
    let none = offered.peek().is_none().then_some("");
    let mut chosen = none
        .into_iter()
        .chain(offered)
        .filter_map(|word| known.iter().find(|known| known.0 == word));
    let Some((name, protocol)) = chosen.next() else {
        let names: Vec<_> = known.iter().map(|known| known.0).collect();
        let text = format!("requested protocol(s) are not supported; server supports {names:?}");
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    };
    if let (Request::PortForward(forward), Protocol::Channels(_)) = (request, protocol)
        && !(1..=MAX_PORTS).contains(&forward.ports.len())
    {
        let text = format!(
            "port-forward over WebSocket channels needs 1 to {MAX_PORTS} ports in PortForwardRequest.port, \
             not {}",
            forward.ports.len()
        );
        return Err(Refusal::bad(text));
    }
    Ok((*protocol, name))
}

#[cfg(test)]
mod tests;
