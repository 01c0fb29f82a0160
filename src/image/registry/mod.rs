//! A registry client for one pull: endpoints, credentials, requests.
//!
//! Follows the OCI distribution specification 1.1. Each request goes to the mirrors first and then
//! to the registry itself; credentials are sent only to the host that they are for.

mod auth;
mod http;
pub(super) mod tls;
mod verifier;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
};
use reqwest::{Client, Method, Response, StatusCode, Url};

#[doc(hidden)]
pub use self::auth::challenges;
use self::auth::{Asker, Refusal};
use self::http::{Call, delay, exchange, is_passing, small_body, unavailable};
use self::tls::{Clients, TlsOptions};
use super::credentials::{Credentials, DockerConfig, Keyring, Secret};
use super::manifest::{self, MAX_MANIFEST};
use super::meter::Meter;
use super::mirrors::{self, Source, is_local};
use super::reference::Reference;
use super::{Error, Options};
use crate::locks::Mutex;
use crate::model::image::{Descriptor, Digest};

/// Attempts of a request that a registry fails to answer; fewer for mirrors, which have fallbacks.
const TRIES: u32 = 5;
const MIRROR_TRIES: u32 = 2;

/// The state shared by all pulls.
pub(super) struct Registry {
    clients: Clients,
    folders: Vec<PathBuf>,
    configured: BTreeMap<String, Credentials>,
    docker_config: Option<PathBuf>,
    retry_delay: Duration,
}

impl Registry {
    pub fn new(options: &Options) -> Self {
        // A silent connection is closed early enough for several attempts within the pull's limit.
        let stall = (options.no_progress_timeout / 5).min(Duration::from_secs(60));
        Self {
            clients: Clients::new(stall),
            folders: options.config_dirs.clone(),
            configured: options.registry_auth.clone(),
            docker_config: options.docker_config.clone(),
            retry_delay: options.retry_delay,
        }
    }

    /// Determines the endpoints of an image's registry.
    pub async fn session(
        &self,
        reference: &Reference,
        given: Option<&Credentials>,
        meter: Arc<Meter>,
    ) -> Result<Session, Error> {
        let docker = match &self.docker_config {
            Some(path) => DockerConfig::load(path).await,
            None => DockerConfig::default(),
        };
        let keyring = Keyring { reference, given, configured: &self.configured, docker: &docker };
        let mut endpoints = Vec::new();
        for source in mirrors::sources(&self.folders, reference.host()).await? {
            let secret = keyring.for_endpoint(source.url.as_str(), !source.mirror)?;
            let local = is_local(source.url.host_str().unwrap_or_default());
            let strict = TlsOptions { skip_verify: false, client: None, ..source.tls.clone() };
            endpoints.push(Endpoint {
                client: self.clients.get(&source.tls, local)?,
                token_client: self.clients.get(&strict, local)?,
                secret,
                authorization: Mutex::new(None),
                source,
            });
        }
        let (reference, retry_delay) = (reference.clone(), self.retry_delay);
        Ok(Session { reference, endpoints, meter, retry_delay })
    }
}

/// The registry of one image, for one pull.
pub(super) struct Session {
    reference: Reference,
    endpoints: Vec<Endpoint>,
    meter: Arc<Meter>,
    retry_delay: Duration,
}

struct Endpoint {
    source: Source,
    client: Client,
    token_client: Client,
    secret: Option<Secret>,
    authorization: Mutex<Option<HeaderValue>>,
}

/// The result of resolving a reference.
pub(super) struct Resolved {
    /// Digest of an index or manifest.
    pub digest: Digest,
    /// The `Content-Type` of the reply.
    pub content_type: Option<String>,
    /// The document, if it had to be fetched to compute its digest.
    pub body: Option<Bytes>,
}

/// A layer's bytes from an offset on.
pub(super) struct BlobBody {
    reply: Response,
    name: String,
    /// Bytes to discard because the server does not support ranges.
    skip: u64,
}

/// An object to request from an endpoint.
struct Ask<'a> {
    method: Method,
    /// `manifests` or `blobs`.
    kind: &'static str,
    /// Tag or digest.
    version: &'a str,
    from: u64,
}

impl Session {
    /// How many endpoints serve content.
    pub fn sources(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.source.pull).count()
    }

    /// Resolves the reference. A digest is requested too, so that only callers allowed to pull an
    /// image get it from the local store.
    pub async fn resolve(&self) -> Result<Resolved, Error> {
        let by_digest = self.reference.digest().is_some();
        let mut failures = Failures::default();
        for endpoint in &self.endpoints {
            if if by_digest { endpoint.source.pull } else { endpoint.source.resolve } {
                match self.resolve_at(endpoint).await {
                    Ok(resolved) => return Ok(resolved),
                    Err(error) => failures.add(endpoint, error),
                }
            }
        }
        Err(failures.worst(&self.reference))
    }

    async fn resolve_at(&self, endpoint: &Endpoint) -> Result<Resolved, Error> {
        let version = match self.reference.digest() {
            Some(digest) => digest.as_str(),
            None => self.reference.tag().unwrap_or_default(),
        };
        let mut ask = Ask { method: Method::HEAD, kind: "manifests", version, from: 0 };
        match self.ask(endpoint, &ask).await {
            Ok(reply) => {
                let header = reply.headers().get("docker-content-digest");
                let digest = header.and_then(|value| Digest::try_from(value.to_str().ok()?).ok());
                if let Some(digest) = digest {
                    self.check_asked(&digest)?;
                    let content_type = content_type(&reply);
                    return Ok(Resolved { digest, content_type, body: None });
                }
            }
            // Some registries do not support HEAD here.
            Err(Error::RegistryRefused { .. }) => {}
            Err(error) => return Err(error),
        }
        ask.method = Method::GET;
        let (content_type, body) = self.document_at(endpoint, &ask).await?;
        let digest = Digest::of(&body);
        self.check_asked(&digest)?;
        Ok(Resolved { digest, content_type, body: Some(body) })
    }

    fn check_asked(&self, digest: &Digest) -> Result<(), Error> {
        match self.reference.digest() {
            Some(asked) if asked != digest => {
                Err(Error::bad(self.reference.to_string(), format!("its digest is {digest}")))
            }
            _ => Ok(()),
        }
    }

    /// Fetches an index or manifest and checks its digest. Also returns its `Content-Type`.
    pub async fn document(&self, digest: &Digest) -> Result<(Option<String>, Bytes), Error> {
        let ask = Ask { method: Method::GET, kind: "manifests", version: digest.as_str(), from: 0 };
        let mut failures = Failures::default();
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.source.pull) {
            match self.document_at(endpoint, &ask).await {
                Ok((_, body)) if Digest::of(&body) != *digest => {
                    failures.add(endpoint, wrong_digest(digest));
                }
                Ok(found) => return Ok(found),
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.worst(&self.reference.at(digest)))
    }

    async fn document_at(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
    ) -> Result<(Option<String>, Bytes), Error> {
        let _open = self.meter.open();
        let reply = self.ask(endpoint, ask).await?;
        let content_type = content_type(&reply);
        let name = format!("{} at {}", self.reference, self.host(endpoint));
        Ok((content_type, small_body(reply, MAX_MANIFEST, &name).await?))
    }

    /// Fetches a small blob and checks its size and digest.
    pub async fn small_blob(&self, blob: &Descriptor) -> Result<Bytes, Error> {
        let _open = self.meter.open();
        let ask =
            Ask { method: Method::GET, kind: "blobs", version: blob.digest.as_str(), from: 0 };
        let mut failures = Failures::default();
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.source.pull) {
            match self.small_blob_at(endpoint, &ask, blob).await {
                Ok(body) => return Ok(body),
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.worst(&self.reference.at(&blob.digest)))
    }

    async fn small_blob_at(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        blob: &Descriptor,
    ) -> Result<Bytes, Error> {
        let reply = self.ask(endpoint, ask).await?;
        let name = blob.digest.to_string();
        let max = usize::try_from(blob.size).unwrap_or(usize::MAX).min(manifest::MAX_CONFIG);
        let body = small_body(reply, max, &name).await?;
        manifest::verify(blob, &body).map_err(|problem| Error::bad(name, problem.0))?;
        Ok(body)
    }

    /// Starts to read a blob at an offset. `turn` selects the endpoint to try first.
    pub async fn open_blob(
        &self,
        blob: &Descriptor,
        from: u64,
        turn: usize,
    ) -> Result<BlobBody, Error> {
        let version = blob.digest.as_str();
        let ask = Ask { method: Method::GET, kind: "blobs", version, from };
        let able: Vec<_> = self.endpoints.iter().filter(|one| one.source.pull).collect();
        let mut failures = Failures::default();
        for n in 0..able.len() {
            let endpoint = able[(turn + n) % able.len()];
            let opened = match self.ask(endpoint, &ask).await {
                Ok(reply) => blob_body(reply, blob, from),
                Err(error) => Err(error),
            };
            match opened {
                Ok(body) => return Ok(body),
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.worst(&self.reference.at(&blob.digest)))
    }

    /// Sends a request with authorization and retries; the result has a success status.
    async fn ask(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Response, Error> {
        let _open = self.meter.open();
        let tries = if endpoint.source.mirror { MIRROR_TRIES } else { TRIES };
        let mut challenged = false;
        let mut attempt = 0;
        loop {
            let call = self.call(endpoint, ask)?;
            let name = call.name();
            let (failure, headers) = match exchange(&endpoint.client, call).await {
                Ok(reply) if reply.status().is_success() => return Ok(reply),
                Ok(reply) if reply.status() == StatusCode::UNAUTHORIZED && !challenged => {
                    challenged = true;
                    match self.authorize(endpoint, reply.headers()).await {
                        Ok(()) => continue,
                        Err(Refusal::No(problem)) => {
                            return Err(self.unauthorized(endpoint, problem));
                        }
                        Err(Refusal::Failed(error)) => {
                            challenged = false;
                            (error, None)
                        }
                    }
                }
                Ok(reply) => (self.failure(endpoint, &name, &reply), Some(reply)),
                Err(error) => (error, None),
            };
            let headers = headers.as_ref().map(Response::headers);
            let wait = delay(self.retry_delay, attempt, headers);
            attempt += 1;
            match wait {
                Some(wait) if attempt < tries && may_pass(&failure) => {
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(failure),
            }
        }
    }

    fn failure(&self, endpoint: &Endpoint, name: &str, reply: &Response) -> Error {
        let status = reply.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.unauthorized(endpoint, format!("it answered {status}"))
            }
            StatusCode::NOT_FOUND => Error::NotInRegistry { reference: self.reference.to_string() },
            _ if is_passing(status) => {
                let tried = format!("{name} answered {status}");
                Error::RegistryUnavailable { tried, source: None }
            }
            _ => Error::RegistryRefused { tried: name.to_owned(), status: status.as_u16() },
        }
    }

    fn unauthorized(&self, endpoint: &Endpoint, problem: String) -> Error {
        let problem = format!("{}: {problem}", self.host(endpoint));
        Error::Unauthorized { reference: self.reference.to_string(), problem }
    }

    fn host<'a>(&self, endpoint: &'a Endpoint) -> &'a str {
        endpoint.source.url.authority()
    }

    async fn authorize(&self, endpoint: &Endpoint, headers: &HeaderMap) -> Result<(), Refusal> {
        let challenge = auth::challenge(headers);
        let Some(challenge) = challenge else {
            return Err(Refusal::No("it names no way to authorize".to_owned()));
        };
        let asker = Asker {
            registry: &endpoint.source.url,
            client: &endpoint.client,
            token_client: &endpoint.token_client,
            secret: endpoint.secret.as_ref(),
            scope: &format!("repository:{}:pull", self.reference.repository()),
        };
        let value = asker.answer(&challenge).await?;
        *endpoint.authorization.lock() = Some(value);
        Ok(())
    }

    fn call(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Call, Error> {
        let source = &endpoint.source;
        let base = source.url.as_str().trim_end_matches('/');
        let path = format!("{base}/{}/{}/{}", self.reference.repository(), ask.kind, ask.version);
        let mut url = Url::parse(&path).map_err(|_| Error::InvalidReference {
            image: self.reference.to_string(),
            problem: "it makes no valid URL",
        })?;
        if source.is_proxy(self.reference.host()) {
            // Tells a proxy of several registries which one is meant.
            url.query_pairs_mut().append_pair("ns", self.reference.host());
        }
        let mut call = Call::new(ask.method.clone(), url);
        call.headers.clone_from(&source.headers);
        let authorization = endpoint.authorization.lock();
        if let Some(value) = authorization.as_ref() {
            call.headers.insert(AUTHORIZATION, value.clone());
        }
        if ask.kind == "manifests" {
            for kind in [
                manifest::DOCKER_MANIFEST,
                manifest::DOCKER_INDEX,
                manifest::OCI_MANIFEST,
                manifest::OCI_INDEX,
            ] {
                call.common.push((ACCEPT, HeaderValue::from_static(kind)));
            }
        }
        if ask.from > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", ask.from))
        {
            call.common.push((RANGE, range));
        }
        Ok(call)
    }
}

fn content_type(reply: &Response) -> Option<String> {
    reply.headers().get(CONTENT_TYPE)?.to_str().ok().map(str::to_owned)
}

fn wrong_digest(digest: &Digest) -> Error {
    Error::bad(digest.to_string(), "its content has another digest")
}

/// Whether the same request may succeed a moment later. A failure to connect is left to the caller
/// of the pull, which has its own back-off.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::RegistryUnavailable { source, .. } => {
            source.as_ref().is_none_or(|source| !source.is_connect())
        }
        _ => false,
    }
}

/// Checks that a reply is the rest of the blob.
fn blob_body(reply: Response, blob: &Descriptor, from: u64) -> Result<BlobBody, Error> {
    let wrong = |problem: String| Err(Error::bad(blob.digest.to_string(), problem));
    let partial = reply.status() == StatusCode::PARTIAL_CONTENT;
    let range = reply.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    if partial && !range.is_some_and(|range| range.starts_with(&format!("bytes {from}-"))) {
        return wrong("the registry sent another range than asked for".to_owned());
    }
    let expected = if partial { blob.size - from } else { blob.size };
    if let Some(length) = reply.content_length()
        && length != expected
    {
        return wrong(format!("the registry offers {length} bytes instead of {expected}"));
    }
    let skip = if partial { 0 } else { from };
    Ok(BlobBody { reply, name: format!("GET {}", blob.digest), skip })
}

impl BlobBody {
    /// The next bytes, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let chunk = self.reply.chunk().await;
            let Some(mut chunk) = chunk.map_err(|error| unavailable(&self.name, error))? else {
                return Ok(None);
            };
            let dropped = self.skip.min(chunk.len() as u64);
            self.skip -= dropped;
            let rest = chunk.split_off(usize::try_from(dropped).unwrap_or(usize::MAX));
            if !rest.is_empty() {
                return Ok(Some(rest));
            }
        }
    }
}

/// Collects the failures of several endpoints and selects the one to report: that of the registry
/// itself, and of its two guessed addresses the more informative one.
#[derive(Default)]
struct Failures(Option<((bool, u8), Error)>);

impl Failures {
    fn add(&mut self, endpoint: &Endpoint, error: Error) {
        let rank = match &error {
            Error::Unauthorized { .. } => 3,
            Error::NotInRegistry { .. } | Error::BadContent { .. } => 2,
            Error::RegistryRefused { .. } => 1,
            _ => 0,
        };
        let rank = (!endpoint.source.mirror, rank);
        tracing::debug!(host = endpoint.source.url.host_str(), %error, "registry request failed");
        if self.0.as_ref().is_none_or(|(worst, _)| rank > *worst) {
            self.0 = Some((rank, error));
        }
    }

    fn worst(self, reference: &Reference) -> Error {
        self.0.map_or_else(
            || Error::RegistryUnavailable {
                tried: format!("no configured host may serve {reference}"),
                source: None,
            },
            |(_, error)| error,
        )
    }
}
