//! Converts the configuration to the options of each room.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{Error, node};
use crate::backend::{self, Host, RuntimeHandler, linux, nri};
use crate::config::{self, Config};
use crate::pod::KeepOptions;
use crate::pod::upkeep::{
    BadThreshold, EvictionOptions, ImageLimits, LogLimits, NodePaths, UpkeepOptions,
};
use crate::sandbox::{self, PauseSource};
use crate::{container, image, oci, pause, pod, serve, stats};

/// Size of a pod's /dev/shm in bytes, the same as in containerd and CRI-O.
const SHM_SIZE: u64 = 64 << 20;

/// Default directory of containerd's images and layers.
const CONTAINERD_ROOT: &str = "/var/lib/containerd";

/// Maximum number of files kept open for statistics: each costs the kernel a page once it is read.
const MAX_STATS_FILES: usize = 2048;

/// Prefix of the names of this agent's network namespaces. The directory is shared with other
/// agents, each of which removes those of its own namespaces that have no pod; the prefix is
/// derived from the root to tell them apart.
pub(super) fn netns_prefix(config: &Config) -> String {
    let root = Sha256::digest(config.root.as_os_str().as_encoded_bytes());
    format!("podbay-{}-", hex::encode(&root[..4]))
}

pub(super) fn nri_options(config: &Config, host: &dyn Host) -> nri::Options {
    let (nri, facts) = (&config.nri, host.facts());
    nri::Options {
        socket: (!nri.disable_connections).then(|| nri.socket_path.clone()),
        plugins: nri.plugin_path.clone(),
        configs: nri.plugin_config_path.clone(),
        registration_timeout: nri.registration_timeout,
        request_timeout: nri.request_timeout,
        limits: nri::Limits {
            swap: facts.swap_accounting,
            hugepages: facts.controllers.iter().any(|name| name == "hugetlb"),
        },
    }
}

/// Whether systemd makes the cgroups of handlers that do not say it themselves.
pub(super) fn is_systemd(config: &Config, host: &dyn Host) -> bool {
    let facts = host.facts();
    config.cgroup.driver.is_systemd(facts.systemd, facts.cgroup == backend::CgroupVersion::V2)
}

pub(super) fn handlers(config: &Config, systemd: bool) -> Vec<RuntimeHandler> {
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

/// Runtime handlers by name; "" is the default one.
fn by_name(config: &Config, handlers: &[RuntimeHandler]) -> BTreeMap<String, RuntimeHandler> {
    let named = handlers.iter().map(|handler| (handler.name.clone(), handler.clone()));
    let default = handlers.iter().find(|handler| handler.name == config.runtimes.default);
    named.chain(default.map(|handler| (String::new(), handler.clone()))).collect()
}

/// The AppArmor profile of containers that use the default one, after loading it. If loading fails
/// the profile is used nevertheless: then containers fail instead of running unconfined.
pub(super) async fn apparmor_default(config: &Config, host: &dyn Host) -> Option<String> {
    let name = &config.oci.apparmor_default_profile;
    if name.is_empty() || !host.facts().apparmor {
        return None;
    }
    // Under a name of its own, podbay's profile replaces that of an earlier version.
    let replace = name == config::DEFAULT_PROFILE;
    match host.load_apparmor(name, replace).await {
        Ok(()) => tracing::debug!(name, "default AppArmor profile loaded"),
        // As in containerd, AppArmor without its tools counts as absent.
        Err(error) if error.kind == backend::ErrorKind::NotFound => {
            tracing::warn!("apparmor_parser not found: containers run without a default profile");
            return None;
        }
        Err(error) => {
            let error = crate::telemetry::error_chain(&error);
            tracing::error!(name, error, "cannot load the default AppArmor profile");
        }
    }
    Some(name.clone())
}

pub(super) fn oci_settings(
    config: &Config,
    host: &dyn Host,
    apparmor_default: Option<String>,
) -> oci::Settings {
    let facts = host.facts();
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
        annotation_allow_list: config.oci.annotation_allow_list.clone(),
        tolerate_missing_hugetlb: config.oci.tolerate_missing_hugetlb,
        unprivileged_ports: config.oci.unprivileged_ports,
        unprivileged_icmp: config.oci.unprivileged_ping,
        apparmor_default,
        device_ownership: config.oci.device_ownership_from_security_context,
        rlimits: config.oci.rlimits.iter().map(rlimit).collect(),
        selinux: config.oci.selinux,
    }
}

fn rlimit(limit: &config::Rlimit) -> oci::Rlimit {
    let config::Rlimit { name, soft, hard } = limit.clone();
    oci::Rlimit { name, soft, hard }
}

pub(super) fn image_options(config: &Config) -> image::Options {
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
        max_concurrent_pulls: images.max_concurrent_pulls,
        min_free_percent: images.min_free_percent,
        handlers: image_handlers(config),
        pinned: Some(config.pause.image.clone())
            .filter(|name| !name.is_empty())
            .into_iter()
            .chain(images.pinned.iter().cloned())
            .collect(),
        ..Default::default()
    }
}

/// The snapshotter of each handler. As in containerd, requests without a handler use the default
/// snapshotter, not that of the default handler.
fn image_handlers(config: &Config) -> BTreeMap<String, String> {
    let all = handlers(config, false).into_iter();
    all.map(|handler| (handler.name, handler.snapshotter)).collect()
}

pub(super) fn container_options(config: &Config, oci: oci::Settings) -> container::Options {
    container::Options {
        root: config.root.join("containers"),
        state: config.state.join("containers"),
        oci,
        cdi_spec_dirs: if config.cdi.enabled { config.cdi.spec_dirs.clone() } else { Vec::new() },
        max_log_line: config.logs.max_line,
    }
}

pub(super) fn sandbox_options(
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
    Ok(sandbox::Options {
        state: config.state.join("pods"),
        files: config.root.join("sandboxes"),
        netns_dir: config.network.netns_dir.clone(),
        netns_prefix: netns_prefix(config),
        handlers: by_name(config, handlers),
        pause,
        oci,
        shm_size: SHM_SIZE,
        host_network_port_forward: config.streaming.host_network_port_forward,
    })
}

/// How long unknown pods are left alone, so that somebody can find out why they exist.
const STRAY_PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn pods_options(
    config: &Config,
    host: &dyn Host,
    handlers: &[RuntimeHandler],
) -> pod::PodsOptions {
    let by_name = by_name(config, handlers).into_iter();
    let drivers = by_name.map(|(name, handler)| (name, handler.cgroup_driver())).collect();
    let first = config.pods.backoff_first;
    let longest = config.pods.backoff_longest;
    let usual = pod::BackoffPolicy::default();
    // The back-off is reset after ten quiet minutes, independent of these delays. Image pulls
    // always use the kubelet's delays.
    let restart = pod::BackoffPolicy { first, longest, ..usual };
    pod::PodsOptions {
        stray_patience: STRAY_PATIENCE,
        root: config.root.clone(),
        node: node::facts(config, host, drivers),
        policy: pod::Policy { restart, pull: usual },
    }
}

/// The paths to measure on the node. Images and layers are assumed to be below containerd's default
/// root.
pub(super) fn node_paths(config: &Config) -> NodePaths {
    let images = std::path::PathBuf::from(CONTAINERD_ROOT);
    let imagefs = if images.is_dir() { images } else { config.root.clone() };
    NodePaths { proc: "/proc".into(), nodefs: config.root.clone(), imagefs }
}

pub(super) fn keep_options(config: &Config) -> Result<KeepOptions, BadThreshold> {
    let pods = &config.pods;
    let thresholds = pods.eviction.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let percent = |value: u32| u8::try_from(value).unwrap_or(100);
    let images = ImageLimits {
        high: percent(pods.image_gc_high),
        low: percent(pods.image_gc_low),
        ..ImageLimits::default()
    };
    Ok(KeepOptions {
        upkeep: UpkeepOptions {
            logs: LogLimits {
                size: u64::try_from(pods.log_max_size).unwrap_or(u64::MAX),
                files: pods.log_max_files,
            },
            images,
            // The last two containers of a name are needed for the current and the last state.
            dead: 2,
            ..UpkeepOptions::default()
        },
        image_gc: pods.image_gc,
        eviction: EvictionOptions {
            thresholds,
            hold: pods.eviction_hold,
            own_image_disk: node_paths(config).own_image_disk(),
        },
    })
}

/// How pods are ended before the host shuts down.
pub(super) fn shutdown_bands(config: &Config) -> pod::Bands {
    let bands = config.pods.shutdown_bands().into_iter();
    pod::Bands::new(bands.map(|(priority, grace)| pod::Band { priority, grace }).collect())
}

pub(super) fn statics_options(config: &Config, node: String) -> pod::statics::Options {
    pod::statics::Options {
        dir: config.pods.manifests.clone(),
        http_url: config.pods.manifests_url.clone(),
        http_headers: reqwest::header::HeaderMap::new(),
        interval: config.pods.manifests_interval,
        node,
        last: Vec::new(),
    }
}

/// Options of the podbay.v1 TCP server; `None` without an address.
pub(super) fn remote_options(config: &Config) -> Option<serve::RemoteOptions> {
    let remote = &config.remote;
    Some(serve::RemoteOptions {
        address: remote.address?,
        tls: serve::TlsFiles {
            cert: remote.cert.clone(),
            key: remote.key.clone(),
            client_ca: remote.client_ca.clone(),
            crl: remote.crl.clone(),
        },
        policy: remote.policy.clone(),
    })
}

pub(super) fn stats_options(
    config: &Config,
    host: &dyn Host,
    handlers: &[RuntimeHandler],
) -> stats::Options {
    let by_name = by_name(config, handlers).into_iter();
    let snapshotters = by_name.map(|(name, handler)| (name, handler.snapshotter)).collect();
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
