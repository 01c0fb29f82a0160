//! News of the manifests folder: names of files that are complete.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// A watch that is made again when its folder is another one. Without one (the kernel has no more
/// to give, or there is no folder) there is no news, and the regular looks have to do.
#[derive(Default)]
pub(super) struct Watch {
    queue: Option<AsyncFd<OwnedFd>>,
    told: bool,
}

impl Watch {
    /// Watches the folder of this path, if it does not yet.
    pub fn keep(&mut self, folder: &Path) {
        // Adding a watch again to the same folder changes nothing, and one that has become
        // another folder is watched from now on.
        let kept = match &self.queue {
            Some(queue) => add(queue.get_ref(), folder),
            None => open(folder).map(|queue| self.queue = Some(queue)),
        };
        match kept {
            Ok(()) => self.told = false,
            Err(error) => {
                self.queue = None;
                if !std::mem::replace(&mut self.told, true) {
                    let folder = folder.display();
                    tracing::warn!(%folder, %error, "the manifests folder cannot be watched");
                }
            }
        }
    }

    /// Adds the news of some time to what has come already.
    pub async fn gather(&mut self, time: Duration, names: &mut BTreeSet<String>) {
        let end = Instant::now() + time;
        while let Ok(more) = tokio::time::timeout_at(end, self.changed()).await {
            names.extend(more);
        }
    }

    /// Waits for news; answers the names of files that were written to their end or moved in.
    pub async fn changed(&mut self) -> BTreeSet<String> {
        let Some(queue) = &self.queue else { return std::future::pending().await };
        loop {
            // Cancel-safe: nothing is read before the guard is there.
            let Ok(mut guard) = queue.readable().await else {
                return std::future::pending().await;
            };
            let (names, any) = drain(queue.get_ref());
            guard.clear_ready();
            if any {
                return names;
            }
        }
    }
}

fn open(folder: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    add(&queue, folder)?;
    // SAFETY: the queue is an open descriptor that the `AsyncFd` owns from here to its drop; an
    // `OwnedFd` never becomes another one.
    Ok(unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?)
}

/// A file that is only created or changed is not complete: its end is closed or moved.
fn add(queue: &OwnedFd, folder: &Path) -> std::io::Result<()> {
    let news = WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(queue, folder, news)?;
    Ok(())
}

/// Everything that is there: names of complete files, and whether there was anything.
fn drain(queue: &OwnedFd) -> (BTreeSet<String>, bool) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(queue, &mut buffer);
    let (mut names, mut any) = (BTreeSet::new(), false);
    loop {
        match reader.next() {
            Ok(event) => {
                any = true;
                let complete = ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO;
                let name = event.file_name().and_then(|name| name.to_str().ok());
                if let Some(name) = name.filter(|_| event.events().intersects(complete)) {
                    names.insert(name.to_owned());
                }
            }
            Err(Errno::INTR) => {}
            Err(_) => return (names, any),
        }
    }
}
