//! Port-forward over WebSocket channels.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::world::*;
use crate::ids::PodId;
use crate::stream::{PortForward, Request};

fn forward(ports: Vec<u16>) -> Request {
    Request::PortForward(PortForward { pod: PodId::random(), ports })
}

/// A port on which nothing listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    listener.local_addr().expect("an address").port()
}

#[tokio::test]
async fn each_port_has_its_channels_and_its_own_error() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let (good, bad) = (listener.local_addr().expect("an address").port(), closed_port().await);
    let path = world.path(forward(vec![bad, good]));
    let mut client = world.websocket(&path, "v4.channel.k8s.io").await;
    let (mut pod, _) = listener.accept().await.expect("the agent connects");
    let mut channels = vec![Vec::new(); 4];
    let whole = |channels: &[Vec<u8>]| {
        channels.iter().all(|channel| channel.len() >= 2) && channels[1].len() > 2
    };
    while !whole(&channels) {
        let message = client.next().await.expect("a message");
        channels[usize::from(message[0])].extend_from_slice(&message[1..]);
    }
    for (channel, port) in channels.iter().zip([bad, bad, good, good]) {
        assert_eq!(channel[..2], port.to_le_bytes());
    }
    let error = String::from_utf8_lossy(&channels[1][2..]).into_owned();
    assert!(error.contains(&format!("error forwarding port {bad}: ")), "{error}");
    // The other port stays connected.
    client.send(b"\x02ping").await;
    client.send(b"\x00nobody").await;
    client.send(b"\x03nobody").await;
    client.send(b"\x09nobody").await;
    let mut heard = [0; 4];
    pod.read_exact(&mut heard).await.expect("data");
    assert_eq!(&heard, b"ping");
    pod.write_all(b"pong").await.expect("sent");
    assert_eq!(client.next().await.expect("data"), *b"\x02pong");
    // The session ends with its last connection.
    drop(pod);
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn ports_in_base64() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let path = world.path(forward(vec![listener.local_addr().expect("an address").port()]));
    let mut client = world.websocket(&path, "v4.base64.channel.k8s.io").await;
    let (mut pod, _) = listener.accept().await.expect("the agent connects");
    client.send_text("0aGVsbG8=").await;
    let mut heard = [0; 5];
    pod.read_exact(&mut heard).await.expect("data");
    assert_eq!(&heard, b"hello");
    pod.write_all(b"hello").await.expect("sent");
    let mut last = Vec::new();
    while last != b"0aGVsbG8=" {
        last = client.next().await.expect("data");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_disconnected_at_the_end() {
    let world = World::start_bounded(Duration::from_secs(60), 1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let path = world.path(forward(vec![listener.local_addr().expect("an address").port()]));
    let _stuck = world.websocket(&path, "v4.channel.k8s.io").await;
    let (mut pod, _) = listener.accept().await.expect("the agent connects");
    let flood = async { while pod.write_all(&[7; 8192]).await.is_ok() {} };
    let next = || websocket_request(&world.path(forward(vec![1])), "v4.channel.k8s.io");
    tokio::join!(flood, world.admitted(Duration::from_secs(300), next));
}

#[tokio::test]
async fn a_gone_client_closes_its_connections() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let path = world.path(forward(vec![listener.local_addr().expect("an address").port()]));
    let client = world.websocket(&path, "").await;
    let (mut pod, _) = listener.accept().await.expect("the agent connects");
    drop(client);
    read_rest(&mut pod).await;
}
