//! Resource usage of pods and of the node.

use std::sync::Arc;

use async_trait::async_trait;

use crate::ids::PodId;
use crate::sandbox::Sandboxes;
use crate::stats::{PodStats, Stats, Usage};

/// Measures pods and the node.
#[async_trait]
pub trait Measure: Send + Sync {
    /// Usage of those sandboxes that still exist.
    async fn pods(&self, sandboxes: &[PodId]) -> Vec<PodStats>;

    /// Usage of the whole node; `None` when it cannot be read.
    async fn node(&self) -> Option<Usage>;
}

/// Measures the pods of this agent.
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
