//! What the agent is built on: its directories, its store, its real adapters.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::options::{netns_prefix, nri_options};
use crate::backend::cni::{self, Cni};
use crate::backend::containerd::{self, Containerd};
use crate::backend::linux::{self, LinuxHost};
use crate::backend::nri::Nri;
use crate::backend::{CallDeadlines, Hooks, NoHooks};
use crate::config::Config;
use crate::lifecycle::Tasks;
use crate::logs::Pumps;
use crate::sandbox::Sandboxes;
use crate::store::{self, Store};
use crate::stream;

/// How long the store may be locked at the start, and the delay between attempts.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What all rooms stand on.
pub(super) struct Ground {
    pub(super) tasks: Tasks,
    pub(super) store: Store,
    pub(super) host: Arc<LinuxHost>,
    pub(super) below: Arc<Containerd>,
    pub(super) network: Arc<Cni>,
    pub(super) pumps: Arc<Pumps>,
    pub(super) nri: Option<Nri>,
}

impl Ground {
    /// Makes the folders, opens the store and makes the adapters.
    pub(super) async fn open(config: &Config) -> Result<Self, Error> {
        for (path, mode) in [(&config.root, 0o700), (&config.state, 0o711)] {
            make_folder(path, mode)?;
        }
        let store = open_store(config).await?;
        let tasks = Tasks::new();
        let host = Arc::new(host(config)?);
        let below = Arc::new(containerd(config)?);
        let network = Arc::new(network(config)?);
        let pumps = Pumps::start()
            .map_err(|source| Error::Io { what: "start the log thread", source })
            .map(Arc::new)?;
        let nri = config.nri.enable.then(|| Nri::new(nri_options(config, &*host), tasks.clone()));
        Ok(Self { tasks, store, host, below, network, pumps, nri })
    }

    /// Who is told of each moment.
    pub(super) fn hooks(&self) -> Arc<dyn Hooks> {
        match &self.nri {
            Some(nri) => Arc::new(nri.clone()),
            None => Arc::new(NoHooks),
        }
    }
}

pub(super) async fn streams(
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
        sessions: stream::MAX_SESSIONS,
    };
    stream::Server::bind(options, Arc::new(stream::Pods(sandboxes)), tasks).await
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(mode).create(path);
    made.map_err(|source| Error::Folder { path: path.to_owned(), source })
}

/// Opens the store. The agent before this one may have been killed just now: a child that it was
/// starting lets go of the lock a moment after it.
async fn open_store(config: &Config) -> Result<Store, Error> {
    let path = config.root.join("state.redb");
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    let opened = loop {
        match Store::open(store::Options { path: path.clone() }) {
            Err(store::Error::Locked { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            opened => break opened?,
        }
    };
    if let Some(moved) = &opened.quarantined {
        tracing::error!(?moved, "state store was damaged, rebuilding it from containerd");
    }
    Ok(opened.store)
}

fn host(config: &Config) -> Result<LinuxHost, Error> {
    let options = linux::Options {
        netns_dir: config.network.netns_dir.clone(),
        netns_prefix: netns_prefix(config),
        scratch: config.state.join("scratch"),
        apparmor: config.state.join("apparmor"),
    };
    LinuxHost::new(options).map_err(|source| Error::Backend { what: "the host", source })
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
