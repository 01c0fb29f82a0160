//! UpdatePodSandboxResources: stores the limits and the overhead of a pod as a whole.
//!
//! This is information only: the caller owns the pod's cgroup and resizes it before the call.

use super::error::Error;
use super::record::SandboxRecord;
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
        let change = |record: &mut SandboxRecord| {
            let sandbox = &mut record.sandbox;
            sandbox.new_overhead = overhead.map(Box::new).or(sandbox.new_overhead.take());
            sandbox.new_resources = resources.map(Box::new).or(sandbox.new_resources.take());
        };
        entry.save(&self.deps.base, change).await?;
        entry.publish(&self.deps.base, None);
        self.tell_updated(&entry.sandbox()).await;
        Ok(())
    }
}
