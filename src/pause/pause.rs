//! The pause program: PID 1 of a pod's namespaces.
//!
//! It holds the namespaces open, reaps orphans of its PID namespace, and exits with code 0 on
//! SIGINT or SIGTERM. `-v` prints its version. It uses no library and never allocates, to be as
//! small as possible. build.rs compiles it for the target; it is not a module of the agent.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
const EINTR: isize = -4;

/// A kernel signal set has 8 bytes on both architectures.
const SET_SIZE: usize = 8;

const VERSION: &str = concat!("podbay pause ", env!("CARGO_PKG_VERSION"), "\n");

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const WRITE: usize = 1;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub const WRITE: usize = 64;
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
}

// SAFETY: this is the entry point: the kernel enters it with argc, argv and the environment on the
// stack and no return address; the stack is aligned as for a call, and `entry` never returns.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {entry}",
    "ud2",
    entry = sym entry,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl {entry}",
    "brk #1",
    entry = sym entry,
);

/// One system call of at most four arguments; a negative result is an error number.
///
/// # Safety
/// The arguments must be what the kernel expects of call `nr`: pointers valid for its accesses.
unsafe fn syscall(nr: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel changes rax, rcx and r11 only; the rest is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel changes x0 only; the rest is the caller's promise.
    unsafe {
        asm!(
            "svc #0",
            inlateout("x0") a => result,
            in("x8") nr, in("x1") b, in("x2") c, in("x3") d,
            options(nostack),
        );
    }
    result
}

fn exit(code: usize) -> ! {
    // SAFETY: takes no pointer.
    unsafe { syscall(nr::EXIT_GROUP, code, 0, 0, 0) };
    // Only reached if the kernel refused to end this process.
    loop {}
}

/// `stack` points at argc, followed by the argument pointers.
extern "C" fn entry(stack: *const usize) -> ! {
    // SAFETY: the kernel puts argc there, followed by argc pointers to NUL-terminated text; nothing
    // is read beyond the NUL.
    let wants_version = unsafe {
        *stack > 1 && {
            let text = *stack.add(2) as *const u8;
            *text == b'-' && *text.add(1) == b'v' && *text.add(2) == 0
        }
    };
    if wants_version {
        // SAFETY: the text is valid for its length.
        let written = unsafe { syscall(nr::WRITE, 1, VERSION.as_ptr() as usize, VERSION.len(), 0) };
        exit(usize::from(written < 0));
    }
    // Blocked signals stay pending until they are waited for, even those that PID 1 would ignore.
    // So no handler is needed, and none can be missed between two calls.
    let set: u64 = bit(SIGINT) | bit(SIGTERM) | bit(SIGCHLD);
    let set_at = &raw const set as usize;
    // SAFETY: the set lives to the end and has the given size; the old set is not requested.
    if unsafe { syscall(nr::RT_SIGPROCMASK, SIG_BLOCK, set_at, 0, SET_SIZE) } < 0 {
        exit(1);
    }
    loop {
        reap();
        // SAFETY: as above; neither details nor a time limit are requested.
        match unsafe { syscall(nr::RT_SIGTIMEDWAIT, set_at, 0, 0, SET_SIZE) } {
            signal if signal == SIGINT as isize || signal == SIGTERM as isize => exit(0),
            EINTR | 0.. => {}
            _ => exit(1),
        }
    }
}

fn bit(signal: u64) -> u64 {
    1 << (signal - 1)
}

/// Reaps every ended child.
fn reap() {
    // SAFETY: no status and no resource usage are requested.
    while unsafe { syscall(nr::WAIT4, usize::MAX, 0, WNOHANG, 0) } > 0 {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(1)
}
