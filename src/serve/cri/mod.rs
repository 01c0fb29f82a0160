//! The CRI door: `runtime.v1` for kubelet, crictl and whoever speaks it.
//!
//! A handler makes four moves: it parses the request into domain types, calls one function of a
//! room, converts the answer, returns. Changing calls are owned by the rooms; a handler only
//! waits, so a caller that hangs up tears nothing in half.

mod batches;
mod container;
mod convert;
mod events;
mod exec;
mod image;
mod node;
mod runtime;
mod sandbox;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::backend::{Network, Runtime, RuntimeHandler};
use crate::image::Images;
use crate::sandbox::Sandboxes;
use node::Node;
#[cfg(test)]
pub(super) use node::version;

/// What the CRI door opens to.
#[derive(Clone)]
pub struct CriServices {
    /// Sandboxes and their containers.
    pub sandboxes: Arc<Sandboxes>,
    /// Images.
    pub images: Arc<Images>,
    /// Asked for the condition RuntimeReady and for handler features.
    pub runtime: Arc<dyn Runtime>,
    /// Asked for the condition NetworkReady; told the pod address range.
    pub network: Arc<dyn Network>,
    /// What the agent says about itself.
    pub identity: Identity,
}

/// What the agent says about itself; fixed for the life of the process, as callers expect.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Runtime handlers in the order in which Status lists them.
    pub handlers: Vec<RuntimeHandler>,
    /// Name of the handler that is also listed as "".
    pub default_handler: String,
    /// The effective configuration, without secrets, for verbose Status.
    pub config: serde_json::Value,
}

/// The two CRI services.
#[derive(Clone)]
pub(super) struct Cri {
    sandboxes: Arc<Sandboxes>,
    images: Arc<Images>,
    node: Arc<Node>,
    listeners: events::Listeners,
}

impl Cri {
    /// `closing` ends the endless streams.
    pub fn new(services: CriServices, closing: CancellationToken) -> Self {
        let CriServices { sandboxes, images, runtime, network, identity } = services;
        Self {
            sandboxes,
            images,
            node: Arc::new(Node::new(runtime, network, identity)),
            listeners: events::Listeners::new(closing),
        }
    }
}
