//! Sessions over WebSocket, from the handshake on.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use podbay::ids::{ContainerId, PodId};
use podbay::lifecycle::Tasks;
use podbay::model::streams::ProcessIo;
use podbay::sandbox;
use podbay::stream::{self, Request, SessionError, Sessions, Streams, Urls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::{fuzz, words};

thread_local! {
    /// Whether a task of this thread has panicked: its owner catches that.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Whole sessions over WebSocket, on a server: what is mutated begins after the request line.
#[test]
fn sessions() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.set(true);
        hook(panic);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let (urls, address) = runtime.block_on(streaming_server());
    fuzz("websocket", |bytes| {
        let outcome = runtime.block_on(session(bytes, &urls, address));
        assert!(!PANICKED.take(), "a task of the server has panicked");
        outcome
    });
}

async fn streaming_server() -> (Arc<Urls>, SocketAddr) {
    let options = stream::Options {
        address: "127.0.0.1:0".parse().expect("an address"),
        base_url: None,
        idle_timeout: Duration::from_secs(3600),
        creation_timeout: Duration::from_secs(30),
        sessions: podbay::stream::MAX_SESSIONS,
    };
    let tasks = Tasks::new();
    let server = stream::Server::bind(options, Arc::new(Echo), tasks.clone()).await;
    let server = server.expect("a server");
    let (urls, address) = (server.urls(), server.address());
    drop(tasks.spawn("server", server.run()));
    (urls, address)
}

/// Every command is `cat`, and no pod has a port.
struct Echo;

#[async_trait]
impl Sessions for Echo {
    async fn exec(&self, _: &stream::Exec, io: ProcessIo) -> Result<i32, SessionError> {
        if let (Some(mut input), Some(mut output)) = (io.stdin, io.stdout) {
            let _ = tokio::io::copy(&mut input, &mut output).await;
        }
        Ok(0)
    }

    async fn attach(&self, _: &stream::Attach, io: ProcessIo) -> Result<(), SessionError> {
        if let (Some(mut input), Some(mut output)) = (io.stdin, io.stdout) {
            let _ = tokio::io::copy(&mut input, &mut output).await;
        }
        Ok(())
    }

    async fn port_forward(&self, _: &PodId, port: u16) -> Result<TcpStream, sandbox::Error> {
        Err(sandbox::Error::NotFound(port.to_string()))
    }

    async fn port_forward_udp(&self, _: &PodId, port: u16) -> Result<UdpSocket, sandbox::Error> {
        Err(sandbox::Error::NotFound(port.to_string()))
    }
}

async fn session(bytes: &[u8], urls: &Urls, address: SocketAddr) -> String {
    let (container, tty) = (ContainerId::random(), bytes.len().is_multiple_of(3));
    let streams = Streams { stdin: true, stdout: true, stderr: !tty, tty };
    let request = match bytes.len() % 4 {
        0 => {
            Request::PortForward(stream::PortForward { pod: PodId::random(), ports: vec![80, 443] })
        }
        1 => Request::Attach(stream::Attach { container, streams }),
        _ => Request::Exec(stream::Exec { container, command: vec!["cat".to_owned()], streams }),
    };
    let url = urls.issue(request).expect("a URL");
    let path = url.strip_prefix(&format!("http://{address}")).expect("a URL of this server");
    let start = format!("GET {path} HTTP/1.1\r\n");
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    let (mut read, mut write) = connection.split();
    let written = async {
        let _ = write.write_all(&[start.as_bytes(), bytes].concat()).await;
        // The clock is paused: it goes on when the server has nothing left to do.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = write.shutdown().await;
    };
    let mut answer = Vec::new();
    let all = async { tokio::join!(read.read_to_end(&mut answer), written) };
    let ended = tokio::time::timeout(Duration::from_secs(600), all).await;
    // A reset is an end, too.
    assert!(ended.is_ok(), "a session whose client has closed ends");
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, rest) = answer.split_at(head.map_or(answer.len(), |at| at + 4));
    match head.get(9..12).unwrap_or_default() {
        b"101" => format!("101 {}", frames(rest)),
        code => {
            format!("{} {}", String::from_utf8_lossy(code), words(&String::from_utf8_lossy(rest)))
        }
    }
}

/// The kinds of the frames that a server has sent, each with its channel.
fn frames(mut rest: &[u8]) -> String {
    let mut kinds = String::new();
    while let [kind, length, after @ ..] = rest
        && let Some((data, later)) = after.split_at_checked(usize::from(*length))
    {
        kinds += &format!("{kind:x} {:?},", data.first());
        rest = later;
    }
    kinds.chars().take(120).collect()
}
