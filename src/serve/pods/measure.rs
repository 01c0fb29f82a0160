//! What pods use.

use std::sync::Arc;

use async_trait::async_trait;

use crate::ids::PodId;
use crate::sandbox::Sandboxes;
use crate::stats::{PodStats, Stats, Usage};

/// Tells what pods and the node use.
#[async_trait]
pub trait Measure: Send + Sync {
    /// Of the sandboxes that still are.
    async fn pods(&self, sandboxes: &[PodId]) -> Vec<PodStats>;

    /// Of the whole node; `None` when it cannot be told.
    async fn node(&self) -> Option<Usage>;
}

/// Measures in the pods of this agent.
pub struct Meters {
    /// Where the pods are.
    pub sandboxes: Arc<Sandboxes>,
    /// Who measures.
    pub stats: Arc<Stats>,
}

#[async_trait]
impl Measure for Meters {
    async fn pods(&self, sandboxes: &[PodId]) -> Vec<PodStats> {
        let there = sandboxes.iter().filter_map(|id| self.sandboxes.get(id.as_str()).ok());
        self.stats.pods(there.collect()).await
    }

    async fn node(&self) -> Option<Usage> {
        self.stats.node().await
    }
}
