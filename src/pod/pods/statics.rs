//! Static pods, which exist as long as their file lists them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::Pods;
use super::apply::Step;
use super::entrance::Coming;
use crate::pod::face::Error;
use crate::pod::object::{Given, PodKey};
use crate::telemetry::error_chain;

/// Delay before another attempt when a static pod could not be started or ended.
const RETRY: Duration = Duration::from_secs(5);

impl Pods {
    /// Sets the requested static pods. A changed pod has another uid: the old one ends gracefully
    /// and the new one follows. Until the first call those of the previous run continue.
    pub fn set_static(&self, wanted: BTreeMap<PodKey, Given>) {
        *self.statics.lock() = Some(wanted);
        self.gone.notify_one();
    }

    /// The static pods of the previous run.
    pub fn static_pods(&self) -> Vec<Given> {
        let all = self.room.all();
        let lives = all.iter().map(|entry| entry.life()).filter(|life| !life.is_ending());
        let lives = lives.filter(|life| life.given.source.is_static());
        lives.map(|life| life.given.clone()).collect()
    }

    /// Reconciles static pods when the requested ones change, and whenever a pod has gone, because
    /// the same pod may be requested again. What failed is tried again.
    pub(super) fn mind_statics(self: &Arc<Self>) {
        let (pods, gone) = (Arc::downgrade(self), self.gone.clone());
        drop(self.room.deps.tasks.spawn_lasting("static pods", move || {
            let (pods, gone) = (pods.clone(), gone.clone());
            async move {
                let mut done = true;
                loop {
                    turn(&gone, done).await;
                    let Some(pods) = pods.upgrade() else { return };
                    done = pods.adjust_statics().await;
                }
            }
        }));
    }

    /// Starts and ends static pods as requested. Returns whether nothing failed that may succeed
    /// later without a change of the pods.
    async fn adjust_statics(&self) -> bool {
        let _changing = self.changing.lock().await;
        let wanted = self.statics.lock().clone();
        let Some(wanted) = wanted else { return true };
        let mut done = true;
        for entry in self.room.all() {
            let life = entry.life();
            let is_wanted = wanted.get(&entry.key).is_some_and(|given| given.uid() == entry.uid);
            if life.given.source.is_static()
                && !is_wanted
                && life.deletion.is_none()
                && let Err(error) = self.end(&entry, None, false).await
            {
                tracing::warn!(pod = %entry.key, error = error_chain(&error),
                    "cannot terminate static pod yet");
                done = false;
            }
        }
        // A new static pod would fail for ever; it starts with the next boot.
        if self.is_shutting_down() {
            return done;
        }
        for (key, given) in wanted {
            if self.room.has(given.uid()) || self.is_being_removed(given.uid()) {
                continue;
            }
            if let Err(error) = self.begin_static(&key, given).await {
                tracing::warn!(pod = %key, error = error_chain(&error), "cannot start static pod");
                // The end of the pod that has its name is notified.
                done &= matches!(error, Error::AlreadyExists(_));
            }
        }
        done
    }

    async fn begin_static(&self, key: &PodKey, given: Given) -> Result<(), Error> {
        let old = self.room.newest(key);
        if old.as_ref().is_some_and(|old| !old.life().given.source.is_static()) {
            return Err(Error::AlreadyExists(key.clone()));
        }
        let life = self.judged(given, old.as_ref(), &Coming::default());
        let step = Step::Make(Box::new(life), old);
        self.write(std::slice::from_ref(&step), None).await?;
        self.done(step);
        Ok(())
    }
}

/// Waits for a notification, or, unless all is done, until another attempt is due.
async fn turn(gone: &Notify, done: bool) {
    // Cancel-safe: a notification is kept until it is taken.
    tokio::select! {
        () = gone.notified() => {}
        () = tokio::time::sleep(RETRY), if !done => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_tried_again_without_a_notification() {
        let gone = Notify::new();
        let begin = Instant::now();
        turn(&gone, false).await;
        assert_eq!(begin.elapsed(), RETRY);
        timeout(RETRY * 100, turn(&gone, true)).await.expect_err("nothing is left to do");
        gone.notify_one();
        let begin = Instant::now();
        turn(&gone, true).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
