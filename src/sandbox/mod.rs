//! Pod sandboxes: the pause container, the network, the files its containers share.

mod state;

pub use state::{Sandbox, SandboxState};

use std::time::Duration;

use crate::container::{self, Container, EventKind, ExecOutput};
use crate::ids::{ContainerId, PodId};
use crate::model::container::ContainerConfig;
use crate::model::pod::PodConfig;

/// Selects sandboxes; empty selects all. Conditions are ANDed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Id or unique id prefix.
    pub id: Option<String>,
    /// Ready or not.
    pub ready: Option<bool>,
    /// Labels that must all be equal.
    pub labels: crate::model::StringMap,
}

/// Something happened to a container or a sandbox (then `container` is the pod's id).
#[derive(Debug, Clone)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// Container id, or pod id for the sandbox itself.
    pub container: String,
    /// When.
    pub at: crate::model::UnixNanos,
    /// The pod at that moment.
    pub sandbox: Sandbox,
    /// Its containers at that moment.
    pub containers: Vec<Container>,
}

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
    /// Something asked for is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A step failed below.
    #[error("{step}")]
    Backend {
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: crate::backend::Error,
    },
    /// A container failed.
    #[error(transparent)]
    Container(#[from] container::Error),
}

/// All sandboxes and, through them, all containers of the agent.
///
/// Changing calls run in owned tasks: a caller that goes away tears nothing in half.
pub struct Sandboxes {}

impl Sandboxes {
    /// Makes a sandbox and returns when it is ready.
    pub async fn run(&self, _config: PodConfig, _handler: &str) -> Result<PodId, Error> {
        unreachable!("skeleton")
    }

    /// Stops a sandbox and its containers; unknown is fine; repeatable.
    pub async fn stop(&self, _id: &str) -> Result<(), Error> {
        unreachable!("skeleton")
    }

    /// Removes a sandbox and its containers; unknown is fine.
    pub async fn remove(&self, _id: &str) -> Result<(), Error> {
        unreachable!("skeleton")
    }

    /// One sandbox by id or unique prefix.
    pub fn get(&self, _id: &str) -> Result<Sandbox, Error> {
        unreachable!("skeleton")
    }

    /// Sandboxes that match, newest first.
    pub fn list(&self, _filter: &Filter) -> Vec<Sandbox> {
        unreachable!("skeleton")
    }

    /// Creates a container in a ready sandbox.
    pub async fn create_container(
        &self,
        _pod: &str,
        _config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        unreachable!("skeleton")
    }

    /// Starts a created container.
    pub async fn start_container(&self, _id: &str) -> Result<(), Error> {
        unreachable!("skeleton")
    }

    /// Stops a container: its stop signal, then SIGKILL after `grace`; unknown is fine.
    pub async fn stop_container(&self, _id: &str, _grace: Duration) -> Result<(), Error> {
        unreachable!("skeleton")
    }

    /// Removes a container, killing it when it runs; unknown is fine.
    pub async fn remove_container(&self, _id: &str) -> Result<(), Error> {
        unreachable!("skeleton")
    }

    /// One container by id or unique prefix.
    pub fn container(&self, _id: &str) -> Result<Container, Error> {
        unreachable!("skeleton")
    }

    /// Containers that match, newest first.
    pub fn containers(&self, _filter: &container::Filter) -> Vec<Container> {
        unreachable!("skeleton")
    }

    /// Runs a command in a container and waits for it. No limit when `timeout` is `None`.
    pub async fn exec_sync(
        &self,
        _id: &str,
        _command: Vec<String>,
        _timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        unreachable!("skeleton")
    }

    /// Switches a running container's log to a new file of the same name.
    pub async fn reopen_log(&self, _id: &str) -> Result<(), Error> {
        unreachable!("skeleton")
    }

    /// Events from now on, after the current state of all containers as `Created`/`Started`/
    /// `Stopped`. The queue is this subscriber's own and bounded; when it overflows the stream
    /// ends with `None`.
    pub fn events(&self) -> tokio::sync::mpsc::Receiver<Event> {
        unreachable!("skeleton")
    }

    /// Verbose facts for `PodSandboxStatus.info` (JSON).
    pub fn sandbox_info(&self, _id: &str) -> Result<serde_json::Value, Error> {
        unreachable!("skeleton")
    }

    /// Verbose facts for `ContainerStatus.info` (JSON): pid, runtime spec, snapshot key, ….
    pub async fn container_info(&self, _id: &str) -> Result<serde_json::Value, Error> {
        unreachable!("skeleton")
    }
}
