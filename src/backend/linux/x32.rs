//! Asks the kernel whether it runs x32 programs.

#![allow(unsafe_code)]

/// Whether the kernel accepts system calls of the x32 ABI. Must not be called under a seccomp
/// filter, which may kill the process for it.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_supported() -> bool {
    use nix::libc;

    /// What marks the number of an x32 call.
    const X32: libc::c_long = 0x4000_0000;
    // SAFETY: getpid takes no argument and changes nothing.
    unsafe { libc::syscall(X32 | libc::SYS_getpid) > 0 }
}

/// Only amd64 has that ABI.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn is_supported() -> bool {
    false
}
