//! The seam to what connects pods.

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::ids::PodId;
use crate::model::StringMap;
use crate::model::pod::{DnsConfig, PodMetadata, PortMapping};

/// A pod to be connected or cut off.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// Pod id: CNI's container id.
    pub pod: PodId,
    /// Name, namespace, UID for CNI_ARGS.
    pub metadata: PodMetadata,
    /// Path of the pinned network namespace; `None` at detach when it is gone.
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

/// What a pod got.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Addresses of eth0; the first is the pod IP.
    pub ips: Vec<IpAddr>,
    /// The whole CNI result, for verbose status.
    pub result: serde_json::Value,
}

/// Whether pods can be connected now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkReadiness {
    /// Yes.
    Ready,
    /// No, for this reason (CRI reason `NetworkPluginNotReady`).
    NotReady(String),
}

/// Connects pods to networks.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Connects a pod. On failure everything is taken back as far as it goes; the caller still
    /// owes a `detach`. Bounded in time; the plugin's process group is killed at the end of it.
    async fn attach(&self, pod: &Attachment) -> Result<NetworkStatus>;

    /// Cuts a pod off; always tries every plugin, with a fresh time budget. Repeatable; a pod
    /// that was never attached is fine.
    async fn detach(&self, pod: &Attachment) -> Result<()>;

    /// What an earlier `attach` of this pod gave, from the network's own memory.
    async fn recall(&self, pod: &Attachment) -> Result<Option<NetworkStatus>>;

    /// Ends what an agent before this one was doing for these pods when it was killed: its plugins
    /// may be at work still, beside those of a `detach`. Bounded in time.
    async fn end_cut_calls(&self, pods: &[PodId]) -> Result<()>;

    /// Whether a configuration is loaded and its plugins are there.
    async fn readiness(&self) -> NetworkReadiness;

    /// A pod CIDR from the kubelet (comma list for dual stack); written into the own network
    /// configuration if a template is configured.
    async fn set_pod_cidr(&self, cidr: &str) -> Result<()>;
}
