//! Turns at the OCI runtime.
//!
//! Pods that start at once take the processors from each other, and all are late together. So many
//! calls that make processes go on at a time, and those of the pod that came first go first: half
//! of the pods are up in half of the time. A call that takes long waits for something else than a
//! processor (a dead disk, a plugin that hangs): its turn passes on, so that it holds up nobody.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::record::Life;
use crate::locks::{Mutex, MutexGuard};

/// After this time a call keeps nobody waiting any more.
const LENT: Duration = Duration::from_secs(1);

/// Who goes before whom: the smaller one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    priority: Reverse<i32>,
    /// A container that crashes again and again holds up no pod that comes up.
    again: bool,
    created: Option<k8s_openapi::jiff::Timestamp>,
    uid: String,
}

impl Place {
    /// Of a pod; `again` for one that has run before.
    pub(super) fn of(life: &Life, again: bool) -> Self {
        let created = life.given.pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let priority = Reverse(life.given.spec().priority.unwrap_or_default());
        Self { priority, again, created, uid: life.uid.clone() }
    }
}

/// All turns of the node.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Tells those of one place apart.
    number: u64,
    waiting: BTreeMap<(Place, u64), oneshot::Sender<Turn>>,
}

/// A turn; the next one's when it is dropped.
#[derive(Debug)]
struct Turn(Arc<Turns>);

impl Turns {
    /// So many at a time, at least one.
    pub(super) fn new(at_once: usize) -> Arc<Self> {
        let state = State { free: at_once.max(1), number: 0, waiting: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Does it when it is its turn.
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
        // The sender is dropped by nobody: it waits in the table that this holds.
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
            // Who does not wait any more drops it at once, and it is the next one's.
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

    /// Lets all go on that can.
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
