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
    /// The source of the pod.
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

/// Type of an event, as in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Expected.
    Normal,
    /// Possibly a problem.
    Warning,
}

/// A pod event, with a Kubernetes reason, e.g. `Started`, `BackOff`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number; events are numbered from 1 since the start of the agent.
    pub number: u64,
    /// The pod.
    pub pod: PodKey,
    /// Uid of the pod.
    pub uid: String,
    /// The container that it concerns, if any.
    pub container: Option<String>,
    /// Its type.
    pub kind: EventType,
    /// Reason, one word.
    pub reason: &'static str,
    /// Human-readable message.
    pub message: String,
    /// Time of the first occurrence.
    pub first: UnixNanos,
    /// Time of the last occurrence.
    pub last: UnixNanos,
    /// Number of occurrences.
    pub count: u32,
}

/// What a pod or one of its containers is waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// The container; `None` for the pod as a whole.
    pub container: Option<String>,
    /// The step, e.g. `pull the image`, `wait for back-off`, `init container "a" runs`.
    pub step: String,
    /// When the step began.
    pub since: UnixNanos,
    /// Error of the last attempt.
    pub last_error: Option<String>,
    /// Time of the next attempt.
    pub next_try: Option<UnixNanos>,
    /// What would end the waiting, as a hint for the caller.
    pub unblocks: String,
}

/// The state of a pod; empty `waits` mean that it waits for nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The pod.
    pub view: PodView,
    /// Everything that it waits for, with the pod's own step first.
    pub waits: Vec<Waits>,
}

/// The node, as shown to callers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeView {
    /// The node as a Kubernetes object: addresses, capacity, allocatable, conditions, images and
    /// versions are in its status.
    pub node: k8s_openapi::api::core::v1::Node,
}
