//! Translates a Kubernetes pod to the other rooms' types: a `PodConfig` for its sandbox and a
//! `ContainerConfig` for each container, with the same values as a kubelet sends. Pure.
//!
//! ```text
//! Given + NodeFacts ──> pod_config ───────────────> sandbox
//!        └── + image, addresses, mounts ──> container_config ──> container
//!        └── qos, sums, cgroup ──> the pod's cgroups, admission, status
//! ```
//! Problems that only show at the start (a missing config map, an image that would run as root) are
//! an [`Error`] with the kubelet's message. They may be temporary, so the pod waits and the
//! translation is retried. Minor problems are a [`Warning`].

mod amount;
pub mod cgroup;
mod container;
mod dns;
mod downward;
mod env;
mod env_file;
mod expand;
mod hostname;
mod node;
mod pod;
mod resources;
mod security;
mod sums;

pub use amount::{Totals, milli, page_size, value};
pub use container::{ContainerContext, ImageFacts, container_config, hash};
pub use downward::Downward;
pub use env::environment;
pub use env_file::EnvFiles;
pub use expand::expand;
pub use node::{Amounts, NodeFacts, SystemFacts};
pub use pod::{PodContext, free_user_ids, host_ports, pod_config, runtime_handler, wants_user_ids};
pub use resources::{Qos, container_resources, is_critical, oom_score_adj, priority, qos};
pub use sums::{pod_limits, pod_requests};

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, FileKeySelector, PodSpec};
use serde::{Deserialize, Serialize};

use super::reason::Failure;

/// Label of sandboxes and containers: name of the pod.
pub const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
/// Label of sandboxes and containers: namespace of the pod.
pub const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Label of sandboxes and containers: uid of the pod.
pub const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";
/// Label of containers: name of the container in its pod.
pub const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";
/// Annotation of containers: [`hash`] of what it was made from, in hexadecimal.
pub const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";
/// Annotation of containers: number of earlier restarts.
pub const RESTART_COUNT_ANNOTATION: &str = "io.kubernetes.container.restartCount";
/// Annotation of containers: path of the termination message.
pub const MESSAGE_PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation of containers: policy for the termination message.
pub const MESSAGE_POLICY_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation of containers: its ports, as JSON.
pub const PORTS_ANNOTATION: &str = "io.kubernetes.container.ports";
/// Annotation of containers: its preStop hook, as JSON.
pub const PRE_STOP_ANNOTATION: &str = "io.kubernetes.container.preStopHandler";
/// Annotation of containers: grace period of the pod's deletion, in seconds.
pub const DELETION_GRACE_ANNOTATION: &str = "io.kubernetes.pod.deletionGracePeriod";
/// Annotation of containers: the grace period of the pod, in seconds.
pub const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Kinds of containers of a pod.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ContainerKind {
    /// In `initContainers`, including sidecars.
    Init,
    /// In `containers`.
    #[default]
    App,
    /// In `ephemeralContainers`.
    Ephemeral,
}

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ContainerRef {
    /// Its kind.
    pub kind: ContainerKind,
    /// Its name.
    pub name: String,
}

impl ContainerRef {
    /// The container of this kind and name.
    pub fn new(kind: ContainerKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// Its definition in the spec.
    pub fn find<'a>(&self, spec: &'a PodSpec) -> Option<Cow<'a, Container>> {
        containers(spec)
            .find(|(kind, container)| *kind == self.kind && container.name == self.name)
            .map(|(_, container)| container)
    }
}

/// All containers of a pod: init, app and ephemeral ones, in order.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (ContainerKind, Cow<'_, Container>)> {
    let of = |kind| move |container| (kind, Cow::Borrowed(container));
    let init = spec.init_containers.iter().flatten().map(of(ContainerKind::Init));
    let apps = spec.containers.iter().map(of(ContainerKind::App));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|it| (ContainerKind::Ephemeral, Cow::Owned(plain_container(it))));
    init.chain(apps).chain(ephemeral)
}

/// Whether an init container is a sidecar: started in order and kept running.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The container part of an ephemeral container.
pub(super) fn plain_container(ephemeral: &EphemeralContainer) -> Container {
    let it = ephemeral.clone();
    Container {
        args: it.args,
        command: it.command,
        env: it.env,
        env_from: it.env_from,
        image: it.image,
        image_pull_policy: it.image_pull_policy,
        lifecycle: it.lifecycle,
        liveness_probe: it.liveness_probe,
        name: it.name,
        ports: it.ports,
        readiness_probe: it.readiness_probe,
        resize_policy: it.resize_policy,
        resources: it.resources,
        restart_policy: it.restart_policy,
        restart_policy_rules: it.restart_policy_rules,
        security_context: it.security_context,
        startup_probe: it.startup_probe,
        stdin: it.stdin,
        stdin_once: it.stdin_once,
        termination_message_path: it.termination_message_path,
        termination_message_policy: it.termination_message_policy,
        tty: it.tty,
        volume_devices: it.volume_devices,
        volume_mounts: it.volume_mounts,
        working_dir: it.working_dir,
    }
}

/// A translation with its warnings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Translated<T> {
    /// The configuration.
    pub config: T,
    /// What was cut or omitted.
    pub warnings: Vec<Warning>,
}

/// Something that was cut or omitted: an event of type Warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Reason in Kubernetes' terms, e.g. `DNSConfigForming`, `InvalidEnvironmentVariableNames`.
    pub reason: &'static str,
    /// Human-readable message.
    pub message: String,
}

/// A file that is the source of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInVolume {
    /// The volume.
    pub volume: String,
    /// The path in it.
    pub path: String,
}

impl From<&FileKeySelector> for FileInVolume {
    fn from(selector: &FileKeySelector) -> Self {
        Self { volume: selector.volume_name.clone(), path: selector.path.clone() }
    }
}

impl fmt::Display for FileInVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {:?} in volume {:?}", self.path, self.volume)
    }
}

/// Why a pod or container cannot be started; with the kubelet's messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The pod has no such container.
    #[error("the pod has no container {0:?}")]
    NoContainer(String),
    /// A required config map does not exist (yet).
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    /// A required secret does not exist (yet).
    #[error("secret {0:?} not found")]
    NoSecret(String),
    /// A required key is missing in its object.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
        /// The key.
        key: String,
    },
    /// The value of a key is not valid in an environment.
    #[error("key {key} in {kind} {namespace}/{name} {problem}")]
    BadValue {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
        /// The key.
        key: String,
        /// What is wrong with the value.
        problem: &'static str,
    },
    /// A required env file does not exist in its volume.
    #[error("{0} not found")]
    NoFile(FileInVolume),
    /// A required key is missing in its env file.
    #[error("environment variable key {key:?} not found in {file}")]
    NoFileKey {
        /// The file.
        file: FileInVolume,
        /// The key.
        key: String,
    },
    /// A file is not a valid env file.
    #[error("couldn't parse env {file}: {problem}")]
    BadFile {
        /// The file.
        file: FileInVolume,
        /// What is wrong with it, with the position.
        problem: String,
    },
    /// The container would or might run as root, but must not.
    #[error("{0}")]
    NonRoot(String),
    /// A field of the pod has an unsupported value that validation cannot detect.
    #[error("{field}: {problem}")]
    Field {
        /// Its path in the pod or the container.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The pod's sandbox configuration is invalid.
    #[error("{0}")]
    Sandbox(String),
}

impl Error {
    /// The reason shown for a waiting container, or of the event for a sandbox.
    pub fn reason(&self) -> Failure {
        match self {
            Self::Sandbox(_) => Failure::Sandbox,
            Self::NoContainer(_)
            | Self::NoConfigMap(_)
            | Self::NoSecret(_)
            | Self::NoKey { .. }
            | Self::BadValue { .. }
            | Self::NoFile(_)
            | Self::NoFileKey { .. }
            | Self::BadFile { .. }
            | Self::NonRoot(_)
            | Self::Field { .. } => Failure::Config,
        }
    }

    fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }
}

#[cfg(test)]
pub(crate) mod fixture;
