//! Network namespaces that somebody else removed: their pods cannot be used any more.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::entry::Entry;
use super::{Room, Sandboxes};
use crate::backend::NetnsState;
use crate::telemetry::error_chain;

impl Sandboxes {
    /// Looks at the network namespaces of all ready pods with a pause of `between`; a pod whose
    /// namespace is gone becomes not ready. Never returns.
    pub async fn watch_netns(&self, between: Duration) {
        loop {
            tokio::time::sleep(between).await;
            self.room.look_for_netns().await;
        }
    }
}

impl Room {
    /// Looks at all at once: most of the cost is to hand the work to a thread.
    async fn look_for_netns(&self) {
        let entries: Vec<_> = self.entries().values().cloned().collect();
        let paths: Vec<_> = entries.iter().filter_map(|entry| ready_netns(entry)).collect();
        if paths.is_empty() {
            return;
        }
        let missing = self.deps.base.host.missing_netns(paths).await.unwrap_or_default();
        let missing: BTreeSet<_> = missing.into_iter().collect();
        for entry in entries {
            if !ready_netns(&entry).is_some_and(|netns| missing.contains(&netns)) {
                continue;
            }
            // A pod that is just changing is looked at again in the next round.
            let Ok(_alone) = entry.gate.try_write() else { continue };
            // It may have been stopped since.
            if self.has_lost_netns(&entry).await {
                self.netns_lost(&entry).await;
            }
        }
    }

    /// Whether a pod is ready although its network namespace is gone.
    pub(super) async fn has_lost_netns(&self, entry: &Entry) -> bool {
        let Some(netns) = ready_netns(entry) else { return false };
        match self.deps.base.host.netns_state(&netns).await {
            Ok(state) => state == NetnsState::Gone,
            Err(error) => {
                tracing::debug!(pod = %entry.id, error = error_chain(&error),
                    "cannot look at network namespace");
                false
            }
        }
    }

    /// Marks a pod as not ready and without addresses. CNI DEL still has to run. The caller holds
    /// the gate, or the pod is not published yet.
    pub(super) async fn netns_lost(&self, entry: &Entry) {
        tracing::warn!(pod = %entry.id, "network namespace was removed by somebody else");
        entry.change(|record| record.sandbox.network = None);
        self.mark_not_ready(entry).await;
    }
}

/// The network namespace of a ready pod; `None` for the host's.
fn ready_netns(entry: &Entry) -> Option<PathBuf> {
    entry.read(|record| record.sandbox.netns.clone().filter(|_| record.sandbox.is_ready()))
}
