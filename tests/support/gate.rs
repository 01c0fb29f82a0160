//! A proxy in front of a registry: it wants a bearer token, or lets only so many bytes through.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::registry::Registry;

/// The bearer token that a [`Gate::with_token`] wants.
pub const TOKEN: &str = "T0KEN-of-the-gate";
/// The identity token for which its token server gives [`TOKEN`].
pub const IDENTITY: &str = "1DENTITY-of-the-gate";

/// Largest head of a request.
const HEAD: usize = 16 << 10;

/// A running proxy; dropping it ends it with all connections.
pub struct Gate {
    address: SocketAddr,
    rules: Arc<Rules>,
    server: JoinHandle<()>,
}

struct Rules {
    registry: String,
    wants_token: bool,
    /// Bytes of a connection that pass to the client before it waits for `open`.
    most: usize,
    open: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Gate {
    /// Wants [`TOKEN`], which its own token server gives for [`IDENTITY`].
    pub async fn with_token(registry: &Registry) -> Self {
        Self::start(registry, true, usize::MAX).await
    }

    /// Lets only so many bytes of each connection through until [`Gate::open`].
    pub async fn with_limit(registry: &Registry, most: usize) -> Self {
        Self::start(registry, false, most).await
    }

    async fn start(registry: &Registry, wants_token: bool, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let rules = Arc::new(Rules {
            registry: registry.host(),
            wants_token,
            most,
            open: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
        });
        let shared = Arc::clone(&rules);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let rules = Arc::clone(&shared);
                connections.spawn(async move {
                    // A client may leave at any time.
                    let _ = rules.serve(client, address).await;
                });
            }
        });
        Self { address, rules, server }
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Waits until a connection has used up its bytes.
    pub async fn waits(&self) {
        let mut waiting = self.rules.waiting.subscribe();
        waiting.wait_for(|count| *count > 0).await.expect("the gate");
    }

    /// From now on everything passes.
    pub fn open(&self) {
        self.rules.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Rules {
    async fn serve(&self, mut client: TcpStream, address: SocketAddr) -> std::io::Result<()> {
        let mut head = vec![0; HEAD];
        let mut length = 0;
        let end = loop {
            let read = client.read(&mut head[length..]).await?;
            length += read;
            if let Some(end) = head[..length].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            if read == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
        if self.wants_token {
            if text.starts_with("post /token") {
                return token(client, &head[..length], end).await;
            }
            if !text.contains(&format!("authorization: bearer {}", TOKEN.to_ascii_lowercase())) {
                let challenge = format!(
                    "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\
                     WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"gate\"\r\n\r\n"
                );
                return client.write_all(challenge.as_bytes()).await;
            }
        }
        let mut registry = TcpStream::connect(&self.registry).await?;
        registry.write_all(&head[..length]).await?;
        self.pass(client, registry).await
    }

    async fn pass(&self, client: TcpStream, registry: TcpStream) -> std::io::Result<()> {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_registry, mut to_registry) = registry.into_split();
        let up = tokio::io::copy(&mut from_client, &mut to_registry);
        let down = async {
            let mut left = self.most;
            let mut buffer = vec![0; 8 << 10];
            loop {
                if left == 0 {
                    self.waiting.send_modify(|count| *count += 1);
                    let _ = self.open.subscribe().wait_for(|open| *open).await;
                    left = usize::MAX;
                }
                let room = left.min(buffer.len());
                let read = from_registry.read(&mut buffer[..room]).await?;
                if read == 0 {
                    return Ok::<_, std::io::Error>(());
                }
                to_client.write_all(&buffer[..read]).await?;
                left -= read;
            }
        };
        tokio::select! {
            ended = up => ended.map(drop),
            ended = down => ended,
        }
    }
}

/// The token server: OAuth 2 with a refresh token.
async fn token(mut client: TcpStream, start: &[u8], end: usize) -> std::io::Result<()> {
    let head = String::from_utf8_lossy(&start[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    let mut body = start[end + 4..].to_vec();
    while body.len() < length {
        let mut more = vec![0; length - body.len()];
        match client.read(&mut more).await? {
            0 => break,
            read => body.extend_from_slice(&more[..read]),
        }
    }
    let good = String::from_utf8_lossy(&body).contains(&format!("refresh_token={IDENTITY}"));
    let (status, body) = match good {
        true => ("200 OK", format!("{{\"access_token\": \"{TOKEN}\", \"expires_in\": 60}}")),
        false => ("401 Unauthorized", String::new()),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    client.write_all(answer.as_bytes()).await
}
