//! A client that sends exactly what a test specifies.

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use crate::stream::spdy::headers::{self, DICTIONARY, Inflater};
use crate::stream::spdy::{Connection, Error, Head, Incoming, Limits};

/// A frame that the client has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Reply(u32),
    Data(u32, Vec<u8>, bool),
    Reset(u32, u32),
    Ping(u32),
    GoAway(u32, u32),
    Window(u32, u32),
    Closed,
}

pub struct Client {
    pub io: DuplexStream,
    headers: HeaderWriter,
    inflater: Inflater,
}

/// Compresses header blocks as Kubernetes clients do.
pub struct HeaderWriter(Compress);

impl HeaderWriter {
    pub fn new() -> Self {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&DICTIONARY).unwrap();
        Self(compress)
    }

    pub fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        self.compress(&plain)
    }

    pub fn compress(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(plain.len() + 1024);
        let start = self.0.total_in();
        loop {
            let rest = &plain[(self.0.total_in() - start) as usize..];
            block.reserve(1024);
            self.0.compress_vec(rest, &mut block, FlushCompress::Sync).unwrap();
            let is_all = (self.0.total_in() - start) as usize == plain.len();
            if is_all && block.len() < block.capacity() {
                return block;
            }
        }
    }
}

/// A control frame.
pub fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3];
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&(u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Encodes words as a payload.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The payload of a SYN_STREAM.
pub fn syn_stream(id: u32, block: &[u8]) -> Vec<u8> {
    [&words(&[id, 0])[..], &[0, 0], block].concat()
}

/// A connection driven by a task, and its client.
pub fn connect(limits: Limits) -> (Client, Incoming, JoinHandle<Result<(), Error>>) {
    let (near, far) = tokio::io::duplex(32 << 10);
    let (connection, incoming) = Connection::server(near, limits);
    let client = Client { io: far, headers: HeaderWriter::new(), inflater: Inflater::default() };
    (client, incoming, tokio::spawn(connection.run()))
}

impl Client {
    pub async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    pub async fn control(&mut self, kind: u16, payload: &[u8]) {
        self.raw(&control(kind, 0, payload)).await;
    }

    pub async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let block = self.headers.block(headers);
        self.control(1, &syn_stream(id, &block)).await;
    }

    /// Opens a stream of a remote command and waits for the answer.
    pub async fn open_typed(&mut self, id: u32, kind: &str) -> Seen {
        self.open(id, &[("streamtype", kind)]).await;
        self.next().await
    }

    pub async fn data(&mut self, id: u32, data: &[u8], fin: bool) {
        let head = words(&[id, u32::from(fin) << 24 | data.len() as u32]);
        self.raw(&[&head, data].concat()).await;
    }

    pub async fn reset(&mut self, id: u32) {
        self.control(3, &words(&[id, 5])).await;
    }

    /// The next frame, except session windows and the server's PINGs, which most tests ignore.
    pub async fn next(&mut self) -> Seen {
        loop {
            let seen = tokio::time::timeout(Duration::from_secs(60), self.read()).await;
            match seen.expect("a frame in time") {
                Seen::Window(0, _) => {}
                Seen::Ping(id) if id % 2 == 0 => {}
                seen => return seen,
            }
        }
    }

    pub async fn read(&mut self) -> Seen {
        let mut head = [0; 8];
        if self.io.read_exact(&mut head).await.is_err() {
            return Seen::Closed;
        }
        match Head::parse(head).unwrap() {
            Head::Data { id, fin, length } => Seen::Data(id, self.payload(length).await, fin),
            Head::Control { kind, length, .. } => {
                let payload = self.payload(length).await;
                let word =
                    |at: usize| u32::from_be_bytes(payload[4 * at..4 * at + 4].try_into().unwrap());
                match kind {
                    2 => {
                        let limits = Limits::default();
                        let block = headers::parse(&mut self.inflater, &payload[4..], &limits);
                        assert_eq!(block.unwrap(), Ok(Default::default()));
                        Seen::Reply(word(0))
                    }
                    3 => Seen::Reset(word(0), word(1)),
                    6 => Seen::Ping(word(0)),
                    7 => Seen::GoAway(word(0), word(1)),
                    9 => Seen::Window(word(0), word(1)),
                    _ => panic!("frame of type {kind}"),
                }
            }
        }
    }

    async fn payload(&mut self, length: usize) -> Vec<u8> {
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.unwrap();
        payload
    }

    /// All data of a stream to its end; panics at any other frame.
    pub async fn read_all(&mut self, id: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Seen::Data(from, data, fin) if from == id => {
                    all.extend_from_slice(&data);
                    if fin {
                        return all;
                    }
                }
                other => panic!("{other:?} instead of data of stream {id}"),
            }
        }
    }
}
