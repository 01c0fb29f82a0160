//! The interface of the pod engine, independent of the API through which it is called.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::object::{FieldError, PodKey};
use super::view::{Event, Explanation, NodeView, PodView};
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;
use crate::store::Revision;

/// What to do depending on whether the pod exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// Create it, or change it in place where Kubernetes allows that; refuse other changes.
    #[default]
    Apply,
    /// Fail if it exists. A config map or secret that comes with its pods may exist unchanged.
    Create,
    /// Fail if it does not exist; if it cannot be changed in place, delete and recreate it. A config
    /// map or secret that comes with its pods may be new.
    Replace,
}

/// Conditions on the existing pod, without which nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its resource version.
    pub resource_version: Option<String>,
}

/// Objects to run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Apply {
    /// YAML or JSON, several documents: Pod, ConfigMap, Secret, List. A new pod always gets a new uid.
    /// A uid other than the existing pod's is refused unless it is created, and so is another
    /// resource version in a replace.
    pub manifest: String,
    /// How to handle existing pods.
    pub manner: Manner,
    /// For the manifest's only pod; refused with several pods.
    pub preconditions: Preconditions,
    /// Report the result without changing anything.
    pub dry_run: bool,
    /// Report unknown and unsupported fields as warnings instead of refusing them.
    pub lenient: bool,
    /// Default namespace of the objects; empty for `default`.
    pub namespace: String,
    /// Grace period of a pod ended by a replace; `None` for its own.
    pub grace: Option<Duration>,
    /// Replace pods whatever their resource version, even if the manifest has one.
    pub any_version: bool,
}

/// What was done with one pod, config map or secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It was changed in place.
    Configured,
    /// It was already as requested.
    Unchanged,
    /// The old pod is ending; the new one starts after it.
    Replaced,
}

/// The result of an [`Apply`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// All pods in the manifest, in order.
    pub pods: Vec<(PodView, Change)>,
    /// All config maps and secrets in the manifest.
    pub objects: Vec<(ObjectKey, Change)>,
    /// Problems that were not refused.
    pub warnings: Vec<String>,
}

/// Selects pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// In this namespace; empty for all.
    pub namespace: String,
    /// With this name; empty for all.
    pub name: String,
    /// Kubernetes label selector, e.g. `app=web,tier in (a,b),!old`; empty for all.
    pub labels: String,
    /// Kubernetes field selector, e.g. `status.phase=Running`; empty for all.
    pub fields: String,
}

/// Pods to end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delete {
    /// The pods. A completely empty selector is refused unless `all` is set.
    pub selector: Selector,
    /// Confirms that all pods in the selection are meant, even if the selector is empty.
    pub all: bool,
    /// Grace period; `None` for each pod's own.
    pub grace: Option<Duration>,
    /// Remove from the API at once and clean up in the background; requires a grace period of zero.
    pub force: bool,
    /// For a selector with a name. With a uid, a pod that waits to replace that one is not deleted.
    pub preconditions: Preconditions,
    /// Report the result without changing anything.
    pub dry_run: bool,
    /// Config maps and secrets to delete; pods that use them keep their copies. With an empty
    /// selector no pods are deleted. A missing object is not an error.
    pub objects: Vec<ObjectKey>,
}

/// A config map or a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The kind.
    pub kind: ObjectKind,
    /// Namespace and name.
    pub name: PodKey,
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// The kinds of objects that pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// Non-secret values.
    ConfigMap,
    /// Secret values.
    Secret,
}

impl ObjectKind {
    /// The name of the kind in Kubernetes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// Parses the name of a kind.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::ConfigMap, Self::Secret].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Pods sorted by namespace and name, as of one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// The pods.
    pub pods: Vec<PodView>,
    /// The revision after which a watch continues without a gap.
    pub revision: Revision,
}

/// An event of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// A pod that was not in the selection before.
    Added(PodView),
    /// A pod that changed.
    Modified(PodView),
    /// The last state of a pod that was removed or left the selection.
    Deleted(PodView),
    /// All events up to this revision were sent; the first bookmark ends the initial state.
    Bookmark(Revision),
}

/// Watch events; ends after an error.
pub type Watch = BoxStream<'static, Result<WatchEvent, Error>>;

/// Pod events, starting with the stored ones.
pub type Events = BoxStream<'static, Result<Event, Error>>;

/// Log text, in pieces of any size.
pub type LogLines = BoxStream<'static, Result<Bytes, Error>>;

/// Which part of a container's log to read, as in `kubectl logs`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// The container; `None` for the only or the default one
    /// (`kubectl.kubernetes.io/default-container`).
    pub container: Option<String>,
    /// Read all containers; if there are several, each line has the prefix `[name] `.
    pub all_containers: bool,
    /// Read the log of the container before the last restart.
    pub previous: bool,
    /// Continue with new output, across rotations and restarts, until the pod ends.
    pub follow: bool,
    /// Only the last lines, this many.
    pub tail: Option<u64>,
    /// Only lines since this time.
    pub since: Option<UnixNanos>,
    /// Maximum number of bytes.
    pub limit_bytes: Option<u64>,
    /// Prefix each line with its time, RFC 3339 with nanoseconds.
    pub timestamps: bool,
}

/// A running container and its pod, for exec, attach and port-forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The ready sandbox.
    pub sandbox: PodId,
    /// The container.
    pub container: ContainerId,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has a stdin.
    pub stdin: bool,
}

/// A reason why a pod cannot run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmitReason {
    /// Reason in Kubernetes' terms, e.g. `OutOfcpu`, `NodePorts`, `UnexpectedAdmissionError`.
    pub reason: &'static str,
    /// Human-readable message.
    pub message: String,
    /// Whether the node merely lacks free resources.
    pub shortage: bool,
}

impl AdmitReason {
    /// Whether the node merely lacks free resources.
    pub fn is_shortage(&self) -> bool {
        self.shortage
    }
}

/// The result of an admission check; no reasons means admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The pod.
    pub pod: PodKey,
    /// All reasons against it.
    pub reasons: Vec<AdmitReason>,
}

/// Errors of calls about pods.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not a valid manifest.
    #[error("manifest: {message}")]
    Manifest {
        /// What is wrong, with line and column.
        message: String,
    },
    /// Fields of an object are invalid.
    #[error("{kind} {name:?} is invalid: {}", list(.faults))]
    Invalid {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// All faults.
        faults: Vec<FieldError>,
    },
    /// An option of the call is invalid.
    #[error("{field}: {message}")]
    Argument {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The pod does not exist.
    #[error("pod {0} is not found")]
    NotFound(PodKey),
    /// The config map or secret does not exist.
    #[error("{0} is not found")]
    NoObject(ObjectKey),
    /// The container does not exist in the pod, or not yet.
    #[error("container {container:?} of pod {pod}: {message}")]
    Container {
        /// The pod.
        pod: PodKey,
        /// The container.
        container: String,
        /// Why.
        message: String,
    },
    /// The caller is not authorized; the text says what is allowed.
    #[error("{0}")]
    Forbidden(String),
    /// A pod with this name exists.
    #[error("pod {0} already exists")]
    AlreadyExists(PodKey),
    /// A config map or secret with this name exists.
    #[error("{0} already exists")]
    ObjectExists(ObjectKey),
    /// A precondition is not fulfilled.
    #[error("pod {pod}: {message}")]
    Conflict {
        /// The pod.
        pod: PodKey,
        /// The precondition and the actual value.
        message: String,
    },
    /// A static pod can only be changed through its file.
    #[error("pod {0} is static: change its manifest file")]
    Static(PodKey),
    /// The change concerns immutable fields.
    #[error("pod {pod}: these fields cannot be changed in a running pod: {}", paths.join(", "))]
    Immutable {
        /// The pod.
        pod: PodKey,
        /// Their paths.
        paths: Vec<String>,
    },
    /// The state of the pod does not allow the operation.
    #[error("pod {pod}: {message}")]
    State {
        /// The pod.
        pod: PodKey,
        /// Why.
        message: String,
    },
    /// The requested revision is no longer available.
    #[error("revision {asked} is too old: the current one is {}", current.number)]
    TooOld {
        /// The requested revision number.
        asked: u64,
        /// The revision of a new list.
        current: Revision,
    },
    /// The watcher was too slow and was disconnected.
    #[error("the watcher was too slow: revision {} is the current one", current.number)]
    TooSlow {
        /// The revision of a new list.
        current: Revision,
    },
    /// The store cannot be written.
    #[error("write the state store")]
    Store(#[from] crate::store::Error),
    /// A call to another room failed.
    #[error("sandbox")]
    Sandbox(#[from] crate::sandbox::Error),
    /// A log cannot be read.
    #[error("read the log")]
    Log(#[source] std::io::Error),
}

fn list(faults: &[FieldError]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The operations on this node's pods.
#[async_trait]
pub trait Face: Send + Sync + 'static {
    /// Creates or changes all pods in a manifest, or none.
    async fn apply(&self, request: Apply) -> Result<Applied, Error>;

    /// Starts to end pods and returns their state at that time. Watch to see them go.
    async fn delete(&self, request: Delete) -> Result<Vec<PodView>, Error>;

    /// One pod.
    fn get(&self, key: &PodKey) -> Result<PodView, Error>;

    /// Pods by selector.
    fn list(&self, selector: &Selector) -> Result<Listing, Error>;

    /// Watches pods: the current state and then every change, or every change after a revision.
    fn watch(&self, selector: Selector, from: Option<Revision>) -> Result<Watch, Error>;

    /// What a pod is waiting for.
    fn explain(&self, key: &PodKey) -> Result<Explanation, Error>;

    /// The stored events and then, with `follow`, new ones.
    fn events(&self, selector: Selector, follow: bool) -> Result<Events, Error>;

    /// Log text of a pod's containers.
    async fn logs(&self, key: &PodKey, options: LogOptions) -> Result<LogLines, Error>;

    /// A running container, for exec and attach; `None` for the default one.
    fn target(&self, key: &PodKey, container: Option<&str>) -> Result<Target, Error>;

    /// The pod's ready sandbox, for port-forward.
    fn sandbox(&self, key: &PodKey) -> Result<PodId, Error>;

    /// Ends a container gracefully; it is then restarted at once, regardless of the restart policy.
    async fn restart_container(&self, key: &PodKey, container: &str) -> Result<(), Error>;

    /// Checks whether this node would admit the pods in a manifest.
    async fn admit(&self, request: Apply) -> Result<Vec<Admission>, Error>;

    /// The node.
    async fn node(&self) -> Result<NodeView, Error>;
}
