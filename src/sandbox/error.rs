//! Failures of the sandbox room.

use crate::ids::PodId;
use crate::{backend, container, image, oci, store};

/// A failure of the sandbox room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such sandbox.
    #[error("pod sandbox {0:?} not found")]
    NotFound(String),
    /// A prefix that several ids have.
    #[error("pod sandbox id prefix {0:?} is ambiguous")]
    AmbiguousId(String),
    /// No such runtime handler.
    #[error("runtime_handler: no runtime for {0:?} is configured")]
    UnknownHandler(String),
    /// The name is taken.
    #[error("pod sandbox name {name:?} is already in use by {id}")]
    NameInUse {
        /// name_namespace_uid_attempt.
        name: String,
        /// Who has it.
        id: PodId,
    },
    /// Another pod publishes this host port.
    #[error("port_mappings: host port {port}/{protocol} is in use by pod sandbox {id}")]
    HostPortInUse {
        /// The port.
        port: u16,
        /// `tcp`, `udp` or `sctp`.
        protocol: &'static str,
        /// Who has it.
        id: PodId,
    },
    /// Another caller's creation of the same sandbox, which this one joined, failed.
    #[error("the creation of pod sandbox {id} that this call joined failed: {message}")]
    JoinedFailed {
        /// The id it had.
        id: PodId,
        /// Why it failed.
        message: String,
    },
    /// Something asked for is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The settings keep port-forward out of the host's network.
    #[error(
        "pod sandbox {0} is in the host's network, where port-forward is switched off \
         (streaming.host_network_port_forward)"
    )]
    HostNetworkForbidden(PodId),
    /// What is asked for is beyond the runtime handler or the host.
    #[error("{0}")]
    Unsupported(String),
    /// The runtime handler did not tell in time what it can do, and the request needs to know.
    #[error("runtime handler {0:?} does not tell what it can do")]
    FeaturesUnknown(String),
    /// The pause process did not end although it was killed.
    #[error("the pause process of pod {0} did not end after SIGKILL")]
    WouldNotDie(PodId),
    /// Some steps of a teardown failed; they are kept and tried again at the next stop.
    #[error("tear the pod sandbox down: {} steps failed", .0.len())]
    Teardown(#[source] TeardownErrors),
    /// An image could not be mounted as a volume. A kubelet looks for the first word.
    #[error("ImageVolumeMountFailed: config.mounts[{index}]")]
    ImageVolume {
        /// Which mount of the container.
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
    /// A step failed below.
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

/// What went wrong in a teardown, step by step. It never has no entry.
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

/// Names the step at which a seam failed.
pub(super) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Error>;
}

impl<T> Step<T> for backend::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Backend { step, source })
    }
}
