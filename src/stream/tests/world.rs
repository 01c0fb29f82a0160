//! A server, its fake sessions, and raw clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::ids::{ContainerId, PodId};
use crate::lifecycle::Tasks;
use crate::model::streams::ProcessIo;
use crate::sandbox;
use crate::stream::*;

/// Time limit for everything in these tests.
pub const SOON: Duration = Duration::from_secs(20);

/// Sessions that do what the first word of the command says.
#[derive(Default)]
pub struct MadeUp {
    /// Number of running sessions.
    pub running: AtomicUsize,
    /// Number of input bytes read.
    pub read: AtomicUsize,
}

/// Counts a session while it exists.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl MadeUp {
    async fn act(&self, words: &[String], mut io: ProcessIo) -> Result<i32, sandbox::Error> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _counted = Counted(&self.running);
        let arguments = words[1..].join(" ");
        match words[0].as_str() {
            "exit" => return Ok(arguments.parse().expect("a code")),
            "fail" => return Err(sandbox::Error::NotFound(arguments)),
            "say" => {
                for (output, text) in [(&mut io.stdout, "out"), (&mut io.stderr, "err")] {
                    if let Some(output) = output {
                        output.write_all(text.as_bytes()).await.expect("a client");
                    }
                }
            }
            "cat" => self.cat(io).await,
            "count" => self.count(io).await,
            "sizes" => {
                let (mut sizes, mut out) = (io.resize.expect("sizes"), io.stdout.expect("output"));
                while let Some(size) = sizes.recv().await {
                    let text = format!("{}x{};", size.width, size.height);
                    out.write_all(text.as_bytes()).await.expect("a client");
                }
            }
            "flood" => {
                let mut out = io.stdout.expect("output");
                while out.write_all(&[7; 8192]).await.is_ok() {}
            }
            // Keeps its streams open and waits.
            "hang" => {
                std::future::pending::<()>().await;
                drop(io);
            }
            other => panic!("no command {other}"),
        }
        Ok(0)
    }

    async fn cat(&self, io: ProcessIo) {
        let (mut input, mut out) = (io.stdin.expect("input"), io.stdout.expect("output"));
        let mut piece = vec![0; 8192];
        loop {
            let length = input.read(&mut piece).await.expect("input");
            self.read.fetch_add(length, Ordering::SeqCst);
            if length == 0 {
                return;
            }
            if out.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    }

    async fn count(&self, io: ProcessIo) {
        let mut input = io.stdin.expect("input");
        let mut piece = vec![0; 8192];
        while let Ok(length @ 1..) = input.read(&mut piece).await {
            self.read.fetch_add(length, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl Sessions for MadeUp {
    async fn exec(&self, exec: &Exec, io: ProcessIo) -> Result<i32, SessionError> {
        self.act(&exec.command, io).await.map_err(SessionError::Exec)
    }

    async fn attach(&self, _: &Attach, io: ProcessIo) -> Result<(), SessionError> {
        self.act(&["count".to_owned()], io).await.map(drop).map_err(SessionError::Attach)
    }

    async fn port_forward(&self, _: &PodId, port: u16) -> Result<TcpStream, sandbox::Error> {
        let refused = |error: std::io::Error| sandbox::Error::NotFound(error.to_string());
        TcpStream::connect(("127.0.0.1", port)).await.map_err(refused)
    }

    async fn port_forward_udp(&self, _: &PodId, _: u16) -> Result<UdpSocket, sandbox::Error> {
        Err(sandbox::Error::Unsupported("UDP over SPDY or WebSocket".into()))
    }
}

/// A running server.
pub struct World {
    pub sessions: Arc<MadeUp>,
    pub urls: Arc<Urls>,
    pub tasks: Tasks,
    pub address: std::net::SocketAddr,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(Duration::from_secs(3600)).await
    }

    pub async fn start_with(idle_timeout: Duration) -> Self {
        Self::start_bounded(idle_timeout, MAX_SESSIONS).await
    }

    pub async fn start_bounded(idle_timeout: Duration, most: usize) -> Self {
        let (sessions, tasks) = (Arc::new(MadeUp::default()), Tasks::new());
        let options = Options {
            address: "127.0.0.1:0".parse().expect("an address"),
            base_url: None,
            idle_timeout,
            creation_timeout: Duration::from_secs(30),
            sessions: most,
        };
        let server =
            Server::bind(options, sessions.clone(), tasks.clone()).await.expect("a server");
        let (urls, address) = (server.urls(), server.address());
        drop(tasks.spawn("server", server.run()));
        Self { sessions, urls, tasks, address }
    }

    /// Path of a URL for this request.
    pub fn path(&self, request: Request) -> String {
        let url = self.urls.issue(request).expect("a URL");
        url.strip_prefix(&format!("http://{}", self.address)).expect("our address").to_owned()
    }

    /// Sends this and reads to the end of the answer's head.
    pub async fn raw(&self, request: &str) -> (TcpStream, String) {
        let mut connection = TcpStream::connect(self.address).await.expect("a connection");
        connection.write_all(request.as_bytes()).await.expect("a request");
        let head = read_head(&mut connection).await;
        (connection, head)
    }

    /// An upgraded WebSocket.
    pub async fn websocket(&self, path: &str, protocol: &str) -> Client {
        let (connection, head) = self.raw(&websocket_request(path, protocol)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.to_lowercase().contains("connection: upgrade\r\n"), "{head}");
        Client(WebSocketStream::from_raw_socket(connection, Role::Client, None).await)
    }

    /// A command over WebSocket.
    pub async fn exec(&self, protocol: &str, command: &str, streams: Streams) -> Client {
        let path = self.path(exec(command, streams));
        self.websocket(&path, protocol).await
    }

    /// Sends such a request until there is a place for its session; returns the connection.
    pub async fn admitted(&self, limit: Duration, request: impl Fn() -> String) -> TcpStream {
        let asking = async {
            loop {
                let (connection, head) = self.raw(&request()).await;
                if head.starts_with("HTTP/1.1 101 ") {
                    return connection;
                }
                // A paused clock may run ahead of a handshake.
                let waits = head.is_empty() || head.starts_with("HTTP/1.1 503 ");
                assert!(waits, "{head}");
                tokio::time::sleep(limit / 200).await;
            }
        };
        tokio::time::timeout(limit, asking).await.expect("a place for the session")
    }

    pub async fn no_session_runs(&self) {
        self.wait("the session is over", |sessions| sessions.running.load(Ordering::SeqCst) == 0)
            .await;
    }

    pub async fn wait(&self, what: &str, done: impl Fn(&MadeUp) -> bool) {
        let waiting = async {
            while !done(&self.sessions) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("not {what}"));
    }
}

/// Reads byte by byte up to the empty line, or the end.
pub async fn read_head(connection: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).expect("text")
}

/// The rest until the server closes; a reset counts as the end too.
pub async fn read_rest(connection: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let reading = connection.read_to_end(&mut rest);
    let _ = tokio::time::timeout(SOON, reading).await.expect("the server closes");
    rest
}

pub const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
pub const TTY: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };

pub fn exec(command: &str, streams: Streams) -> Request {
    let command = command.split(' ').map(str::to_owned).collect();
    Request::Exec(Exec { container: ContainerId::random(), command, streams })
}

pub fn websocket_request(path: &str, protocol: &str) -> String {
    let protocol = match protocol {
        "" => String::new(),
        name => format!("Sec-WebSocket-Protocol: {name}\r\n"),
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
    )
}

pub fn spdy_request(path: &str, protocol: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\n\r\n"
    )
}

/// A WebSocket client that follows no protocol but what a test says.
pub struct Client(pub WebSocketStream<TcpStream>);

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        self.0.send(message).await.expect("a message is sent");
    }

    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("a message is sent");
    }

    /// The next message with data; `None` at the end.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let next = async {
            loop {
                match self.0.next().await? {
                    Ok(message @ (Message::Binary(_) | Message::Text(_))) => {
                        return Some(message.into_data().to_vec());
                    }
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(SOON, next).await.expect("the server says something")
    }

    /// All messages until the end, with the data of each channel concatenated.
    pub async fn all(&mut self) -> Vec<Vec<u8>> {
        let mut channels = vec![Vec::new(); 8];
        while let Some(message) = self.next().await {
            channels[usize::from(message[0] % 16)].extend_from_slice(&message[1..]);
        }
        channels
    }

    /// The final status on the error channel.
    pub async fn status(&mut self) -> serde_json::Value {
        let channels = self.all().await;
        let text = String::from_utf8_lossy(&channels[3]).into_owned();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
    }
}
