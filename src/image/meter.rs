//! Detects when bytes stop arriving, or arrive too slowly.

use std::time::Duration;

use tokio::time::Instant;

use crate::locks::{Mutex, MutexGuard};

/// Progress of one pull. Time counts only while a registry is asked for something: unpacking
/// may take as long as it needs.
pub(super) struct Meter(Mutex<State>);

struct State {
    /// Time of the last progress.
    last: Instant,
    /// Bytes since then.
    since: u64,
    open: usize,
}

/// Fewer bytes than this within the no-progress limit do not count as progress: a server that sends
/// one byte per second would keep a pull alive for ever.
const LEAST: u64 = 64 << 10;

impl State {
    fn progress(&mut self) {
        (self.last, self.since) = (Instant::now(), 0);
    }
}

/// A request in flight.
pub(super) struct Open<'a>(&'a Meter);

impl Meter {
    pub fn new() -> Self {
        Self(Mutex::new(State { last: Instant::now(), since: 0, open: 0 }))
    }

    /// Notes the start of a request, which ends when the guard is dropped.
    pub fn open(&self) -> Open<'_> {
        let mut state = self.lock();
        if state.open == 0 {
            state.progress();
        }
        state.open += 1;
        Open(self)
    }

    /// Notes received bytes. They count as progress once there are [`LEAST`] of them.
    pub fn moved(&self, bytes: usize) {
        let mut state = self.lock();
        state.since = state.since.saturating_add(bytes as u64);
        if state.since >= LEAST {
            state.progress();
        }
    }

    /// Notes that something is complete, which is progress regardless of its size.
    pub fn finished(&self) {
        self.lock().progress();
    }

    /// Completes when requests were open for `limit` without progress.
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
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
                meter.moved(LEAST as usize);
            }
        };
        tokio::join!(meter.stalled(LIMIT), feed);
        assert_eq!(start.elapsed(), LIMIT * 6, "5 limits with progress, one without");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_no_progress() {
        let meter = Meter::new();
        let _open = meter.open();
        let start = Instant::now();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                meter.moved(1);
            }
        };
        // Cancel-safe: the branch that finishes first ends the other.
        tokio::select! {
            () = meter.stalled(LIMIT) => {}
            () = trickle => {}
        }
        assert_eq!(start.elapsed(), LIMIT);
        // A slow but steady connection is tolerated, and so are small downloads.
        for slow in [true, false] {
            let start = Instant::now();
            meter.finished();
            let feed = async {
                for _ in 0..20 {
                    tokio::time::sleep(LIMIT / 4).await;
                    if slow { meter.moved(LEAST as usize / 3) } else { meter.finished() }
                }
            };
            tokio::join!(meter.stalled(LIMIT), feed);
            assert!(start.elapsed() >= LIMIT * 5, "{slow}: {:?}", start.elapsed());
        }
    }
}
