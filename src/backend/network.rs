//! The trait for pod networks.

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::ids::PodId;
use crate::model::StringMap;
use crate::model::pod::{DnsConfig, PodMetadata, PortMapping};

/// A pod to attach to its networks or to detach.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// Pod id: CNI's container id.
    pub pod: PodId,
    /// Name, namespace, UID for CNI_ARGS.
    pub metadata: PodMetadata,
    /// Path of the pinned network namespace; `None` at detach when it no longer exists.
    pub netns: Option<PathBuf>,
    /// Published ports; those with host port 0 are skipped.
    pub port_mappings: Vec<PortMapping>,
    /// DNS settings for plugins that declare the capability.
    pub dns: Option<DnsConfig>,
    /// Pod annotations (bandwidth is read from them).
    pub annotations: StringMap,
    /// Parent cgroup of the pod.
    pub cgroup_parent: String,
}

/// The result of attaching a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Addresses of eth0; the first is the pod IP.
    pub ips: Vec<IpAddr>,
    /// The whole CNI result, for verbose status.
    pub result: serde_json::Value,
}

/// Whether pods can be attached now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkReadiness {
    /// Yes.
    Ready,
    /// No, for this reason (CRI reason `NetworkPluginNotReady`).
    NotReady(String),
}

/// Attaches pods to networks.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Attaches a pod. On failure everything is undone as far as possible; the caller must still
    /// call `detach`. Time-limited; at the limit the plugin's process group is killed.
    async fn attach(&self, pod: &Attachment) -> Result<NetworkStatus>;

    /// Detaches a pod; always tries every plugin, with a new time limit. Idempotent; a pod that was
    /// never attached is fine.
    async fn detach(&self, pod: &Attachment) -> Result<()>;

    /// The result of an earlier `attach` of this pod, from the network's cache.
    async fn recall(&self, pod: &Attachment) -> Result<Option<NetworkStatus>>;

    /// Ends plugins that a previous agent process started for these pods: they may still be
    /// running, concurrently with those of a `detach`. Time-limited.
    async fn end_cut_calls(&self, pods: &[PodId]) -> Result<()>;

    /// Whether a configuration is loaded and its plugins exist.
    async fn readiness(&self) -> NetworkReadiness;

    /// A pod CIDR from the kubelet (comma list for dual stack); written into the own network
    /// configuration if a template is configured.
    async fn set_pod_cidr(&self, cidr: &str) -> Result<()>;
}
