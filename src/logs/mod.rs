//! Container logs: copies the output of processes from FIFOs to CRI log files, and reads such
//! files ([`read`]).
//!
//! ```text
//!   stdout FIFO --> split into lines --+                      +--> log file (one writer)
//!                                      +--> one batch, one -->|
//!   stderr FIFO --> split into lines --+    write per read    +--> taps (attached clients)
//! ```
//!
//! One dedicated OS thread copies all logs, so that a hanging log disk stalls only log writing, and
//! all logs share one read and one write buffer. A container is never blocked by its log: while the
//! file cannot be written, output is counted and dropped, and a line reports the loss once the file
//! can be written again.
//!
//! A batch of records is one write. As with any write, a concurrent reader may see it page by page:
//! a line is complete when its line feed is there.
//!
//! This is a library: it knows file descriptors, paths and bytes, and nothing about the agent.

mod fifo;
mod file;
mod format;
mod pump;
pub mod read;
mod sink;
mod tap;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::locks::Mutex;

pub use fifo::{open_fifo_guard, open_fifo_reader};
pub use format::Stream;
pub use tap::Tap;

/// How many new logs may wait for the thread; if there are more, the thread hangs.
const QUEUE: usize = 1024;

/// How long [`Pumps::stop`] waits for a thread that may hang in disk I/O.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A log to copy.
#[derive(Debug)]
pub struct PumpSpec {
    /// The log file, absolute and without `..`; `None` discards the output (taps still receive it).
    pub path: Option<PathBuf>,
    /// Read end of the stdout FIFO, non-blocking.
    pub stdout: Option<OwnedFd>,
    /// Read end of the stderr FIFO, non-blocking; `None` with a terminal.
    pub stderr: Option<OwnedFd>,
    /// Maximum payload of a record, in bytes; kubelets expect 16384.
    pub max_line: usize,
}

/// The thread that copies all logs. Dropping it ends the thread as [`Pumps::stop`] does, but
/// without waiting.
#[derive(Debug)]
pub struct Pumps {
    /// `None` once the thread was told to end.
    new: Mutex<Option<mpsc::Sender<pump::Copier>>>,
    /// In a mutex only to make the owner `Sync`.
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Pumps {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (new, queue) = mpsc::channel(QUEUE);
        let (end, ended) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("logs".to_owned()).stack_size(256 * 1024).spawn(
            move || {
                let serve = || tokio::task::LocalSet::new().block_on(&runtime, pump::serve(queue));
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve)).is_err() {
                    pump::give_up();
                }
                // This fails only when the owner was dropped.
                let _ = end.try_send(());
            },
        )?;
        Ok(Self { new: Mutex::new(Some(new)), ended: Mutex::new(ended) })
    }

    /// Starts to copy. The thread opens the file, not this call; see [`Pump::opened`]. While it
    /// cannot be opened, the output is still drained and opening is retried.
    ///
    /// # Errors
    /// `WouldBlock` when the thread hangs and too many logs wait for it.
    pub fn pump(&self, spec: PumpSpec) -> io::Result<Pump> {
        let (copier, pump) = pump::Copier::new(spec);
        let new = self.new.lock().clone().ok_or_else(ended)?;
        new.try_send(copier).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                io::Error::new(io::ErrorKind::WouldBlock, "the log thread does not take up work")
            }
            mpsc::error::TrySendError::Closed(_) => ended(),
        })?;
        Ok(pump)
    }

    /// Ends all copying and the thread. Output that was read is written, an unfinished line as a
    /// partial record; unread output stays in the FIFOs for the next reader. Blocks for at most two
    /// seconds if the disk hangs.
    pub fn stop(self) {
        self.shutdown(STOP_LIMIT);
    }

    /// Like [`Pumps::stop`], when others still share this value. Returns whether all was written
    /// within `limit`.
    pub fn shutdown(&self, limit: Duration) -> bool {
        drop(self.new.lock().take());
        // A time-out means a hung disk: the thread is left behind, its files close with it. An end
        // that another call has seen is one, too.
        let ended = self.ended.lock().recv_timeout(limit);
        ended != Err(std::sync::mpsc::RecvTimeoutError::Timeout)
    }
}

/// A log that is being copied. Clones refer to the same log; copying continues without any handle.
#[derive(Debug, Clone)]
pub struct Pump {
    shared: Arc<tap::Shared>,
    reopen: mpsc::Sender<pump::Reopen>,
    give_up: Arc<watch::Sender<bool>>,
    progress: watch::Receiver<pump::Progress>,
}

impl Pump {
    /// Waits for the first attempt to open the log file and returns its result.
    ///
    /// # Errors
    /// Why the file could not be opened. Copying has begun nevertheless.
    pub async fn opened(&self) -> io::Result<()> {
        let mut progress = self.progress.clone();
        let seen = progress.wait_for(|now| now.opened.is_some()).await.map_err(|_| ended())?;
        match &seen.opened {
            Some(Err((kind, text))) => Err(io::Error::new(*kind, text.clone())),
            _ => Ok(()),
        }
    }

    /// Reopens the log path (after its file was renamed) and continues there. On return all output
    /// read before is in the old file, which is closed, and all later output goes to the new one.
    /// Does nothing for a log without a path.
    ///
    /// # Errors
    /// Why the path could not be opened; the old file then stays in use. `NotConnected` when the
    /// log has ended.
    pub async fn reopen(&self) -> io::Result<()> {
        let (answer, result) = oneshot::channel();
        self.reopen.send(answer).await.map_err(|_| ended())?;
        result.await.map_err(|_| ended())?
    }

    /// Waits until both streams have ended and all output is written, or until the log is stopped.
    pub async fn finished(&self) {
        // An error means that the copier is gone, which is an end too.
        let _ = self.progress.clone().wait_for(|now| now.finished).await;
    }

    /// Stops without waiting for the end of the streams: writes what the FIFOs hold now, then ends.
    pub fn stop(&self) {
        self.give_up.send_replace(true);
    }

    /// Raw output from now on, for an attached client. A client that reads too slowly is
    /// disconnected; the log does not wait for it.
    pub fn tap(&self) -> Tap {
        self.shared.tap()
    }

    /// How many bytes of output were lost because the file could not be written; each line end
    /// counts as one byte.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the log has ended")
}

#[cfg(test)]
mod tests;
