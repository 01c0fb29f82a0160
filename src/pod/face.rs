//! What can be asked of the pods of this node, whoever asks.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::object::{FieldError, PodKey};
use super::view::{Event, Explanation, NodeView, PodView};
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;
use crate::store::Revision;

/// What to do with a pod that is there already, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// Create, change in place where Kubernetes allows it, refuse other changes.
    #[default]
    Apply,
    /// Refuse when it is there.
    Create,
    /// Refuse when it is not there; what cannot be changed in place is deleted and made anew.
    Replace,
}

/// What must hold of the pod that is there, or nothing is done.
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
    /// YAML or JSON, several documents: Pod, ConfigMap, Secret, List.
    pub manifest: String,
    /// What to do with what is there.
    pub manner: Manner,
    /// For the pod of the manifest; refused with several pods.
    pub preconditions: Preconditions,
    /// Say what would happen, change nothing.
    pub dry_run: bool,
    /// Report unknown and unsupported fields as warnings in place of refusing them.
    pub lenient: bool,
    /// Namespace of objects that name none; empty for `default`.
    pub namespace: String,
    /// Grace period of the pod that a replace ends; `None` for its own.
    pub grace: Option<Duration>,
}

/// What became of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It was changed in place.
    Configured,
    /// It was as wanted.
    Unchanged,
    /// The old one is being ended; the new one follows it.
    Replaced,
}

/// What an [`Apply`] did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// Every pod of the manifest, in its order.
    pub pods: Vec<(PodView, Change)>,
    /// What was not refused, but should be known.
    pub warnings: Vec<String>,
}

/// Which pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// Of this namespace; empty for all.
    pub namespace: String,
    /// This one only; empty for all.
    pub name: String,
    /// Kubernetes label selector, e.g. `app=web,tier in (a,b),!old`; empty for all.
    pub labels: String,
    /// Kubernetes field selector, e.g. `status.phase=Running`; empty for all.
    pub fields: String,
}

/// Pods to end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delete {
    /// Which. An entirely empty selector is refused unless `all` is set.
    pub selector: Selector,
    /// Really all that the selector gives, even when it is empty.
    pub all: bool,
    /// Grace period; `None` for each pod's own.
    pub grace: Option<Duration>,
    /// Gone from the API at once, cleaned up behind; only with a grace period of zero.
    pub force: bool,
    /// For a selector with a name.
    pub preconditions: Preconditions,
    /// Say what would happen, change nothing.
    pub dry_run: bool,
    /// Config maps and secrets that are kept no more; what pods have of them they keep. With an
    /// empty selector no pods are meant. One that is not kept is no error.
    pub objects: Vec<ObjectKey>,
}

/// A config map or a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Which of the two.
    pub kind: ObjectKind,
    /// Namespace and name.
    pub name: PodKey,
}

/// What pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// Plain values.
    ConfigMap,
    /// Values that are nobody's business.
    Secret,
}

impl ObjectKind {
    /// Kubernetes' word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// The one of this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::ConfigMap, Self::Secret].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Pods, by namespace and name, as of one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// The pods.
    pub pods: Vec<PodView>,
    /// Where a watch would go on without a gap.
    pub revision: Revision,
}

/// One news of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// A pod that was not in the selection before.
    Added(PodView),
    /// A pod has changed.
    Modified(PodView),
    /// A pod is gone, or left the selection; as it was last.
    Deleted(PodView),
    /// Nothing up to here; the first one ends the state at the start.
    Bookmark(Revision),
}

/// News of pods; ends after an error.
pub type Watch = BoxStream<'static, Result<WatchEvent, Error>>;

/// News of events, the kept ones first.
pub type Events = BoxStream<'static, Result<Event, Error>>;

/// Log text, in pieces of any size.
pub type LogLines = BoxStream<'static, Result<Bytes, Error>>;

/// Which part of a container's log, as `kubectl logs` has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// The container; `None` for the only or the default one
    /// (`kubectl.kubernetes.io/default-container`).
    pub container: Option<String>,
    /// Of all containers, each line with `[name] ` before it where there are several.
    pub all_containers: bool,
    /// Of the container before the last restart.
    pub previous: bool,
    /// Go on with what comes, over rotation and restart, until the pod ends.
    pub follow: bool,
    /// Only this many last lines.
    pub tail: Option<u64>,
    /// Only what is newer.
    pub since: Option<UnixNanos>,
    /// Not more bytes than this.
    pub limit_bytes: Option<u64>,
    /// Each line with its time before it, RFC 3339 with nanoseconds.
    pub timestamps: bool,
}

/// A running container and its pod, for exec, attach and port-forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The sandbox that is ready.
    pub sandbox: PodId,
    /// The container.
    pub container: ContainerId,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has a stdin.
    pub stdin: bool,
}

/// Why a pod may not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmitReason {
    /// Kubernetes' word, e.g. `OutOfcpu`, `NodePorts`, `UnexpectedAdmissionError`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Whether it is only that the node has not enough left of something.
    pub shortage: bool,
}

impl AdmitReason {
    /// Whether it is only that the node has not enough left of something.
    pub fn is_shortage(&self) -> bool {
        self.shortage
    }
}

/// Whether this node would take a pod; no reasons means yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The pod.
    pub pod: PodKey,
    /// Everything that is against it.
    pub reasons: Vec<AdmitReason>,
}

/// What can go wrong when pods are asked for or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no manifest.
    #[error("manifest: {message}")]
    Manifest {
        /// What is wrong, with line and column.
        message: String,
    },
    /// Fields of an object are wrong; all of them.
    #[error("{kind} {name:?} is invalid: {}", list(.faults))]
    Invalid {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// All faults.
        faults: Vec<FieldError>,
    },
    /// An option of the call is wrong.
    #[error("{field}: {message}")]
    Argument {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// There is no such pod.
    #[error("pod {0} is not found")]
    NotFound(PodKey),
    /// There is no such container in the pod, or not yet.
    #[error("container {container:?} of pod {pod}: {message}")]
    Container {
        /// The pod.
        pod: PodKey,
        /// The container.
        container: String,
        /// Why not.
        message: String,
    },
    /// The caller may not do this; the text says what it may.
    #[error("{0}")]
    Forbidden(String),
    /// A pod of this name is there.
    #[error("pod {0} already exists")]
    AlreadyExists(PodKey),
    /// A precondition does not hold.
    #[error("pod {pod}: {message}")]
    Conflict {
        /// The pod.
        pod: PodKey,
        /// Which one and what it is.
        message: String,
    },
    /// A static pod is changed through its file only.
    #[error("pod {0} is static: change its manifest file")]
    Static(PodKey),
    /// Fields changed that cannot be changed in place.
    #[error("pod {pod}: these fields cannot be changed in a running pod: {}", paths.join(", "))]
    Immutable {
        /// The pod.
        pod: PodKey,
        /// Their paths.
        paths: Vec<String>,
    },
    /// The pod is in no state for this.
    #[error("pod {pod}: {message}")]
    State {
        /// The pod.
        pod: PodKey,
        /// Why not.
        message: String,
    },
    /// The revision to resume from is not kept any more.
    #[error("revision {asked} is too old: the current one is {}", current.number)]
    TooOld {
        /// What was asked for.
        asked: u64,
        /// Where a new list begins.
        current: Revision,
    },
    /// The watcher did not keep up and was cut.
    #[error("the watcher was too slow: revision {} is the current one", current.number)]
    TooSlow {
        /// Where a new list begins.
        current: Revision,
    },
    /// The state store does not take changes.
    #[error("write the state store")]
    Store(#[from] crate::store::Error),
    /// A room below failed.
    #[error("sandbox")]
    Sandbox(#[from] crate::sandbox::Error),
    /// A log cannot be read.
    #[error("read the log")]
    Log(#[source] std::io::Error),
}

fn list(faults: &[FieldError]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The pods of this node.
#[async_trait]
pub trait Face: Send + Sync + 'static {
    /// Creates or changes the pods of a manifest; all or none.
    async fn apply(&self, request: Apply) -> Result<Applied, Error>;

    /// Begins the end of pods; answers what they are then. Who wants to see them gone watches.
    async fn delete(&self, request: Delete) -> Result<Vec<PodView>, Error>;

    /// One pod.
    fn get(&self, key: &PodKey) -> Result<PodView, Error>;

    /// Pods by selector.
    fn list(&self, selector: &Selector) -> Result<Listing, Error>;

    /// The state now and then every change, or every change after a revision.
    fn watch(&self, selector: Selector, from: Option<Revision>) -> Result<Watch, Error>;

    /// What a pod waits for.
    fn explain(&self, key: &PodKey) -> Result<Explanation, Error>;

    /// What happened: the kept events, then, with `follow`, those to come.
    fn events(&self, selector: Selector, follow: bool) -> Result<Events, Error>;

    /// Log text of a pod's containers.
    async fn logs(&self, key: &PodKey, options: LogOptions) -> Result<LogLines, Error>;

    /// A running container, for exec and attach; `None` for the default one.
    fn target(&self, key: &PodKey, container: Option<&str>) -> Result<Target, Error>;

    /// The pod's ready sandbox, for port-forward.
    fn sandbox(&self, key: &PodKey) -> Result<PodId, Error>;

    /// Ends a container gracefully; the restart policy then starts it again at once, whatever it
    /// says.
    async fn restart_container(&self, key: &PodKey, container: &str) -> Result<(), Error>;

    /// Would this node take the pods of a manifest?
    async fn admit(&self, request: Apply) -> Result<Vec<Admission>, Error>;

    /// The node.
    async fn node(&self) -> Result<NodeView, Error>;
}
