//! Notifications of completely written files in the manifests directory.

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

/// An inotify watch, renewed when its directory is replaced. Without a watch (the kernel has none
/// left, or there is no directory) there are no notifications, and the regular looks must suffice.
#[derive(Default)]
pub(super) struct Watch {
    queue: Option<AsyncFd<OwnedFd>>,
    told: bool,
}

impl Watch {
    /// Watches the directory at this path, unless it does already.
    pub fn keep(&mut self, folder: &Path) {
        // Adding a watch for the same directory again has no effect; if the path is another
        // directory by now, that is watched from now on.
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
                    tracing::warn!(%folder, %error, "cannot watch the manifests folder");
                }
            }
        }
    }

    /// Gathers further notifications for some time.
    pub async fn gather(&mut self, time: Duration, names: &mut BTreeSet<String>) {
        let end = Instant::now() + time;
        while let Ok(more) = tokio::time::timeout_at(end, self.changed()).await {
            names.extend(more);
        }
    }

    /// Waits for notifications; returns the names of files that were closed after writing or moved
    /// in.
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
    // SAFETY: the queue is an open descriptor, owned by the `AsyncFd` from here to its drop; an
    // `OwnedFd` never changes its descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?)
}

/// Only close and move events count: a created or modified file may be incomplete.
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

/// Reads everything queued: names of complete files, and whether there was anything.
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
