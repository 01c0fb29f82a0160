//! Errors of volumes.

use crate::backend;
use crate::pod::reason::Failure;

/// An error of a pod's volumes, with the kubelet's message where it has one. None is final: an
/// object may be created later, and the next attempt may succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A required object was not given.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {kind} {name:?} not found")]
    NoObject {
        /// The volume.
        volume: String,
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// An object lacks this key.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {} key: {key}", references(.kind))]
    NoKey {
        /// The volume.
        volume: String,
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A host path does not have the required type.
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : \
         hostPath type check failed: {path} is not a {noun}"
    )]
    HostPath {
        /// The volume.
        volume: String,
        /// The path.
        path: String,
        /// The required type.
        noun: &'static str,
    },
    /// A field of the pod has an invalid value.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {problem}")]
    Value {
        /// The volume.
        volume: String,
        /// What is wrong.
        problem: String,
    },
    /// The kind of volume or projection is not supported.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {what} is not supported")]
    Unsupported {
        /// The volume.
        volume: String,
        /// The field.
        what: String,
    },
    /// The host could not set it up.
    #[error("MountVolume.SetUp failed for volume {volume:?}")]
    SetUp {
        /// The volume.
        volume: String,
        /// The cause.
        source: backend::Error,
    },
    /// A container mounts a volume that does not exist.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    NoVolume {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
    },
    /// A mount of a container is invalid.
    #[error("volumeMount {volume:?} of container {container:?}: {problem}")]
    Mount {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
        /// What is wrong.
        problem: String,
    },
    /// A sub path of a volume cannot be mounted.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    SubPath {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
        /// The cause.
        source: backend::Error,
    },
    /// The volume of an env file does not exist or is not an `emptyDir`.
    #[error("cannot find the emptyDir volume {volume:?} referenced by fileKeyRef")]
    NoFolder {
        /// The volume.
        volume: String,
    },
    /// An env file cannot be read.
    #[error("read env file {path:?} of volume {volume:?}")]
    EnvFile {
        /// The volume.
        volume: String,
        /// The path in it.
        path: String,
        /// The cause.
        source: backend::Error,
    },
    /// A name or uid is not valid as a path component.
    #[error("{what} {value:?} cannot be the name of a file")]
    Name {
        /// What it is the name of.
        what: &'static str,
        /// As given.
        value: String,
    },
    /// The file for a container's termination message cannot be created or read.
    #[error("termination message of container {container:?}")]
    Termination {
        /// The container.
        container: String,
        /// The cause.
        source: backend::Error,
    },
    /// The directory of a pod cannot be removed.
    #[error("remove the volumes of pod {uid}")]
    Teardown {
        /// Uid of the pod.
        uid: String,
        /// The cause.
        source: backend::Error,
    },
    /// A pod's copy of its record cannot be written or read.
    #[error("keep pod {uid} in its folder")]
    Keep {
        /// Uid of the pod.
        uid: String,
        /// The cause.
        source: backend::Error,
    },
    /// The directory of all pods cannot be read.
    #[error("find the volumes of pods that are gone")]
    Orphans(#[source] backend::Error),
}

fn references(kind: &str) -> &'static str {
    if kind == "secret" {
        "references non-existent secret"
    } else {
        "configmap references non-existent config"
    }
}

impl Error {
    /// The Kubernetes reason: of an event of the pod that waits for its volumes, or of a container
    /// that waits for its configuration.
    pub fn reason(&self) -> Failure {
        match self {
            Self::NoVolume { .. }
            | Self::Mount { .. }
            | Self::SubPath { .. }
            | Self::NoFolder { .. }
            | Self::EnvFile { .. }
            | Self::Termination { .. } => Failure::Config,
            _ => Failure::Mount,
        }
    }
}
