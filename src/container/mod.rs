//! Containers of pods: their records, life cycle, exec, logs and events.

mod state;

pub use state::{Container, ContainerState, Exited};

use std::time::Duration;

use crate::ids::{ContainerId, PodId};

/// Selects containers; empty selects all. Conditions are ANDed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Id or unique id prefix.
    pub id: Option<String>,
    /// State as CRI names it.
    pub state: Option<StateName>,
    /// Pod id or unique prefix.
    pub pod: Option<String>,
    /// Labels that must all be equal.
    pub labels: crate::model::StringMap,
}

/// A state without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateName {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// Not known.
    Unknown,
}

/// Output of an `exec_sync`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutput {
    /// At most 16 MiB.
    pub stdout: Vec<u8>,
    /// At most 16 MiB.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub code: i32,
}

/// A kind of container event (CRI `ContainerEventType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Created.
    Created,
    /// Started.
    Started,
    /// Ended.
    Stopped,
    /// Removed.
    Deleted,
}

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
        state: String,
    },
    /// Something asked for is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The name is taken by a container that differs.
    #[error("container name {name:?} is already in use by {id}")]
    NameInUse {
        /// Name and attempt.
        name: String,
        /// Who has it.
        id: ContainerId,
    },
    /// The image is not on this host.
    #[error("image {0:?} not found")]
    ImageNotFound(String),
    /// The command did not end in time and was killed.
    #[error("command timed out after {0:?}")]
    ExecTimeout(Duration),
    /// The pod is gone or not ready.
    #[error("pod {0} is not ready")]
    PodNotReady(PodId),
    /// A step failed below.
    #[error("{step}")]
    Backend {
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: crate::backend::Error,
    },
}
