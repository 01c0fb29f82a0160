//! What translation and admission know of the node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::model::StringMap;
use crate::model::pod::DnsConfig;

/// Amounts of what a node has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local disk.
    pub ephemeral_storage: i64,
    /// How many pods.
    pub pods: i64,
    /// Bytes of huge pages by the size of a page in bytes; all sizes that the node knows, those
    /// it has none of too.
    pub hugepages: BTreeMap<u64, i64>,
}

/// What a node is called by those who look after it; empty where it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemFacts {
    /// Release of the kernel, as `uname -r` says it.
    pub kernel: String,
    /// The distribution, as `/etc/os-release` calls it.
    pub os_image: String,
    /// Id of this installation.
    pub machine_id: String,
    /// Id of this machine.
    pub system_uuid: String,
}

/// The node as pods meet it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its addresses, the main one first.
    pub ips: Vec<IpAddr>,
    /// What it has.
    pub capacity: Amounts,
    /// What pods may have of it.
    pub allocatable: Amounts,
    /// Addresses of the cluster's DNS; none means that pods get the node's.
    pub cluster_dns: Vec<String>,
    /// Domain of the cluster; may be empty.
    pub cluster_domain: String,
    /// What the node's own resolv.conf says.
    pub resolv_conf: DnsConfig,
    /// Cgroup of all pods, as a path from the root of the hierarchy without a slash at either
    /// end.
    pub cgroup_root: String,
    /// Whether cgroups are systemd's slices.
    pub systemd_cgroup: bool,
    /// Whether the host has cgroup v2.
    pub cgroup_v2: bool,
    /// Whether the host counts swap.
    pub swap_accounting: bool,
    /// Most processes of one pod.
    pub pids_limit: Option<i64>,
    /// Names of sysctls, or prefixes that end in `*`, that pods may set besides the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Labels of the node.
    pub labels: StringMap,
    /// Operating system, in Go's words.
    pub os: String,
    /// Architecture, in Go's words.
    pub arch: String,
    /// The machine and its system, for people.
    pub system: SystemFacts,
    /// Folder of the pods' logs.
    pub log_root: PathBuf,
    /// Folder of the seccomp profiles that pods name.
    pub seccomp_root: PathBuf,
    /// Whether containers that name no seccomp profile get the runtime's, and not none.
    pub seccomp_default: bool,
    /// What is masked in containers besides Kubernetes' list: the `thermal_throttle` folders of
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
            systemd_cgroup: false,
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
    /// A label of the node; those that every node has are there even when nobody set them.
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
