//! Ends one container: preStop hook, stop signal, SIGKILL.

use std::time::Duration;

use super::act::{Work, unwound};
use super::outcome::Outcome;
use crate::clock::now;
use crate::ids::ContainerId;
use crate::model::UnixNanos;
use crate::pod::backoff::between;
use crate::pod::hook::Moment;
use crate::pod::view::EventType::{Normal, Warning};

/// Minimum time between stop signal and SIGKILL, even when the grace period is over.
const LEAST: Duration = Duration::from_secs(2);

impl Work {
    pub(super) async fn kill(
        &self,
        name: &str,
        id: &ContainerId,
        deadline: UnixNanos,
        pre_stop: bool,
        why: &str,
    ) -> Outcome {
        self.event(Some(name), Normal, "Killing", why);
        if pre_stop {
            self.pre_stop(name, id, deadline).await;
        }
        let grace = between(now(), deadline).max(LEAST);
        unwound(self.room.deps.sandboxes.stop_container(id.as_str(), grace).await)
    }

    /// Runs the hook within the container's remaining time plus two seconds.
    pub(super) async fn pre_stop(&self, name: &str, id: &ContainerId, deadline: UnixNanos) {
        let budget = between(now(), deadline).max(LEAST);
        let hook = self.hook(name, id, Moment::PreStop);
        // A failed or late hook does not prevent the end; it is reported by an event.
        if tokio::time::timeout(budget, hook).await.is_err() {
            let message = Moment::PreStop.message();
            self.event(Some(name), Warning, "FailedPreStopHook", message);
        }
    }
}
