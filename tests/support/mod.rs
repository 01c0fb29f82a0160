//! The test kit: a private world for each test, with a real agent in it.
//!
//! [`TestEnv`] is the world (containerd, CNI configuration, bridge, subnet, folders), [`TestAgent`]
//! the real binary in it, [`Census`] what is there, to be compared before and after. Nothing of a
//! test is shared with another test or with the machine's own containerd.

// Each test target uses its own part of the kit.
#![allow(dead_code)]

pub mod agent;
pub mod builders;
pub mod census;
pub mod containerd;
pub mod env;
pub mod firewall;
pub mod images;
pub mod process;
pub mod registry;

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
