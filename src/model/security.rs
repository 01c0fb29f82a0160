//! Security context types shared by pods and containers.

use serde::{Deserialize, Serialize};

/// How a container's namespace relates to its pod (CRI `NamespaceMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// Shared by the containers of the pod. The zero value in CRI.
    #[default]
    Pod,
    /// Private to the container.
    Container,
    /// The host's.
    Node,
    /// Shared with another container of the pod, named by `NamespaceOptions::target_id`.
    Target,
}

/// The namespaces that a pod or container requests (CRI `NamespaceOption`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOptions {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Any mode.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// The container whose PID namespace is joined when `pid` is `Target`.
    pub target_id: String,
    /// User namespace of the pod.
    pub userns: Option<UserNamespace>,
}

/// A user namespace request (CRI `UserNamespace`). Only `Pod` and `Node` are modes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNamespace {
    /// `Pod` (own user namespace) or `Node` (the host's).
    pub mode: NamespaceMode,
    /// UID mappings.
    pub uids: Vec<IdMapping>,
    /// GID mappings.
    pub gids: Vec<IdMapping>,
}

impl NamespaceOptions {
    /// The mappings of an own user namespace; `None` for the host's.
    pub fn id_mappings(&self) -> Option<IdMappings> {
        let userns = self.userns.as_ref().filter(|userns| userns.mode == NamespaceMode::Pod)?;
        Some(IdMappings { uids: *userns.uids.first()?, gids: *userns.gids.first()? })
    }
}

/// The id mappings of a user namespace: one for UIDs and one for GIDs, both starting at 0 and of
/// equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMappings {
    /// UIDs.
    pub uids: IdMapping,
    /// GIDs.
    pub gids: IdMapping,
}

impl IdMappings {
    /// The number of ids in each mapping.
    pub fn length(&self) -> u32 {
        self.uids.length
    }

    /// The host's UID and GID of a user in the namespace; `None` if they are not mapped.
    pub fn on_host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let within = uid < self.uids.length && gid < self.gids.length;
        within.then(|| (self.uids.host_id + uid, self.gids.host_id + gid))
    }

    /// The host's UID and GID of the namespace's root.
    pub fn root(&self) -> (u32, u32) {
        (self.uids.host_id, self.gids.host_id)
    }
}

/// One line of a uid_map or gid_map file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the host.
    pub host_id: u32,
    /// First id in the container.
    pub container_id: u32,
    /// Number of ids.
    pub length: u32,
}

/// SELinux label parts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SelinuxOptions {
    /// SELinux user.
    pub user: String,
    /// SELinux role.
    pub role: String,
    /// SELinux type.
    #[serde(rename = "type")]
    pub kind: String,
    /// MCS/MLS level.
    pub level: String,
}

/// A seccomp or AppArmor profile (CRI `SecurityProfile`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type", content = "ref")]
pub enum SecurityProfile {
    /// The runtime's own default.
    RuntimeDefault,
    /// No confinement.
    Unconfined,
    /// Seccomp: absolute path of a JSON profile. AppArmor: name of a loaded profile.
    Localhost(String),
}

/// Whether groups from the image's /etc/group are added (CRI `SupplementalGroupsPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SupplementalGroupsPolicy {
    /// The image's groups that list the user are added to the requested ones.
    #[default]
    Merge,
    /// Only the requested groups.
    Strict,
}

/// The normalised name of a known capability: upper-case with the `CAP_` prefix, or `ALL`. The
/// input may be in any case, with or without the prefix; `None` for an unknown capability.
pub fn capability(name: &str) -> Option<String> {
    let name = capability_name(name)?;
    let known = |bare: &str| bare.parse::<oci_spec::runtime::Capability>().is_ok();
    name.strip_prefix("CAP_").is_none_or(known).then_some(name)
}

/// Like [`capability`], for any plausible name, since new kernels add capabilities.
pub fn capability_name(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match bare {
        "ALL" => Some(bare.to_owned()),
        _ => (!bare.is_empty() && bare.bytes().all(plain)).then(|| format!("CAP_{bare}")),
    }
}

/// Capabilities to add and drop. Names are upper-case with the `CAP_` prefix, or `ALL`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Capabilities to add; applied after a drop of `ALL`.
    pub add: Vec<String>,
    /// Capabilities to drop.
    pub drop: Vec<String>,
}
