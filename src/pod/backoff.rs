//! Delays between restarts, the same as the kubelet's. Pure.
//!
//! The first restart is immediate. Each restart sets the delay after the next exit: 10 s, then
//! doubling up to 300 s, counted from the exit. For a container that ran for 600 s since its last
//! restart the delays start over.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::UnixNanos;

/// Configuration of the delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Delay after the first restart; doubles with each one.
    pub first: Duration,
    /// Maximum delay.
    pub longest: Duration,
    /// Time without failure since the last restart after which the delays start over.
    pub reset: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            longest: Duration::from_secs(300),
            reset: Duration::from_secs(600),
        }
    }
}

/// State of the delays for a container, or for the pulls of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Delay after the next failure.
    pub pause: Duration,
    /// Time of the last attempt.
    pub updated: UnixNanos,
}

impl Backoff {
    /// After one more try at `now`, made because of a failure at `failed`: quiet is what was
    /// between the try before and that failure, not the pause that followed it.
    pub fn next(before: Option<Self>, failed: UnixNanos, now: UnixNanos, policy: &Policy) -> Self {
        let fresh = before.filter(|before| !before.is_over(failed, policy));
        let pause = fresh.map_or(policy.first, |before| (before.pause * 2).min(policy.longest));
        Self { pause: pause.min(policy.longest), updated: now }
    }

    /// The time until which a failure at `failed` has to wait; `None` if it need not wait.
    pub fn until(&self, failed: UnixNanos, policy: &Policy) -> Option<UnixNanos> {
        (!self.is_over(failed, policy)).then(|| later(failed, self.pause))
    }

    fn is_over(&self, at: UnixNanos, policy: &Policy) -> bool {
        at > later(self.updated, policy.reset)
    }
}

/// The time `pause` after `at`.
pub fn later(at: UnixNanos, pause: Duration) -> UnixNanos {
    at.saturating_add(i64::try_from(pause.as_nanos()).unwrap_or(i64::MAX))
}

/// The duration between two times; zero when the second is not later.
pub fn between(from: UnixNanos, to: UnixNanos) -> Duration {
    Duration::from_nanos(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let policy = Policy::default();
        let (mut state, mut now, mut pauses) = (None, 0, Vec::new());
        for _ in 0..8 {
            let next = Backoff::next(state, now, now, &policy);
            pauses.push(next.pause.as_secs());
            now = next.until(now + SECOND, &policy).expect("a pause");
            state = Some(next);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_begin_anew() {
        let policy = Policy::default();
        let state = Backoff { pause: Duration::from_secs(300), updated: 0 };
        assert_eq!(state.until(600 * SECOND, &policy), Some(900 * SECOND));
        assert_eq!(state.until(600 * SECOND + 1, &policy), None);
        let next = Backoff::next(Some(state), 601 * SECOND, 601 * SECOND, &policy);
        assert_eq!(next.pause, policy.first);
        let next = Backoff::next(Some(state), 590 * SECOND, 890 * SECOND, &policy);
        assert_eq!(next.pause, policy.longest, "it waited, and was not quiet");
    }

    proptest! {
        #[test]
        fn a_pause_never_shrinks_without_quiet(waits in prop::collection::vec(0_i64..200, 1..30)) {
            let policy = Policy::default();
            let (mut state, mut now) = (None, 0_i64);
            let mut before = Duration::ZERO;
            for wait in waits {
                now += wait * SECOND;
                let next = Backoff::next(state, now, now, &policy);
                prop_assert!(next.pause >= before && next.pause <= policy.longest);
                before = next.pause;
                state = Some(next);
            }
        }
    }
}
