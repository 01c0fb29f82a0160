//! The real [`Network`]: CNI plugins, executed by the specification (0.1.0 to 1.1.0).
//!
//! A pod is attached with ADD over the plugins of each configured network and detached with DEL in
//! reverse order, using the inputs and results of ADD (`cache`). Plugins do not manage the loopback
//! interface, which is up as soon as the namespace exists. All work runs on blocking threads and is
//! completed even if the caller is gone.

mod cache;
mod capability;
mod chain;
mod config;
mod error;
mod exec;
mod inherited;
mod leftover;
mod own;
mod result;
#[cfg(test)]
mod testing;

pub use own::DefaultNetwork;
pub use result::IpPreference;
#[doc(hidden)]
pub use result::printed_addresses;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ipnet::IpNet;
use serde_json::{Map, Value};

use self::cache::{Cache, Entry};
use self::chain::Link;
use self::config::{Fingerprint, Loaded, Network as Configured};
use self::error::{Failure, Failures};
use self::exec::Runner;
use super::linux::is_netns;
use super::{Attachment, Error, ErrorKind, Network, NetworkReadiness, NetworkStatus, Result};
use crate::ids::PodId;
use crate::locks::Mutex;
use crate::telemetry::error_text;

/// How long a result of STATUS is cached.
const STATUS_LIFE: Duration = Duration::from_secs(5);

/// Time limit of STATUS.
const STATUS_LIMIT: Duration = Duration::from_secs(10);

/// Options of a [`Cni`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the network configurations: `*.conflist`, `*.conf`, `*.json`, sorted by name.
    pub conf_dir: PathBuf,
    /// Directories that are searched for plugins, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Directory of the result cache, shared with other CNI runtimes.
    pub cache_dir: PathBuf,
    /// Maximum number of configurations used; 0 means all. The first one provides eth0.
    pub max_conf: usize,
    /// Time limit for ADD over all plugins of one network.
    pub add_timeout: Duration,
    /// Time limit for DEL of each plugin.
    pub del_timeout: Duration,
    /// The network to write when `conf_dir` contains none; `None` writes nothing.
    pub default_network: Option<DefaultNetwork>,
    /// Whether a pod CIDR from the kubelet replaces the subnets of the default network.
    pub use_pod_cidr: bool,
    /// Which address becomes the pod's IP.
    pub ip_preference: IpPreference,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cache_dir: "/var/lib/cni".into(),
            max_conf: 1,
            add_timeout: Duration::from_secs(30),
            del_timeout: Duration::from_secs(30),
            default_network: Some(DefaultNetwork::default()),
            use_pod_cidr: false,
            ip_preference: IpPreference::default(),
        }
    }
}

/// Pod networks by CNI plugins. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cni(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    runner: Runner,
    cache: Cache,
    /// The default network with its current subnets.
    own: Mutex<Option<DefaultNetwork>>,
    loaded: Mutex<Option<(Fingerprint, Arc<Loaded>)>>,
    status: Mutex<Option<(Instant, Fingerprint, NetworkReadiness)>>,
}

impl Cni {
    /// Checks the options; nothing is read or written yet. Also makes all inherited descriptors of
    /// the process close-on-exec, so that no plugin gets them.
    pub fn new(options: Options) -> Result<Self> {
        if let Some(own) = &options.default_network {
            own.check()?;
        }
        if options.bin_dirs.iter().any(|dir| !dir.is_absolute()) || options.bin_dirs.is_empty() {
            let problem = format!("bin_dirs: {:?} are not absolute paths", options.bin_dirs);
            return Err(Error::new(ErrorKind::InvalidArgument, problem));
        }
        if let Err(error) = inherited::close_on_exec() {
            tracing::warn!(%error, "CNI plugins inherit open file descriptors");
        }
        Ok(Self(Arc::new(Inner {
            runner: Runner::new(options.bin_dirs.clone()),
            cache: Cache::new(&options.cache_dir),
            own: Mutex::new(options.default_network.clone()),
            loaded: Mutex::default(),
            status: Mutex::default(),
            options,
        })))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|panic| Error::new(ErrorKind::Other, "run CNI work").because(panic))
    }
}

#[async_trait]
impl Network for Cni {
    async fn attach(&self, pod: &Attachment) -> Result<NetworkStatus> {
        let pod = pod.clone();
        self.blocking(move |inner| inner.attach(&pod)).await?
    }

    async fn detach(&self, pod: &Attachment) -> Result<()> {
        let pod = pod.clone();
        self.blocking(move |inner| inner.detach(&pod)).await?
    }

    async fn recall(&self, pod: &Attachment) -> Result<Option<NetworkStatus>> {
        let pod = pod.clone();
        self.blocking(move |inner| inner.recall(&pod)).await?
    }

    async fn end_cut_calls(&self, pods: &[PodId]) -> Result<()> {
        const TRIED: &str = "end CNI plugins of an earlier agent";
        let pods = pods.to_vec();
        let ended = self.blocking(move |_| leftover::end(&pods)).await?;
        match ended.map_err(|error| Error::io(TRIED, error))? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::DeadlineExceeded, TRIED)),
        }
    }

    async fn readiness(&self) -> NetworkReadiness {
        match self.blocking(Inner::readiness).await {
            Ok(readiness) => readiness,
            Err(error) => NetworkReadiness::NotReady(error_text(&error)),
        }
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let cidr = cidr.to_owned();
        self.blocking(move |inner| inner.set_pod_cidr(&cidr)).await?
    }
}

impl Inner {
    /// The currently configured networks. Checking the directory is cheap, so there is no watcher
    /// that could miss a change.
    fn current(&self) -> Arc<Loaded> {
        let dir = &self.options.conf_dir;
        let mut known = self.loaded.lock();
        let mut now = config::fingerprint(dir);
        if let Some((seen, loaded)) = &*known
            && *seen == now
            // podbay's own network may become possible without a change in the directory.
            && loaded.any_file
        {
            return Arc::clone(loaded);
        }
        let load = |files: &Fingerprint| config::load(dir, files, own::FILE, self.options.max_conf);
        let mut loaded = load(&now);
        let own = self.own.lock().clone();
        if let Some(own) = own.filter(|_| !loaded.any_file) {
            match own.write(dir, &self.runner) {
                Ok(()) => {
                    now = config::fingerprint(dir);
                    loaded = load(&now);
                }
                Err(error) => loaded.faults.push(error_text(&error)),
            }
        }
        if known.as_ref().is_none_or(|(seen, _)| *seen != now) {
            for fault in &loaded.faults {
                tracing::warn!(%fault, "ignoring CNI configuration");
            }
        }
        let loaded = Arc::new(loaded);
        *known = Some((now, Arc::clone(&loaded)));
        loaded
    }

    fn no_network(&self, loaded: &Loaded) -> String {
        let mut reason = format!("no network configuration in {}", self.options.conf_dir.display());
        for fault in &loaded.faults {
            reason.push_str("; ");
            reason.push_str(fault);
        }
        reason
    }

    fn attach(&self, pod: &Attachment) -> Result<NetworkStatus> {
        let netns = pod.netns.as_deref().filter(|path| is_netns(path)).ok_or_else(|| {
            let problem = format!("netns: {:?} is not a network namespace", pod.netns);
            Error::new(ErrorKind::InvalidArgument, problem)
        })?;
        let (args, capabilities) = (capability::args(pod)?, capability::all(pod)?);
        let loaded = self.current();
        if loaded.networks.is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, self.no_network(&loaded)));
        }
        warn_of_unheard(pod, &loaded, &capabilities);
        let names: Vec<String> = (0..loaded.networks.len()).map(|i| format!("eth{i}")).collect();
        let mut status = NetworkStatus::default();
        let mut added: Vec<(Link<'_>, Option<Value>)> = Vec::new();
        for (network, if_name) in loaded.networks.iter().zip(&names) {
            let link = Link {
                network,
                container: pod.pod.as_str(),
                netns: Some(netns),
                if_name,
                args: &args,
                capabilities: &capabilities,
            };
            let mut result = None;
            let done = self.add(&link, &mut result);
            added.push((link, result.clone()));
            match done {
                Ok(ips) if added.len() == 1 => {
                    status.ips = self.options.ip_preference.order(ips);
                    status.result = result.unwrap_or_default();
                }
                Ok(_) => {}
                Err(error) => {
                    self.take_back(pod, &added);
                    return Err(error);
                }
            }
        }
        Ok(status)
    }

    /// Runs ADD of one network. `result` is set as soon as there is one, even if it is
    /// insufficient.
    fn add(&self, link: &Link<'_>, result: &mut Option<Value>) -> Result<Vec<std::net::IpAddr>> {
        let tried = || format!("CNI ADD of pod {} to {}", link.container, link.network.name);
        let answer = link
            .add(&self.runner, self.options.add_timeout)
            .map_err(|failure| failure.told(tried()))?;
        let answer = result.insert(answer);
        let last = link.network.plugins.last().map(|plugin| plugin.kind.clone());
        let ips = result::addresses(answer, link.if_name).map_err(|source| {
            Failure::Malformed { kind: last.unwrap_or_default(), source }.told(tried())
        })?;
        if ips.is_empty() {
            return Err(Failure::NoAddress(link.if_name.to_owned()).told(tried()));
        }
        self.cache.store(&Entry::new(link, answer))?;
        Ok(ips)
    }

    /// Undoes a failed attach as far as possible. The caller's detach does the rest.
    fn take_back(&self, pod: &Attachment, added: &[(Link<'_>, Option<Value>)]) {
        for (link, result) in added.iter().rev() {
            let failures = link.del(&self.runner, self.options.del_timeout, result.as_ref());
            if failures.is_empty() {
                self.cache.remove(&link.network.name, &pod.pod, link.if_name);
                continue;
            }
            let (pod, error) = (&pod.pod, Failures(failures));
            tracing::warn!(%pod, network = link.network.name, %error, "cannot undo failed ADD");
        }
    }

    fn detach(&self, pod: &Attachment) -> Result<()> {
        let netns = pod.netns.as_deref().filter(|path| is_netns(path));
        // Values that ADD refuses were never passed to a plugin.
        let args = capability::args(pod).unwrap_or_default();
        let capabilities = capability::without_bandwidth(pod);
        let loaded = self.current();
        let cached = self.cache.of_pod(&pod.pod)?;
        let mut failures = Vec::new();
        for (index, network) in loaded.networks.iter().enumerate().rev() {
            let if_name = format!("eth{index}");
            if cached.iter().any(|entry| entry.if_name == if_name) {
                continue;
            }
            // Nothing is known about an ADD, which may have been interrupted.
            let (if_name, args, capabilities) = (if_name.as_str(), &args[..], &capabilities);
            let container = pod.pod.as_str();
            let link = Link { network, container, netns, if_name, args, capabilities };
            failures.extend(link.del(&self.runner, self.options.del_timeout, None));
        }
        for entry in cached.iter().rev() {
            failures.extend(self.del_cached(pod, entry, netns, &loaded));
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(Failures(failures).told(format!("CNI DEL of pod {}", pod.pod)))
    }

    /// The cached result of ADD.
    fn recall(&self, pod: &Attachment) -> Result<Option<NetworkStatus>> {
        let cached = self.cache.of_pod(&pod.pod)?;
        let Some(entry) = cached.iter().find(|entry| entry.if_name == "eth0") else {
            return Ok(None);
        };
        let ips = result::addresses(&entry.result, &entry.if_name).map_err(|malformed| {
            Error::new(ErrorKind::Other, "read a cached CNI result").because(malformed)
        })?;
        let ips = self.options.ip_preference.order(ips);
        Ok(Some(NetworkStatus { ips, result: entry.result.clone() }))
    }

    /// Runs DEL with the inputs and results of ADD. The cache entry is kept until all plugins
    /// succeed.
    fn del_cached(
        &self,
        pod: &Attachment,
        entry: &Entry,
        netns: Option<&Path>,
        loaded: &Loaded,
    ) -> Vec<Failure> {
        let then = entry.config().and_then(|raw| Configured::from_list(&raw).ok());
        let now = loaded.networks.iter().find(|network| network.name == entry.network_name);
        let Some(network) = then.as_ref().or(now) else {
            // Nobody knows the plugins to run, now or later.
            tracing::warn!(pod = %pod.pod, network = entry.network_name,
                "network is no longer configured, what its plugins made for the pod may remain");
            self.cache.remove(&entry.network_name, &pod.pod, &entry.if_name);
            return Vec::new();
        };
        let link = Link {
            network,
            container: pod.pod.as_str(),
            netns,
            if_name: &entry.if_name,
            args: &entry.cni_args,
            capabilities: &entry.capability_args,
        };
        let failures = link.del(&self.runner, self.options.del_timeout, Some(&entry.result));
        if failures.is_empty() {
            self.cache.remove(&entry.network_name, &pod.pod, &entry.if_name);
        }
        failures
    }

    fn readiness(&self) -> NetworkReadiness {
        let loaded = self.current();
        if loaded.networks.is_empty() {
            return NetworkReadiness::NotReady(self.no_network(&loaded));
        }
        for network in &loaded.networks {
            for plugin in &network.plugins {
                if let Err(failure) = self.runner.find(&plugin.kind) {
                    let reason = format!("network {}: {failure}", network.name);
                    return NetworkReadiness::NotReady(reason);
                }
            }
        }
        if loaded.networks.iter().all(|network| network.version < config::Version::STATUS) {
            return NetworkReadiness::Ready;
        }
        self.plugins_readiness(&loaded)
    }

    fn plugins_readiness(&self, loaded: &Loaded) -> NetworkReadiness {
        let files = self.loaded.lock().as_ref().map(|(files, _)| files.clone()).unwrap_or_default();
        if let Some((asked, of, answer)) = &*self.status.lock()
            && asked.elapsed() < STATUS_LIFE
            && *of == files
        {
            return answer.clone();
        }
        let asked = |network: &Configured| chain::status(network, &self.runner, STATUS_LIMIT);
        let answer = loaded.networks.iter().find_map(|network| {
            let failure = asked(network).err()?;
            let reason = format!("network {}: {}", network.name, error_text(&failure));
            Some(NetworkReadiness::NotReady(reason))
        });
        let answer = answer.unwrap_or(NetworkReadiness::Ready);
        *self.status.lock() = Some((Instant::now(), files, answer.clone()));
        answer
    }

    fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let invalid = |problem: String| {
            Error::new(ErrorKind::InvalidArgument, format!("pod_cidr: {problem}"))
        };
        if cidr.is_empty() || !self.options.use_pod_cidr {
            return Ok(());
        }
        let subnets: std::result::Result<Vec<IpNet>, _> =
            cidr.split(',').map(|part| part.trim().parse()).collect();
        let subnets = subnets.map_err(|_| invalid(format!("{cidr:?} is not a list of CIDRs")))?;
        own::check_subnets(&subnets).map_err(invalid)?;
        let changed = {
            let mut own = self.own.lock();
            let Some(own) = own.as_mut() else { return Ok(()) };
            let changed = own.subnets != subnets;
            own.subnets = subnets;
            changed.then(|| own.clone())
        };
        match changed {
            // Other configurations take precedence; then there is nothing to write.
            Some(own) if self.options.conf_dir.join(own::FILE).exists() => {
                own.write(&self.options.conf_dir, &self.runner)
            }
            _ => Ok(()),
        }
    }
}

/// Says which requests of a pod no plugin takes. Not an error: some networks do without a plugin
/// for them, for instance by following the API server.
fn warn_of_unheard(pod: &Attachment, loaded: &Loaded, capabilities: &Map<String, Value>) {
    let is_heard = |name: &str| {
        let plugins = loaded.networks.iter().flat_map(|network| &network.plugins);
        plugins.into_iter().any(|plugin| plugin.capabilities.contains(name))
    };
    for name in ["portMappings", "bandwidth"] {
        let asked = match capabilities.get(name) {
            Some(Value::Array(list)) => !list.is_empty(),
            other => other.is_some(),
        };
        if asked && !is_heard(name) {
            tracing::warn!(pod = %pod.pod, capability = name,
                "no CNI plugin of the network offers what the pod asks for");
        }
    }
}

#[cfg(test)]
mod tests;
