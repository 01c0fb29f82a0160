//! Work on a caller's path (a mount source, a device), which may be on a dead network file system:
//! there a system call may never return, and nothing can end the thread that made it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::turns::blocking;
use super::{Error, ErrorKind, Result};
use crate::locks::{KeyedLocks, Mutex};

/// Time limit for such work.
const LIMIT: Duration = Duration::from_secs(10);

/// Maximum number of threads that may wait for one path.
const THREADS: usize = 2;

/// What is under way, by path.
static UNDER_WAY: Mutex<Option<HashMap<PathBuf, Waiting>>> = Mutex::new(None);

/// The threads that work on a path.
struct Waiting {
    threads: usize,
    since: Instant,
}

/// One thread that works on a path, until dropped.
struct Thread(Arc<Path>);

/// Runs blocking work on a caller's path. If it does not return in time, the caller gets an error
/// and the thread is left behind; while two are left behind, further work on that path is refused
/// at once, so that retries do not collect threads.
///
/// # Errors
/// `DeadlineExceeded`, and those of the work.
pub(super) async fn foreign<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    within(LIMIT, path, work).await
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

async fn within<T: Send + 'static>(
    limit: Duration,
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let thread = Thread::enter(path, limit)?;
    let work = move || {
        let _thread = thread;
        work()
    };
    match tokio::time::timeout(limit, blocking(work)).await {
        Ok(result) => result,
        Err(_) => Err(silent(path, limit)),
    }
}

fn silent(path: &Path, time: Duration) -> Error {
    let message = format!("{} did not respond within {time:.0?}", path.display());
    Error::new(ErrorKind::DeadlineExceeded, message)
}

impl Thread {
    /// Counts a thread, unless too many have waited for longer than the limit.
    fn enter(path: &Path, limit: Duration) -> Result<Self> {
        let mut under_way = UNDER_WAY.lock();
        let start = || Waiting { threads: 0, since: Instant::now() };
        let waiting =
            under_way.get_or_insert_default().entry(path.to_owned()).or_insert_with(start);
        let waited = waiting.since.elapsed();
        if waiting.threads >= THREADS && waited > limit {
            return Err(silent(path, waited));
        }
        waiting.threads += 1;
        Ok(Self(path.into()))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let mut under_way = UNDER_WAY.lock();
        let entry = under_way.get_or_insert_default().entry(self.0.to_path_buf());
        if let Entry::Occupied(mut entry) = entry {
            // What has returned shows that the path responds again.
            entry.get_mut().since = Instant::now();
            entry.get_mut().threads -= 1;
            if entry.get().threads == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_dead_path_collects_two_threads_and_no_more() {
        let path = Path::new("/dead/volume");
        let mut locks = Vec::new();
        for _ in 0..THREADS {
            let (lock, gate) = mpsc::channel::<()>();
            locks.push(lock);
            let hangs = move || {
                gate.recv().ok();
                Ok(())
            };
            let error = within(SHORT, path, hangs).await.expect_err("it hangs");
            assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
        }
        let refused = within(SHORT, path, || -> Result<()> { panic!("not run") }).await;
        let error = refused.expect_err("two wait already");
        assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
        assert!(error.to_string().contains("/dead/volume"), "{error}");
        within(LIMIT, Path::new("/other"), || Ok(())).await.expect("another path");

        // It responds again.
        drop(locks);
        let answers = async || {
            while within(SHORT, path, || Ok(())).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), answers()).await.expect("it responds again");
    }

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
            tokio::time::advance(LIMIT * 10).await;
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
                tokio::time::advance(LIMIT / 10).await;
                tokio::task::yield_now().await;
            }
            drop(hang);
        };
        let (walked, ()) = tokio::join!(walk, time);
        assert_eq!(walked.unwrap_err().kind, ErrorKind::DeadlineExceeded);
    }
}
