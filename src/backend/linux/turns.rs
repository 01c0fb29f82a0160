//! Work that may block: on the blocking pool, in turns.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::super::{Error, ErrorKind, Result};

/// Turns for host work: with more at a time, threads only take memory and wait for each other.
static TURNS: Semaphore = Semaphore::const_new(16);

/// How long work waits for a turn before it goes without one.
const TURN_LIMIT: Duration = Duration::from_millis(50);

/// Runs blocking work on the blocking pool. It is completed even if the caller is gone.
///
/// The pool starts a thread for each piece of work that finds none idle, so in a burst most work
/// waits for a turn. Work that hangs delays other work only by [`TURN_LIMIT`].
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let turn = tokio::time::timeout(TURN_LIMIT, TURNS.acquire()).await.ok().and_then(|t| t.ok());
    let work = move || {
        let _turn = turn;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::new(ErrorKind::Other, "run host work").because(panic)),
    }
}
