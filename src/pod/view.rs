//! What callers are shown of pods and of the node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::object::{PodKey, Source};
use crate::model::UnixNanos;
use crate::store::Revision;

/// A pod at one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct PodView {
    /// The object with its status; `metadata.resourceVersion` is [`PodView::revision`] as text.
    pub pod: Arc<Pod>,
    /// Where the pod came from.
    pub source: Source,
    /// Revision of its last change.
    pub revision: Revision,
}

impl PodView {
    /// Namespace and name.
    pub fn key(&self) -> PodKey {
        let meta = &self.pod.metadata;
        PodKey::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }
}

/// Whether an event is of the normal course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// All is well.
    Normal,
    /// Somebody may want to look at it.
    Warning,
}

/// Something that happened to a pod, with Kubernetes' reason, e.g. `Started`, `BackOff`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number; events of one agent's life are numbered in order from 1.
    pub number: u64,
    /// Whose.
    pub pod: PodKey,
    /// Uid of the pod.
    pub uid: String,
    /// Container, when it is about one.
    pub container: Option<String>,
    /// Normal or not.
    pub kind: EventType,
    /// One word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When it first happened, …
    pub first: UnixNanos,
    /// … when it last did, …
    pub last: UnixNanos,
    /// … and how often.
    pub count: u32,
}

/// What a pod, or one of its containers, waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// The container; `None` for the pod as a whole.
    pub container: Option<String>,
    /// The step, e.g. `pull the image`, `wait for back-off`, `init container "a" runs`.
    pub step: String,
    /// Since when it has been in this step.
    pub since: UnixNanos,
    /// What the last try ended with.
    pub last_error: Option<String>,
    /// When the next try is made.
    pub next_try: Option<UnixNanos>,
    /// What would let it go on, in words for the caller.
    pub unblocks: String,
}

/// Where a pod stands; nothing in `waits` means that it waits for nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The pod.
    pub view: PodView,
    /// Everything that it waits for, the pod's own step first.
    pub waits: Vec<Waits>,
}

/// The node as controllers see it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeView {
    /// The node as a Kubernetes object: addresses, capacity, allocatable, conditions, images and
    /// versions are in its status.
    pub node: k8s_openapi::api::core::v1::Node,
}
