//! Work that may block: on the blocking pool, in turns, with a time limit on a caller's path.

use std::path::Path;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::super::{Error, ErrorKind, Result};
use crate::locks::KeyedLocks;

/// Time limit for operations on a caller's path (a mount source, a device), which may be on a dead
/// network file system.
const FOREIGN_PATH_LIMIT: Duration = Duration::from_secs(10);

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

/// The same for a caller's path, with a time limit on waiting for it.
pub(super) async fn foreign<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::time::timeout(FOREIGN_PATH_LIMIT, blocking(work)).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            ErrorKind::DeadlineExceeded,
            format!("{} did not respond within {FOREIGN_PATH_LIMIT:?}", path.display()),
        )),
    }
}

/// The same for work that takes long on a large tree: only a first look at the path, which a dead
/// file system does not answer either, has the time limit. Work on the same path waits for it.
pub(super) async fn foreign_tree<T: Send + 'static>(
    path: &Path,
    busy: &KeyedLocks,
    look: impl FnOnce() -> Result<()> + Send + 'static,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    foreign(path, look).await?;
    let alone = busy.lock(&path.to_string_lossy()).await;
    // Held until the work is done, also when the caller is gone.
    let work = move || {
        let _alone = alone;
        work()
    };
    blocking(work).await
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_first_look_at_a_tree_has_a_time_limit() {
        let busy = KeyedLocks::default();
        let (begin, mut begun) = tokio::sync::mpsc::channel(1);
        let (end, ended) = mpsc::channel::<()>();
        let work = move || {
            begin.blocking_send(()).unwrap();
            Ok(ended.recv().is_ok())
        };
        let walk = foreign_tree(Path::new("/volume"), &busy, || Ok(()), work);
        let time = async {
            begun.recv().await.unwrap();
            tokio::time::advance(FOREIGN_PATH_LIMIT * 10).await;
            tokio::task::yield_now().await;
            assert!(busy.lock("/volume").now_or_never().is_none(), "others wait");
            end.send(()).unwrap();
        };
        let (walked, ()) = tokio::join!(walk, time);
        assert!(walked.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_file_system_is_not_waited_for() {
        let (hang, hung) = mpsc::channel::<()>();
        let look = move || {
            let _ = hung.recv();
            Ok(())
        };
        let busy = KeyedLocks::default();
        let walk = foreign_tree(Path::new("/dead"), &busy, look, || Ok(()));
        let time = async {
            for _ in 0..20 {
                tokio::time::advance(FOREIGN_PATH_LIMIT / 10).await;
                tokio::task::yield_now().await;
            }
            drop(hang);
        };
        let (walked, ()) = tokio::join!(walk, time);
        assert_eq!(walked.unwrap_err().kind, ErrorKind::DeadlineExceeded);
    }
}
