//! Owned tasks and the drain signal.
//!
//! No task is spawned bare: each has a name, a span and a place in the set that the drain waits
//! for, and a panic in it is logged with its name.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The tasks of one agent and their common end. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `work` as a task of this set. It goes on when nobody waits for the handle; the drain
    /// waits for it. `None` from the handle means that it panicked (logged) or was aborted.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Owned<T> {
        let guarded = async move {
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(value) => Some(value),
                Err(panic) => {
                    tracing::error!(task = name, panic = panic_text(&*panic), "task panicked");
                    None
                }
            }
        }
        .instrument(tracing::info_span!("task", name));
        Owned(self.tracker.spawn(guarded))
    }

    /// Runs `work` until it ends or the drain starts. It must be safe to drop at every await.
    pub fn spawn_until_drain(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Owned<()> {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            // Cancel-safe: the contract of this function.
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        })
    }

    /// Ends once the drain has started.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().cancelled_owned()
    }

    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Starts the drain and waits for all tasks, at most `limit`. Returns whether all ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// Handle of an owned task. Dropping it detaches, never cancels.
#[derive(Debug)]
pub struct Owned<T>(JoinHandle<Option<T>>);

impl<T> Owned<T> {
    /// Waits for the value; `None` when the task panicked or was aborted.
    pub async fn join(self) -> Option<T> {
        self.0.await.ok().flatten()
    }

    /// Stops the task at its next await.
    pub fn abort(&self) {
        self.0.abort();
    }
}

/// Pauses that double from a first to a longest one.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Starts with `first`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// The pause to make now.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.longest);
        now
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_only_its_task() {
        let tasks = Tasks::new();
        let bad = tasks.spawn("bad", async { panic!("boom") });
        let good = tasks.spawn("good", async { 7 });
        assert_eq!(bad.join().await, None::<()>);
        assert_eq!(good.join().await, Some(7));
        assert!(tasks.drain(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_detached_work_but_not_for_ever() {
        let tasks = Tasks::new();
        drop(tasks.spawn("slow", tokio::time::sleep(Duration::from_secs(60))));
        assert!(!tasks.drain(Duration::from_secs(1)).await);
    }
}
