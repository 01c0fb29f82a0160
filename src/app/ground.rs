//! What the agent is built on: its directories, its store, its real adapters.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::options::netns_prefix;
use crate::backend::cni::{self, Cni};
use crate::backend::containerd::{self, Containerd};
use crate::backend::linux::{self, LinuxHost};
use crate::backend::nri::Nri;
use crate::backend::{CallDeadlines, Hooks, NoHooks};
use crate::config::Config;
use crate::lifecycle::Tasks;
use crate::sandbox::Sandboxes;
use crate::store::{self, Store};
use crate::stream;

/// How long the store may be locked at the start, and the delay between attempts.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

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
    };
    stream::Server::bind(options, Arc::new(stream::Pods(sandboxes)), tasks).await
}

pub(super) fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(mode).create(path);
    made.map_err(|source| Error::Folder { path: path.to_owned(), source })
}

/// Opens the store. If the previous agent was killed just now, a child that it was starting may
/// hold the lock a moment longer.
pub(super) async fn open_store(config: &Config) -> Result<Store, Error> {
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
        tracing::error!(?moved, "the state store was damaged and is rebuilt from containerd");
    }
    Ok(opened.store)
}

pub(super) fn host(config: &Config) -> Result<LinuxHost, Error> {
    let options = linux::Options {
        netns_dir: config.network.netns_dir.clone(),
        netns_prefix: netns_prefix(config),
        scratch: config.state.join("scratch"),
    };
    LinuxHost::new(options).map_err(|source| Error::Backend { what: "the host", source })
}

pub(super) fn containerd(config: &Config) -> Result<Containerd, Error> {
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

pub(super) fn network(config: &Config) -> Result<Cni, Error> {
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

pub(super) fn hooks(nri: Option<&Nri>) -> Arc<dyn Hooks> {
    match nri {
        Some(nri) => Arc::new(nri.clone()),
        None => Arc::new(NoHooks),
    }
}
