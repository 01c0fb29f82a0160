//! Limits the number of concurrent calls to the OCI runtime.
//!
//! Pods that start at the same time compete for the CPUs, and all are late together. So only a
//! limited number of process-creating calls run at a time, those of the earliest pod first: then
//! half of the pods are up in half of the time. A call that takes long is waiting for something
//! other than a CPU (a dead disk, a hanging plugin); its slot is passed on, so that it blocks
//! nobody.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::record::Life;
use crate::locks::{Mutex, MutexGuard};

/// After this time a call no longer occupies its slot.
const LENT: Duration = Duration::from_secs(1);

/// Position in the queue: smaller goes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    priority: Reverse<i32>,
    /// Whether it is a restart: a container that keeps crashing must not delay new pods.
    again: bool,
    created: Option<k8s_openapi::jiff::Timestamp>,
    uid: String,
}

impl Place {
    /// The position of a pod's call; `again` for a restart.
    pub(super) fn of(life: &Life, again: bool) -> Self {
        let created = life.given.pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let priority = Reverse(life.given.spec().priority.unwrap_or_default());
        Self { priority, again, created, uid: life.uid.clone() }
    }
}

/// The slots of the node.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Makes positions unique.
    number: u64,
    waiting: BTreeMap<(Place, u64), oneshot::Sender<Turn>>,
}

/// A slot, passed on when dropped.
#[derive(Debug)]
struct Turn(Arc<Turns>);

impl Turns {
    /// Allows this many calls at a time, at least one.
    pub(super) fn new(at_once: usize) -> Arc<Self> {
        let state = State { free: at_once.max(1), number: 0, waiting: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Runs `work` when a slot is free.
    pub(super) async fn take<T>(
        self: &Arc<Self>,
        place: Place,
        work: impl Future<Output = T>,
    ) -> T {
        let turn = self.wait(place).await;
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(LENT) => drop(turn),
        }
        work.await
    }

    async fn wait(self: &Arc<Self>, place: Place) -> Turn {
        let waiter = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Turn(self.clone());
            }
            let (sender, waiter) = oneshot::channel();
            state.number += 1;
            let number = state.number;
            state.waiting.insert((place, number), sender);
            waiter
        };
        // The sender is in the table that this keeps alive, so it is not dropped.
        waiter.await.unwrap_or_else(|_| Turn(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.state();
            let next = state.waiting.pop_first();
            if next.is_none() {
                state.free += 1;
            }
            next
        };
        if let Some((_, next)) = next {
            // If the waiter is gone the slot is dropped at once, and passed to the next one.
            drop(next.send(Turn(self.0.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(priority: i32, again: bool, uid: &str) -> Place {
        Place { priority: Reverse(priority), again, created: None, uid: uid.to_owned() }
    }

    /// Lets all tasks run that can.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_pod_goes_first_and_what_runs_again_last() {
        let turns = Turns::new(1);
        let order = Arc::new(Mutex::new(Vec::new()));
        let (go, gate) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(place(0, false, "0"), async { gate.await.ok() }).await }
        });
        settle().await;
        let mut all = tokio::task::JoinSet::new();
        for (name, place) in [
            ("late", place(0, false, "c")),
            ("again", place(0, true, "a")),
            ("early", place(0, false, "b")),
            ("critical", place(2_000_000_000, false, "z")),
        ] {
            let (turns, order) = (turns.clone(), order.clone());
            all.spawn(async move {
                turns.take(place, async { order.lock().push(name) }).await;
            });
        }
        settle().await;
        assert!(order.lock().is_empty());
        go.send(()).expect("it waits");
        first.await.expect("no panic");
        while let Some(done) = all.join_next().await {
            done.expect("no panic");
        }
        assert_eq!(*order.lock(), ["critical", "early", "late", "again"]);
        assert_eq!(turns.state().free, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_holds_up_nobody_for_long() {
        let turns = Turns::new(2);
        let mut hung = tokio::task::JoinSet::new();
        for uid in ["a", "b"] {
            let turns = turns.clone();
            hung.spawn(async move {
                turns.take(place(0, false, uid), std::future::pending::<()>()).await;
            });
        }
        settle().await;
        let begin = tokio::time::Instant::now();
        turns.take(place(0, false, "c"), async {}).await;
        assert_eq!(begin.elapsed(), LENT);
        assert_eq!(turns.state().free, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_no_more_takes_no_turn() {
        let turns = Turns::new(1);
        let held = turns.wait(place(0, false, "a")).await;
        let gone = tokio::time::timeout(LENT, turns.wait(place(0, false, "b"))).await;
        assert!(gone.is_err());
        let waits = tokio::spawn({
            let turns = turns.clone();
            async move { drop(turns.wait(place(0, false, "c")).await) }
        });
        settle().await;
        drop(held);
        waits.await.expect("no panic");
        let state = turns.state();
        assert_eq!((state.free, state.waiting.len()), (1, 0));
    }
}
