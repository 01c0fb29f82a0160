//! The composition root: the only place that knows every room and says `new` on real adapters.
//!
//! Order: config -> store -> backends -> domain -> socket -> serve (answering Unavailable) ->
//! recover once containerd answers -> ready -> stop signal -> drain under a deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::backend::cni::{self, Cni};
use crate::backend::containerd::{self, Containerd};
use crate::backend::linux::{self, LinuxHost};
use crate::backend::{
    CallDeadlines, Host, Images as ImageStore, Runtime, RuntimeEvent, RuntimeHandler,
};
use crate::board::Board;
use crate::config::{self, Config};
use crate::container::{self, Containers};
use crate::image::{self, Images};
use crate::lifecycle::{Backoff, Tasks};
use crate::logs::Pumps;
use crate::sandbox::{self, PauseSource, Sandboxes};
use crate::serve::{self, CriServices, Identity, SocketOptions};
use crate::stats::{self, Stats};
use crate::store::{self, Store};
use crate::stream;
use crate::telemetry::error_chain;
use crate::{backend, oci, pause};

/// Size of a pod's /dev/shm, as containerd and CRI-O have it.
const SHM_SIZE: u64 = 64 << 20;

/// Most files that statistics keep open: each costs the kernel a page once it is read.
const MAX_STATS_FILES: usize = 2048;

/// Pauses between tries to reach containerd at start.
const RECOVER_FIRST: Duration = Duration::from_millis(200);
const RECOVER_LONGEST: Duration = Duration::from_secs(5);

/// An agent that cannot start or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder of ours cannot be made.
    #[error("make {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be opened: also when another agent has this root.
    #[error("open the state store")]
    Store(#[from] store::Error),
    /// A backend cannot be set up.
    #[error("set up {what}")]
    Backend {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: backend::Error,
    },
    /// The log thread or the signal handlers cannot be started.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The socket cannot be bound.
    #[error("open the CRI socket")]
    Socket(#[from] serve::SocketError),
    /// The streaming server cannot start.
    #[error("open the streaming server")]
    Streaming(#[from] stream::Error),
    /// The server failed.
    #[error("serve")]
    Serve(#[from] serve::Error),
}

/// A built agent: its socket is bound, nothing runs yet.
pub struct App {
    listener: UnixListener,
    services: CriServices,
    streams: stream::Server,
    parts: Parts,
    drain: Duration,
}

/// What recovery, the event watcher and the end need.
#[derive(Clone)]
struct Parts {
    tasks: Tasks,
    store: Store,
    pumps: Arc<Pumps>,
    sandboxes: Arc<Sandboxes>,
    containers: Arc<Containers>,
    images: Arc<Images>,
    stats: Arc<Stats>,
    image_store: Arc<dyn ImageStore>,
    runtime: Arc<dyn Runtime>,
    namespace: String,
}

/// Runs the agent until SIGTERM or SIGINT. Running containers are not touched by its end.
pub async fn run(config: Config) -> Result<(), Error> {
    let signals = signals().map_err(|source| Error::Io { what: "watch for signals", source })?;
    App::build(config).await?.run(signals).await
}

/// Ends at the first SIGTERM or SIGINT.
fn signals() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        // Both arms only wait.
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

impl App {
    /// Opens the store, makes all rooms and binds the socket.
    pub async fn build(config: Config) -> Result<Self, Error> {
        for (path, mode) in [(&config.root, 0o700), (&config.state, 0o711)] {
            make_folder(path, mode)?;
        }
        let store = open_store(&config)?;
        let tasks = Tasks::new();
        let host = Arc::new(host(&config)?);
        let below = Arc::new(containerd(&config)?);
        let network = Arc::new(network(&config)?);
        let pumps = Pumps::start()
            .map_err(|source| Error::Io { what: "start the log thread", source })
            .map(Arc::new)?;
        let images =
            Images::new(below.clone(), below.clone(), tasks.clone(), image_options(&config));
        let board = Arc::new(Board::new());
        let deps = container::Deps {
            runtime: below.clone(),
            host: host.clone(),
            images: images.clone(),
            store: store.clone(),
            board: board.clone(),
            tasks: tasks.clone(),
            pumps: pumps.clone(),
        };
        let oci = oci_settings(&config, &*host);
        let systemd = oci.cgroup_driver == oci::CgroupDriver::Systemd;
        let handlers = handlers(&config, systemd);
        let containers = Containers::new(deps.clone(), container_options(&config, oci.clone()));
        let sandboxes = Arc::new(Sandboxes::new(
            sandbox::Deps { base: deps, network: network.clone(), containers: containers.clone() },
            sandbox_options(&config, oci, &handlers)?,
        ));
        let stats = Stats::new(
            stats::Deps { runtime: below.clone(), board, tasks: tasks.clone() },
            stats_options(&config, &*host, &handlers),
        );
        let socket = SocketOptions {
            path: config.cri.socket.clone(),
            mode: config.cri.socket_mode.0,
            gid: config.cri.socket_gid,
        };
        let streams = streams(&config, sandboxes.clone(), tasks.clone()).await?;
        let services = CriServices {
            sandboxes: sandboxes.clone(),
            images: images.clone(),
            stats: stats.clone(),
            runtime: below.clone(),
            network,
            urls: streams.urls(),
            identity: Identity {
                handlers,
                default_handler: config.runtimes.default.clone(),
                config: serde_json::Value::String(config.show()),
            },
        };
        let parts = Parts {
            tasks,
            store,
            pumps,
            sandboxes,
            containers,
            images,
            stats,
            image_store: below.clone(),
            runtime: below,
            namespace: config.containerd.namespace.clone(),
        };
        let listener = serve::bind(&socket).await?;
        Ok(Self { listener, services, streams, parts, drain: config.drain.timeout })
    }

    /// Serves until `stop` ends, then drains: takes no new work, lets work under way finish for
    /// a while, and leaves the rest to the next start.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { listener, services, streams, parts, drain } = self;
        let (ready, is_ready) = watch::channel(false);
        let tasks = parts.tasks.clone();
        drop(tasks.spawn_until_drain("recover", parts.clone().recover(ready)));
        drop(tasks.spawn("streaming server", streams.run()));
        let server = serve::serve(listener, services, is_ready, tasks.draining());
        tokio::pin!(server);
        // Cancel-safe: the server is pinned outside and polled again below.
        tokio::select! {
            ended = &mut server => return Ok(ended?),
            () = stop => tracing::info!("stopping; containers go on running"),
        }
        let (served, drained) = tokio::join!(server, tasks.drain(drain));
        if !drained {
            tracing::warn!("work under way is left to the next start");
        }
        parts.close().await;
        Ok(served?)
    }
}

impl Parts {
    /// Takes over what is there once containerd answers, says ready, then follows events.
    async fn recover(self, ready: watch::Sender<bool>) {
        let mut pauses = Backoff::new(RECOVER_FIRST, RECOVER_LONGEST);
        loop {
            match self.take_over().await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(error = error_chain(&*error), "cannot take over yet");
                    tokio::time::sleep(pauses.next()).await;
                }
            }
        }
        ready.send_replace(true);
        self.stats.start();
        tracing::info!("ready");
        self.follow_events().await;
    }

    async fn take_over(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let info = self.runtime.probe().await?;
        tracing::info!(version = info.version, revision = info.revision, "containerd");
        if info.cri_plugin_enabled && self.namespace == "k8s.io" {
            tracing::warn!(
                "containerd's own CRI plugin is enabled in namespace k8s.io and will fight over \
                 its containers: add \"io.containerd.grpc.v1.cri\" to disabled_plugins"
            );
        }
        self.sandboxes.learn_features().await;
        // Leases of ours are of an agent that died: what they held is finished or garbage.
        for lease in self.image_store.list_leases().await? {
            self.image_store.release(&lease, false).await?;
        }
        self.sandboxes.recover().await?;
        Ok(())
    }

    /// Events only hurry what waiting and looking find anyway.
    async fn follow_events(&self) {
        let mut events = self.runtime.events();
        while let Some(event) = events.next().await {
            match event {
                RuntimeEvent::Oom { container } => self.containers.note_oom(&container),
                RuntimeEvent::ImagesChanged | RuntimeEvent::Connected => self.images.invalidate(),
                RuntimeEvent::Disconnected => tracing::warn!("containerd went away"),
                RuntimeEvent::Exit { .. } => {}
            }
        }
    }

    async fn close(self) {
        let Self { store, pumps, sandboxes, containers, .. } = self;
        drop((sandboxes, containers));
        store.close().await;
        if let Ok(pumps) = Arc::try_unwrap(pumps) {
            // What was read is written before the process ends.
            let _ = tokio::task::spawn_blocking(move || pumps.stop()).await;
        }
    }
}

async fn streams(
    config: &Config,
    sandboxes: Arc<Sandboxes>,
    tasks: Tasks,
) -> Result<stream::Server, stream::Error> {
    let streaming = &config.streaming;
    let options = stream::Options {
        address: streaming.address,
        base_url: streaming.base_url.clone(),
        idle_timeout: streaming.idle_timeout,
        creation_timeout: streaming.creation_timeout,
    };
    stream::Server::bind(options, Arc::new(stream::Pods(sandboxes)), tasks).await
}

fn make_folder(path: &std::path::Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(mode).create(path);
    made.map_err(|source| Error::Folder { path: path.to_owned(), source })
}

fn open_store(config: &Config) -> Result<Store, Error> {
    let opened = Store::open(store::Options { path: config.root.join("state.redb") })?;
    if let Some(moved) = &opened.quarantined {
        tracing::error!(?moved, "the state store was damaged and is rebuilt from containerd");
    }
    Ok(opened.store)
}

fn host(config: &Config) -> Result<LinuxHost, Error> {
    let options = linux::Options {
        netns_dir: config.network.netns_dir.clone(),
        netns_prefix: netns_prefix(config),
        scratch: config.state.join("scratch"),
    };
    LinuxHost::new(options).map_err(|source| Error::Backend { what: "the host", source })
}

/// What the names of this agent's network namespaces begin with. The folder is shared with other
/// agents, each of which removes the namespaces of its own that no pod has; the root tells them
/// apart.
fn netns_prefix(config: &Config) -> String {
    let root = Sha256::digest(config.root.as_os_str().as_encoded_bytes());
    format!("podbay-{}-", hex::encode(&root[..4]))
}

fn containerd(config: &Config) -> Result<Containerd, Error> {
    let options = containerd::Options {
        address: config.containerd.address.clone(),
        namespace: config.containerd.namespace.clone(),
        deadlines: CallDeadlines {
            quick: config.containerd.quick_timeout,
            slow: config.containerd.slow_timeout,
        },
    };
    Containerd::connect(options).map_err(|source| Error::Backend { what: "containerd", source })
}

fn network(config: &Config) -> Result<Cni, Error> {
    let network = &config.network;
    let own = cni::DefaultNetwork {
        bridge: network.default_bridge.clone(),
        subnets: network.default_subnets.clone(),
        ..Default::default()
    };
    let options = cni::Options {
        conf_dir: network.conf_dir.clone(),
        bin_dirs: network.bin_dirs.clone(),
        cache_dir: network.cache_dir.clone(),
        max_conf: network.max_conf,
        add_timeout: network.add_timeout,
        del_timeout: network.del_timeout,
        default_network: network.default_network.then_some(own),
        use_pod_cidr: network.use_pod_cidr,
        ip_preference: cni::IpPreference::default(),
    };
    Cni::new(options).map_err(|source| Error::Backend { what: "the network", source })
}

fn handlers(config: &Config, systemd: bool) -> Vec<RuntimeHandler> {
    let handler = |(name, handler): (&String, &config::Handler)| RuntimeHandler {
        name: name.clone(),
        runtime_type: handler.runtime_type.clone(),
        binary: handler.binary.clone(),
        root: handler.root.as_ref().map(|root| root.display().to_string()).unwrap_or_default(),
        systemd_cgroup: handler.systemd_cgroup.unwrap_or(systemd),
        snapshotter: match handler.snapshotter.as_str() {
            "" => config.containerd.snapshotter.clone(),
            given => given.to_owned(),
        },
        config_path: match &handler.config_path {
            Some(path) => path.display().to_string(),
            None => String::new(),
        },
        options_type: handler.options_type.clone(),
        pod_annotations: handler.pod_annotations.clone(),
        container_annotations: handler.container_annotations.clone(),
        privileged_without_host_devices: handler.privileged_without_host_devices,
    };
    config.runtimes.handlers.iter().map(handler).collect()
}

fn oci_settings(config: &Config, host: &dyn Host) -> oci::Settings {
    let facts = host.facts();
    let v2 = facts.cgroup == backend::CgroupVersion::V2;
    if config.oci.selinux && facts.selinux.is_none() {
        tracing::warn!("oci.selinux is on, but this host has no SELinux");
    }
    for limit in &config.oci.rlimits {
        let most = facts.rlimits.get(&limit.name).filter(|_| !facts.may_raise_rlimits());
        if let Some(most) = most.filter(|most| limit.hard > **most) {
            tracing::warn!(limit = limit.name, most, "oci.rlimits: more than may be given");
        }
    }
    oci::Settings {
        cgroup_driver: match config.cgroup.driver.is_systemd(facts.systemd, v2) {
            true => oci::CgroupDriver::Systemd,
            false => oci::CgroupDriver::Cgroupfs,
        },
        annotation_allow_list: config.oci.annotation_allow_list.clone(),
        tolerate_missing_hugetlb: config.oci.tolerate_missing_hugetlb,
        unprivileged_ports: config.oci.unprivileged_ports,
        unprivileged_icmp: config.oci.unprivileged_ping,
        apparmor_default: None,
        device_ownership: config.oci.device_ownership_from_security_context,
        rlimits: config.oci.rlimits.iter().map(rlimit).collect(),
        selinux: config.oci.selinux,
    }
}

fn rlimit(limit: &config::Rlimit) -> oci::Rlimit {
    let config::Rlimit { name, soft, hard } = limit.clone();
    oci::Rlimit { name, soft, hard }
}

fn image_options(config: &Config) -> image::Options {
    let images = &config.images;
    let credentials = |auth: &config::RegistryAuth| image::Credentials {
        username: auth.username.clone(),
        password: auth.password.expose().to_owned(),
        auth: auth.auth.expose().to_owned(),
        identity_token: auth.identity_token.expose().to_owned(),
        ..Default::default()
    };
    let auth = images.auth.iter().map(|(host, auth)| (host.clone(), credentials(auth)));
    image::Options {
        snapshotter: config.containerd.snapshotter.clone(),
        config_dirs: images.config_dirs.clone(),
        registry_auth: auth.collect::<BTreeMap<_, _>>(),
        docker_config: images.docker_config.clone(),
        no_progress_timeout: images.no_progress_timeout,
        max_concurrent_layers: images.max_concurrent_layers,
        handlers: image_handlers(config),
        pinned: Some(config.pause.image.clone())
            .filter(|name| !name.is_empty())
            .into_iter()
            .chain(images.pinned.iter().cloned())
            .collect(),
        ..Default::default()
    }
}

/// The snapshotter of each handler; images that are asked for without one are of the default
/// snapshotter, not of the default handler, as containerd has it.
fn image_handlers(config: &Config) -> BTreeMap<String, String> {
    let all = handlers(config, false).into_iter();
    all.map(|handler| (handler.name, handler.snapshotter)).collect()
}

fn container_options(config: &Config, oci: oci::Settings) -> container::Options {
    container::Options {
        root: config.root.join("containers"),
        state: config.state.join("containers"),
        oci,
        cdi_spec_dirs: if config.cdi.enabled { config.cdi.spec_dirs.clone() } else { Vec::new() },
        max_log_line: config.logs.max_line,
    }
}

fn sandbox_options(
    config: &Config,
    oci: oci::Settings,
    handlers: &[RuntimeHandler],
) -> Result<sandbox::Options, Error> {
    let pause = match config.pause.image.as_str() {
        "" => {
            let root = pause::install(&config.root.join("pause"))
                .map_err(|source| Error::Io { what: "install the pause program", source })?;
            PauseSource::Embedded { root, program: pause::PATH.to_owned() }
        }
        image => PauseSource::Image(image.to_owned()),
    };
    let mut by_name: BTreeMap<_, _> =
        handlers.iter().map(|handler| (handler.name.clone(), handler.clone())).collect();
    if let Some(default) = by_name.get(&config.runtimes.default).cloned() {
        by_name.insert(String::new(), default);
    }
    Ok(sandbox::Options {
        state: config.state.join("pods"),
        netns_dir: config.network.netns_dir.clone(),
        netns_prefix: netns_prefix(config),
        handlers: by_name,
        pause,
        oci,
        shm_size: SHM_SIZE,
        host_network_port_forward: config.streaming.host_network_port_forward,
    })
}

fn stats_options(config: &Config, host: &dyn Host, handlers: &[RuntimeHandler]) -> stats::Options {
    let snapshotter =
        |handler: &RuntimeHandler| (handler.name.clone(), handler.snapshotter.clone());
    let mut snapshotters: BTreeMap<_, _> = handlers.iter().map(snapshotter).collect();
    if let Some(default) = snapshotters.get(&config.runtimes.default).cloned() {
        snapshotters.insert(String::new(), default);
    }
    stats::Options {
        cgroup: host.facts().cgroup,
        cgroup_root: "/sys/fs/cgroup".into(),
        proc: "/proc".into(),
        interval: config.stats.interval,
        layer_interval: config.stats.layer_interval,
        snapshotters,
        max_files: (linux::raise_file_limit() / 2).min(MAX_STATS_FILES),
    }
}
