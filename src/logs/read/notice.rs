//! Reports writes in the directories of logs.
//!
//! All followers share one inotify instance, because a user may have only 128 on the whole node. A
//! thread reads it, so that a follower whose client is slow delays no other. Both exist only while
//! there are followers.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use tokio::sync::watch;

use super::blocking;
use crate::locks::Mutex;

/// Polling interval when inotify has no instance or watches left, or the directory does not exist.
const LOOK: Duration = Duration::from_millis(200);

/// Polling interval even when there is a watch.
pub(super) const LOOK_ANYWAY: Duration = Duration::from_secs(5);

/// After a write, further ones within this time are reported together.
const GATHER: Duration = Duration::from_millis(5);

/// Stack of the thread, in bytes.
const STACK: usize = 128 << 10;

/// What is reported of a directory.
const NEWS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ONLYDIR);

/// The watched directories; `None` when there are none. It is one for the process, as the limit of
/// the kernel is.
static WATCHED: Mutex<Option<Watched>> = Mutex::new(None);

#[derive(Debug)]
struct Watched {
    /// The inotify instance.
    queue: Arc<OwnedFd>,
    /// By watch descriptor, of which a directory has only one.
    folders: HashMap<i32, watch::Sender<()>>,
}

/// A watch on a directory, removed when dropped.
#[derive(Debug)]
pub(super) struct Notice {
    share: Option<Share>,
}

impl Notice {
    /// Watches a directory from now on.
    pub(super) async fn new(folder: PathBuf) -> Self {
        Self { share: blocking(move || Share::new(&folder)).await.ok() }
    }

    /// Waits for a change, or for the polling interval. Cancel-safe: an unreported change is
    /// reported by the next call.
    pub(super) async fn changed(&mut self) {
        let Some(share) = &mut self.share else { return tokio::time::sleep(LOOK).await };
        let changed = tokio::time::timeout(LOOK_ANYWAY, share.changes.changed()).await;
        if let Ok(Err(_)) = changed {
            // The directory was removed.
            self.share = None;
        }
    }
}

/// A follower's share of the watch on a directory.
#[derive(Debug)]
struct Share {
    watch: i32,
    changes: watch::Receiver<()>,
}

impl Share {
    fn new(folder: &Path) -> io::Result<Self> {
        // The path is looked up before the lock is taken: a disk may hang.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, folder, flags, Mode::empty())?;
        let folder = format!("/proc/self/fd/{}", folder.as_raw_fd());
        let mut watched = WATCHED.lock();
        let queue = match &*watched {
            Some(watched) => Arc::clone(&watched.queue),
            None => Arc::new(inotify::init(CreateFlags::CLOEXEC)?),
        };
        let watch = inotify::add_watch(&queue, folder, NEWS)?;
        if watched.is_none() {
            start(Arc::clone(&queue))?;
        }
        let watched = watched.get_or_insert_with(|| Watched { queue, folders: HashMap::new() });
        let changes = watched.folders.entry(watch).or_default().subscribe();
        Ok(Self { watch, changes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut watched = WATCHED.lock();
        // Otherwise the watch has ended with its directory.
        if self.changes.has_changed().is_ok()
            && let Some(Watched { queue, folders }) = &mut *watched
            && folders.get(&self.watch).is_some_and(|changes| changes.receiver_count() == 1)
        {
            folders.remove(&self.watch);
            // The kernel reports it to the thread, which ends if this was the last.
            let _ = inotify::remove_watch(&*queue, self.watch);
        }
    }
}

/// Starts the thread that reads the inotify instance.
fn start(queue: Arc<OwnedFd>) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("log-followers".to_owned()).stack_size(STACK);
    thread.spawn(move || report(&queue)).map(drop)
}

/// Reports changes until nothing is watched any more.
fn report(queue: &OwnedFd) {
    let mut buffer = [const { MaybeUninit::uninit() }; 16 << 10];
    let mut reader = Reader::new(queue, &mut buffer);
    loop {
        let read = reader.next().map(|event| (event.wd(), event.events()));
        if read == Err(Errno::INTR) {
            continue;
        }
        let mut watched = WATCHED.lock();
        match (&mut *watched, read) {
            (Some(watched), Ok((watch, event))) => watched.pass_on(watch, event),
            (_, read) => {
                tracing::warn!(?read, "cannot read from inotify: log followers poll");
                *watched = None;
            }
        }
        if watched.as_ref().is_none_or(|watched| watched.folders.is_empty()) {
            *watched = None;
            return;
        }
        drop(watched);
        if reader.is_buffer_empty() {
            std::thread::sleep(GATHER);
        }
    }
}

impl Watched {
    fn pass_on(&mut self, watch: i32, event: ReadFlags) {
        if event.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.folders.values().for_each(|changes| changes.send_replace(()));
        } else if event.contains(ReadFlags::IGNORED) {
            // The directory was removed, or nobody follows it any more.
            self.folders.remove(&watch);
        } else if let Some(changes) = self.folders.get(&watch) {
            changes.send_replace(());
        }
    }
}
