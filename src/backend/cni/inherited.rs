//! Descriptors that the agent was started with.
//!
//! What we open ourselves is closed on exec; what we inherited may not be, and would leak into
//! every plugin.

#![allow(unsafe_code)]

use std::io;

use nix::libc;

/// Marks every descriptor but the three standard ones to be closed on exec.
pub(super) fn close_on_exec() -> io::Result<()> {
    // SAFETY: close_range(2) with CLOEXEC takes three numbers, touches no memory of ours and
    // closes nothing; it only sets the flag that our own code sets on all it opens anyway.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
