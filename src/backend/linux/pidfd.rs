//! Waits for the end of a process that is not a child.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::{Error, Result};

/// Waits for the end of the process of a pidfd. Cancel-safe.
pub(super) async fn end_of(pid: u32, process: OwnedFd) -> Result<()> {
    let failed = |error| Error::io(format!("wait for process {pid}"), error);
    // SAFETY: it is an open descriptor, owned by the `AsyncFd` from here to its drop; an `OwnedFd`
    // never changes its descriptor.
    let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    let process = process.map_err(|error| failed(std::io::Error::from(error)))?;
    process.readable().await.map(drop).map_err(failed)
}
