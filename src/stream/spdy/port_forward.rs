//! Port forwarding over SPDY: each connection to a port of the pod is a pair of streams, one for
//! data and one for an error.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{Incoming, NewStream};
use super::streams::{ReadHalf, Stream, WriteHalf};

/// Bytes copied at once.
const CHUNK: usize = 32 << 10;
/// How long a client may take to end its direction after the pod has ended its own.
const AFTER_END: Duration = Duration::from_secs(10);

/// The limits of a port-forward session.
#[derive(Debug, Clone)]
pub struct PortForward {
    /// How long a client may take to open the second stream of a pair.
    pub creation: Duration,
    /// Maximum number of concurrent pairs, complete or not; streams of further ones are refused.
    pub pairs: usize,
}

impl PortForward {
    /// The name of the protocol in `X-Stream-Protocol-Version` headers.
    pub const PROTOCOL: &str = "portforward.k8s.io";
}

impl Default for PortForward {
    fn default() -> Self {
        Self { creation: Duration::from_secs(30), pairs: 100 }
    }
}

/// Serves a session until its client ends it. `dial` connects to a port of the pod; its error is
/// sent to the client. A failure of one pair ends only that pair.
pub async fn port_forward<Dial, Dialing, Port>(
    mut incoming: Incoming,
    options: PortForward,
    dial: Dial,
) where
    Dial: Fn(u16) -> Dialing,
    Dialing: Future<Output = Result<Port, String>> + Send + 'static,
    Port: AsyncRead + AsyncWrite + Send + 'static,
{
    let gone = incoming.gone();
    let mut halves = Halves::default();
    let mut pairs = JoinSet::new();
    loop {
        // Cancel-safe: dropping `next` and `join_next` loses nothing.
        tokio::select! {
            new = incoming.next() => {
                let Some(new) = new else { break };
                let is_full = halves.waiting.len() + pairs.len() >= options.pairs;
                if let Some(pair) = halves.add(new, is_full, options.creation) {
                    let dialing = dial(pair.port);
                    pairs.spawn(forward(pair, dialing));
                }
            }
            Some(ended) = pairs.join_next() => log_panic(ended),
            () = halves.first_deadline() => halves.give_up_first().await,
        }
    }
    drop(halves);
    // A client that opens no more streams may still use the existing ones.
    let rest = async {
        while let Some(ended) = pairs.join_next().await {
            log_panic(ended);
        }
    };
    tokio::select! {
        () = rest => {}
        () = gone.cancelled() => {}
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "forwarded connection panicked");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// The headers of a stream.
struct Request {
    id: String,
    kind: Kind,
    port: u16,
}

impl Request {
    /// `None` when a header is missing or invalid.
    fn of(new: &NewStream) -> Option<Self> {
        let port = new.headers.get("port")?;
        let port = port.parse().ok().filter(|number| *number > 0 && !port.starts_with('+'))?;
        let kind = match new.headers.get("streamtype")? {
            "data" => Kind::Data,
            "error" => Kind::Error,
            _ => return None,
        };
        let id = match new.headers.get("requestid") {
            Some(id) if !id.is_empty() => id.to_owned(),
            // Clients before Kubernetes 1.1 send no request id; their pair is an error stream and
            // the data stream opened next.
            _ if kind == Kind::Error => new.id().to_string(),
            _ => new.id().checked_sub(2)?.to_string(),
        };
        Some(Self { id, kind, port })
    }
}

/// A stream whose partner was not opened yet.
struct Half {
    kind: Kind,
    port: u16,
    stream: Stream,
    /// Distinguishes it from a later half with the same id.
    number: u64,
}

struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

/// The incomplete pairs.
#[derive(Default)]
struct Halves {
    waiting: HashMap<String, Half>,
    /// Deadlines of all halves in order; some pairs may be complete by then.
    deadlines: VecDeque<(Instant, String, u64)>,
    count: u64,
}

impl Halves {
    /// Adds a new stream, or refuses it by dropping it. Returns the pair that it completes.
    fn add(&mut self, new: NewStream, is_full: bool, creation: Duration) -> Option<Pair> {
        let request = Request::of(&new)?;
        let Some(half) = self.waiting.remove(&request.id) else {
            if !is_full {
                self.count += 1;
                let Request { id, kind, port } = request;
                self.deadlines.push_back((Instant::now() + creation, id.clone(), self.count));
                let half = Half { kind, port, stream: new.accept(), number: self.count };
                self.waiting.insert(id, half);
            }
            return None;
        };
        if half.kind == request.kind || half.port != request.port {
            self.waiting.insert(request.id, half);
            return None;
        }
        self.deadlines.retain(|(_, _, number)| *number != half.number);
        let (port, stream) = (half.port, new.accept());
        Some(match half.kind {
            Kind::Data => Pair { port, data: half.stream, error: stream },
            Kind::Error => Pair { port, data: stream, error: half.stream },
        })
    }

    /// Completes when the oldest half has reached its deadline; never when there is none.
    async fn first_deadline(&self) {
        match self.deadlines.front() {
            Some((deadline, ..)) => tokio::time::sleep_until(*deadline).await,
            None => std::future::pending().await,
        }
    }

    /// Ends the oldest half, with an error on its error stream.
    async fn give_up_first(&mut self) {
        let Some((_, id, _)) = self.deadlines.pop_front() else { return };
        let Some(half) = self.waiting.remove(&id) else { return };
        match half.kind {
            Kind::Data => half.stream.reset(),
            Kind::Error => {
                let (_, error) = half.stream.into_split();
                tell(error, &format!("request {id}: timed out waiting for its data stream")).await;
            }
        }
    }
}

/// Sends an error. It is fine if the client is gone.
async fn tell(mut error: WriteHalf, reason: &str) {
    let _ = error.write_all(reason.as_bytes()).await;
}

/// Connects a pair to its port until both directions have ended.
async fn forward<Port: AsyncRead + AsyncWrite>(
    pair: Pair,
    dialing: impl Future<Output = Result<Port, String>>,
) {
    let Pair { port: number, data, error } = pair;
    // Clients send nothing on it.
    let (_, error) = error.into_split();
    let reason = match dialing.await {
        Err(reason) => reason,
        Ok(port) => {
            let (from_client, mut to_client) = data.into_split();
            let Err(reason) = join(port, from_client, &mut to_client).await else { return };
            tell(error, &format!("error forwarding port {number}: {reason}")).await;
            to_client.reset();
            return;
        }
    };
    tell(error, &format!("error forwarding port {number}: {reason}")).await;
    data.reset();
}

/// Copies in both directions. A disconnect by the client just ends it; the error describes a
/// failure of the pod.
async fn join(
    port: impl AsyncRead + AsyncWrite,
    from_client: ReadHalf,
    to_client: &mut WriteHalf,
) -> Result<(), String> {
    let (from_port, to_port) = tokio::io::split(port);
    let mut up = std::pin::pin!(up(from_client, to_port));
    let mut down = std::pin::pin!(down(from_port, to_client));
    // Cancel-safe: neither future is dropped here.
    let ended = tokio::select! {
        ended = &mut down => ended?,
        sent = &mut up => match sent {
            Ok(()) => return down.await.map(drop),
            Err(_) => return Ok(()),
        },
    };
    if ended == Ended::Port {
        // A client that still sends after the pod has closed gets no error for it.
        let _ = tokio::time::timeout(AFTER_END, up).await;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Client,
    Port,
}

/// Copies from client to pod. Fails when the client resets the stream. If the pod stops reading
/// that is not a failure, since it may still send.
async fn up(
    mut from_client: ReadHalf,
    mut to_port: impl AsyncWrite + Unpin,
) -> Result<(), io::Error> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from_client.read(&mut chunk).await?;
        let written = match length {
            0 => to_port.shutdown().await,
            _ => to_port.write_all(&chunk[..length]).await,
        };
        if length == 0 || written.is_err() {
            return Ok(());
        }
    }
}

/// Copies from pod to client; returns which of them ended it.
async fn down(
    mut from_port: impl AsyncRead + Unpin,
    to_client: &mut WriteHalf,
) -> Result<Ended, String> {
    let mut chunk = vec![0; CHUNK];
    loop {
        // Cancel-safe: when the client is gone, the data read is useless.
        let read = tokio::select! {
            read = from_port.read(&mut chunk) => read,
            () = to_client.broken_off() => return Ok(Ended::Client),
        };
        let length = read.map_err(|error| format!("reading from the pod: {error}"))?;
        let written = match length {
            0 => to_client.shutdown().await,
            _ => to_client.write_all(&chunk[..length]).await,
        };
        match written {
            Err(_) => return Ok(Ended::Client),
            Ok(()) if length == 0 => return Ok(Ended::Port),
            Ok(()) => {}
        }
    }
}
