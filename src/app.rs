//! The composition root: the only place that knows every room and constructs the real adapters.
//!
//! Order: config -> store -> backends -> domain -> socket -> serve (answering Unavailable) ->
//! recover once containerd answers -> ready -> stop signal -> drain under a deadline.

mod ground;
mod meter;
mod node;
mod notify;
mod options;
mod rooms;
mod versions;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backend::linux::Logind;
use crate::backend::nri::Nri;
use crate::backend::{self, Images as ImageStore, Runtime, RuntimeEvent};
use crate::config::Config;
use crate::container::Containers;
use crate::image::Images;
use crate::lifecycle::{Backoff, Tasks};
use crate::logs::Pumps;
use crate::pod::{Bands, KeepOptions, Meter, Pods, statics};
use crate::sandbox::Sandboxes;
use crate::serve::{self, CriServices, PodServices, Remote, SocketOptions};
use crate::stats::Stats;
use crate::store::{self, Store};
use crate::stream;
use crate::telemetry::error_chain;
use ground::{Ground, streams};
use meter::NodeMeter;
use notify::Manager;
use options::{keep_options, node_paths, remote_options, shutdown_bands, statics_options};
use rooms::Rooms;

/// First delay between attempts to reach containerd at the start.
const RECOVER_FIRST: Duration = Duration::from_millis(200);
const RECOVER_LONGEST: Duration = Duration::from_secs(5);

/// Delay between two searches for lost shims.
const SHIM_LOOKS: Duration = Duration::from_secs(5);

/// Delay between two looks at the network namespaces of pods.
const NETNS_LOOKS: Duration = Duration::from_secs(5);

/// Minimum time for logs to write what was read, however long the drain took.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Why an agent cannot start or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory of the agent cannot be created.
    #[error("make {}", path.display())]
    Folder {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be opened, for instance because another agent uses this root.
    #[error("open the state store")]
    Store(#[from] store::Error),
    /// A backend cannot be set up.
    #[error("set up {what}")]
    Backend {
        /// Which backend.
        what: &'static str,
        /// The cause.
        #[source]
        source: backend::Error,
    },
    /// The log thread or the signal handlers cannot be started.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The socket cannot be bound.
    #[error("open the CRI socket")]
    Socket(#[from] serve::SocketError),
    /// The streaming server cannot start.
    #[error("open the streaming server")]
    Streaming(#[from] stream::Error),
    /// The TCP server of podbay.v1 cannot start.
    #[error("open the remote API")]
    Remote(#[from] serve::RemoteError),
    /// An invalid eviction threshold.
    #[error("read pods.eviction")]
    Eviction(#[from] crate::pod::upkeep::BadThreshold),
    /// The gRPC server failed.
    #[error("serve")]
    Serve(#[from] serve::Error),
}

/// A built agent: its socket is bound, but nothing runs yet.
pub struct App {
    listener: UnixListener,
    services: CriServices,
    pods: PodServices,
    remote: Option<Remote>,
    streams: stream::Server,
    parts: Parts,
    drain: Duration,
}

/// What recovery, the event watcher and the shutdown need.
#[derive(Clone)]
struct Parts {
    tasks: Tasks,
    store: Store,
    pumps: Arc<Pumps>,
    sandboxes: Arc<Sandboxes>,
    containers: Arc<Containers>,
    images: Arc<Images>,
    pods: Arc<Pods>,
    stats: Arc<Stats>,
    image_store: Arc<dyn ImageStore>,
    nri: Option<Nri>,
    runtime: Arc<dyn Runtime>,
    namespace: String,
    statics: statics::Options,
    keep: KeepOptions,
    meter: Arc<dyn Meter>,
    bands: Bands,
}

/// Runs the agent until SIGTERM or SIGINT. Running containers are not affected when it ends.
pub async fn run(config: Config) -> Result<(), Error> {
    let signals = signals().map_err(|source| Error::Io { what: "watch for signals", source })?;
    App::build(config).await?.run(signals).await
}

/// Completes at the first SIGTERM or SIGINT.
fn signals() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        // Both branches only wait.
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

impl App {
    /// Opens the store, creates all rooms and binds the socket.
    pub async fn build(config: Config) -> Result<Self, Error> {
        node::check_cgroup_namespace();
        let ground = Ground::open(&config).await?;
        let rooms = Rooms::new(&config, &ground).await?;
        let streams = streams(&config, rooms.sandboxes.clone(), ground.tasks.clone()).await?;
        let pods = rooms.pod_services();
        let services = rooms.cri_services(&config, &ground, streams.urls());
        let parts = Parts::of(&config, ground, rooms)?;
        let socket = SocketOptions {
            path: config.cri.socket.clone(),
            mode: config.cri.socket_mode.0,
            gid: config.cri.socket_gid,
        };
        let listener = serve::bind(&socket).await?;
        let remote = match remote_options(&config) {
            Some(options) => Some(Remote::open(options).await?),
            None => None,
        };
        let drain = config.drain.timeout;
        Ok(Self { listener, services, pods, remote, streams, parts, drain })
    }

    /// Serves until `stop` completes, then drains: accepts no new calls, gives running ones and then
    /// the agent's own work some time to finish, and leaves the rest to the next start.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { listener, services, pods, remote, streams, parts, drain } = self;
        let (ready, is_ready) = watch::channel(false);
        let tasks = parts.tasks.clone();
        // Before the drain: the last calls wait for what tasks do, such as the watch for an exit.
        let last_calls = CancellationToken::new();
        let manager = Manager::of_process().map(Arc::new);
        let recovering = parts.clone().recover(ready, manager.clone());
        let draining = tasks.draining();
        drop(tasks.spawn_essential("recover", async move {
            // Cancel-safe: the next agent starts over.
            tokio::select! {
                () = recovering => {}
                () = draining => {}
            }
        }));
        tracing::info!(address = %streams.address(), "streaming server is listening");
        drop(tasks.spawn_essential("streaming server", streams.run()));
        let remote = remote.map(|remote| {
            tracing::info!(address = %remote.address(), "remote API is listening");
            let closing = CancellationToken::new();
            let routes = serve::pod_routes(pods.clone(), closing.clone());
            let (ready, last) = (is_ready.clone(), last_calls.clone().cancelled_owned());
            let served = serve::serve_remote(remote, routes, ready, closing, last);
            tasks.spawn_essential("remote door", async move {
                if let Err(error) = served.await {
                    tracing::error!(error = error_chain(&error), "remote API server failed");
                }
            })
        });
        let last = last_calls.clone().cancelled_owned();
        let server = serve::serve(listener, services, Some(pods), is_ready, last);
        tokio::pin!(server);
        let fed = feed(manager.clone(), tasks.clone());
        tokio::pin!(fed);
        // Cancel-safe: the server is pinned outside and polled again below.
        tokio::select! {
            ended = &mut server => return Ok(ended?),
            () = stop => tracing::info!("stopping; containers keep running"),
            () = &mut fed => {}
        }
        if let Some(manager) = &manager {
            manager.tell("STOPPING=1");
        }
        let end = tokio::time::Instant::now() + drain;
        let left = || end.saturating_duration_since(tokio::time::Instant::now());
        last_calls.cancel();
        let (served, _) = tokio::join!(server, async {
            if let Some(remote) = remote {
                let _ = remote.join().await;
            }
        });
        if !tasks.drain(left()).await {
            tracing::warn!("unfinished work is left for the next start");
        }
        parts.close(left().max(LAST_LINES)).await;
        Ok(served?)
    }
}

impl Parts {
    fn of(config: &Config, ground: Ground, rooms: Rooms) -> Result<Self, Error> {
        let Ground { tasks, store, host: _, below, network: _, pumps, nri } = ground;
        let Rooms { images, containers, sandboxes, pods, stats, handlers: _ } = rooms;
        Ok(Self {
            tasks,
            store,
            pumps,
            sandboxes,
            containers,
            images,
            meter: Arc::new(NodeMeter { stats: stats.clone(), paths: node_paths(config) }),
            keep: keep_options(config)?,
            bands: shutdown_bands(config),
            stats,
            image_store: below.clone(),
            nri,
            runtime: below,
            namespace: config.containerd.namespace.clone(),
            statics: statics_options(config, pods.node_name()),
            pods,
        })
    }

    /// Takes over what is there once containerd answers, says ready, then follows events.
    async fn recover(self, ready: watch::Sender<bool>, manager: Option<Arc<Manager>>) {
        let tell = |what: &str| {
            if let Some(manager) = &manager {
                manager.tell(what);
            }
        };
        // It serves already, though it answers most calls with `Unavailable` until containerd is
        // there. A service manager that waited for containerd would give up on a node where it
        // starts late.
        tell("READY=1\nSTATUS=recovering pods and containers");
        let take_over = || async {
            self.take_over().await.inspect_err(|error| {
                tracing::warn!(error = error_chain(&**error), "cannot recover the state yet");
            })
        };
        Backoff::new(RECOVER_FIRST, RECOVER_LONGEST).retry(take_over).await;
        if let Some(nri) = &self.nri {
            nri.start(self.sandboxes.clone()).await;
        }
        ready.send_replace(true);
        tell("STATUS=ready");
        self.stats.start();
        let sandboxes = self.sandboxes.clone();
        drop(self.tasks.spawn_lasting("lost-shims", move || {
            let sandboxes = sandboxes.clone();
            async move { sandboxes.sweep_shims(SHIM_LOOKS).await }
        }));
        let sandboxes = self.sandboxes.clone();
        drop(self.tasks.spawn_lasting("netns-watch", move || {
            let sandboxes = sandboxes.clone();
            async move { sandboxes.watch_netns(NETNS_LOOKS).await }
        }));
        self.pods.start_upkeep(self.keep.clone(), self.meter.clone());
        self.pods.start_shutdown(self.bands.clone(), Arc::new(Logind::default()));
        self.start_statics();
        tracing::info!("ready");
        let parts = self.clone();
        drop(self.tasks.spawn_lasting("events", move || {
            let parts = parts.clone();
            async move { parts.follow_events().await }
        }));
    }

    /// Watches for static pods from now on.
    fn start_statics(&self) {
        let (pods, options) = (self.pods.clone(), self.statics.clone());
        drop(self.tasks.spawn_lasting("statics", move || {
            let (pods, options) = (pods.clone(), options.clone());
            async move {
                let options = statics::Options { last: pods.static_pods(), ..options };
                match statics::Statics::new(options, move |wanted| pods.set_static(wanted)) {
                    Ok(statics) => statics.run().await,
                    Err(error) => tracing::error!(error, "cannot watch static pods"),
                }
            }
        }));
    }

    async fn take_over(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let info = self.runtime.probe().await?;
        tracing::info!(version = info.version, revision = info.revision, "connected to containerd");
        if info.cri_plugin_enabled && self.namespace == "k8s.io" {
            tracing::warn!(
                "containerd's own CRI plugin is enabled in namespace k8s.io and will fight over \
                 its containers: add \"io.containerd.grpc.v1.cri\" to disabled_plugins"
            );
        }
        self.sandboxes.learn_features().await;
        self.warn_of_versions(&info.version);
        // These leases are of an agent that died: what they held is finished or garbage.
        for lease in self.image_store.list_leases().await? {
            self.image_store.release(&lease, false).await?;
        }
        self.sandboxes.recover().await?;
        self.pods.recover().await?;
        Ok(())
    }

    /// Warns of containerd and runc versions with known vulnerabilities.
    fn warn_of_versions(&self, containerd: &str) {
        if let Some(safe) = versions::safe_containerd(containerd) {
            tracing::warn!(version = containerd, safe, "containerd is older than its safe version");
        }
        for (handler, features) in self.sandboxes.features() {
            let version = features.runc_version.as_str();
            if let Some(safe) = versions::safe_runc(version) {
                tracing::warn!(handler, version, safe, "runc is older than its safe version");
            }
        }
    }

    /// Events only speed up what waiting and polling detect anyway.
    async fn follow_events(&self) {
        let mut events = self.runtime.events();
        while let Some(event) = events.next().await {
            match event {
                RuntimeEvent::Oom { container } => self.containers.note_oom(&container),
                RuntimeEvent::ImagesChanged => self.images.invalidate(),
                RuntimeEvent::Connected => {
                    self.images.invalidate();
                    self.sandboxes.suspect_lost_shims();
                }
                RuntimeEvent::Disconnected => tracing::warn!("lost the connection to containerd"),
                RuntimeEvent::Exit { .. } => {}
            }
        }
    }

    async fn close(self, limit: Duration) {
        let Self { store, pumps, .. } = self;
        // What was read must be written before the process ends.
        let written = tokio::task::spawn_blocking(move || pumps.shutdown(limit));
        let ((), written) = tokio::join!(store.close(), written);
        if !written.unwrap_or(false) {
            tracing::warn!("the last lines of some logs are lost: their disk does not respond");
        }
    }
}

/// Feeds the service manager's watchdog. Never returns.
async fn feed(manager: Option<Arc<Manager>>, tasks: Tasks) {
    match manager {
        Some(manager) => manager.feed(&tasks).await,
        None => std::future::pending().await,
    }
}
