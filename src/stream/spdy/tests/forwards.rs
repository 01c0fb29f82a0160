//! Port forwarding over SPDY.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::client::{Client, Seen, connect};
use crate::stream::spdy::{Limits, PortForward, port_forward};

/// The pod's ends of the dialled connections, the latest last.
type Pod = Arc<Mutex<Vec<DuplexStream>>>;

/// A session to a pod in which port 1 refuses connections.
fn forward(options: PortForward) -> (Client, Pod, JoinHandle<()>) {
    let (client, incoming, _run) = connect(Limits::default());
    let pod = Pod::default();
    let dialled = pod.clone();
    let session = tokio::spawn(port_forward(incoming, options, move |port| {
        let dialled = dialled.clone();
        async move {
            if port == 1 {
                return Err("connection refused".to_owned());
            }
            let (near, far) = tokio::io::duplex(1 << 10);
            dialled.lock().unwrap().push(far);
            Ok(near)
        }
    }));
    (client, pod, session)
}

impl Client {
    /// Opens one stream of a pair.
    async fn half(&mut self, id: u32, kind: &str, port: &str, request: &str) -> Seen {
        let mut headers = vec![("streamtype", kind), ("port", port)];
        if !request.is_empty() {
            headers.push(("requestid", request));
        }
        self.open(id, &headers).await;
        self.next().await
    }

    async fn pair(&mut self, id: u32, port: &str, request: &str) {
        assert_eq!(self.half(id, "error", port, request).await, Seen::Reply(id));
        // As client-go does: nothing is ever sent on it.
        self.data(id, b"", true).await;
        assert_eq!(self.half(id + 2, "data", port, request).await, Seen::Reply(id + 2));
    }
}

async fn last(pod: &Pod, count: usize) -> DuplexStream {
    loop {
        if pod.lock().unwrap().len() == count {
            return pod.lock().unwrap().pop().unwrap();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_pair_carries_a_connection() {
    for request in ["0", ""] {
        let (mut client, pod, session) = forward(PortForward::default());
        client.pair(1, "80", request).await;
        let mut port = last(&pod, 1).await;
        client.data(3, b"GET", false).await;
        let mut text = [0; 3];
        port.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"GET");
        // A half-closed pair still answers.
        client.data(3, b"", true).await;
        assert_eq!(port.read(&mut text).await.unwrap(), 0);
        port.write_all(b"200").await.unwrap();
        assert_eq!(client.next().await, Seen::Data(3, b"200".to_vec(), false));
        drop(port);
        assert_eq!(client.next().await, Seen::Data(3, Vec::new(), true));
        assert_eq!(client.next().await, Seen::Data(1, Vec::new(), true), "and no error");
        drop(client);
        session.await.unwrap();
    }
}

#[tokio::test]
async fn pairs_of_one_session_do_not_mix() {
    let (mut client, pod, _session) = forward(PortForward::default());
    assert_eq!(client.half(1, "error", "80", "a").await, Seen::Reply(1));
    assert_eq!(client.half(3, "error", "81", "b").await, Seen::Reply(3));
    assert_eq!(client.half(5, "data", "81", "b").await, Seen::Reply(5));
    let mut second = last(&pod, 1).await;
    assert_eq!(client.half(7, "data", "80", "a").await, Seen::Reply(7));
    let mut first = last(&pod, 1).await;
    second.write_all(b"two").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(5, b"two".to_vec(), false));
    first.write_all(b"one").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(7, b"one".to_vec(), false));
}

#[tokio::test]
async fn a_refused_port_ends_only_its_pair() {
    let (mut client, pod, session) = forward(PortForward::default());
    client.pair(1, "80", "0").await;
    let mut port = last(&pod, 1).await;
    client.pair(5, "1", "1").await;
    let mut seen = vec![client.next().await, client.next().await];
    if let Seen::Data(5, _, false) = seen[0] {
        seen.push(client.next().await);
    }
    let reason = b"error forwarding port 1: connection refused".to_vec();
    assert!(seen.contains(&Seen::Reset(7, 5)), "{seen:?}");
    let told: Vec<u8> = seen
        .iter()
        .filter_map(
            |seen| if let Seen::Data(5, text, _) = seen { Some(text.clone()) } else { None },
        )
        .flatten()
        .collect();
    assert_eq!(told, reason);
    port.write_all(b"alive").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(3, b"alive".to_vec(), false));
    client.pair(9, "80", "1").await;
    last(&pod, 1).await;
    assert!(!session.is_finished());
}

#[tokio::test]
async fn headers_are_checked() {
    let (mut client, pod, _session) = forward(PortForward::default());
    let mut id = 1;
    for port in ["", "0", "65536", "-1", "+80", "http", " 80", "8080808080808080808080"] {
        assert_eq!(client.half(id, "error", port, "r").await, Seen::Reset(id, 3), "{port:?}");
        id += 2;
    }
    assert_eq!(client.half(id, "stdin", "80", "r").await, Seen::Reset(id, 3));
    client.open(id + 2, &[("port", "80"), ("requestid", "r")]).await;
    assert_eq!(client.next().await, Seen::Reset(id + 2, 3));
    client.open(id + 4, &[("streamtype", "data"), ("requestid", "r")]).await;
    assert_eq!(client.next().await, Seen::Reset(id + 4, 3));
    // The same kind twice, and a different port than the first stream's.
    assert_eq!(client.half(id + 6, "error", "65535", "r").await, Seen::Reply(id + 6));
    assert_eq!(client.half(id + 8, "error", "65535", "r").await, Seen::Reset(id + 8, 3));
    assert_eq!(client.half(id + 10, "data", "80", "r").await, Seen::Reset(id + 10, 3));
    assert_eq!(client.half(id + 12, "data", "65535", "r").await, Seen::Reply(id + 12));
    last(&pod, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_lonely_stream_is_given_up() {
    let (mut client, pod, _session) = forward(PortForward::default());
    let start = tokio::time::Instant::now();
    assert_eq!(client.half(1, "error", "80", "a").await, Seen::Reply(1));
    assert_eq!(client.half(3, "data", "80", "b").await, Seen::Reply(3));
    client.pair(5, "80", "c").await;
    let mut port = last(&pod, 1).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(client.next().await);
    }
    let text = b"request a: timed out waiting for its data stream".to_vec();
    // Both arrive; the order is not defined, because a reset does not wait.
    seen.sort_by_key(|seen| format!("{seen:?}"));
    assert_eq!(seen, [Seen::Data(1, text, true), Seen::Reset(3, 5)]);
    assert_eq!(start.elapsed().as_secs(), 30);
    // The session continues, and its ids can be used again.
    port.write_all(b"x").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(7, b"x".to_vec(), false));
    client.pair(9, "80", "a").await;
    last(&pod, 1).await;
}

#[tokio::test]
async fn more_pairs_than_allowed_are_refused() {
    let (mut client, pod, _session) = forward(PortForward { pairs: 2, ..Default::default() });
    client.pair(1, "80", "a").await;
    let first = last(&pod, 1).await;
    assert_eq!(client.half(5, "error", "80", "b").await, Seen::Reply(5));
    assert_eq!(client.half(7, "error", "80", "c").await, Seen::Reset(7, 3));
    assert_eq!(client.half(9, "data", "80", "b").await, Seen::Reply(9));
    last(&pod, 1).await;
    // A pair that ends frees its slot.
    client.reset(3).await;
    drop(first);
    assert_eq!(client.next().await, Seen::Data(9, Vec::new(), true));
}

#[tokio::test]
async fn a_client_that_resets_its_stream_closes_the_connection_to_the_pod() {
    let (mut client, pod, _session) = forward(PortForward::default());
    client.pair(1, "80", "0").await;
    let mut port = last(&pod, 1).await;
    client.data(3, b"", true).await;
    assert_eq!(port.read(&mut [0; 1]).await.unwrap(), 0);
    client.reset(3).await;
    assert_eq!(client.next().await, Seen::Data(1, Vec::new(), true));
    let error = port.write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn the_end_of_the_client_closes_all_connections() {
    let (mut client, pod, session) = forward(PortForward::default());
    client.pair(1, "80", "0").await;
    let mut port = last(&pod, 1).await;
    drop(client);
    tokio::time::timeout(Duration::from_secs(20), session).await.unwrap().unwrap();
    assert_eq!(port.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_end_its_direction_is_not_waited_for_forever() {
    let (mut client, pod, _session) = forward(PortForward::default());
    client.pair(1, "80", "0").await;
    drop(last(&pod, 1).await);
    assert_eq!(client.next().await, Seen::Data(3, Vec::new(), true));
    assert_eq!(client.next().await, Seen::Data(1, Vec::new(), true));
}

/// A port whose reads fail.
struct Broken;

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

impl tokio::io::AsyncWrite for Broken {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_the_pod_breaks_off_is_told() {
    let (mut client, incoming, _run) = connect(Limits::default());
    let dial = |_| async { Ok(Broken) };
    let _session = tokio::spawn(port_forward(incoming, PortForward::default(), dial));
    client.pair(1, "80", "0").await;
    let text = b"error forwarding port 80: reading from the pod: connection reset".to_vec();
    let mut seen = vec![client.next().await, client.next().await];
    seen.sort_by_key(|seen| format!("{seen:?}"));
    assert_eq!(seen, [Seen::Data(1, text, true), Seen::Reset(3, 5)]);
}
