//! containerd (1.6 to 2.x) behind the seams [`Runtime`](super::Runtime) and
//! [`Images`](super::Images), over its gRPC API.
//!
//! One file a concern: `client` holds the connection, the deadlines and the namespace; `failure`
//! turns every gRPC status into the seam's error, in one place; `runtime` and `store` are the thin
//! trait implementations; the rest are free functions, one file a containerd service. What the
//! daemon can do is found out by asking it (Introspection, `Unimplemented`), never by its version.

mod blobs;
mod checkpoints;
mod client;
mod containers;
mod content;
mod events;
mod failure;
mod holds;
mod images;
mod introspect;
mod leases;
mod runtime;
mod snapshots;
mod store;
mod tasks;
mod types;
mod unpack;

use std::path::PathBuf;
use std::sync::Arc;

use super::{CallDeadlines, Result};
use client::Client;
use holds::Holds;
use snapshots::UsageCache;

/// How to reach containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its gRPC socket, e.g. `/run/containerd/containerd.sock`.
    pub address: PathBuf,
    /// The containerd namespace that everything is kept in, at most 76 characters.
    pub namespace: String,
    /// How long unary calls may take.
    pub deadlines: CallDeadlines,
}

/// containerd as [`Runtime`](super::Runtime) and [`Images`](super::Images). Cheap to clone.
#[derive(Clone)]
pub struct Containerd(Arc<Shared>);

struct Shared {
    client: Client,
    usage: UsageCache,
    holds: Holds,
}

impl Containerd {
    /// Gets ready to talk to the daemon, without doing so: it may be away, then calls answer
    /// `Unavailable`, and the connection is made again by itself when it is back. Must be called
    /// inside a tokio runtime. `InvalidArgument` when the namespace is not one for containerd.
    pub fn connect(options: Options) -> Result<Self> {
        let client = Client::new(options)?;
        Ok(Self(Arc::new(Shared { client, usage: UsageCache::default(), holds: Holds::default() })))
    }
}

impl std::fmt::Debug for Containerd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Containerd").field("namespace", &self.0.client.namespace()).finish()
    }
}
