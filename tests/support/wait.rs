//! Waiting for a predicate with a deadline, instead of sleeping.

use std::time::{Duration, Instant};

/// How often predicates are asked.
const POLL: Duration = Duration::from_millis(25);

/// Waits until `predicate` holds; panics with `what` when it does not within `limit`.
pub async fn wait_until(limit: Duration, what: &str, mut predicate: impl AsyncFnMut() -> bool) {
    let held = eventually(limit, async || predicate().await.then_some(())).await;
    assert!(held.is_some(), "not within {limit:?}: {what}");
}

/// Asks until an answer comes; `None` when none came within `limit`. It asks at least once.
pub async fn eventually<T>(limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(POLL).await;
    }
}
