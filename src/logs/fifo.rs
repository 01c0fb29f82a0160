//! Opening FIFOs without blocking and without an early end-of-file.
//!
//! A FIFO that is read before a writer has opened it looks like one that has ended. So the order
//! is: open the reader, open the guard, let the other side open its write end, drop the guard.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

/// Opens the read end of a FIFO, non-blocking. Does not wait for a writer.
///
/// # Errors
/// The path does not exist, is a symbolic link, or is not a FIFO.
pub fn open_fifo_reader(path: &Path) -> io::Result<OwnedFd> {
    open_fifo(path, OFlags::RDONLY)
}

/// Opens a write end that only prevents end-of-file until the real writer has opened its own. The
/// read end must be open already.
///
/// # Errors
/// As [`open_fifo_reader`]; `ENXIO` when there is no reader.
pub fn open_fifo_guard(path: &Path) -> io::Result<OwnedFd> {
    open_fifo(path, OFlags::WRONLY)
}

fn open_fifo(path: &Path, access: OFlags) -> io::Result<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::Fifo {
        let problem = format!("{} is not a FIFO", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    Ok(fd)
}
