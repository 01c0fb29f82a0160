//! File descriptors that the agent inherited at its start.
//!
//! Descriptors opened by the agent are close-on-exec; inherited ones may not be, and would leak
//! into every plugin.

#![allow(unsafe_code)]

use std::io;

use nix::libc;

/// Makes every descriptor except the three standard ones close-on-exec.
pub(super) fn close_on_exec() -> io::Result<()> {
    // SAFETY: close_range(2) with CLOEXEC takes three numbers, accesses no memory and closes
    // nothing; it only sets the flag that all descriptors of our own code have anyway.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
