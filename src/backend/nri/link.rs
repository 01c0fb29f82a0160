//! A plugin's connection, with calls in both directions.
//!
//! The `ttrpc` crate cannot be used: it needs a separate socket for each service, and splits its
//! writes in a way that does not fit the framing. Little of the protocol is needed: unary calls
//! without metadata.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use prost::Message as _;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::frames::{Frames, Kind, MAX_BODY, Message};
use crate::lifecycle::Tasks;
use crate::locks::{Mutex, MutexGuard};

/// Maximum number of messages queued for writing.
const QUEUE: usize = 64;

/// Maximum number of concurrently served calls of the peer.
const MAX_SERVED: usize = 16;

/// gRPC codes used in a [`Status`].
pub mod code {
    /// Success.
    pub const OK: i32 = 0;
    /// An invalid argument.
    pub const INVALID_ARGUMENT: i32 = 3;
    /// A limit was exceeded.
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    /// Not possible in the current state.
    pub const FAILED_PRECONDITION: i32 = 9;
    /// No such call.
    pub const UNIMPLEMENTED: i32 = 12;
    /// Any other error.
    pub const UNKNOWN: i32 = 2;
}

/// An error in a response (google.rpc.Status).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    /// A gRPC code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Error message.
    #[prost(string, tag = "2")]
    pub message: String,
}

impl Status {
    /// An error with this code.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
    #[prost(int64, tag = "4")]
    timeout_nano: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "bytes", tag = "2")]
    payload: Bytes,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// No answer within the time limit.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer cannot be decoded.
    #[error("the answer cannot be read: {0}")]
    Garbled(String),
    /// The request is too long.
    #[error("a request of {0} bytes, of which at most {MAX_BODY} can be sent")]
    TooLong(usize),
    /// The peer returned an error.
    #[error("{}", .0.message)]
    Refused(Status),
}

/// The service offered to the peer.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Serves a call, with encoded request and response.
    async fn call(&self, service: &str, method: &str, payload: Bytes) -> Result<Bytes, Status>;
}

/// The numbers of the two logical connections.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    /// For our calls.
    pub out: u32,
    /// For the peer's calls.
    pub back: u32,
}

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub struct Link {
    queue: mpsc::Sender<Bytes>,
    calls: Arc<Calls>,
    closed: CancellationToken,
    ways: Ways,
}

/// Calls that wait for an answer.
#[derive(Debug, Default)]
struct Calls(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    last: u32,
    by_stream: HashMap<u32, oneshot::Sender<Response>>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock()
    }

    /// A new stream id: those of the caller are odd and increase.
    fn begin(&self) -> (u32, oneshot::Receiver<Response>) {
        let (sender, answer) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.last = if waiting.last == 0 { 1 } else { waiting.last.wrapping_add(2) };
        let stream = waiting.last;
        waiting.by_stream.insert(stream, sender);
        (stream, answer)
    }

    fn end(&self, stream: u32) -> Option<oneshot::Sender<Response>> {
        self.lock().by_stream.remove(&stream)
    }
}

impl Link {
    /// Starts to communicate over `stream`; calls of the peer go to `service`.
    pub fn open(
        stream: UnixStream,
        ways: Ways,
        service: Arc<dyn Service>,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let (reader, writer) = stream.into_split();
        let (queue, messages) = mpsc::channel(QUEUE);
        let (calls, closed) = (Arc::<Calls>::default(), CancellationToken::new());
        drop(tasks.spawn_until_drain("nri-write", write(writer, messages, closed.clone())));
        let inbound = Inbound { calls: calls.clone(), queue: queue.clone(), service, ways };
        let ended = closed.clone();
        let draining = tasks.draining();
        drop(tasks.spawn("nri-read", async move {
            // Each branch may be dropped at any point, since partially read data is not needed any
            // more.
            tokio::select! {
                () = inbound.run(reader) => {}
                () = ended.cancelled() => {}
                () = draining => {}
            }
            ended.cancel();
            inbound.calls.lock().by_stream.clear();
        }));
        Arc::new(Self { queue, calls, closed, ways })
    }

    /// Calls the peer and waits for its answer, for at most `limit`.
    pub async fn call(
        &self,
        service: &str,
        method: &str,
        payload: Bytes,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        };
        let length = request.encoded_len();
        if length > MAX_BODY {
            return Err(CallError::TooLong(length));
        }
        let (stream, answer) = self.calls.begin();
        let body = request.encode_to_vec().into();
        let message = Message { connection: self.ways.out, stream, kind: Kind::Request, body };
        let answered = async {
            if self.closed.is_cancelled() {
                return Err(CallError::Closed);
            }
            self.queue.send(message.encode()).await.map_err(|_| CallError::Closed)?;
            // Each branch only waits. The reader may have ended before the call began.
            tokio::select! {
                answer = answer => answer.map_err(|_| CallError::Closed),
                () = self.closed.cancelled() => Err(CallError::Closed),
            }
        };
        let answered = tokio::time::timeout(limit, answered).await;
        self.calls.end(stream);
        let response = answered.map_err(|_| CallError::TimedOut(limit))??;
        match response.status {
            Some(status) if status.code != code::OK => Err(CallError::Refused(status)),
            _ => Ok(response.payload),
        }
    }

    /// Closes the connection.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Whether either end has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Completes once either end has closed the connection.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        self.closed.clone().cancelled_owned()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut messages: mpsc::Receiver<Bytes>,
    closed: CancellationToken,
) {
    loop {
        // Cancel-safe: no message was taken yet, so none is partially written.
        let message = tokio::select! {
            message = messages.recv() => message,
            () = closed.cancelled() => None,
        };
        let Some(message) = message else { break };
        // A message interrupted here is the last one.
        let written = tokio::select! {
            written = writer.write_all(&message) => written.is_ok(),
            () = closed.cancelled() => false,
        };
        if !written {
            break;
        }
    }
    closed.cancel();
}

/// The reading half.
struct Inbound {
    calls: Arc<Calls>,
    queue: mpsc::Sender<Bytes>,
    service: Arc<dyn Service>,
    ways: Ways,
}

impl Inbound {
    /// Reads until the end, or until the peer violates the protocol.
    async fn run(&self, reader: OwnedReadHalf) {
        let mut messages = FramedRead::new(reader, Frames::default());
        let mut served = JoinSet::new();
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    tracing::warn!(%error, "NRI plugin connection failed");
                    return;
                }
            };
            while served.try_join_next().is_some() {}
            if message.connection == self.ways.out && message.kind == Kind::Response {
                self.answered(message);
            } else if message.connection == self.ways.back && message.kind == Kind::Request {
                let serving = self.serve(message, served.len());
                served.spawn(serving);
            }
        }
    }

    fn answered(&self, message: Message) {
        // Nobody waits any more for an answer that arrives too late.
        let Some(waiting) = self.calls.end(message.stream) else { return };
        if let Ok(response) = Response::decode(message.body) {
            let _ = waiting.send(response);
        }
    }

    fn serve(&self, message: Message, busy: usize) -> impl Future<Output = ()> + Send + 'static {
        let (service, queue) = (self.service.clone(), self.queue.clone());
        async move {
            let served = match Request::decode(message.body) {
                _ if busy >= MAX_SERVED => {
                    Err(Status::new(code::RESOURCE_EXHAUSTED, "too many calls at once"))
                }
                Ok(call) => service.call(&call.service, &call.method, call.payload).await,
                Err(error) => Err(Status::new(code::INVALID_ARGUMENT, error.to_string())),
            };
            let response = match served {
                Ok(payload) => Response { status: None, payload },
                Err(status) => Response { status: Some(status), payload: Bytes::new() },
            };
            let body = response.encode_to_vec().into();
            let answer = Message { body, kind: Kind::Response, ..message };
            let _ = queue.send(answer.encode()).await;
        }
    }
}
