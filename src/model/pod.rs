//! The requested configuration of a pod sandbox (CRI `PodSandboxConfig`), checked.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::StringMap;
use super::resources::Resources;
use super::security::{
    IdMappings, NamespaceMode, NamespaceOptions, SecurityProfile, SelinuxOptions,
    SupplementalGroupsPolicy,
};

/// The name of a pod sandbox: all fields together are unique among live sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct PodMetadata {
    /// Pod name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod UID.
    pub uid: String,
    /// Number of earlier sandboxes of this pod.
    pub attempt: u32,
}

/// A checked pod sandbox configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodConfig {
    /// Name, namespace, UID, attempt.
    pub metadata: PodMetadata,
    /// Hostname; empty means the node's (host network).
    pub hostname: String,
    /// Host directory of the container logs; `None` means no logs.
    pub log_directory: Option<PathBuf>,
    /// DNS settings. `None`: the host's resolv.conf is copied. An empty value gives an empty file.
    pub dns: Option<DnsConfig>,
    /// Contents of /etc/hosts. `None`: the host's file is copied.
    pub hosts: Option<HostsFile>,
    /// Ports of the pod published on the host. Entries with host port 0 appear in the status but
    /// are not passed to CNI.
    pub port_mappings: Vec<PortMapping>,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// Parent cgroup of the pod; empty for the root of the hierarchy.
    pub cgroup_parent: String,
    /// Namespaced sysctls, already checked against the pod's namespaces.
    pub sysctls: StringMap,
    /// Security context of the sandbox.
    pub security: PodSecurity,
    /// Overhead of the sandbox itself (information only).
    pub overhead: Option<Resources>,
    /// Sum of the containers' resources (information only).
    pub resources: Option<Resources>,
}

impl PodConfig {
    /// Whether the pod uses the host's network namespace.
    pub fn host_network(&self) -> bool {
        self.security.namespaces.network == NamespaceMode::Node
    }

    /// The id mappings of the pod's own user namespace; `None` for the host's.
    pub fn id_mappings(&self) -> Option<IdMappings> {
        self.security.namespaces.id_mappings()
    }

    /// Whether the pod uses the host's IPC namespace and /dev/shm.
    pub fn host_ipc(&self) -> bool {
        self.security.namespaces.ipc == NamespaceMode::Node
    }
}

/// Security context of a sandbox (CRI `LinuxSandboxSecurityContext`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSecurity {
    /// Namespaces of the pod.
    pub namespaces: NamespaceOptions,
    /// SELinux label of the pause container.
    pub selinux: Option<SelinuxOptions>,
    /// UID of the pause container.
    pub run_as_user: Option<u32>,
    /// GID of the pause container; needs `run_as_user`.
    pub run_as_group: Option<u32>,
    /// Read-only root of the pause container (always the case in podbay).
    pub readonly_rootfs: bool,
    /// Supplementary groups of the pause container.
    pub supplemental_groups: Vec<u32>,
    /// How groups of the image are treated.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether privileged containers may run in this pod.
    pub privileged: bool,
    /// Seccomp profile of the pause container.
    pub seccomp: Option<SecurityProfile>,
    /// AppArmor profile of the pause container.
    pub apparmor: Option<SecurityProfile>,
}

/// DNS settings, rendered into resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// The pod's part of /etc/hosts, besides the names in every such file. A pod in the host network
/// gets the host's file with the aliases appended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostsFile {
    /// Host name for the pod's own addresses.
    pub hostname: String,
    /// Domain of that name; empty for none.
    pub domain: String,
    /// Further entries.
    pub aliases: Vec<HostAlias>,
}

/// An address and its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The address.
    pub ip: IpAddr,
    /// Its names, each one word.
    pub hostnames: Vec<String>,
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Lower-case name, as in CNI's `portMappings`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// Port inside the pod.
    pub container_port: u16,
    /// Port on the host; 0 means not published.
    pub host_port: u16,
    /// Host address to bind; `None` means all.
    pub host_ip: Option<IpAddr>,
}
