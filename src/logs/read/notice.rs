//! Tells that something was written in a folder.

use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe;

/// How often to look where the kernel has no more watches to give, or the folder is not there.
const LOOK: Duration = Duration::from_millis(200);

/// How often to look all the same.
const LOOK_ANYWAY: Duration = Duration::from_secs(5);

/// Writes that come close together are told together.
const GATHER: Duration = Duration::from_millis(5);

/// A watch on a folder; it ends with the value.
#[derive(Debug)]
pub(super) struct Notice {
    /// Read like a pipe; what the events are is not looked at.
    events: Option<pipe::Receiver>,
}

impl Notice {
    /// Watches a folder from now on.
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

    /// Waits for a change, or for the time to look again. Cancel-safe: a change that was not
    /// told stays to be told.
    pub(super) async fn changed(&mut self) {
        let Some(events) = &self.events else { return tokio::time::sleep(LOOK).await };
        if let Ok(Ok(())) = tokio::time::timeout(LOOK_ANYWAY, events.readable()).await {
            tokio::time::sleep(GATHER).await;
            let mut buffer = [0; 4096];
            while matches!(events.try_read(&mut buffer), Ok(1..)) {}
        }
    }
}
