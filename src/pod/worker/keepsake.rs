//! Keeps a copy of a pod's record in its directory, for the case that the store is lost.

use super::Worker;
use crate::pod::plan::Job;
use crate::pod::record::Life;
use crate::telemetry::error_chain;

impl Worker {
    /// Stores the copy if the relevant part of the record changed. Not while the pod's directory is
    /// being removed. On failure it is tried again at the next look, because the store still has
    /// the pod.
    pub(super) async fn keep(&mut self, life: &Life) {
        if life.settled {
            self.kept = None;
            return;
        }
        if self.busy.contains_key(&Job::Finish) || self.busy.contains_key(&Job::Settle) {
            return;
        }
        let keepsake = life.keepsake();
        let volumes = &self.room.deps.volumes;
        if self.kept.is_none() {
            self.kept = volumes.kept_pod(&keepsake.uid).await.ok().flatten();
        }
        if self.kept.as_ref() == Some(&keepsake) {
            return;
        }
        match volumes.keep_pod(&keepsake).await {
            Ok(()) => self.kept = Some(keepsake),
            Err(error) => {
                tracing::warn!(pod = %self.pod.key, error = error_chain(&error),
                    "cannot store copy of pod in its folder");
            }
        }
    }
}
