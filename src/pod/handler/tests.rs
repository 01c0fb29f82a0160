//! All servers in these tests are real ones on 127.0.0.1, and time is real.

mod grpc_probes;
pub(crate) mod servers;

use k8s_openapi::api::core::v1::{ContainerPort, EnvVar, HTTPHeader};
use tokio::net::TcpListener;

use self::servers::{Reply, TlsServer, serve};
use super::*;

const SOON: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(200);

fn id() -> ContainerId {
    ContainerId::try_from("a".repeat(64)).unwrap()
}

fn container() -> Container {
    let port = |name: &str, port| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        ..ContainerPort::default()
    };
    Container { ports: Some(vec![port("web", 8080), port("bad", 0)]), ..Container::default() }
}

fn get(port: u16, path: &str) -> HTTPGetAction {
    HTTPGetAction {
        port: IntOrString::Int(port.into()),
        path: Some(path.to_owned()),
        ..HTTPGetAction::default()
    }
}

async fn ask(get: &HTTPGetAction, limit: Duration) -> Result<Outcome, Error> {
    let (container, id) = (container(), id());
    Subject { container: &container, id: &id, pod_ip: Some("127.0.0.1") }.http(get, limit).await
}

fn failure(outcome: Result<Outcome, Error>) -> String {
    match outcome {
        Ok(Outcome::Failure(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn from_200_to_399_is_well() {
    for (status, says) in [
        ("200 OK", Outcome::Success),
        ("204 No Content", Outcome::Success),
        ("299 Odd", Outcome::Success),
        (
            "304 Not Modified",
            Outcome::Warning("Probe terminated redirects, Response body: ".to_owned()),
        ),
        ("302 Found", Outcome::Warning("Probe terminated redirects, Response body: ".to_owned())),
        ("400 Bad", Outcome::Failure("HTTP probe failed with statuscode: 400".to_owned())),
        ("503 Down", Outcome::Failure("HTTP probe failed with statuscode: 503".to_owned())),
    ] {
        let server =
            serve(move |_| Reply::Whole(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")));
        let server = server.await;
        let outcome = ask(&get(server.port, "/"), SOON).await.unwrap();
        assert_eq!(outcome, says, "{status}");
    }
}

#[tokio::test]
async fn a_request_is_as_the_kubelet_makes_it() {
    let server = serve(|_| Reply::ok("fine")).await;
    ask(&get(server.port, "/healthz?full=1#part"), SOON).await.unwrap();
    let head = server.heads()[0].clone();
    let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    let host = format!("Host: 127.0.0.1:{}", server.port);
    assert_eq!(
        lines,
        [
            "GET /healthz?full=1 HTTP/1.1",
            "Accept: */*",
            "Connection: close",
            host.as_str(),
            "User-Agent: kube-probe/1.37",
        ]
    );
}

#[tokio::test]
async fn given_headers_go_before_our_own() {
    let header = |name: &str, value: &str| HTTPHeader { name: name.into(), value: value.into() };
    let server = serve(|_| Reply::ok("fine")).await;
    let mut action = get(server.port, "no-slash");
    action.http_headers = Some(vec![
        header("Host", "app.example"),
        header("user-agent", ""),
        header("ACCEPT", "text/plain"),
        header("X-Twice", "1"),
        header("x-twice", "2"),
        header("Content-Length", "7"),
        header("Transfer-Encoding", "chunked"),
    ]);
    ask(&action, SOON).await.unwrap();
    let head = server.heads()[0].clone();
    let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /no-slash HTTP/1.1",
            "Accept: text/plain",
            "Connection: close",
            "Host: app.example",
            "X-Twice: 1",
            "X-Twice: 2",
        ]
    );
    for (name, value) in [("X Y", "1"), ("X", "a\r\nEvil: 1"), ("", "x")] {
        action.http_headers = Some(vec![header(name, value)]);
        let refused = ask(&action, SOON).await;
        assert!(matches!(refused, Err(Error::Request { .. })), "{name}: {refused:?}");
    }
    assert_eq!(server.heads().len(), 1, "nothing is sent");
}

#[tokio::test]
async fn a_path_never_names_another_host() {
    let server = serve(|_| Reply::ok("fine")).await;
    for path in ["//192.0.2.1/x", "http://192.0.2.1/x", "\\\\192.0.2.1\\x", "@192.0.2.1/"] {
        assert_eq!(ask(&get(server.port, path), SOON).await.unwrap(), Outcome::Success, "{path}");
    }
    assert_eq!(server.heads().len(), 4);
}

#[test]
fn ports_go_by_number_or_name() {
    let (container, id) = (container(), id());
    let subject = Subject { container: &container, id: &id, pod_ip: None };
    let named = |name: &str| subject.port(&IntOrString::String(name.to_owned()));
    assert_eq!(named("web").unwrap(), 8080);
    assert_eq!(named("81").unwrap(), 81);
    assert_eq!(subject.port(&IntOrString::Int(65535)).unwrap(), 65535);
    assert_eq!(named("db").unwrap_err().to_string(), "port db not found");
    assert_eq!(named("bad").unwrap_err().to_string(), "invalid port number: 0");
    for port in [0, -1, 65536] {
        let error = subject.port(&IntOrString::Int(port)).unwrap_err();
        assert_eq!(error.to_string(), format!("invalid port number: {port}"));
    }
    assert!(matches!(subject.host(None), Err(Error::NoAddress)));
    assert!(matches!(subject.host(Some("")), Err(Error::NoAddress)));
    assert_eq!(subject.host(Some("there")).unwrap(), "there");
}

#[tokio::test]
async fn redirects_on_the_same_host_are_followed() {
    let server = serve(|head| match head {
        head if head.starts_with("GET /a ") => Reply::to("/b"),
        head if head.starts_with("GET /b ") => Reply::to("c?x=1"),
        head if head.starts_with("GET /c?x=1 ") => Reply::ok("here"),
        _ => Reply::Whole("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_owned()),
    });
    let server = server.await;
    assert_eq!(ask(&get(server.port, "/a"), SOON).await.unwrap(), Outcome::Success);
    assert_eq!(server.heads().len(), 3);
}

#[tokio::test]
async fn redirects_without_end_are_a_failure() {
    let server = serve(|_| Reply::to("/again")).await;
    let said = failure(ask(&get(server.port, "/"), SOON).await);
    assert!(said.ends_with("stopped after 10 redirects"), "{said}");
    assert_eq!(server.heads().len(), 11);
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed() {
    let other = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = other.local_addr().unwrap();
    let server = serve(move |_| Reply::to(&format!("http://{address}/secret"))).await;
    let outcome = ask(&get(server.port, "/"), SOON).await.unwrap();
    assert!(matches!(outcome, Outcome::Warning(_)), "{outcome:?}");
    let came = tokio::time::timeout(SHORT, other.accept()).await;
    assert!(came.is_err(), "the other host was asked");
}

#[tokio::test]
async fn a_redirect_to_what_is_not_http_is_a_failure() {
    let server = serve(|head| {
        let host = head.split("Host: ").nth(1).unwrap().split("\r\n").next().unwrap();
        Reply::to(&format!("ftp://{host}/x"))
    });
    let said = failure(ask(&get(server.await.port, "/"), SOON).await);
    assert!(said.ends_with("unsupported protocol scheme \"ftp\""), "{said}");
}

#[tokio::test]
async fn an_endless_body_is_read_no_further_than_ten_kibibytes() {
    let server = serve(|_| Reply::Endless("HTTP/1.1 200 OK\r\n\r\n".to_owned())).await;
    assert_eq!(ask(&get(server.port, "/"), SOON).await.unwrap(), Outcome::Success);
    let server = serve(|_| Reply::Endless("HTTP/1.1 302 Found\r\n\r\n".to_owned())).await;
    let Outcome::Warning(said) = ask(&get(server.port, "/"), SOON).await.unwrap() else {
        panic!("no warning")
    };
    assert!(said.len() < MOST_READ + 100, "{}", said.len());
}

#[tokio::test]
async fn a_body_that_does_not_come_is_an_error_of_the_prober() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab";
    let server = serve(move |_| Reply::Stuck(head.to_owned())).await;
    let late = ask(&get(server.port, "/"), SHORT).await;
    assert!(matches!(&late, Err(Error::Body { problem, .. }) if problem.contains("deadline")));
    let server = serve(move |_| Reply::Whole(head.to_owned())).await;
    assert!(matches!(ask(&get(server.port, "/"), SOON).await, Err(Error::Body { .. })));
}

#[tokio::test]
async fn heads_that_are_late_or_too_long_are_failures() {
    let late = serve(|_| Reply::Stuck("HTTP/1.1 200 OK\r\nX-Slow".to_owned())).await;
    let said = failure(ask(&get(late.port, "/x"), SHORT).await);
    assert_eq!(
        said,
        format!(
            "Get \"http://127.0.0.1:{}/x\": context deadline exceeded (Client.Timeout exceeded \
             while awaiting headers)",
            late.port
        )
    );
    for head in [
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(65)),
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(200 << 10)),
        "HELLO\r\n\r\n".to_owned(),
        String::new(),
    ] {
        let server = serve(move |_| Reply::Whole(head.clone())).await;
        failure(ask(&get(server.port, "/"), SOON).await);
    }
    let endless = serve(|_| Reply::Endless("HTTP/1.1 200 OK\r\nX: ".to_owned())).await;
    failure(ask(&get(endless.port, "/"), SOON).await);
}

#[tokio::test]
async fn nobody_there_is_a_failure() {
    let port = {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap().port()
    };
    let said = failure(ask(&get(port, "/"), SOON).await);
    assert_eq!(
        said,
        format!(
            "Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection \
             refused"
        )
    );
    let (container, id) = (container(), id());
    let subject = Subject { container: &container, id: &id, pod_ip: Some("127.0.0.1") };
    let socket = |port: u16| TCPSocketAction { port: IntOrString::Int(port.into()), host: None };
    let said = failure(subject.tcp(&socket(port), SOON).await);
    assert_eq!(said, format!("dial tcp 127.0.0.1:{port}: connect: connection refused"));
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    assert_eq!(subject.tcp(&socket(port), SOON).await.unwrap(), Outcome::Success);
    let mut named = socket(port);
    named.host = Some("localhost".to_owned());
    assert_eq!(subject.tcp(&named, SOON).await.unwrap(), Outcome::Success);
}

#[tokio::test]
async fn any_certificate_will_do() {
    let server = TlsServer::start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mut action = get(server.port, "/");
    action.scheme = Some("HTTPS".to_owned());
    assert_eq!(ask(&action, SOON).await.unwrap(), Outcome::Success);
    let plain = serve(|_| Reply::ok("plain")).await;
    action.port = IntOrString::Int(plain.port.into());
    let said = failure(ask(&action, SOON).await);
    assert!(said.ends_with("http: server gave HTTP response to HTTPS client"), "{said}");
}

#[test]
fn static_variables_are_expanded() {
    let var = |name: &str, value: Option<&str>| EnvVar {
        name: name.to_owned(),
        value: value.map(str::to_owned),
        ..EnvVar::default()
    };
    let env =
        vec![var("A", Some("1")), var("B", Some("$(A)")), var("C", None), var("A", Some("2"))];
    let container = Container { env: Some(env), ..Container::default() };
    for (word, says) in [
        ("$(A)", "2"),
        ("x$(A)y$(A)", "x2y2"),
        ("$(B)", "$(A)"),
        ("$(C)", ""),
        ("$(D)", "$(D)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$2"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("é$(A)é", "é2é"),
    ] {
        assert_eq!(expand_static(&[word.to_owned()], &container), [says], "{word}");
    }
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(cut("abc", 5), "abc");
    assert_eq!(cut("aéb", 2), "a");
    assert_eq!(cut("aéb", 3), "aé");
}
