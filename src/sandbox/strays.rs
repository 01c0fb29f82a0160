//! Lost shims: containerd, or its client, was killed between the start of a shim and the recording
//! of the shim's address. Nothing can reach such a shim any more, so it is killed here.

use std::collections::BTreeSet;
use std::time::Duration;

use super::error::{Error, Step};
use super::{Room, Sandboxes};
use crate::backend::{HostProcess, Process, SHIM_ID};
use crate::telemetry::error_chain;

/// How many times to look after each trouble: containerd may still be busy with interrupted work.
const LOOKS: u32 = 6;

impl Sandboxes {
    /// Kills lost shims, now and after each trouble: looks several times with a pause of
    /// `between`. A shim counts as lost if two consecutive looks find it so; one that was just
    /// being started has a container by the second look. Never returns.
    pub async fn sweep_shims(&self, between: Duration) {
        loop {
            self.room.look_for_shims(between).await;
            self.room.trouble.notified().await;
        }
    }

    /// Requests a search for lost shims, e.g. after containerd came back.
    pub fn suspect_lost_shims(&self) {
        self.room.trouble.notify_one();
    }
}

impl Room {
    async fn look_for_shims(&self, between: Duration) {
        let mut before = BTreeSet::new();
        for _ in 0..LOOKS {
            self.deps.containers.settle_cgroups(true).await;
            tokio::time::sleep(between).await;
            match self.lost_shims().await {
                Ok(found) => before = self.kill_again_found(found, &before).await,
                Err(error) => {
                    tracing::debug!(error = error_chain(&error), "cannot look for lost shims");
                    before.clear();
                }
            }
        }
        self.deps.containers.settle_cgroups(false).await;
    }

    /// The agent's shims whose task has no record.
    async fn lost_shims(&self) -> Result<Vec<HostProcess>, Error> {
        let base = &self.deps.base;
        let shims = base.host.processes_with(&base.runtime.shim_arguments()).await;
        let shims = shims.step("list the shims")?;
        let known = self.known();
        let without = |shims: Vec<HostProcess>, known: BTreeSet<String>| -> Vec<HostProcess> {
            let is_lost = |shim: &HostProcess| task_of(shim).is_some_and(|id| !known.contains(id));
            shims.into_iter().filter(is_lost).collect()
        };
        let shims = without(shims, known);
        if shims.is_empty() {
            return Ok(shims);
        }
        let records = base.runtime.container_ids().await.step("list the records")?;
        let shims = without(shims, records.into_iter().collect());
        // Queried one by one, since other shims that hang keep containerd from listing its tasks.
        let mut lost = Vec::new();
        for shim in shims {
            let Some(id) = task_of(&shim) else { continue };
            if base.runtime.task(Process::init(id)).await.step("look for a task")?.is_none() {
                lost.push(shim);
            }
        }
        Ok(lost)
    }

    /// Kills those of `found` that are also in `before`, with all their descendants; returns the
    /// others.
    async fn kill_again_found(
        &self,
        found: Vec<HostProcess>,
        before: &BTreeSet<(u32, u64)>,
    ) -> BTreeSet<(u32, u64)> {
        let mut young = BTreeSet::new();
        for shim in found {
            let HostProcess { pid, start_time, .. } = shim;
            if !before.contains(&(pid, start_time)) {
                young.insert((pid, start_time));
                continue;
            }
            tracing::warn!(pid, task = task_of(&shim), "killing a shim that containerd has lost");
            if let Err(error) = self.deps.base.host.kill_tree(pid, start_time).await {
                tracing::warn!(pid, error = error_chain(&error), "cannot kill lost shim");
            }
        }
        young
    }
}

/// Id of the task that a shim was started for.
fn task_of(shim: &HostProcess) -> Option<&str> {
    let mut rest = shim.arguments.iter().skip_while(|word| *word != SHIM_ID);
    rest.nth(1).map(String::as_str)
}
