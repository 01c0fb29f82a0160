//! A WebSocket client of streaming URLs, which sees the bytes of each channel.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Longest wait for the next message.
const LIMIT: Duration = Duration::from_secs(60);

/// A session over binary channels.
pub struct Session {
    socket: WebSocketStream<TcpStream>,
    /// What came on each channel.
    pub channels: [Vec<u8>; 6],
}

/// Asks for an upgrade; gives the connection and the code of the answer.
pub async fn ask(url: &str, protocol: &str) -> (TcpStream, u16) {
    let url = url::Url::parse(url).expect("a URL");
    let host = (url.host_str().expect("a host"), url.port().expect("a port"));
    let mut connection = TcpStream::connect(host).await.expect("the streaming server listens");
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n",
        url.path()
    );
    connection.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let code = head[9..12].parse().expect("a code");
    (connection, code)
}

impl Session {
    pub async fn open(url: &str, protocol: &str) -> Self {
        let (connection, code) = ask(url, protocol).await;
        assert_eq!(code, 101);
        let socket = WebSocketStream::from_raw_socket(connection, Role::Client, None).await;
        Self { socket, channels: Default::default() }
    }

    pub async fn send(&mut self, channel: u8, data: &[u8]) {
        let message = [&[channel], data].concat();
        self.socket.send(Message::Binary(message.into())).await.expect("a message is sent");
    }

    /// v5: the end of the process's input.
    pub async fn end_input(&mut self) {
        let message = Message::Binary(Bytes::from_static(&[255, 0]));
        self.socket.send(message).await.expect("a message is sent");
    }

    /// Takes the next message; `false` at the end.
    pub async fn take(&mut self) -> bool {
        let next =
            tokio::time::timeout(LIMIT, self.socket.next()).await.expect("a message in time");
        match next {
            Some(Ok(Message::Binary(bytes))) => {
                self.channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
                true
            }
            Some(Ok(_)) => true,
            Some(Err(_)) | None => false,
        }
    }

    /// Takes messages until a channel has carried these words.
    pub async fn until(&mut self, channel: usize, words: &str) {
        // Pings count as messages, so each wait for one has no end of its own.
        let begun = Instant::now();
        while !self.text(channel).contains(words) {
            let more = self.take().await && begun.elapsed() < LIMIT;
            assert!(more, "no {words:?}: {:?} {:?}", self.text(channel), self.text(3));
        }
    }

    /// Takes messages until a channel has carried so many bytes.
    pub async fn until_length(&mut self, channel: usize, length: usize) {
        while self.channels[channel].len() < length {
            let carried = self.channels[channel].len();
            assert!(self.take().await, "ended after {carried} of {length} bytes: {}", self.text(3));
        }
    }

    /// Takes everything; then the outcome of a command.
    pub async fn outcome(&mut self) -> serde_json::Value {
        while self.take().await {}
        let text = self.text(3);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
    }

    /// The exit code that an outcome tells.
    pub async fn code(&mut self) -> String {
        let outcome = self.outcome().await;
        match outcome["status"].as_str() {
            Some("Success") => "0".to_owned(),
            _ => outcome["details"]["causes"][0]["message"].as_str().expect("a cause").to_owned(),
        }
    }

    pub fn text(&self, channel: usize) -> String {
        String::from_utf8_lossy(&self.channels[channel]).into_owned()
    }

    /// Sends all of this as input, then its end, and takes all messages meanwhile.
    pub async fn pass(mut self, data: Vec<u8>) -> Self {
        let (mut sink, mut source) = self.socket.split();
        let sending = async {
            for piece in data.chunks(32 << 10) {
                let message = [&[0], piece].concat();
                sink.send(Message::Binary(message.into())).await.expect("a message is sent");
            }
            let end = Message::Binary(Bytes::from_static(&[255, 0]));
            sink.send(end).await.expect("a message is sent");
        };
        let channels = &mut self.channels;
        let taking = async {
            while let Some(Ok(message)) = source.next().await {
                if let Message::Binary(bytes) = message {
                    channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
                }
            }
        };
        let both = async { tokio::join!(sending, taking) };
        tokio::time::timeout(LIMIT, both).await.expect("everything passes");
        self.socket = sink.reunite(source).expect("the same socket");
        self
    }
}
