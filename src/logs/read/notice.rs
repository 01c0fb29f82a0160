//! Reports writes in a directory.

use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe;

/// Polling interval when inotify has no watches left or the directory does not exist.
const LOOK: Duration = Duration::from_millis(200);

/// Polling interval even when there is a watch.
const LOOK_ANYWAY: Duration = Duration::from_secs(5);

/// Writes within this time are reported together.
const GATHER: Duration = Duration::from_millis(5);

/// A watch on a directory, removed when dropped.
#[derive(Debug)]
pub(super) struct Notice {
    /// The inotify descriptor, read like a pipe; the contents of events are ignored.
    events: Option<pipe::Receiver>,
}

impl Notice {
    /// Watches a directory from now on.
    pub(super) fn new(folder: &Path) -> Self {
        let watch = || {
            let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
            let flags = WatchFlags::MODIFY
                | WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::ONLYDIR
                | WatchFlags::DONT_FOLLOW;
            inotify::add_watch(&events, folder, flags).ok()?;
            pipe::Receiver::from_owned_fd_unchecked(events).ok()
        };
        Self { events: watch() }
    }

    /// Waits for a change, or for the polling interval. Cancel-safe: an unreported change is
    /// reported by the next call.
    pub(super) async fn changed(&mut self) {
        let Some(events) = &self.events else { return tokio::time::sleep(LOOK).await };
        if let Ok(Ok(())) = tokio::time::timeout(LOOK_ANYWAY, events.readable()).await {
            tokio::time::sleep(GATHER).await;
            let mut buffer = [0; 4096];
            while matches!(events.try_read(&mut buffer), Ok(1..)) {}
        }
    }
}
