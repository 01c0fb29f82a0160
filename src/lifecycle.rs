//! Owned tasks, the drain signal, and handshakes with strangers.
//!
//! Every task has a name, a span and a place in the set that the drain waits for, and a panic is
//! logged with the task's name. No essential task is lost to a panic: if it examines all state
//! whenever it starts, it is restarted, otherwise the process aborts. Containers are not affected
//! by that, and the service manager restarts the agent.

mod handshakes;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

#[cfg(test)]
pub use handshakes::crowd;
pub use handshakes::{ACCEPT_PAUSE, Handshakes, MAX_HANDSHAKES};

/// The tasks of one agent, drained together. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Aborts the process; replaced in tests.
    fatal: fn(),
}

impl Default for Tasks {
    fn default() -> Self {
        let fatal: fn() = || std::process::abort();
        Self { tracker: TaskTracker::new(), stop: CancellationToken::new(), fatal }
    }
}

/// First delay before work that panicked is restarted.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LONGEST: Duration = Duration::from_secs(30);

/// Pauses between tries to undo what failed.
const UNDO_FIRST: Duration = Duration::from_secs(1);
const UNDO_LONGEST: Duration = Duration::from_secs(60);

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns `work` as a task of this set. It continues if the handle is dropped, and the drain
    /// waits for it. The handle gives `None` if the task panicked (logged) or was aborted.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Owned<T> {
        // Boxed: a future moved through nested async blocks takes memory in each of them.
        let work = Box::pin(work);
        let guarded = unless_panic(name, work).instrument(tracing::info_span!("task", name));
        Owned(self.tracker.spawn(guarded))
    }

    /// Runs `work` until it ends or the drain starts. It must be cancel-safe at every await.
    pub fn spawn_until_drain(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Owned<()> {
        let stop = self.stop.clone();
        let work = Box::pin(work);
        self.spawn(name, async move {
            // Cancel-safe: the contract of this function.
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        })
    }

    /// Like [`Tasks::spawn`], for work that the agent cannot do without: a panic aborts the
    /// process.
    pub fn spawn_essential(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Owned<()> {
        let fatal = self.fatal;
        self.spawn(name, async move {
            if unless_panic(name, work).await.is_none() {
                tracing::error!(task = name, "agent exits: it cannot run without this task");
                fatal();
            }
        })
    }

    /// Like [`Tasks::spawn_until_drain`], for work that examines all state whenever it starts:
    /// after a panic it is restarted.
    pub fn spawn_lasting<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        mut work: impl FnMut() -> F + Send + 'static,
    ) -> Owned<()> {
        self.spawn_until_drain(name, async move {
            let mut pauses = Backoff::new(AGAIN_FIRST, AGAIN_LONGEST);
            while unless_panic(name, work()).await.is_none() {
                tokio::time::sleep(pauses.next()).await;
            }
        })
    }

    /// Completes once the drain has started.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().cancelled_owned()
    }

    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Starts the drain and waits for all tasks, for at most `limit`. Returns whether all ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// Runs work; `None` if it panicked, which is logged. What the work has changed before that stays.
pub async fn unless_panic<T>(name: &'static str, work: impl Future<Output = T>) -> Option<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(value) => Some(value),
        Err(panic) => {
            tracing::error!(task = name, panic = panic_text(&*panic), "task panicked");
            None
        }
    }
}

/// Handle of a task. Dropping it detaches the task, never cancels it.
#[derive(Debug)]
pub struct Owned<T>(JoinHandle<Option<T>>);

impl<T> Owned<T> {
    /// Waits for the value; `None` when the task panicked or was aborted.
    pub async fn join(self) -> Option<T> {
        self.0.await.ok().flatten()
    }

    /// Whether the task has ended.
    pub fn has_ended(&self) -> bool {
        self.0.is_finished()
    }

    /// Stops the task at its next await.
    pub fn abort(&self) {
        self.0.abort();
    }
}

/// Waits for tasks for at most `limit`; slower ones continue in the background. Returns whether all
/// ended.
pub async fn wait_a_while(limit: Duration, tasks: Vec<Owned<()>>) -> bool {
    let all = futures::future::join_all(tasks.into_iter().map(Owned::join));
    tokio::time::timeout(limit, all).await.is_ok()
}

/// Delays that double from a first to a maximum value.
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

    /// The next delay.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.longest);
        now
    }

    /// The pauses between tries to undo what failed.
    pub fn of_undo() -> Self {
        Self::new(UNDO_FIRST, UNDO_LONGEST)
    }

    /// Repeats `work` until it succeeds, pausing between attempts. `work` must log its own errors
    /// and hold no locks across attempts.
    ///
    /// The number of attempts is not limited: run it by [`Tasks::spawn_until_drain`], or under a
    /// time limit.
    pub async fn retry<T, E, F: Future<Output = Result<T, E>>>(
        mut self,
        mut work: impl FnMut() -> F,
    ) -> T {
        loop {
            if let Ok(done) = work().await {
                return done;
            }
            tokio::time::sleep(self.next()).await;
        }
    }

    /// As [`Backoff::retry`], for work that has just failed: the first pause comes before the
    /// first try.
    pub async fn retry_later<T, E, F: Future<Output = Result<T, E>>>(
        mut self,
        work: impl FnMut() -> F,
    ) -> T {
        tokio::time::sleep(self.next()).await;
        self.retry(work).await
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
    use std::sync::atomic::{AtomicBool, Ordering};

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
    async fn lasting_work_is_begun_again_after_a_panic() {
        let tasks = Tasks::new();
        let mut begun = 0;
        let lasting = tasks.spawn_lasting("lasting", move || {
            begun += 1;
            async move { assert!(begun > 3, "boom") }
        });
        assert_eq!(lasting.join().await, Some(()));
        assert!(tasks.drain(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_tried_until_it_succeeds_with_growing_pauses() {
        let pauses = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
        for (later, expected) in [(false, [0, 1, 3, 6]), (true, [1, 3, 6, 9])] {
            let began = tokio::time::Instant::now();
            let mut tried = Vec::new();
            let work = || {
                tried.push(began.elapsed().as_secs());
                std::future::ready(if tried.len() > 3 { Ok(7) } else { Err("not yet") })
            };
            let pauses = pauses.clone();
            let done =
                if later { pauses.retry_later(work).await } else { pauses.retry(work).await };
            assert_eq!((done, tried), (7, expected.to_vec()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_ends_tries_that_never_succeed() {
        let tasks = Tasks::new();
        let work = Backoff::of_undo().retry(|| async { Err::<(), ()>(()) });
        let vain = tasks.spawn_until_drain("vain", work);
        assert!(tasks.drain(Duration::from_secs(1)).await);
        assert_eq!(vain.join().await, Some(()));
    }

    #[tokio::test]
    async fn a_panic_in_essential_work_ends_the_process() {
        static ENDED: AtomicBool = AtomicBool::new(false);
        let fatal: fn() = || ENDED.store(true, Ordering::SeqCst);
        let tasks = Tasks { fatal, ..Tasks::new() };
        tasks.spawn_essential("fine", async {}).join().await;
        assert!(!ENDED.load(Ordering::SeqCst));
        tasks.spawn_essential("bad", async { panic!("boom") }).join().await;
        assert!(ENDED.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_detached_work_but_not_for_ever() {
        let tasks = Tasks::new();
        drop(tasks.spawn("slow", tokio::time::sleep(Duration::from_secs(60))));
        assert!(!tasks.drain(Duration::from_secs(1)).await);
    }
}
