//! PortForward over TCP and UDP.

use futures::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::world::*;
use crate::proto::podbay::v1::port_forward_request::Input;
use crate::proto::podbay::v1::port_forward_response::Output;
use crate::proto::podbay::v1::*;

fn start(port: u32, protocol: Protocol) -> PortForwardRequest {
    let start = PortForwardStart {
        name: "a".into(),
        port,
        protocol: protocol.into(),
        ..PortForwardStart::default()
    };
    PortForwardRequest { input: Some(Input::Start(start)) }
}

fn data(bytes: &[u8]) -> PortForwardRequest {
    PortForwardRequest { input: Some(Input::Data(bytes.to_vec())) }
}

async fn next(answers: &mut Streaming<PortForwardResponse>) -> Result<Option<Output>, Status> {
    let next = tokio::time::timeout(SOON, answers.message()).await.expect("no answer")?;
    Ok(next.map(|answer| answer.output.unwrap()))
}

async fn world() -> World {
    let world = World::start().await;
    world.face.hub.publish(view("a", "Running"));
    world
}

#[tokio::test]
async fn a_connection_goes_both_ways_until_the_pod_closes_it() {
    let world = world().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        let (mut far, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        // Until the caller ends its data.
        far.read_to_end(&mut got).await.unwrap();
        far.write_all(&got).await.unwrap();
    });
    let long = vec![7; 300_000];
    let talk = stream::iter([start(port.into(), Protocol::Unspecified), data(b"ab"), data(&long)]);
    let mut answers = world.client().await.port_forward(talk).await.unwrap().into_inner();
    assert_eq!(next(&mut answers).await.unwrap(), Some(Output::Started(PortForwardStarted {})));
    let mut got = Vec::new();
    while let Some(Output::Data(bytes)) = next(&mut answers).await.unwrap() {
        got.extend(bytes);
    }
    assert_eq!(got, [b"ab".to_vec(), long].concat());
    echo.await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn who_hangs_up_closes_the_connection() {
    let world = world().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, later) = mpsc::channel(4);
    sender.send(start(port.into(), Protocol::Tcp)).await.unwrap();
    let mut answers =
        world.client().await.port_forward(ReceiverStream::new(later)).await.unwrap().into_inner();
    next(&mut answers).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    drop((answers, sender));
    let closed = tokio::time::timeout(SOON, far.read(&mut [0; 1])).await.unwrap();
    assert!(!matches!(closed, Ok(1..)));
    world.stop().await;
}

#[tokio::test]
async fn datagrams_stay_apart() {
    let world = world().await;
    let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = far.local_addr().unwrap().port();
    let (sender, later) = mpsc::channel(4);
    sender.send(start(port.into(), Protocol::Udp)).await.unwrap();
    let mut answers =
        world.client().await.port_forward(ReceiverStream::new(later)).await.unwrap().into_inner();
    next(&mut answers).await.unwrap();
    let mut got = [0; 64];
    for text in [&b"one"[..], b"three"] {
        sender.send(data(text)).await.unwrap();
        let (length, from) = far.recv_from(&mut got).await.unwrap();
        assert_eq!(&got[..length], text);
        far.send_to(&got[..length - 1], from).await.unwrap();
        let answer = next(&mut answers).await.unwrap();
        assert_eq!(answer, Some(Output::Data(text[..text.len() - 1].to_vec())));
    }
    sender.send(data(&vec![0; 65_508])).await.unwrap();
    let status = next(&mut answers).await.unwrap_err();
    assert_eq!(status.message(), "data: a datagram has at most 65507 bytes");
    world.stop().await;
}

#[tokio::test]
async fn an_answer_comes_after_the_last_question() {
    let world = world().await;
    let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = far.local_addr().unwrap().port();
    let talk = stream::iter([start(port.into(), Protocol::Udp), data(b"question")]);
    let mut answers = world.client().await.port_forward(talk).await.unwrap().into_inner();
    next(&mut answers).await.unwrap();
    let (_, from) = far.recv_from(&mut [0; 64]).await.unwrap();
    far.send_to(b"answer", from).await.unwrap();
    assert_eq!(next(&mut answers).await.unwrap(), Some(Output::Data(b"answer".to_vec())));
    world.stop().await;
}

#[tokio::test]
async fn nobody_listens() {
    let world = world().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let talk = stream::iter([start(free.into(), Protocol::Tcp)]);
    assert!(world.client().await.port_forward(talk).await.is_err());
    let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let talk = stream::iter([start(free.into(), Protocol::Udp), data(b"x")]);
    let mut answers = world.client().await.port_forward(talk).await.unwrap().into_inner();
    next(&mut answers).await.unwrap();
    assert_eq!(next(&mut answers).await.unwrap_err().code(), Code::Unavailable);
    world.stop().await;
}

#[tokio::test]
async fn wrong_ports_are_refused_by_name() {
    let world = world().await;
    let cases = [
        (start(0, Protocol::Tcp), "start.port: must be 1 to 65535"),
        (start(65_536, Protocol::Tcp), "start.port: must be 1 to 65535"),
        (start(80, Protocol::Sctp), "start.protocol: must be TCP or UDP"),
        (data(b"x"), "start: must be the first message"),
    ];
    for (request, text) in cases {
        let talk = stream::iter([request]);
        let status = world.client().await.port_forward(talk).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
    }
    world.stop().await;
}
