//! Facts about the node for translation and admission.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::model::StringMap;
use crate::model::pod::DnsConfig;
use crate::model::resources::CgroupDriver;

/// Amounts of a node's resources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local disk.
    pub ephemeral_storage: i64,
    /// Number of pods.
    pub pods: i64,
    /// Bytes of huge pages by page size in bytes; includes supported sizes without pages.
    pub hugepages: BTreeMap<u64, i64>,
}

/// Identification of the node for administrators; empty where unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemFacts {
    /// Kernel release, as in `uname -r`.
    pub kernel: String,
    /// The distribution, from `/etc/os-release`.
    pub os_image: String,
    /// Id of this installation.
    pub machine_id: String,
    /// Id of this machine.
    pub system_uuid: String,
}

/// Facts about the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its addresses, the main one first.
    pub ips: Vec<IpAddr>,
    /// Total resources.
    pub capacity: Amounts,
    /// Resources available to pods.
    pub allocatable: Amounts,
    /// Addresses of the cluster's DNS servers; without any, pods get the node's.
    pub cluster_dns: Vec<String>,
    /// Domain of the cluster; may be empty.
    pub cluster_domain: String,
    /// The node's own resolv.conf.
    pub resolv_conf: DnsConfig,
    /// Cgroup of all pods, as a path from the hierarchy root without leading or trailing slash.
    pub cgroup_root: String,
    /// Which component creates cgroups, for each runtime handler; "" is the default one.
    pub cgroup_drivers: BTreeMap<String, CgroupDriver>,
    /// Whether the host has cgroup v2.
    pub cgroup_v2: bool,
    /// Whether the host has swap accounting.
    pub swap_accounting: bool,
    /// Maximum number of processes per pod.
    pub pids_limit: Option<i64>,
    /// Names of sysctls, or prefixes that end in `*`, that pods may set besides the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Labels of the node.
    pub labels: StringMap,
    /// Operating system, by its Go name.
    pub os: String,
    /// Architecture, by its Go name.
    pub arch: String,
    /// Machine and operating system.
    pub system: SystemFacts,
    /// Directory of the pods' logs.
    pub log_root: PathBuf,
    /// Directory of the seccomp profiles that pods name.
    pub seccomp_root: PathBuf,
    /// Whether containers without a seccomp profile get the runtime's default instead of none.
    pub seccomp_default: bool,
    /// Paths masked in containers besides Kubernetes' list: the `thermal_throttle` directories of
    /// this machine's CPUs.
    pub masked_paths: Vec<String>,
}

impl Default for NodeFacts {
    fn default() -> Self {
        Self {
            name: "localhost".to_owned(),
            ips: Vec::new(),
            capacity: Amounts::default(),
            allocatable: Amounts::default(),
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            resolv_conf: DnsConfig::default(),
            cgroup_root: "kubepods".to_owned(),
            cgroup_drivers: BTreeMap::new(),
            cgroup_v2: false,
            swap_accounting: false,
            pids_limit: None,
            allowed_unsafe_sysctls: Vec::new(),
            labels: StringMap::new(),
            os: "linux".to_owned(),
            arch: String::new(),
            system: SystemFacts::default(),
            log_root: PathBuf::from("/var/log/pods"),
            seccomp_root: PathBuf::from("/var/lib/kubelet/seccomp"),
            seccomp_default: false,
            masked_paths: Vec::new(),
        }
    }
}

impl NodeFacts {
    /// A label of the node; the standard ones exist even if nobody set them.
    pub fn label(&self, key: &str) -> Option<&str> {
        if let Some(value) = self.labels.get(key) {
            return Some(value);
        }
        match key {
            "kubernetes.io/os" | "beta.kubernetes.io/os" => Some(&self.os),
            "kubernetes.io/arch" | "beta.kubernetes.io/arch" => Some(&self.arch),
            "kubernetes.io/hostname" => Some(&self.name),
            _ => None,
        }
    }
}
