//! The door to whole pods: `podbay.v1`.
//!
//! A handler parses, asks the [`Face`] of the pods, converts the answer. Answers without an end
//! live as long as their caller reads them; each is polled by its caller alone, so nothing is
//! left behind when one hangs up.

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
pub use measure::{Measure, Meters};
pub use service::Pods;

use crate::image::Images;
use crate::pod::Face;
use crate::serve::Subject;
use crate::stream::Sessions;
use shown::Shown;
use streams::Places;

/// What the door to whole pods opens to.
#[derive(Clone)]
pub struct PodServices {
    /// The pods.
    pub face: Arc<dyn Face>,
    /// Commands, attached callers and ports.
    pub sessions: Arc<dyn Sessions>,
    /// What they use.
    pub meters: Arc<dyn Measure>,
    /// Name of the node.
    pub node: String,
    /// The images of the node, which the door beside opens to.
    pub images: Arc<Images>,
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
