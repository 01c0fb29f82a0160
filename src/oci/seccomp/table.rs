//! The default profile as data: which system calls a container may make.
//!
//! The list is that of containerd 2.4, so that workloads behave the same under both. It allows what
//! ordinary programs need and what the kernel guards by capabilities. It excludes loading kernel
//! code, mounting, namespaces, keyrings, io_uring and other large or rarely used parts of the
//! kernel.

use oci_spec::runtime::{
    LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Compare, LinuxSyscall,
};

use super::rule;

/// Allowed in every container, by subject.
pub(super) const ALWAYS: &[&[&str]] = &[
    FILE_DATA,
    FILE_NAMES,
    FILE_METADATA,
    WAITING,
    ASYNC_IO,
    MEMORY,
    PROCESSES,
    IDENTITY,
    SCHEDULING,
    SIGNALS,
    LOCKS,
    TIME,
    NETWORK,
    IPC,
];

#[rustfmt::skip]
const FILE_DATA: &[&str] = &[
    "open", "openat", "openat2", "creat", "close", "close_range", "name_to_handle_at",
    "read", "readv", "pread64", "preadv", "preadv2",
    "write", "writev", "pwrite64", "pwritev", "pwritev2",
    "lseek", "_llseek", "truncate", "truncate64", "ftruncate", "ftruncate64", "fallocate",
    "sync", "syncfs", "fsync", "fdatasync", "sync_file_range",
    "readahead", "fadvise64", "fadvise64_64", "cachestat",
    "copy_file_range", "sendfile", "sendfile64", "splice", "tee", "vmsplice",
    "dup", "dup2", "dup3", "fcntl", "fcntl64", "flock", "ioctl", "pipe", "pipe2",
];

#[rustfmt::skip]
const FILE_NAMES: &[&str] = &[
    "access", "faccessat", "faccessat2", "chdir", "fchdir", "getcwd", "umask",
    "mkdir", "mkdirat", "mknod", "mknodat", "rmdir", "getdents", "getdents64",
    "link", "linkat", "symlink", "symlinkat", "readlink", "readlinkat",
    "unlink", "unlinkat", "rename", "renameat", "renameat2",
];

#[rustfmt::skip]
const FILE_METADATA: &[&str] = &[
    "stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "fstatat64", "newfstatat", "statx",
    "statfs", "statfs64", "fstatfs", "fstatfs64", "statmount", "listmount",
    "chmod", "fchmod", "fchmodat", "fchmodat2",
    "chown", "chown32", "fchown", "fchown32", "fchownat", "lchown", "lchown32",
    "utime", "utimes", "utimensat", "utimensat_time64", "futimesat",
    "getxattr", "lgetxattr", "fgetxattr", "getxattrat",
    "setxattr", "lsetxattr", "fsetxattr", "setxattrat",
    "listxattr", "llistxattr", "flistxattr", "listxattrat",
    "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
];

#[rustfmt::skip]
const WAITING: &[&str] = &[
    "select", "_newselect", "pselect6", "pselect6_time64", "poll", "ppoll", "ppoll_time64",
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
    "epoll_wait", "epoll_wait_old", "epoll_pwait", "epoll_pwait2",
    "eventfd", "eventfd2", "signalfd", "signalfd4",
    "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "fanotify_mark",
];

#[rustfmt::skip]
const ASYNC_IO: &[&str] = &[
    "io_setup", "io_destroy", "io_submit", "io_cancel",
    "io_getevents", "io_pgetevents", "io_pgetevents_time64",
];

#[rustfmt::skip]
const MEMORY: &[&str] = &[
    "brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "msync", "madvise", "mincore",
    "mlock", "mlock2", "mlockall", "munlock", "munlockall", "remap_file_pages", "membarrier",
    "memfd_create", "memfd_secret", "mseal", "map_shadow_stack",
    "pkey_alloc", "pkey_free", "pkey_mprotect", "process_mrelease",
];

#[rustfmt::skip]
const PROCESSES: &[&str] = &[
    "fork", "vfork", "execve", "execveat", "exit", "exit_group", "restart_syscall",
    "wait4", "waitid", "waitpid", "pidfd_open", "pidfd_send_signal",
    "getpid", "getppid", "gettid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid",
    "prctl", "capget", "capset", "seccomp", "uretprobe", "rseq",
    "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
    "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules",
    "getrlimit", "ugetrlimit", "setrlimit", "prlimit64", "getrusage", "times",
    "get_thread_area", "set_thread_area", "set_tid_address",
    "uname", "sysinfo", "getcpu", "getrandom",
];

#[rustfmt::skip]
const IDENTITY: &[&str] = &[
    "getuid", "getuid32", "geteuid", "geteuid32", "getresuid", "getresuid32",
    "getgid", "getgid32", "getegid", "getegid32", "getresgid", "getresgid32",
    "getgroups", "getgroups32", "setgroups", "setgroups32",
    "setuid", "setuid32", "setreuid", "setreuid32", "setresuid", "setresuid32",
    "setgid", "setgid32", "setregid", "setregid32", "setresgid", "setresgid32",
    "setfsuid", "setfsuid32", "setfsgid", "setfsgid32",
];

#[rustfmt::skip]
const SCHEDULING: &[&str] = &[
    "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr",
    "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler",
    "sched_get_priority_max", "sched_get_priority_min",
    "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "getpriority", "setpriority", "ioprio_get", "ioprio_set",
];

#[rustfmt::skip]
const SIGNALS: &[&str] = &[
    "kill", "tkill", "tgkill", "pause", "alarm", "sigaltstack", "sigprocmask", "sigreturn",
    "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
    "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
];

#[rustfmt::skip]
const LOCKS: &[&str] = &[
    "futex", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futex_requeue",
    "get_robust_list", "set_robust_list",
];

#[rustfmt::skip]
const TIME: &[&str] = &[
    "time", "gettimeofday", "nanosleep", "getitimer", "setitimer",
    "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64",
    "clock_nanosleep", "clock_nanosleep_time64",
    // For reading the clock's adjustment; the kernel guards changes by CAP_SYS_TIME.
    "adjtimex", "clock_adjtime", "clock_adjtime64",
    "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
    "timerfd_create", "timerfd_gettime", "timerfd_gettime64",
    "timerfd_settime", "timerfd_settime64",
];

/// `socket` has separate rules. `socketcall` is its form on some 32-bit platforms; a filter cannot
/// see its arguments.
#[rustfmt::skip]
const NETWORK: &[&str] = &[
    "accept", "accept4", "bind", "connect", "listen", "shutdown", "socketcall", "socketpair",
    "getpeername", "getsockname", "getsockopt", "setsockopt",
    "recv", "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64",
    "send", "sendto", "sendmsg", "sendmmsg",
];

#[rustfmt::skip]
const IPC: &[&str] = &[
    "ipc", "msgctl", "msgget", "msgrcv", "msgsnd", "shmat", "shmctl", "shmdt", "shmget",
    "semctl", "semget", "semop", "semtimedop", "semtimedop_time64",
    "mq_open", "mq_unlink", "mq_notify", "mq_getsetattr", "mq_timedreceive",
    "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
];

/// Allowed from kernel 4.8 on.
pub(super) const TRACING: &[&str] = &["ptrace", "process_vm_readv", "process_vm_writev"];

/// Allowed on these architectures (Go's names).
pub(super) const BY_ARCH: &[(&[&str], &[&str])] = &[
    (&["amd64", "386"], &["modify_ldt"]),
    (&["amd64"], &["arch_prctl"]),
    (
        &["arm", "arm64"],
        &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "sync_file_range2",
            "breakpoint",
            "cacheflush",
            "set_tls",
        ],
    ),
    (&["ppc64le"], &["sync_file_range2", "swapcontext"]),
    (&["s390", "s390x"], &["s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"]),
    (&["riscv64"], &["riscv_flush_icache", "riscv_hwprobe"]),
];

/// Allowed only with the capability, without which the call is of no use.
#[rustfmt::skip]
pub(super) const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_SYS_ADMIN", &[
        "mount", "umount", "umount2", "mount_setattr", "move_mount", "open_tree",
        "fsconfig", "fsmount", "fsopen", "fspick", "quotactl", "quotactl_fd",
        "clone", "clone3", "setns", "unshare", "sethostname", "setdomainname",
        "bpf", "perf_event_open", "syslog", "fanotify_init", "lookup_dcookie",
    ]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &[
        "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
    ]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_TIME", &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
];

pub(super) fn allow(names: &[&str]) -> LinuxSyscall {
    rule(names, Action::ScmpActAllow)
}

/// First address family that no container may use: AF_ALG, the kernel's crypto API, whose many
/// vulnerabilities outweigh its use.
const AF_ALG: u64 = 38;
/// Allowed families above it: NFC, KCM, QIPCRTR, SMC, XDP, MCTP. AF_VSOCK (40) is excluded: it
/// reaches the hypervisor and other virtual machines regardless of network namespaces.
const FAMILIES_ABOVE: [u64; 6] = [39, 41, 42, 43, 44, 45];

/// `socket`, by address family. Runtimes treat several comparisons of one argument as alternatives,
/// so a range can only have an upper end; at the lower end 0 is not a family.
pub(super) fn sockets() -> Vec<LinuxSyscall> {
    let below = on_argument("socket", argument(0, Compare::ScmpCmpLt, AF_ALG, None));
    let above = FAMILIES_ABOVE
        .map(|family| on_argument("socket", argument(0, Compare::ScmpCmpEq, family, None)));
    std::iter::once(below).chain(above).collect()
}

/// `personality` for Linux (0), 32-bit Linux (8), either with UNAME26 (0x20000), and queries (all
/// bits set). Other values disable protections such as address space randomisation.
pub(super) fn personalities() -> Vec<LinuxSyscall> {
    [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff]
        .map(|value| on_argument("personality", argument(0, Compare::ScmpCmpEq, value, None)))
        .into()
}

/// All CLONE_NEW… flags.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
const ENOSYS: u32 = 38;

/// Allows new processes and threads, but no new namespaces. The flags of `clone3` are behind a
/// pointer, so it fails with ENOSYS and the C library falls back to `clone`.
pub(super) fn clone_without_namespaces(arch: &str) -> [LinuxSyscall; 2] {
    let flags = if arch == "s390x" { 1 } else { 0 };
    let masked = argument(flags, Compare::ScmpCmpMaskedEq, CLONE_NAMESPACES, Some(0));
    let mut clone3 = rule(&["clone3"], Action::ScmpActErrno);
    clone3.set_errno_ret(Some(ENOSYS));
    [on_argument("clone", masked), clone3]
}

fn on_argument(name: &str, argument: LinuxSeccompArg) -> LinuxSyscall {
    let mut rule = allow(&[name]);
    rule.set_args(Some(vec![argument]));
    rule
}

fn argument(index: usize, op: Compare, value: u64, second: Option<u64>) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    match second {
        Some(second) => builder.value_two(second),
        None => builder,
    }
    .build()
    .expect("every part of an argument has a value")
}
