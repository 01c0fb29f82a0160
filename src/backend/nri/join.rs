//! How a plugin joins: it connects or is started, registers, is configured and gets all existing
//! pods and containers. From then on it gets events.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use prost::Message;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::{Semaphore, oneshot};

use super::frames::{TO_PLUGIN, TO_RUNTIME};
use super::launch::{self, Launched, Program};
use super::link::{Link, Service, Status, Ways, code};
use super::merge::Updates;
use super::plugin::{Identity, Plugin, Setup};
use super::proto::{
    Empty, RUNTIME_SERVICE, RegisterPluginRequest, UpdateContainersRequest,
    UpdateContainersResponse,
};
use super::{Inner, Nri, show};
use crate::backend::{Error, ErrorKind, Node, Result};
use crate::lifecycle::Backoff;
use crate::locks::Mutex;
use crate::telemetry::error_chain;

/// Maximum number of connected plugins.
const MAX_CONNECTIONS: usize = 64;

const BACKLOG: u32 = 64;

/// First delay between attempts to open a socket that is in use.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The origin of a plugin, which determines its name.
enum Origin {
    /// It connected and registers with its name.
    Outside,
    /// It was started by podbay; its file name determines its name.
    Started(Identity, Box<Launched>),
}

impl Nri {
    /// Starts the operator's plugins, waits until each has joined or failed, then accepts
    /// connections. From now on `node` provides the existing pods and containers.
    ///
    /// A socket that cannot be opened is retried in the background.
    pub async fn start(&self, node: Arc<dyn Node>) {
        let _ = self.0.node.set(Arc::downgrade(&node));
        let programs = launch::discover(&self.0.options.plugins);
        join_all(programs.iter().map(|program| self.0.launch(program))).await;
        let Some(path) = self.0.options.socket.clone() else { return };
        let inner = self.0.clone();
        match bind(&path).await {
            Ok(listener) => {
                let accept = inner.accept(listener);
                drop(self.0.tasks.spawn_until_drain("nri-accept", accept));
            }
            Err(error) => {
                tracing::error!(error = error_chain(&error), "NRI plugins cannot connect yet");
                drop(self.0.tasks.spawn_until_drain("nri-accept", async move {
                    let pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
                    let listener = pauses.retry_later(|| bind(&path)).await;
                    tracing::info!(?path, "NRI plugins can connect");
                    inner.accept(listener).await
                }));
            }
        }
    }
}

/// Creates the socket, accessible only to root. A socket that is in use is left alone: two runtimes
/// on one socket would get each other's plugins.
async fn bind(path: &Path) -> Result<UnixListener> {
    let failed = |step: &str, error| Error::io(format!("{step} {}", path.display()), error);
    if let Some(folder) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| failed("make the folder of", error))?;
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at", error)),
        Ok(found) if !found.file_type().is_socket() => {
            let tried = format!("replace {}, which is not a socket", path.display());
            return Err(Error::new(ErrorKind::FailedPrecondition, tried));
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => {
                let tried =
                    format!("listen on {}: another runtime already listens there", path.display());
                return Err(Error::new(ErrorKind::FailedPrecondition, tried));
            }
            Err(_) => std::fs::remove_file(path).map_err(|error| failed("replace", error))?,
        },
    }
    let socket = UnixSocket::new_stream().map_err(|error| failed("make", error))?;
    socket.bind(path).map_err(|error| failed("bind", error))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(|error| failed("set the mode of", error))?;
    socket.listen(BACKLOG).map_err(|error| failed("listen on", error))
}

impl Inner {
    /// Accepts connections, each in its own task, so that a slow plugin does not delay others.
    async fn accept(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut pauses = Backoff::new(Duration::from_millis(10), FIRST_PAUSE);
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Probably out of descriptors, which is temporary.
                    tracing::warn!(%error, "cannot accept NRI plugin connection");
                    tokio::time::sleep(pauses.next()).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!(
                    "refused NRI plugin: {MAX_CONNECTIONS} plugins are already connected"
                );
                continue;
            };
            let inner = self.clone();
            drop(self.tasks.spawn_until_drain("nri-plugin", async move {
                if let Ok(plugin) = inner.join(stream, Origin::Outside).await {
                    plugin.closed().await;
                }
                drop(place);
            }));
        }
    }

    /// Starts a plugin and waits until it has joined or failed.
    async fn launch(self: &Arc<Self>, program: &Program) {
        let identity = &program.identity;
        match program.start() {
            Ok((stream, process)) => {
                let origin = Origin::Started(identity.clone(), Box::new(process));
                let _ = self.join(stream, origin).await;
            }
            Err(error) => tracing::warn!(plugin = %identity, %error, "cannot start NRI plugin"),
        }
    }

    /// Lets a plugin join; a failure is logged and closes its connection.
    async fn join(self: &Arc<Self>, stream: UnixStream, origin: Origin) -> Result<Arc<Plugin>> {
        let joined = self.try_join(stream, origin).await;
        match &joined {
            Ok(plugin) => {
                tracing::info!(plugin = %plugin.identity, "NRI plugin registered");
                let (inner, plugin) = (self.clone(), plugin.clone());
                drop(self.tasks.spawn_until_drain("nri-closed", async move {
                    plugin.closed().await;
                    inner.joined().retain(|known| !Arc::ptr_eq(known, &plugin));
                    tracing::info!(plugin = %plugin.identity, "NRI plugin disconnected");
                }));
            }
            Err(error) => {
                tracing::warn!(error = error_chain(error), "NRI plugin could not register");
            }
        }
        joined
    }

    async fn try_join(self: &Arc<Self>, stream: UnixStream, origin: Origin) -> Result<Arc<Plugin>> {
        let (said, registered) = oneshot::channel();
        let outside = matches!(origin, Origin::Outside);
        let door = Arc::new(Door { inner: self.clone(), outside, said: Mutex::new(Some(said)) });
        let ways = Ways { out: TO_PLUGIN, back: TO_RUNTIME };
        let link = Link::open(stream, ways, door, &self.tasks);
        let limit = self.options.registration_timeout;
        let registered = tokio::time::timeout(limit, registered).await;
        let identity = registered
            .map_err(|_| {
                let tried = format!("wait {limit:?} for an NRI plugin to register");
                Error::new(ErrorKind::DeadlineExceeded, tried)
            })?
            .map_err(|_| Error::new(ErrorKind::Other, "wait for an NRI plugin to register"))?;
        let (identity, launched) = match origin {
            Origin::Started(identity, launched) => (identity, Some(*launched)),
            Origin::Outside => {
                let identity = identity.map_err(|problem| {
                    Error::new(ErrorKind::InvalidArgument, "register an NRI plugin")
                        .because(problem)
                })?;
                (identity, None)
            }
        };
        let config = match launched {
            Some(_) => launch::config(&self.options.configs, &identity).map_err(|error| {
                Error::io(format!("read the configuration of NRI plugin {identity}"), error)
            })?,
            None => String::new(),
        };
        let setup = Setup {
            config,
            registration_timeout: limit,
            request_timeout: self.options.request_timeout,
        };
        let plugin = Plugin::configure(identity, link, launched, &setup).await?;
        self.let_in(Arc::new(plugin)).await
    }

    /// Sends a plugin all existing pods and containers while nothing changes, and adds it to the
    /// joined plugins.
    async fn let_in(&self, plugin: Arc<Plugin>) -> Result<Arc<Plugin>> {
        let node = self.node().ok_or_else(|| Error::new(ErrorKind::Unavailable, "join"))?;
        let joining = self.joining.write().await;
        let (pods, containers) = node.all().await?;
        let pods = pods.iter().map(show::pod).collect();
        let containers =
            containers.iter().map(|(pod, container)| show::container(pod, container)).collect();
        let updates = plugin.synchronize(pods, containers).await?;
        {
            let mut joined = self.joined();
            joined.push(plugin.clone());
            let key = |plugin: &Arc<Plugin>| {
                (plugin.identity.index.clone(), plugin.identity.name.clone())
            };
            joined.sort_by_key(key);
        }
        drop(joining);
        let mut wanted = Updates::default();
        let added = wanted.add(&plugin.identity.to_string(), updates, Vec::new());
        added.map_err(super::not_merged)?;
        self.carry_out(wanted).await;
        Ok(plugin)
    }
}

/// The service that a plugin may call.
struct Door {
    inner: Arc<Inner>,
    /// Whether it states its name itself; otherwise its file name does.
    outside: bool,
    said: Mutex<Option<oneshot::Sender<std::result::Result<Identity, String>>>>,
}

impl Door {
    fn register(&self, request: &RegisterPluginRequest) -> std::result::Result<Empty, Status> {
        let mut said = self.said.lock();
        let Some(said) = said.take() else {
            return Err(Status::new(code::FAILED_PRECONDITION, "already registered"));
        };
        let identity = Identity::new(&request.plugin_idx, &request.plugin_name);
        let bad = identity.clone().err().filter(|_| self.outside);
        let _ = said.send(identity);
        match bad {
            Some(problem) => Err(Status::new(code::INVALID_ARGUMENT, problem)),
            None => Ok(Empty {}),
        }
    }

    async fn update(&self, request: UpdateContainersRequest) -> UpdateContainersResponse {
        let mut failed = Vec::new();
        let Some(node) = self.inner.node() else { return UpdateContainersResponse { failed } };
        for eviction in &request.evict {
            if let Err(error) = node.evict(&eviction.container_id, &eviction.reason).await {
                let (id, error) = (&eviction.container_id, error_chain(&error));
                tracing::warn!(container = id, error, "cannot evict container for NRI plugin");
            }
        }
        for update in request.update {
            let done = self.inner.update(&update.container_id, update.linux.clone()).await;
            if let Err(error) = done {
                let (id, error) = (&update.container_id, error_chain(&error));
                tracing::warn!(container = id, error, "cannot update container for NRI plugin");
                if !update.ignore_failure {
                    failed.push(update);
                }
            }
        }
        UpdateContainersResponse { failed }
    }
}

#[async_trait]
impl Service for Door {
    async fn call(
        &self,
        service: &str,
        method: &str,
        payload: Bytes,
    ) -> std::result::Result<Bytes, Status> {
        match (service, method) {
            (RUNTIME_SERVICE, "RegisterPlugin") => {
                self.register(&decode(payload)?).map(|answer| answer.encode_to_vec().into())
            }
            (RUNTIME_SERVICE, "UpdateContainers") => {
                Ok(self.update(decode(payload)?).await.encode_to_vec().into())
            }
            _ => Err(Status::new(code::UNIMPLEMENTED, format!("{service}/{method} is not served"))),
        }
    }
}

fn decode<A: Message + Default>(payload: Bytes) -> std::result::Result<A, Status> {
    A::decode(payload).map_err(|error| Status::new(code::INVALID_ARGUMENT, error.to_string()))
}
