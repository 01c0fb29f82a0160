//! The agent's configuration: one typed value, read once and checked whole.
//!
//! Each setting comes from the first of these that has it: a flag, the environment
//! (`PODBAY_CRI_SOCKET` for `cri.socket`; lists are separated by commas), the TOML file, the
//! default. [`Config::load`] reports all faults of all of them together, and the value remembers
//! where each setting came from ([`Config::show`]). Tables with names of the user's choice
//! (`runtimes.handlers`, `images.auth`) come into being in the file alone.

mod faults;
mod inputs;
mod pods;
mod reader;
mod sections;
mod setting;
mod show;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::telemetry::Format;

pub use faults::{Fault, Faults, Source};
pub use inputs::{DEFAULT_FILE, FileOnly, Flag, Flags, Inputs, Process};
pub use pods::{Grace, Pods};
pub(crate) use sections::DEFAULT_PROFILE;

/// The whole configuration. The fields say what the keys of the file mean: `cri.socket` is the
/// key `socket` of the table `[cri]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Data that must survive a reboot: database, sandbox and container folders.
    pub root: PathBuf,
    /// Run state, gone after a reboot: FIFOs, shm mounts, the lock.
    pub state: PathBuf,
    /// The CRI door.
    pub cri: Cri,
    /// The containerd that is driven.
    pub containerd: Containerd,
    /// OCI runtimes by CRI handler name.
    pub runtimes: Runtimes,
    /// How cgroups are made.
    pub cgroup: Cgroup,
    /// Pod networks.
    pub network: Network,
    /// Image pulls.
    pub images: Images,
    /// The pause container.
    pub pause: Pause,
    /// Policy of the OCI specs.
    pub oci: Oci,
    /// Devices of the Container Device Interface.
    pub cdi: Cdi,
    /// Plugins of the node.
    pub nri: Nri,
    /// Container logs.
    pub logs: Logs,
    /// The streaming server.
    pub streaming: Streaming,
    /// Whole pods.
    pub pods: Pods,
    /// The remote door of podbay.v1.
    pub remote: Remote,
    /// Measuring of what pods use.
    pub stats: Stats,
    /// The agent's own log.
    pub telemetry: Telemetry,
    /// The agent's own end.
    pub drain: Drain,
    shown: Vec<show::Shown>,
}

/// `[cri]`: the socket that kubelet, crictl and other CRI clients use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cri {
    /// Path of the unix socket.
    pub socket: PathBuf,
    /// Mode of the socket, an octal text in the file.
    pub socket_mode: FileMode,
    /// Group that owns the socket; `None` keeps the agent's.
    pub socket_gid: Option<u32>,
}

/// `[containerd]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containerd {
    /// Path of containerd's unix socket.
    pub address: PathBuf,
    /// The containerd namespace that is podbay's own.
    pub namespace: String,
    /// Default snapshotter.
    pub snapshotter: String,
    /// Time limit of reads and record changes.
    pub quick_timeout: Duration,
    /// Time limit of task and snapshot work.
    pub slow_timeout: Duration,
}

/// `[runtimes]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes {
    /// The handler of pods that name none; one of `handlers`.
    pub default: String,
    /// `[runtimes.handlers.NAME]`; `runc` is always there.
    pub handlers: BTreeMap<String, Handler>,
}

/// `[runtimes.handlers.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// `type`: containerd's name of the runtime, or the absolute path of a shim.
    pub runtime_type: String,
    /// OCI runtime program for the shim; empty means the shim's default.
    pub binary: String,
    /// State folder of the OCI runtime; `None` means its default.
    pub root: Option<PathBuf>,
    /// Whether cgroups are made by systemd; `None` follows `cgroup.driver`.
    pub systemd_cgroup: Option<bool>,
    /// Snapshotter of this handler; empty means `containerd.snapshotter`.
    pub snapshotter: String,
    /// `options.config_path`: for shims other than runc's, the file with their settings.
    pub config_path: Option<PathBuf>,
    /// `options.type_url`: for shims other than runc's, the type they take their settings for.
    pub options_type: String,
    /// Annotations of pods that reach the OCI runtime. As in containerd, an entry is a name or a
    /// pattern, whose `*` and `?` stop at a slash.
    pub pod_annotations: Vec<String>,
    /// Annotations of containers that reach the OCI runtime.
    pub container_annotations: Vec<String>,
    /// Privileged containers get no device of the host that they do not ask for.
    pub privileged_without_host_devices: bool,
}

/// `[cgroup]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Who makes cgroups.
    pub driver: CgroupDriver,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// As the host is: systemd where it is PID 1 and cgroup v2 is in use, else cgroupfs.
    #[default]
    Auto,
    /// The OCI runtime, in the cgroup file system.
    Cgroupfs,
    /// systemd.
    Systemd,
}

impl CgroupDriver {
    /// Whether systemd is to make cgroups on a host where systemd is PID 1 or not, and cgroup v2
    /// is in use or not.
    pub fn is_systemd(self, systemd: bool, cgroup_v2: bool) -> bool {
        match self {
            Self::Auto => systemd && cgroup_v2,
            Self::Cgroupfs => false,
            Self::Systemd => true,
        }
    }
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Folder of CNI configurations.
    pub conf_dir: PathBuf,
    /// Folders of CNI plugins, first match wins.
    pub bin_dirs: Vec<PathBuf>,
    /// Folder of cached CNI results.
    pub cache_dir: PathBuf,
    /// How many configurations of `conf_dir` are used, in name order; 0 means all.
    pub max_conf: usize,
    /// Folder of pinned network namespaces.
    pub netns_dir: PathBuf,
    /// Time limit of a CNI ADD of one network.
    pub add_timeout: Duration,
    /// Time limit of a CNI DEL of one network.
    pub del_timeout: Duration,
    /// Write and use a bridge network of our own when `conf_dir` has no configuration.
    pub default_network: bool,
    /// Bridge of that network.
    pub default_bridge: String,
    /// Subnets of that network, at most one for each IP family.
    pub default_subnets: Vec<IpNet>,
    /// Whether a pod CIDR that a CRI client announces (UpdateRuntimeConfig) replaces the subnets
    /// of the own network.
    pub use_pod_cidr: bool,
}

/// `[images]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Folders of registry hosts (`HOST/hosts.toml`, `HOST/*.crt`), first match wins.
    pub config_dirs: Vec<PathBuf>,
    /// A pull that receives nothing for so long is given up.
    pub no_progress_timeout: Duration,
    /// How many layers of one pull are fetched at the same time.
    pub max_concurrent_layers: usize,
    /// A docker `config.json` with credentials; `None` reads none.
    pub docker_config: Option<PathBuf>,
    /// Images that are reported as pinned, so that no kubelet collects them.
    pub pinned: Vec<String>,
    /// `[images.auth."HOST"]`: credentials by registry host, with port when not the default.
    pub auth: BTreeMap<String, RegistryAuth>,
}

/// `[images.auth."HOST"]`: what a pull without credentials of its own uses. Empty is not set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// base64 of `user:password`, in place of both.
    pub auth: Secret,
    /// OAuth refresh token.
    pub identity_token: Secret,
}

/// `[pause]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Image of the pause container; empty means the embedded program.
    pub image: String,
}

/// `[oci]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oci {
    /// Pod and container annotations that are passed to the OCI runtime: exact names.
    pub annotation_allow_list: Vec<String>,
    /// Ignore huge page limits on a host without that controller, in place of refusing.
    pub tolerate_missing_hugetlb: bool,
    /// Pods may bind ports below 1024 without a capability.
    pub unprivileged_ports: bool,
    /// Pods may send ICMP echo without a capability.
    pub unprivileged_ping: bool,
    /// Device nodes belong to the user that a container is told to run as.
    pub device_ownership_from_security_context: bool,
    /// Limits of every container's processes, e.g. `nofile=1024:524288`.
    pub rlimits: Vec<Rlimit>,
    /// Label processes and files where the host has SELinux.
    pub selinux: bool,
    /// AppArmor profile of containers that ask for the default one, where the host has AppArmor;
    /// empty leaves them unconfined. Under the default name it is podbay's own; under another one
    /// that of whoever has loaded it, or else podbay's.
    pub apparmor_default_profile: String,
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// Its name without `RLIMIT_`, in small letters.
    pub name: String,
    /// What a process has.
    pub soft: u64,
    /// What it may raise itself to.
    pub hard: u64,
}

/// `[cdi]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cdi {
    /// Whether containers may ask for CDI devices.
    pub enabled: bool,
    /// Folders of CDI spec files, the most important last. They and the files in them count only
    /// if nobody but root may write to them.
    pub spec_dirs: Vec<PathBuf>,
}

/// `[nri]`: the node resource interface, over which plugins see and adjust pods and containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nri {
    /// Whether it is served at all.
    pub enable: bool,
    /// Path of the unix socket where plugins connect.
    pub socket_path: PathBuf,
    /// Folder of plugins that podbay starts, named `NN-name`.
    pub plugin_path: PathBuf,
    /// Folder of their configurations, `NN-name.conf` or `name.conf`.
    pub plugin_config_path: PathBuf,
    /// How long a plugin may take to register.
    pub registration_timeout: Duration,
    /// How long a plugin may take for each answer.
    pub request_timeout: Duration,
    /// Only plugins that podbay starts: there is no socket.
    pub disable_connections: bool,
}

/// `[logs]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    /// Longest payload of a log record, in bytes.
    pub max_line: usize,
}

/// `[streaming]`: the server of Exec, Attach and PortForward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streaming {
    /// What is listened on; port 0 takes a free one. The traffic is plain, so an address other
    /// than loopback is for trusted networks.
    pub address: SocketAddr,
    /// Start of the URLs that are given out, for a proxy in front; empty makes it from the address.
    pub base_url: Option<Url>,
    /// A session in which nothing is sent for so long is ended.
    pub idle_timeout: Duration,
    /// How long a client may take to open the streams of its session.
    pub creation_timeout: Duration,
    /// Whether port-forward reaches the host's localhost through pods in the host's network.
    pub host_network_port_forward: bool,
}

/// `[remote]`: podbay.v1 over TCP, for clients with a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// What is listened on; port 0 takes a free one. `None` serves nobody.
    pub address: Option<SocketAddr>,
    /// Certificate of the agent, PEM, those of intermediate authorities behind it.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authorities that clients' certificates come from, PEM.
    pub client_ca: PathBuf,
    /// Lists of certificates that were revoked, PEM; with any, each authority needs one.
    pub crl: Vec<PathBuf>,
    /// The file that says who may do what.
    pub policy: PathBuf,
}

/// `[stats]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// How often CPU use is noted: use per second is an average of about as long.
    pub interval: Duration,
    /// How often the writable layers of running containers are measured.
    pub layer_interval: Duration,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// A level, or a list of `target=level`.
    pub level: String,
    /// `"text"` or `"json"`.
    pub format: Format,
}

/// `[drain]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How long work under way may take after SIGTERM.
    pub timeout: Duration,
}

/// Permission bits of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// A text that no printer shows.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"<redacted>\"" })
    }
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// All faults of file, environment and flags together.
    pub fn load(inputs: &dyn Inputs, flags: &Flags) -> Result<Self, Faults> {
        let mut reader = reader::Reader::new(inputs, flags);
        let config = sections::read(&mut reader);
        let (shown, faults) = reader.finish();
        if faults.is_empty() { Ok(Self { shown, ..config }) } else { Err(Faults(faults)) }
    }

    /// The effective configuration as TOML, each value with its source as a comment. Secrets
    /// are not shown.
    pub fn show(&self) -> String {
        show::render(&self.shown)
    }

    /// The effective configuration as one JSON object. Secrets are not shown.
    pub fn to_json(&self) -> serde_json::Value {
        show::object(&self.shown)
    }

    /// Where a setting came from; `None` for a key that does not exist.
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.shown.iter().find(|shown| show::key_text(&shown.key) == key).map(|s| &s.source)
    }
}

#[cfg(test)]
mod tests;
