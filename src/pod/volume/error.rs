//! Why a volume is not there yet.

use crate::backend;

/// A failure of the volumes of a pod, in the kubelet's words where it has some. Nothing of it is
/// final: objects may come, and the next try may find what was missing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object that has to be there was not given.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {kind} {name:?} not found")]
    NoObject {
        /// The volume.
        volume: String,
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// An object has no such key.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {} key: {key}", references(.kind))]
    NoKey {
        /// The volume.
        volume: String,
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// What stands at a path of the host is not what the pod asks for.
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : \
         hostPath type check failed: {path} is not a {noun}"
    )]
    HostPath {
        /// The volume.
        volume: String,
        /// The path.
        path: String,
        /// What it should be.
        noun: &'static str,
    },
    /// A value of the pod is nothing that a volume can be made from.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {problem}")]
    Value {
        /// The volume.
        volume: String,
        /// What is wrong.
        problem: String,
    },
    /// A kind of volume, or of projection, that is not served here.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {what} is not supported")]
    Unsupported {
        /// The volume.
        volume: String,
        /// The field.
        what: String,
    },
    /// The host refused it.
    #[error("MountVolume.SetUp failed for volume {volume:?}")]
    SetUp {
        /// The volume.
        volume: String,
        /// Why.
        source: backend::Error,
    },
    /// A container mounts a volume that the pod does not have.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    NoVolume {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
    },
    /// A mount of a container is wrong.
    #[error("volumeMount {volume:?} of container {container:?}: {problem}")]
    Mount {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
        /// What is wrong.
        problem: String,
    },
    /// A part of a volume cannot be mounted.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    SubPath {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
        /// Why.
        source: backend::Error,
    },
    /// A volume that variables are to come from is not there, or not of the kind emptyDir.
    #[error("cannot find the emptyDir volume {volume:?} referenced by fileKeyRef")]
    NoFolder {
        /// The volume.
        volume: String,
    },
    /// A file that variables are to come from cannot be read.
    #[error("read env file {path:?} of volume {volume:?}")]
    EnvFile {
        /// The volume.
        volume: String,
        /// The path in it.
        path: String,
        /// Why.
        source: backend::Error,
    },
    /// A name or uid that cannot be part of a path.
    #[error("{what} {value:?} cannot be the name of a file")]
    Name {
        /// Whose it is.
        what: &'static str,
        /// As given.
        value: String,
    },
    /// The file for the termination message of a container cannot be made or read.
    #[error("termination message of container {container:?}")]
    Termination {
        /// The container.
        container: String,
        /// Why.
        source: backend::Error,
    },
    /// The folder of a pod cannot be removed.
    #[error("remove the volumes of pod {uid}")]
    Teardown {
        /// Uid of the pod.
        uid: String,
        /// Why.
        source: backend::Error,
    },
    /// What is needed of a pod when the store is lost cannot be written or read.
    #[error("keep pod {uid} in its folder")]
    Keep {
        /// Uid of the pod.
        uid: String,
        /// Why.
        source: backend::Error,
    },
    /// The folder of all pods cannot be read.
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
    /// The reason that Kubernetes gives: of an event of the pod that waits for its volumes, or of
    /// a container that waits for its configuration.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoVolume { .. }
            | Self::Mount { .. }
            | Self::SubPath { .. }
            | Self::NoFolder { .. }
            | Self::EnvFile { .. }
            | Self::Termination { .. } => "CreateContainerConfigError",
            _ => "FailedMount",
        }
    }
}
