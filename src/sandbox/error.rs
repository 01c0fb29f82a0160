//! Errors of the sandbox room.

use std::sync::Arc;

use crate::ids::PodId;
use crate::{backend, container, image, oci, store};

/// An error of the sandbox room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such sandbox.
    #[error("pod sandbox {0:?} not found")]
    NotFound(String),
    /// The prefix matches several ids.
    #[error("pod sandbox id prefix {0:?} is ambiguous")]
    AmbiguousId(String),
    /// No such runtime handler.
    #[error("runtime_handler: no runtime for {0:?} is configured")]
    UnknownHandler(String),
    /// The name is taken.
    #[error("pod sandbox name {name:?} is already in use by {id}")]
    NameInUse {
        /// `name_namespace_uid_attempt`.
        name: String,
        /// The pod that has the name.
        id: PodId,
    },
    /// Another pod publishes this host port.
    #[error("port_mappings: host port {port}/{protocol} is in use by pod sandbox {id}")]
    HostPortInUse {
        /// The port.
        port: u16,
        /// `tcp`, `udp` or `sctp`.
        protocol: &'static str,
        /// The pod that has the port.
        id: PodId,
    },
    /// This call joined another caller's creation of the same sandbox, which failed.
    #[error("the creation of pod sandbox {id} that this call joined failed")]
    JoinedFailed {
        /// Id of the sandbox that could not be created.
        id: PodId,
        /// Why it failed.
        source: Arc<Error>,
    },
    /// A creation failed, and others may have joined it.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// A field of the request is invalid.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration forbids port-forward into the host's network.
    #[error(
        "pod sandbox {0} uses the host network, where port-forward is disabled \
         (streaming.host_network_port_forward)"
    )]
    HostNetworkForbidden(PodId),
    /// The request needs something that the runtime handler or the host does not support.
    #[error("{0}")]
    Unsupported(String),
    /// The request depends on the runtime handler's features, which could not be found out in time.
    #[error("runtime handler {0:?} does not report its features")]
    FeaturesUnknown(String),
    /// The pause process did not end although it was killed.
    #[error("the pause process of pod {0} did not end after SIGKILL")]
    WouldNotDie(PodId),
    /// The container cannot be removed without ending its pod's shim, in which others run.
    #[error(
        "cannot remove container {container}: the shim of its pod {pod} does not respond, and \
         other containers of the pod run; stop them or the pod"
    )]
    ShimInUse {
        /// The container.
        container: String,
        /// Its pod.
        pod: PodId,
    },
    /// Some steps of a teardown failed; the next stop tries them again.
    #[error("tear the pod sandbox down: {} steps failed", .0.len())]
    Teardown(#[source] TeardownErrors),
    /// An image could not be mounted as a volume. The kubelet matches the first word of this error.
    #[error("ImageVolumeMountFailed: config.mounts[{index}]")]
    ImageVolume {
        /// Index of the container's mount.
        index: usize,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// The image of a volume is not on this host.
    #[error("image.image: image {0:?} not found")]
    VolumeImageNotFound(String),
    /// The pause image is not on this host.
    #[error("pause image {0:?} not found")]
    PauseImageNotFound(String),
    /// The OCI spec cannot be built.
    #[error("build the OCI spec of the pause container")]
    Spec(#[from] oci::Error),
    /// The image store failed.
    #[error("look up the image")]
    Image(#[from] image::Error),
    /// The store failed.
    #[error("record the pod sandbox")]
    Store(#[from] store::Error),
    /// A backend call failed.
    #[error("{step}")]
    Backend {
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: backend::Error,
    },
    /// A container failed.
    #[error(transparent)]
    Container(#[from] container::Error),
}

/// The errors of a teardown, one for each failed step; never empty.
#[derive(Debug)]
pub struct TeardownErrors(pub Vec<Error>);

impl TeardownErrors {
    /// How many steps failed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no step failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for TeardownErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts = self.0.iter().map(|error| crate::telemetry::error_chain(error));
        f.write_str(&texts.collect::<Vec<_>>().join("; "))
    }
}

impl std::error::Error for TeardownErrors {}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}

/// Adds the name of the failed step to a backend error.
pub(super) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Error>;
}

impl<T> Step<T> for backend::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Backend { step, source })
    }
}
