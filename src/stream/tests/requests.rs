//! Accepted and refused requests.

use super::world::*;
use crate::ids::{ContainerId, PodId};
use crate::lifecycle::crowd;
use crate::stream::{Attach, PortForward, Request, Streams};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn status(world: &World, request: &str) -> u16 {
    let (mut connection, head) = world.raw(request).await;
    let code = head.get(9..12).and_then(|code| code.parse().ok());
    let code = code.unwrap_or_else(|| panic!("an answer, not {head:?}"));
    assert!(!(300..400).contains(&code), "never a redirect: {head}");
    if code != 101 {
        let closes = head.to_lowercase().contains("connection: close");
        assert!(closes || head.starts_with("HTTP/1.0 "), "{head}");
        // A second request on this connection is not served.
        let again = world.path(exec("exit 0", ALL));
        let _ = connection.write_all(websocket_request(&again, "").as_bytes()).await;
        let rest = String::from_utf8_lossy(&read_rest(&mut connection).await).into_owned();
        assert!(!rest.contains(" 101 Switching"), "{rest}");
    }
    code
}

#[tokio::test]
async fn a_url_is_good_once_and_for_its_operation() {
    let world = World::start().await;
    let path = world.path(exec("exit 0", ALL));
    let request = websocket_request(&path, "v4.channel.k8s.io");
    assert_eq!(status(&world, &request).await, 101);
    assert_eq!(status(&world, &request).await, 404, "a replay");
    let path = world.path(exec("exit 0", ALL));
    let wrong = path.replace("/exec/", "/attach/");
    assert_eq!(status(&world, &websocket_request(&wrong, "")).await, 404);
    assert_eq!(
        status(&world, &websocket_request(&path, "")).await,
        404,
        "used up by the wrong one"
    );
    for path in ["/", "/exec", "/exec/", "/exec/AAAA", "/stats", "/exec/../exec/x", "//exec/x"] {
        assert_eq!(status(&world, &websocket_request(path, "")).await, 404, "{path}");
    }
}

#[tokio::test]
async fn urls_are_of_the_server_whatever_host_a_client_names() {
    let world = World::start().await;
    let url = world.urls.issue(exec("exit 0", ALL)).expect("a URL");
    assert!(url.starts_with(&format!("http://{}/exec/", world.address)), "{url}");
}

#[tokio::test]
async fn requests_that_are_no_upgrades_are_refused() {
    let world = World::start().await;
    let path = |world: &World| world.path(exec("exit 0", ALL));
    let plain = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path(&world));
    assert_eq!(status(&world, &plain).await, 400);
    for method in ["PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"] {
        let other = websocket_request(&path(&world), "").replacen("GET", method, 1);
        assert_eq!(status(&world, &other).await, 405, "{method}");
    }
    let unknown = spdy_request(&path(&world), "v9.channel.k8s.io");
    assert_eq!(status(&world, &unknown).await, 403);
    for (header, body) in
        [("Content-Length: 3", "abc"), ("Transfer-Encoding: chunked", "0\r\n\r\n")]
    {
        let more = format!("v4.channel.k8s.io\r\n{header}");
        let with_body = spdy_request(&path(&world), &more) + body;
        assert_eq!(status(&world, &with_body).await, 400, "{header}");
    }
    let none = websocket_request(&path(&world), "v3.channel.k8s.io");
    assert_eq!(status(&world, &none).await, 403);
    let forward = Request::PortForward(PortForward { pod: PodId::random(), ports: Vec::new() });
    let no_ports = websocket_request(&world.path(forward), "v4.channel.k8s.io");
    assert_eq!(status(&world, &no_ports).await, 400);
    assert_eq!(status(&world, "NONSENSE\r\n\r\n").await, 400);
    let old = websocket_request(&path(&world), "").replacen("HTTP/1.1", "HTTP/1.0", 1);
    assert_eq!(status(&world, &old).await, 400);
}

#[tokio::test]
async fn heads_are_bounded() {
    let world = World::start().await;
    let path = world.path(exec("exit 0", ALL));
    let start = websocket_request(&path, "");
    let start = start.trim_end_matches("\r\n");
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(status(&world, &format!("{start}\r\n{many}\r\n")).await, 431);
    // A body of 10 MiB is not even read.
    let mut connection = TcpStream::connect(world.address).await.expect("a connection");
    connection.write_all(format!("{start}\r\nX-Long: ").as_bytes()).await.expect("a start");
    let piece = [b'x'; 64 << 10];
    let mut sent = 0;
    while sent < 10 << 20 && connection.write_all(&piece).await.is_ok() {
        sent += piece.len();
    }
    let head = read_head(&mut connection).await;
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 431 "), "{head}");
    read_rest(&mut connection).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_is_given_up() {
    let world = World::start().await;
    let started = tokio::time::Instant::now();
    let mut connection = TcpStream::connect(world.address).await.expect("a connection");
    connection.write_all(b"GET /exec/x HTTP/1.1\r\nX-Slow: ").await.expect("a start");
    read_rest(&mut connection).await;
    let taken = started.elapsed();
    assert!((10..12).contains(&taken.as_secs()), "{taken:?}");
}

#[tokio::test]
async fn a_crowd_of_silent_strangers_keeps_nobody_out() {
    let world = World::start().await;
    let mut crowd = crowd::connect(world.address, 2_000).await;
    let path = world.path(exec("exit 0", ALL));
    let request = websocket_request(&path, "v4.channel.k8s.io");
    let served = tokio::time::timeout(Duration::from_secs(5), status(&world, &request));
    assert_eq!(served.await.expect("long before the strangers' time is over"), 101);
    // The oldest ones were dropped.
    read_rest(&mut crowd[0]).await;
}

#[tokio::test]
async fn sessions_are_bounded() {
    let world = World::start_bounded(SOON, 3).await;
    let ask = async || {
        let path = world.path(exec("hang", ALL));
        world.raw(&websocket_request(&path, "v4.channel.k8s.io")).await
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        let (connection, head) = ask().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        held.push(connection);
    }
    let (mut one_more, head) = ask().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let told = String::from_utf8_lossy(&read_rest(&mut one_more).await).into_owned();
    assert_eq!(told, "3 sessions are already open\n");
    drop(held);
    let next = || websocket_request(&world.path(exec("hang", ALL)), "v4.channel.k8s.io");
    world.admitted(SOON, next).await;
}

#[tokio::test]
async fn a_gone_client_leaves_its_place_to_others() {
    let world = World::start_bounded(Duration::from_secs(3600), 1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let pod = PodId::random();
    let port = Request::PortForward(PortForward { pod, ports: vec![port] });
    let attach = Request::Attach(Attach { container: ContainerId::random(), streams: ALL });
    let command = ["v4.channel.k8s.io", "v5.channel.k8s.io"];
    let kinds = [
        (exec("hang", ALL), command),
        (attach, command),
        (port, ["portforward.k8s.io", "SPDY/3.1+portforward.k8s.io"]),
    ];
    for (request, [over_spdy, over_websocket]) in kinds {
        let path = || world.path(request.clone());
        // There is one place, so each waits for the end of the one before.
        drop(world.admitted(SOON, || spdy_request(&path(), over_spdy)).await);
        drop(world.admitted(SOON, || websocket_request(&path(), over_websocket)).await);
        let begun = || websocket_request(&path(), "v4.channel.k8s.io");
        let mut connection = world.admitted(SOON, begun).await;
        connection.read_u8().await.expect("the first byte of a message");
    }
    world.admitted(SOON, || websocket_request(&world.path(exec("exit 0", ALL)), "")).await;
}

#[tokio::test(start_paused = true)]
async fn the_drain_ends_requests_and_sessions() {
    let world = World::start().await;
    let mut asking = TcpStream::connect(world.address).await.expect("a connection");
    asking.write_all(b"GET ").await.expect("a start");
    let streams = Streams { stdin: false, ..ALL };
    let mut client = world.exec("v4.channel.k8s.io", "hang", streams).await;
    assert_eq!(client.next().await.expect("a greeting"), [1]);
    let (drained, status) =
        tokio::join!(world.tasks.drain(Duration::from_secs(8)), client.status());
    assert!(drained, "all tasks end");
    assert_eq!(status["message"], "Internal error occurred: the agent is stopping");
    read_rest(&mut asking).await;
    TcpStream::connect(world.address).await.expect_err("nobody listens");
    world.no_session_runs().await;
}
