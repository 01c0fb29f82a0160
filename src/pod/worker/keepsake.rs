//! What is kept of a pod beside the store, in its own folder: enough to go on with it when the
//! store is lost.

use super::Worker;
use crate::pod::plan::Job;
use crate::pod::record::Life;
use crate::telemetry::error_chain;

impl Worker {
    /// Keeps what is needed of a pod, when that has changed. One whose folder is being taken away,
    /// or is gone, has nothing to go on with. A disk that takes no writes is asked again at the
    /// next look: the store has the pod still.
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
                    "it is not kept beside the store");
            }
        }
    }
}
