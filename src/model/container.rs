//! The requested configuration of a container (CRI `ContainerConfig`), checked.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::StringMap;
use super::resources::Resources;
use super::security::{
    Capabilities, IdMapping, NamespaceOptions, SecurityProfile, SelinuxOptions,
    SupplementalGroupsPolicy,
};
use super::signal::Signal;

/// The name of a container: both fields together are unique within its pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Container name.
    pub name: String,
    /// Number of earlier containers of this name.
    pub attempt: u32,
}

/// An image as a caller names it (CRI `ImageSpec`), echoed back as given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// Image reference or id.
    pub image: String,
    /// Annotations.
    pub annotations: StringMap,
    /// The image reference as written by the pod's author.
    pub user_specified_image: String,
    /// Runtime handler whose snapshotter to use.
    pub runtime_handler: String,
    /// Resolved reference, if the caller has it.
    pub image_ref: String,
}

/// A checked container configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Name and attempt.
    pub metadata: ContainerMetadata,
    /// The image.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's cmd when not empty, or when `command` is not.
    pub args: Vec<String>,
    /// Absolute path; empty means the image's.
    pub working_dir: String,
    /// Environment variables in order; a later one of the same name wins.
    pub envs: Vec<(String, String)>,
    /// Mounts in the caller's order.
    pub mounts: Vec<Mount>,
    /// Host devices.
    pub devices: Vec<Device>,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// Log file, relative to the pod's log directory; `None` means no log.
    pub log_path: Option<PathBuf>,
    /// Keep a stdin open.
    pub stdin: bool,
    /// Close stdin when the first attached client has left.
    pub stdin_once: bool,
    /// Run on a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Security context.
    pub security: ContainerSecurity,
    /// Fully qualified CDI device names (`vendor.com/class=name`).
    pub cdi_devices: Vec<String>,
    /// Overrides the image's stop signal.
    pub stop_signal: Option<Signal>,
    /// Limits of its processes, which override the node's defaults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Lower-case name without `RLIMIT_`.
    pub name: String,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit; `u64::MAX` for none.
    pub hard: u64,
}

impl Rlimit {
    /// All valid names.
    pub const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];

    /// Parses a value: a number, or `unlimited`.
    pub fn figure(text: &str) -> Option<u64> {
        if text == "unlimited" { Some(u64::MAX) } else { text.parse().ok() }
    }
}

/// Security context of a container (CRI `LinuxContainerSecurityContext`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecurity {
    /// Capabilities to add and drop.
    pub capabilities: Capabilities,
    /// All capabilities and devices, nothing masked. Needs a privileged pod.
    pub privileged: bool,
    /// Namespaces.
    pub namespaces: NamespaceOptions,
    /// SELinux label.
    pub selinux: Option<SelinuxOptions>,
    /// Numeric user.
    pub run_as_user: Option<u32>,
    /// Numeric group; requires `run_as_user` or `run_as_username`.
    pub run_as_group: Option<u32>,
    /// User name in the image's /etc/passwd; `run_as_user` takes precedence.
    pub run_as_username: Option<String>,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// Supplementary groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether groups from the image are added.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Sets no_new_privs.
    pub no_new_privs: bool,
    /// Exactly these paths are masked.
    pub masked_paths: Vec<String>,
    /// Exactly these paths are read-only.
    pub readonly_paths: Vec<String>,
    /// Seccomp profile; `None` is unconfined, as in CRI.
    pub seccomp: Option<SecurityProfile>,
    /// AppArmor profile; `None` is the default profile on hosts with AppArmor.
    pub apparmor: Option<SecurityProfile>,
}

/// How mounts propagate between host and container (CRI `MountPropagation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// None (`rprivate`).
    #[default]
    Private,
    /// Mounts of the host appear in the container (`rslave`).
    HostToContainer,
    /// Both ways (`rshared`).
    Bidirectional,
}

/// A volume mount (CRI `Mount`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: String,
    /// Absolute path on the host; empty for an image mount.
    pub host_path: String,
    /// Read-only.
    pub readonly: bool,
    /// Relabel the source for SELinux.
    pub selinux_relabel: bool,
    /// Propagation.
    pub propagation: Propagation,
    /// UID mappings of an id-mapped mount.
    pub uid_mappings: Vec<IdMapping>,
    /// GID mappings of an id-mapped mount.
    pub gid_mappings: Vec<IdMapping>,
    /// Read-only for submounts too.
    pub recursive_read_only: bool,
    /// An image whose content is mounted instead of a host path.
    pub image: Option<ImageSpec>,
    /// A path inside that image.
    pub image_sub_path: String,
}

/// A host device (CRI `Device`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Device {
    /// Path in the container.
    pub container_path: String,
    /// Path on the host: a device node, a link to one, or a directory of them.
    pub host_path: String,
    /// A subset of `rwm`.
    pub permissions: String,
}
