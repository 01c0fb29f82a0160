//! The agent's configuration: one typed value, read once and validated as a whole.
//!
//! Each setting comes from the first of these that has it: a flag, the environment
//! (`PODBAY_CRI_SOCKET` for `cri.socket`; lists are comma-separated), the TOML file, the default.
//! [`Config::load`] reports all faults together, and the value remembers the source of each setting
//! ([`Config::show`]). Tables with user-chosen names (`runtimes.handlers`, `images.auth`) can be
//! defined only in the file.

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

/// The whole configuration. The fields document the keys of the file: `cri.socket` is the key
/// `socket` of the table `[cri]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Data that must survive a reboot: database, sandbox and container directories.
    pub root: PathBuf,
    /// Run-time state, lost at a reboot: FIFOs, shm mounts, the lock.
    pub state: PathBuf,
    /// The CRI socket.
    pub cri: Cri,
    /// The containerd daemon to use.
    pub containerd: Containerd,
    /// OCI runtimes by CRI handler name.
    pub runtimes: Runtimes,
    /// Creation of cgroups.
    pub cgroup: Cgroup,
    /// Pod networks.
    pub network: Network,
    /// Image pulls.
    pub images: Images,
    /// The pause container.
    pub pause: Pause,
    /// Policy for OCI specs.
    pub oci: Oci,
    /// Devices of the Container Device Interface.
    pub cdi: Cdi,
    /// NRI plugins.
    pub nri: Nri,
    /// Container logs.
    pub logs: Logs,
    /// The streaming server.
    pub streaming: Streaming,
    /// Whole pods.
    pub pods: Pods,
    /// The TCP server of podbay.v1.
    pub remote: Remote,
    /// Resource usage measurements.
    pub stats: Stats,
    /// The agent's own log.
    pub telemetry: Telemetry,
    /// The shutdown of the agent.
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
    /// The containerd namespace that podbay uses exclusively.
    pub namespace: String,
    /// Default snapshotter.
    pub snapshotter: String,
    /// Time limit of reads and record changes.
    pub quick_timeout: Duration,
    /// Time limit of task and snapshot operations.
    pub slow_timeout: Duration,
}

/// `[runtimes]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes {
    /// The handler of pods that name none; must be one of `handlers`.
    pub default: String,
    /// `[runtimes.handlers.NAME]`; `runc` is always defined.
    pub handlers: BTreeMap<String, Handler>,
}

/// `[runtimes.handlers.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// `type`: containerd's name of the runtime, or the absolute path of a shim.
    pub runtime_type: String,
    /// OCI runtime program for the shim; empty means the shim's default.
    pub binary: String,
    /// State directory of the OCI runtime; `None` means its default.
    pub root: Option<PathBuf>,
    /// Whether systemd creates cgroups; `None` follows `cgroup.driver`.
    pub systemd_cgroup: Option<bool>,
    /// Snapshotter of this handler; empty means `containerd.snapshotter`.
    pub snapshotter: String,
    /// `options.config_path`: for shims other than runc's, the path of their settings file.
    pub config_path: Option<PathBuf>,
    /// `options.type_url`: for shims other than runc's, the protobuf type of their settings.
    pub options_type: String,
    /// Pod annotations passed to the OCI runtime. As in containerd, an entry is a name or a
    /// pattern, in which `*` and `?` do not match a slash.
    pub pod_annotations: Vec<String>,
    /// Container annotations passed to the OCI runtime.
    pub container_annotations: Vec<String>,
    /// Privileged containers get only those host devices that they request.
    pub privileged_without_host_devices: bool,
}

/// `[cgroup]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Which component creates cgroups.
    pub driver: CgroupDriver,
}

/// Which component creates cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// systemd if it is PID 1 and the host uses cgroup v2, else cgroupfs.
    #[default]
    Auto,
    /// The OCI runtime, in the cgroup file system.
    Cgroupfs,
    /// systemd.
    Systemd,
}

impl CgroupDriver {
    /// Whether systemd creates cgroups, given whether it is PID 1 and whether the host uses cgroup
    /// v2.
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
    /// Directory of CNI configurations.
    pub conf_dir: PathBuf,
    /// Directories of CNI plugins; the first match is used.
    pub bin_dirs: Vec<PathBuf>,
    /// Directory of cached CNI results.
    pub cache_dir: PathBuf,
    /// How many configurations in `conf_dir` are used, in name order; 0 means all.
    pub max_conf: usize,
    /// Directory of pinned network namespaces.
    pub netns_dir: PathBuf,
    /// Time limit of a CNI ADD of one network.
    pub add_timeout: Duration,
    /// Time limit of a CNI DEL of one network.
    pub del_timeout: Duration,
    /// Write and use a bridge network of podbay's own if `conf_dir` has no configuration.
    pub default_network: bool,
    /// Bridge of that network.
    pub default_bridge: String,
    /// Subnets of that network, at most one for each IP family.
    pub default_subnets: Vec<IpNet>,
    /// Whether a pod CIDR announced by a CRI client (UpdateRuntimeConfig) replaces the subnets of
    /// podbay's own network.
    pub use_pod_cidr: bool,
}

/// `[images]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Directories of registry hosts (`HOST/hosts.toml`, `HOST/*.crt`); the first match is used.
    pub config_dirs: Vec<PathBuf>,
    /// A pull that receives nothing for this long fails.
    pub no_progress_timeout: Duration,
    /// Maximum number of layers downloaded concurrently per pull.
    pub max_concurrent_layers: usize,
    /// Maximum number of concurrent pulls; others wait.
    pub max_concurrent_pulls: usize,
    /// Pulls and loads end when less than this percentage of the disk of the snapshots is free.
    pub min_free_percent: u32,
    /// A docker `config.json` with credentials; `None` reads none.
    pub docker_config: Option<PathBuf>,
    /// Images that are reported as pinned, so that no kubelet removes them.
    pub pinned: Vec<String>,
    /// `[images.auth."HOST"]`: credentials by registry host, with the port if it is not the
    /// default.
    pub auth: BTreeMap<String, RegistryAuth>,
}

/// `[images.auth."HOST"]`: credentials of pulls that bring none. Empty means not set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// base64 of `user:password`, instead of both.
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
    /// Names of pod and container annotations passed to the OCI runtime: exact names.
    pub annotation_allow_list: Vec<String>,
    /// Ignore huge page limits on a host without that controller, instead of refusing them.
    pub tolerate_missing_hugetlb: bool,
    /// Pods may bind ports below 1024 without a capability.
    pub unprivileged_ports: bool,
    /// Pods may send ICMP echo without a capability.
    pub unprivileged_ping: bool,
    /// Device nodes belong to the user of the container's security context.
    pub device_ownership_from_security_context: bool,
    /// Default limits of every container's processes, e.g. `nofile=1024:524288`.
    pub rlimits: Vec<Rlimit>,
    /// Label processes and files on hosts with SELinux.
    pub selinux: bool,
    /// AppArmor profile of containers that use the default one, on hosts with AppArmor; empty
    /// leaves them unconfined. The default name is podbay's own profile. With another name an
    /// already loaded profile is used, or else podbay's own is loaded under that name.
    pub apparmor_default_profile: String,
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// Lower-case name without `RLIMIT_`.
    pub name: String,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// `[cdi]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cdi {
    /// Whether containers may request CDI devices.
    pub enabled: bool,
    /// Directories of CDI spec files, by ascending priority. Directories and files are ignored if
    /// anybody but root may write to them.
    pub spec_dirs: Vec<PathBuf>,
}

/// `[nri]`: the Node Resource Interface, through which plugins observe and adjust pods and
/// containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nri {
    /// Whether NRI is enabled.
    pub enable: bool,
    /// Path of the unix socket where plugins connect.
    pub socket_path: PathBuf,
    /// Directory of plugins that podbay starts, named `NN-name`.
    pub plugin_path: PathBuf,
    /// Directory of their configurations, `NN-name.conf` or `name.conf`.
    pub plugin_config_path: PathBuf,
    /// How long a plugin may take to register, and then to take in all pods and containers.
    pub registration_timeout: Duration,
    /// Time limit for each answer of a plugin.
    pub request_timeout: Duration,
    /// Allow only plugins that podbay starts: there is no socket.
    pub disable_connections: bool,
}

/// `[logs]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    /// Maximum payload of a log record, in bytes.
    pub max_line: usize,
}

/// `[streaming]`: the server of Exec, Attach and PortForward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streaming {
    /// Listening address; port 0 selects a free port. The traffic is unencrypted, so an address
    /// other than loopback is only for trusted networks.
    pub address: SocketAddr,
    /// Base of the URLs that clients get, for a proxy in front; empty derives it from the address.
    pub base_url: Option<Url>,
    /// A session without any data for this long is ended.
    pub idle_timeout: Duration,
    /// How long a client may take to open the streams of its session.
    pub creation_timeout: Duration,
    /// Whether port-forward may reach the host's localhost through pods in the host network.
    pub host_network_port_forward: bool,
}

/// `[remote]`: podbay.v1 over TCP, for clients with a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Listening address; port 0 selects a free port. `None` disables the server.
    pub address: Option<SocketAddr>,
    /// Certificate of the agent, PEM, followed by intermediate certificates.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificate authorities for client certificates, PEM.
    pub client_ca: PathBuf,
    /// Certificate revocation lists, PEM; if there are any, each authority needs one.
    pub crl: Vec<PathBuf>,
    /// The access policy file.
    pub policy: PathBuf,
}

/// `[stats]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Interval of CPU samples; the usage per second is averaged over about this time.
    pub interval: Duration,
    /// Interval of measuring the writable layers of running containers.
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
    /// How long running work may take to finish after SIGTERM.
    pub timeout: Duration,
}

/// Permission bits of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// A text that is never printed.
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
    /// Reads and validates everything.
    ///
    /// # Errors
    /// All faults in file, environment and flags together.
    pub fn load(inputs: &dyn Inputs, flags: &Flags) -> Result<Self, Faults> {
        let mut reader = reader::Reader::new(inputs, flags);
        let config = sections::read(&mut reader);
        let (shown, faults) = reader.finish();
        if faults.is_empty() { Ok(Self { shown, ..config }) } else { Err(Faults(faults)) }
    }

    /// The effective configuration as TOML, each value with its source as a comment. Secrets are
    /// omitted.
    pub fn show(&self) -> String {
        show::render(&self.shown)
    }

    /// The effective configuration as one JSON object. Secrets are omitted.
    pub fn to_json(&self) -> serde_json::Value {
        show::object(&self.shown)
    }

    /// The source of a setting; `None` for an unknown key.
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.shown.iter().find(|shown| show::key_text(&shown.key) == key).map(|s| &s.source)
    }
}

#[cfg(test)]
mod tests;
