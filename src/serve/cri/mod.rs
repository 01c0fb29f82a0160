//! The CRI services: `runtime.v1` for kubelet, crictl and other clients.
//!
//! A handler parses the request into domain types, calls one function of a room, converts the
//! result and returns. Changing calls run in tasks owned by the rooms and handlers only wait, so a
//! disconnected caller interrupts nothing half-way.

mod batches;
mod container;
mod convert;
mod events;
mod exec;
mod image;
mod metrics;
mod node;
mod runtime;
mod sandbox;
mod stats;
mod streaming;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::backend::{Network, Runtime, RuntimeHandler};
use crate::image::Images;
use crate::sandbox::Sandboxes;
use crate::stats::Stats;
use crate::stream::Urls;
use node::Node;
#[cfg(test)]
pub(super) use node::version;

/// What the CRI services need.
#[derive(Clone)]
pub struct CriServices {
    /// Sandboxes and their containers.
    pub sandboxes: Arc<Sandboxes>,
    /// Images.
    pub images: Arc<Images>,
    /// Resource usage of pods and containers.
    pub stats: Arc<Stats>,
    /// Queried for the condition RuntimeReady.
    pub runtime: Arc<dyn Runtime>,
    /// Queried for the condition NetworkReady; gets the pod CIDR.
    pub network: Arc<dyn Network>,
    /// Issues streaming URLs.
    pub urls: Arc<Urls>,
    /// Facts about the agent.
    pub identity: Identity,
}

/// Facts about the agent; fixed for the life of the process, as callers expect.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Runtime handlers in the order in which Status lists them.
    pub handlers: Vec<RuntimeHandler>,
    /// Name of the handler that is also listed as "" (the default).
    pub default_handler: String,
    /// The effective configuration, without secrets, for verbose Status.
    pub config: serde_json::Value,
}

/// The two CRI services.
#[derive(Clone)]
pub(super) struct Cri {
    sandboxes: Arc<Sandboxes>,
    images: Arc<Images>,
    urls: Arc<Urls>,
    stats: Arc<Stats>,
    node: Arc<Node>,
    listeners: events::Listeners,
}

impl Cri {
    /// `closing` ends the endless streams.
    pub fn new(services: CriServices, closing: CancellationToken) -> Self {
        let CriServices { sandboxes, images, urls, stats, runtime, network, identity } = services;
        Self {
            node: Arc::new(Node::new(runtime, network, identity, Arc::clone(&sandboxes))),
            sandboxes,
            images,
            urls,
            stats,
            listeners: events::Listeners::new(closing),
        }
    }
}
