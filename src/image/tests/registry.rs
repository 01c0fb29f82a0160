//! A registry over plain TCP that can be told to misbehave.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::image::manifest::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::lifecycle::Tasks;
use crate::model::image::Digest;

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// Stop after so many bytes of the body.
    pub stop_after: Option<usize>,
    /// After that, stay silent instead of closing the connection.
    pub stall: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

type Hook = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// Manifests and blobs by tag and digest.
#[derive(Default, Clone)]
pub struct Content {
    pub manifests: BTreeMap<String, (String, Bytes)>,
    pub blobs: BTreeMap<String, Bytes>,
}

/// Parts of an image made by [`Content::image`].
pub struct Parts {
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

pub fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

fn architecture() -> String {
    crate::image::Platform::host().architecture
}

impl Content {
    /// Adds an image with these layers under a tag.
    pub fn image(&mut self, tag: &str, layers: &[&[u8]]) -> Parts {
        self.image_for(&architecture(), tag, layers)
    }

    /// Like [`Content::image`], for any architecture.
    pub fn image_for(&mut self, architecture: &str, tag: &str, layers: &[&[u8]]) -> Parts {
        let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({"os": "linux", "architecture": architecture,
            "config": {"User": "1000", "Cmd": ["run", tag]},
            "rootfs": {"type": "layers", "diff_ids": ids}});
        let blobs: Vec<_> = layers.iter().map(|layer| gzip(layer)).collect();
        let config = Bytes::from(config.to_string());
        let descriptor = |kind: &str, bytes: &Bytes| json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()});
        let layer_type = format!("{OCI_LAYER}+gzip");
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config),
            "layers": blobs.iter().map(|blob| descriptor(&layer_type, blob)).collect::<Vec<_>>()});
        let digests = blobs.iter().map(|blob| self.blob(blob.clone())).collect();
        let manifest = self.manifest(tag, OCI_MANIFEST, &manifest);
        Parts { manifest, config: self.blob(config), layers: digests }
    }

    /// Adds an index with one image for this host and one for another platform.
    pub fn index(&mut self, tag: &str, manifest: &Digest) -> Digest {
        let size = self.manifests[manifest.as_str()].1.len();
        let entry = |digest: &Digest, arch: &str| {
            json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": arch}})
        };
        let other = Digest::of(b"not here");
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [entry(&other, "s390x"), entry(manifest, &architecture())]});
        self.manifest(tag, OCI_INDEX, &index)
    }

    /// Adds an index of these manifests; the last one is for this host.
    pub fn index_of(&mut self, tag: &str, manifests: &[&Digest]) -> Digest {
        let entry = |(n, digest): (usize, &&Digest)| {
            let (kind, bytes) = &self.manifests[digest.as_str()];
            let host = n + 1 == manifests.len();
            let arch = if host { architecture() } else { "s390x".to_owned() };
            json!({"mediaType": kind, "digest": digest, "size": bytes.len(),
                "platform": {"os": "linux", "architecture": arch}})
        };
        let entries: Vec<_> = manifests.iter().enumerate().map(entry).collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.manifest(tag, OCI_INDEX, &index)
    }

    pub fn manifest(&mut self, tag: &str, kind: &str, document: &Value) -> Digest {
        let bytes = Bytes::from(document.to_string());
        let digest = Digest::of(&bytes);
        for name in [tag, digest.as_str()] {
            self.manifests.insert(name.to_owned(), (kind.to_owned(), bytes.clone()));
        }
        digest
    }

    pub fn blob(&mut self, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest.to_string(), bytes);
        digest
    }

    fn answer(&self, request: &Request) -> Reply {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        if request.path.contains("/manifests/") {
            let Some((kind, bytes)) = self.manifests.get(name) else { return Reply::status(404) };
            let digest = Digest::of(bytes).to_string();
            return Reply::ok(bytes.clone())
                .with("Content-Type", kind.clone())
                .with("Docker-Content-Digest", digest);
        }
        let Some(bytes) = self.blobs.get(name) else { return Reply::status(404) };
        let range =
            request.header("range").strip_prefix("bytes=").and_then(|r| r.strip_suffix('-'));
        match range.map(|from| from.parse::<usize>().unwrap()) {
            None => Reply::ok(bytes.clone()),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                let reply = Reply::ok(bytes.slice(from..)).with("Content-Range", range);
                Reply { status: 206, ..reply }
            }
        }
    }
}

/// A registry that listens until it is dropped.
pub struct Registry {
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    tasks: Tasks,
}

impl Registry {
    pub async fn start(content: Content) -> Self {
        Self::with_hook(content, |_| None).await
    }

    /// The hook may answer instead of the content.
    pub async fn with_hook(
        content: Content,
        hook: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::with_tls(content, hook, None).await
    }

    /// Uses TLS if there is a configuration for it.
    pub async fn with_tls(
        content: Content,
        hook: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
        tls: Option<rustls::ServerConfig>,
    ) -> Self {
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, log) = (Tasks::new(), Arc::new(Mutex::new(Vec::new())));
        let hook: Arc<Hook> = Arc::new(hook);
        let content = Arc::new(content);
        let (inner, logs) = (tasks.clone(), Arc::clone(&log));
        drop(tasks.spawn_until_drain("registry", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (content, hook, log) =
                    (Arc::clone(&content), Arc::clone(&hook), Arc::clone(&logs));
                let tls = tls.clone();
                drop(inner.spawn_until_drain("connection", async move {
                    // A client may disconnect at any moment.
                    let _ = match tls {
                        None => serve(stream, &content, &*hook, &log).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &content, &*hook, &log).await,
                            Err(error) => Err(error),
                        },
                    };
                }));
            }
        }));
        Self { address, log, tasks }
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// How many requests had a path that contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(part)).count()
    }

    pub fn saw_secrets(&self) -> bool {
        self.requests().iter().any(|request| request.headers.contains_key("authorization"))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Starts the drain without waiting for it.
        futures::FutureExt::now_or_never(self.tasks.drain(std::time::Duration::ZERO));
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    content: &Content,
    hook: &Hook,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(request) = read(&mut stream).await? else { return Ok(()) };
        log.lock().unwrap().push(request.clone());
        let reply = hook(&request).unwrap_or_else(|| content.answer(&request));
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !reply.headers.iter().any(|(name, _)| *name == "Content-Length") {
            head += &format!("Content-Length: {}\r\n", reply.body.len());
        }
        head += "\r\n";
        stream.write_all(head.as_bytes()).await?;
        if request.method != "HEAD" {
            let end = reply.stop_after.unwrap_or(reply.body.len()).min(reply.body.len());
            stream.write_all(&reply.body[..end]).await?;
            stream.flush().await?;
            if reply.stall {
                std::future::pending::<()>().await;
            }
            if reply.stop_after.is_some() {
                return Ok(());
            }
        }
    }
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut parts = line.split_whitespace();
    let method = parts.next().unwrap_or_default().to_owned();
    let target = parts.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers: HashMap<String, String> = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body = String::from_utf8(body).unwrap();
    Ok(Some(Request { method, path, query, headers, body }))
}
