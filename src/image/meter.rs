//! Notices when bytes stop arriving.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Progress of one pull. Time counts only while a registry is asked for something: unpacking
/// may take as long as it needs.
pub(super) struct Meter(Mutex<State>);

struct State {
    last: Instant,
    open: usize,
}

/// A request in flight.
pub(super) struct Open<'a>(&'a Meter);

impl Meter {
    pub fn new() -> Self {
        Self(Mutex::new(State { last: Instant::now(), open: 0 }))
    }

    /// A request starts; it ends with the guard.
    pub fn open(&self) -> Open<'_> {
        let mut state = self.lock();
        if state.open == 0 {
            state.last = Instant::now();
        }
        state.open += 1;
        Open(self)
    }

    /// Bytes came.
    pub fn moved(&self) {
        self.lock().last = Instant::now();
    }

    /// Ends when requests were open for `limit` without a byte.
    pub async fn stalled(&self, limit: Duration) {
        loop {
            let (left, open) = {
                let state = self.lock();
                (limit.saturating_sub(state.last.elapsed()), state.open > 0)
            };
            match (open, left) {
                (true, Duration::ZERO) => return,
                (true, left) => tokio::time::sleep(left).await,
                (false, _) => tokio::time::sleep(limit / 8).await,
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(80);

    #[tokio::test(start_paused = true)]
    async fn only_open_requests_can_stall() {
        let meter = Meter::new();
        let idle = tokio::time::timeout(LIMIT * 20, meter.stalled(LIMIT)).await;
        assert!(idle.is_err(), "nothing was asked for");
        let _open = meter.open();
        let start = Instant::now();
        let feed = async {
            for _ in 0..10 {
                tokio::time::sleep(LIMIT / 2).await;
                meter.moved();
            }
        };
        tokio::join!(meter.stalled(LIMIT), feed);
        assert_eq!(start.elapsed(), LIMIT * 6, "5 limits with progress, one without");
    }
}
