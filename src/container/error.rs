//! Errors of the container room.

use std::sync::Arc;
use std::time::Duration;

use crate::board::StateName;
use crate::ids::{ContainerId, PodId};
use crate::{backend, cdi, image, oci, store};

/// An error of the container room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such container.
    #[error("container {0:?} not found")]
    NotFound(String),
    /// The prefix matches several ids.
    #[error("container id prefix {0:?} is ambiguous")]
    AmbiguousId(String),
    /// The state does not allow the operation.
    #[error("cannot {operation} container {id}: it is {state}")]
    WrongState {
        /// The requested operation.
        operation: &'static str,
        /// The container.
        id: ContainerId,
        /// Its state.
        state: StateName,
    },
    /// A field of the request is invalid.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The request needs something that the runtime handler or the host does not support.
    #[error("{0}")]
    Unsupported(String),
    /// The name is taken by a different container.
    #[error("container name {name:?} is already in use by {id}")]
    NameInUse {
        /// Name and attempt.
        name: String,
        /// The container that has it.
        id: ContainerId,
    },
    /// This call joined another caller's creation of the same container, which failed.
    #[error("the creation of container {id} that this call joined failed")]
    JoinedFailed {
        /// Id of the container that could not be created.
        id: ContainerId,
        /// Why it failed.
        source: Arc<Error>,
    },
    /// A creation failed, and others may have joined it.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// The image is not on this host.
    #[error("image {0:?} not found")]
    ImageNotFound(String),
    /// The command did not end in time and was killed.
    #[error("command timed out after {0:?}")]
    ExecTimeout(Duration),
    /// Output of a command was discarded, because that of others takes all the memory set aside.
    #[error("the output of the command in container {0} was lost: others hold too much output")]
    OutputLost(ContainerId),
    /// The client of a session disconnected; its command was killed.
    #[error("the client went away")]
    ClientGone,
    /// An attached client was disconnected because it read too slowly; it missed output.
    #[error("the client of container {0} read too slowly and was cut off")]
    TooSlow(ContainerId),
    /// The agent is shutting down and ends its sessions.
    #[error("the agent is shutting down")]
    ShuttingDown,
    /// CRIU is missing or too old. Kubernetes' own tests match the beginning of this text, with
    /// the code Unknown before it.
    #[error(
        "CRIU binary not found or too old (<31600). Failed to checkpoint container {:?}", .0.as_str()
    )]
    NoCriu(ContainerId),
    /// The checkpoint exceeded its time limit.
    #[error("the checkpoint took longer than {0:?}")]
    CheckpointTimeout(Duration),
    /// The container did not end although it was killed.
    #[error("container {0} did not end within {1:?} after SIGKILL")]
    WouldNotDie(ContainerId, Duration),
    /// The shim of the pod does not answer, so the tasks of its containers cannot be deleted.
    #[error("the shim of pod {0} does not respond")]
    ShimHangs(PodId),
    /// The pod does not exist or is not ready.
    #[error("pod {0} is not ready")]
    PodNotReady(PodId),
    /// The OCI spec cannot be built.
    #[error("build the OCI spec")]
    Spec(#[from] oci::Error),
    /// CDI devices could not be resolved.
    #[error(transparent)]
    Cdi(#[from] cdi::Error),
    /// The image store failed.
    #[error("look up the image")]
    Image(#[from] image::Error),
    /// The store failed.
    #[error("record the container")]
    Store(#[from] store::Error),
    /// I/O on one of the agent's files failed.
    #[error("{step}")]
    Io {
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A backend call failed.
    #[error("{step}")]
    Backend {
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: backend::Error,
    },
    /// The task of the operation panicked; the details are in the agent's log.
    #[error("the operation panicked")]
    Panicked,
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}

/// Adds the name of the failed step to a backend error.
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
