//! Negotiation results for various request headers.

use super::*;
use crate::ids::{ContainerId, PodId};
use crate::stream::{Exec, PortForward, Streams};

const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
const VERSION: (&str, &str) = ("sec-websocket-version", "13");

fn head(method: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = http::Request::builder().method(method).uri("/exec/x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn exec() -> Request {
    let streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
    let command = vec!["true".to_owned()];
    Request::Exec(Exec { container: ContainerId::random(), command, streams })
}

fn ports(ports: &[u16]) -> Request {
    Request::PortForward(PortForward { pod: PodId::random(), ports: ports.to_vec() })
}

fn spdy_headers<'a>(protocols: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    headers.extend(protocols.iter().map(|protocol| ("x-stream-protocol-version", *protocol)));
    headers
}

fn websocket_headers<'a>(protocols: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let mut headers =
        vec![("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), KEY, VERSION];
    headers.extend(protocols.iter().map(|protocol| ("sec-websocket-protocol", *protocol)));
    headers
}

fn agreed(method: &str, headers: &[(&str, &str)], request: &Request) -> Agreement {
    negotiate(&head(method, headers), request)
        .unwrap_or_else(|refusal| panic!("{headers:?}: {refusal:?}"))
}

fn refused(method: &str, headers: &[(&str, &str)], request: &Request) -> (u16, String) {
    let refusal = negotiate(&head(method, headers), request).expect_err("a refusal");
    (refusal.status.as_u16(), refusal.text)
}

#[test]
fn spdy_takes_the_first_protocol_of_the_client_that_it_has() {
    for (offered, chosen) in [
        (&["v4.channel.k8s.io"][..], "v4.channel.k8s.io"),
        (&["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"], "v4.channel.k8s.io"),
        (&["v9, v2.channel.k8s.io ,v4.channel.k8s.io"], "v2.channel.k8s.io"),
        (&["", "channel.k8s.io"], "channel.k8s.io"),
    ] {
        for method in ["GET", "POST"] {
            let agreement = agreed(method, &spdy_headers(offered), &exec());
            assert_eq!(
                agreement.protocol,
                Protocol::SpdyCommand(spdy::Version::from_name(chosen).expect("a version"))
            );
            assert_eq!(agreement.headers[PROTOCOL], chosen);
            assert_eq!(agreement.headers[header::UPGRADE], "SPDY/3.1");
        }
    }
    let agreement = agreed("POST", &spdy_headers(&["portforward.k8s.io"]), &ports(&[]));
    assert_eq!(agreement.protocol, Protocol::SpdyPorts);
}

#[test]
fn spdy_is_refused_as_the_go_server_does() {
    assert_eq!(refused("GET", &[], &exec()).0, 400);
    assert_eq!(refused("POST", &spdy_headers(&[]), &exec()).0, 400);
    assert_eq!(refused("POST", &spdy_headers(&["v5.channel.k8s.io"]), &exec()).0, 403);
    assert_eq!(refused("POST", &spdy_headers(&["v4.channel.k8s.io"]), &ports(&[])).0, 403);
    let head = head("POST", &spdy_headers(&["nothing"]));
    let refusal = negotiate(&head, &exec()).expect_err("a refusal");
    let accepted: Vec<_> = refusal.headers.into_iter().map(|header| header.1).collect();
    assert_eq!(accepted, spdy::Version::ALL.map(spdy::Version::name));
    let protocol = ("x-stream-protocol-version", "v4.channel.k8s.io");
    for headers in [
        &[protocol][..],
        &[protocol, ("connection", "upgrade")],
        &[protocol, ("upgrade", "SPDY/3.1")],
        &[protocol, ("connection", "upgrade"), ("upgrade", "SPDY/2")],
        &[protocol, ("connection", "close"), ("upgrade", "SPDY/3.1")],
    ] {
        assert_eq!(refused("POST", headers, &exec()).0, 400, "{headers:?}");
    }
}

#[test]
fn websocket_has_five_dialects_of_commands() {
    let dialect = |codec, json_status, half_close| Dialect { codec, json_status, half_close };
    for (offered, chosen, expected) in [
        (&[][..], None, dialect(Codec::Binary, false, false)),
        (&["channel.k8s.io"], Some("channel.k8s.io"), dialect(Codec::Binary, false, false)),
        (
            &["base64.channel.k8s.io"],
            Some("base64.channel.k8s.io"),
            dialect(Codec::Base64, false, false),
        ),
        (&["v4.channel.k8s.io"], Some("v4.channel.k8s.io"), dialect(Codec::Binary, true, false)),
        (
            &["v6.channel.k8s.io, v4.base64.channel.k8s.io"],
            Some("v4.base64.channel.k8s.io"),
            dialect(Codec::Base64, true, false),
        ),
        (
            &["v5.channel.k8s.io", "v4.channel.k8s.io"],
            Some("v5.channel.k8s.io"),
            dialect(Codec::Binary, true, true),
        ),
    ] {
        let agreement = agreed("GET", &websocket_headers(offered), &exec());
        assert_eq!(agreement.protocol, Protocol::Channels(expected), "{offered:?}");
        let told = agreement.headers.get(header::SEC_WEBSOCKET_PROTOCOL);
        assert_eq!(told.map(|value| value.to_str().expect("text")), chosen);
        // The example of RFC 6455, 1.3.
        let accept = &agreement.headers[header::SEC_WEBSOCKET_ACCEPT];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}

#[test]
fn ports_have_channels_or_a_tunnel() {
    let tunnel = websocket_headers(&["SPDY/3.1+portforward.k8s.io"]);
    assert_eq!(agreed("GET", &tunnel, &ports(&[])).protocol, Protocol::Tunnel);
    let channels = websocket_headers(&["v4.channel.k8s.io"]);
    let agreement = agreed("GET", &channels, &ports(&[80, 81]));
    assert!(matches!(agreement.protocol, Protocol::Channels(_)));
    assert_eq!(refused("GET", &channels, &ports(&[])).0, 400);
    assert_eq!(refused("GET", &channels, &ports(&[80; MAX_PORTS + 1])).0, 400);
    assert_eq!(refused("GET", &tunnel, &exec()).0, 403);
}

#[test]
fn websocket_handshakes_are_checked() {
    let good = websocket_headers(&["v4.channel.k8s.io"]);
    assert_eq!(refused("POST", &good, &exec()).0, 405);
    let swapped = |from: &str, to: Option<&'static str>| {
        let mut headers = good.clone();
        headers.retain(|(name, _)| *name != from);
        headers.extend(to.map(|value| (KEY.0, value)).filter(|_| from == KEY.0));
        headers.extend(to.map(|value| (VERSION.0, value)).filter(|_| from == VERSION.0));
        refused("GET", &headers, &exec()).0
    };
    assert_eq!(swapped(VERSION.0, None), 426);
    assert_eq!(swapped(VERSION.0, Some("12")), 426);
    assert_eq!(swapped(KEY.0, None), 400);
    assert_eq!(swapped(KEY.0, Some("short")), 400);
    assert_eq!(swapped(KEY.0, Some("c2hvcnQ=")), 400);
    let mut twice = good.clone();
    twice.push(KEY);
    assert_eq!(refused("GET", &twice, &exec()).0, 400);
    assert_eq!(refused("GET", &websocket_headers(&["v3.channel.k8s.io"]), &exec()).0, 403);
    let old = {
        let mut head = head("GET", &good);
        head.version = http::Version::HTTP_10;
        negotiate(&head, &exec()).expect_err("a refusal").status.as_u16()
    };
    assert_eq!(old, 400);
}
