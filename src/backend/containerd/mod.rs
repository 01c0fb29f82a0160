//! containerd (1.6 to 2.x) behind the seams [`Runtime`](super::Runtime) and
//! [`Images`](super::Images), over its gRPC API.
//!
//! One file per concern: `client` has the connection, the time limits and the namespace; `failure`
//! converts every gRPC status to a backend error; `runtime` and `store` are thin trait
//! implementations; the rest are free functions, one file per containerd service. Features of the
//! daemon are found by querying it (Introspection, `Unimplemented`), never from its version.

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
#[cfg(test)]
mod tests;
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
    /// The containerd namespace to use, at most 76 characters.
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
    /// Prepares a client without connecting. While the daemon is down calls fail with
    /// `Unavailable`; the connection is made automatically when it is back. Must be called inside a
    /// tokio runtime. `InvalidArgument` when the namespace is not valid in containerd.
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
