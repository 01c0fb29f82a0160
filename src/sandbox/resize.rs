//! UpdatePodSandboxResources: stores the limits and the overhead of a pod as a whole.
//!
//! This is information only: the caller owns the pod's cgroup and resizes it before the call.

use super::error::Error;
use super::{Entry, Room};
use crate::model::resources::Resources;

impl Room {
    /// Stores new sums of a pod; `None` keeps the old value. The pod may be in any state.
    pub(super) async fn resize(
        &self,
        entry: &Entry,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), Error> {
        let _alone = entry.gate.write().await;
        if !self.entries().contains_key(&entry.id) {
            // It was removed while this call waited.
            return Err(Error::NotFound(entry.id.to_string()));
        }
        let sandbox = entry.sandbox();
        let _hold = self.ask_about_update(&sandbox, overhead.as_ref(), resources.as_ref()).await?;
        entry
            .save(&self.deps.base, |record| {
                record.overhead = overhead.or(record.overhead.take());
                record.resources = resources.or(record.resources.take());
            })
            .await?;
        self.tell_updated(&sandbox).await;
        Ok(())
    }
}
