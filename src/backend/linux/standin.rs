//! A temporary network namespace that replaces a lost one.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};

use super::super::{Error, ErrorKind, Result};
use super::links;

/// Any index except loopback's.
const INDEX: u32 = 2;

/// A namespace with one interface that has given addresses. It is not pinned and ends when this
/// value is dropped, or with the process.
#[derive(Debug)]
pub(in crate::backend) struct StandIn {
    path: PathBuf,
    /// Dropping it ends the thread that keeps the namespace alive.
    _end: mpsc::Sender<()>,
}

impl StandIn {
    /// Makes one.
    pub(in crate::backend) fn new(interface: &str, addresses: &[IpAddr]) -> Result<Self> {
        let (answer, made) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let (interface, addresses) = (interface.to_owned(), addresses.to_vec());
        let work = move || {
            let sent = answer.send(make(&interface, &addresses));
            // Nothing is ever sent: this returns when the other end is dropped.
            if sent.is_ok() {
                let _ = ended.recv();
            }
        };
        let tried = "make a stand-in network namespace";
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(work)
            .map_err(|error| Error::io(tried, error))?;
        let made =
            made.recv().map_err(|error| Error::new(ErrorKind::Other, tried).because(error))?;
        Ok(Self { path: made.map_err(|error| Error::io(tried, error))?, _end: end })
    }

    /// A path of the namespace.
    pub(in crate::backend) fn path(&self) -> &Path {
        &self.path
    }
}

fn make(interface: &str, addresses: &[IpAddr]) -> io::Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    links::add_bridge(interface, INDEX, addresses)?;
    let (process, thread) = (std::process::id(), nix::unistd::gettid());
    Ok(format!("/proc/{process}/task/{thread}/ns/net").into())
}
