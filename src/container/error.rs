//! Failures of the container room.

use std::time::Duration;

use crate::board::StateName;
use crate::ids::{ContainerId, PodId};
use crate::{backend, cdi, image, oci, store};

/// A failure of the container room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such container.
    #[error("container {0:?} not found")]
    NotFound(String),
    /// A prefix that several ids have.
    #[error("container id prefix {0:?} is ambiguous")]
    AmbiguousId(String),
    /// The state forbids the operation.
    #[error("cannot {operation} container {id}: it is {state}")]
    WrongState {
        /// What was asked.
        operation: &'static str,
        /// Which container.
        id: ContainerId,
        /// Its state.
        state: StateName,
    },
    /// Something asked for is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What is asked for is beyond the runtime handler or the host.
    #[error("{0}")]
    Unsupported(String),
    /// The name is taken by a container that differs.
    #[error("container name {name:?} is already in use by {id}")]
    NameInUse {
        /// Name and attempt.
        name: String,
        /// Who has it.
        id: ContainerId,
    },
    /// Another caller's creation of the same container, which this one joined, failed.
    #[error("the creation of container {id} that this call joined failed: {message}")]
    JoinedFailed {
        /// The id it had.
        id: ContainerId,
        /// Why it failed.
        message: String,
    },
    /// The image is not on this host.
    #[error("image {0:?} not found")]
    ImageNotFound(String),
    /// The command did not end in time and was killed.
    #[error("command timed out after {0:?}")]
    ExecTimeout(Duration),
    /// The client of a session went away; what ran for it was ended.
    #[error("the client went away")]
    ClientGone,
    /// An attached client was cut off: output that it has not seen is lost to it.
    #[error("the client of container {0} read too slowly and was cut off")]
    TooSlow(ContainerId),
    /// The agent ends, and its sessions with it.
    #[error("the agent is shutting down")]
    ShuttingDown,
    /// CRIU is missing or too old. The words are those that tools look for.
    #[error("checkpoint/restore support not available: CRIU binary not found or too old (<31600)")]
    NoCriu,
    /// The checkpoint took too long and was given up.
    #[error("the checkpoint took longer than {0:?}")]
    CheckpointTimeout(Duration),
    /// The container did not end although it was killed.
    #[error("container {0} did not end within {1:?} after SIGKILL")]
    WouldNotDie(ContainerId, Duration),
    /// The pod is gone or not ready.
    #[error("pod {0} is not ready")]
    PodNotReady(PodId),
    /// The OCI spec cannot be built.
    #[error("build the OCI spec")]
    Spec(#[from] oci::Error),
    /// CDI devices cannot be given.
    #[error(transparent)]
    Cdi(#[from] cdi::Error),
    /// The image store failed.
    #[error("look up the image")]
    Image(#[from] image::Error),
    /// The store failed.
    #[error("record the container")]
    Store(#[from] store::Error),
    /// A file of ours failed.
    #[error("{step}")]
    Io {
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A step failed below.
    #[error("{step}")]
    Backend {
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: backend::Error,
    },
    /// The task of the operation died of a bug; the log has it.
    #[error("the operation ended in a panic")]
    Panicked,
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}

/// Names the step at which a seam failed.
pub(crate) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Error>;
}

impl<T> Step<T> for backend::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Backend { step, source })
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Io { step, source })
    }
}
