//! The service of whole pods: `podbay.v1`.
//!
//! A handler parses the request, calls the [`Face`] of the pods and converts the result. Endless
//! answers live as long as their callers read them; each is polled only by its caller, so nothing
//! is left when one disconnects.

pub(super) mod about;
mod command;
mod convert;
mod forward;
mod granted;
mod measure;
mod page;
mod service;
mod shown;
mod streams;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub(super) use about::Tells;
pub use measure::Measure;
use measure::Meters;
pub use service::Pods;

use crate::image::Images;
use crate::pod::{self, Face};
use crate::sandbox::Sandboxes;
use crate::serve::Subject;
use crate::stats::Stats;
use crate::stream::{self, Sessions};
use shown::Shown;
use streams::Places;

/// What the service of whole pods needs.
#[derive(Clone)]
pub struct PodServices {
    /// The pods.
    pub face: Arc<dyn Face>,
    /// Exec, attach and port-forward.
    pub sessions: Arc<dyn Sessions>,
    /// Resource usage.
    pub meters: Arc<dyn Measure>,
    /// Name of the node.
    pub node: String,
    /// The images of the node, for the service beside this one.
    pub images: Arc<Images>,
}

impl PodServices {
    /// Those of an agent with these rooms.
    pub fn of(
        pods: &Arc<pod::Pods>,
        sandboxes: &Arc<Sandboxes>,
        stats: &Arc<Stats>,
        images: &Arc<Images>,
    ) -> Self {
        Self {
            face: pods.clone(),
            sessions: Arc::new(stream::Pods(sandboxes.clone())),
            meters: Arc::new(Meters { sandboxes: sandboxes.clone(), stats: stats.clone() }),
            node: pods.node_name(),
            images: images.clone(),
        }
    }
}

impl Pods {
    /// `closing` ends the endless streams.
    pub fn new(services: PodServices, closing: CancellationToken) -> Self {
        let PodServices { face, sessions, meters, node, images: _ } = services;
        Self {
            face,
            sessions,
            meters,
            node: node.into(),
            shown: Arc::new(Shown::default()),
            places: Places::new(closing),
            subject: Subject::default(),
        }
    }
}
