//! Facts about the host, determined once at the start.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::super::{CgroupVersion, Error, ErrorKind, HostFacts, Result};
use super::labels;
use super::mountinfo::Mount;
use super::x32;

/// Capabilities by bit number (capability.h).
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Examines the host with the root directory `root` (`/`, or recorded files in a test) and these
/// mounts, whose paths are below `root`.
pub(super) fn detect(root: &Path, mounts: &[Mount]) -> Result<HostFacts> {
    let names = rustix::system::uname();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let present = |path: &str| root.join(path).exists();
    let unified_only = mounts
        .iter()
        .any(|mount| mount.kind == "cgroup2" && mount.point == root.join("sys/fs/cgroup"));
    let cgroup = if unified_only { CgroupVersion::V2 } else { CgroupVersion::V1 };
    let status = read("proc/self/status");
    let bounding = capability_mask(&status).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "find CapBnd in /proc/self/status".to_owned())
    })?;
    Ok(HostFacts {
        kernel: kernel_version(&names.release().to_string_lossy()).unwrap_or_default(),
        arch: go_arch(&names.machine().to_string_lossy()).to_owned(),
        cgroup,
        controllers: match cgroup {
            CgroupVersion::V1 => v1_controllers(mounts, &read("proc/cgroups")),
            CgroupVersion::V2 => words(&read("sys/fs/cgroup/cgroup.controllers")),
        },
        swap_accounting: match cgroup {
            CgroupVersion::V1 => v1_counts_swap(mounts),
            CgroupVersion::V2 => v2_counts_swap(root, &read("proc/self/cgroup")),
        },
        capabilities: capability_names(bounding),
        oom_score_adj: read("proc/self/oom_score_adj").trim().parse().unwrap_or_default(),
        seccomp: present("proc/sys/kernel/seccomp/actions_avail"),
        // A filter on the agent itself might kill it for the question.
        x32: !is_unfiltered(&status) || x32::is_supported(),
        apparmor: read("sys/module/apparmor/parameters/enabled").starts_with('Y')
            && present("sys/kernel/security/apparmor"),
        selinux: present("sys/fs/selinux/enforce").then(|| labels::contexts(root)),
        rlimits: hard_limits(&read("proc/self/limits")),
        boot_id: read("proc/sys/kernel/random/boot_id").trim().to_owned(),
        hostname: hostname(),
        systemd: present("run/systemd/system"),
    })
}

/// The host name now.
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Parses hard limits in `/proc/self/limits` (proc(5)): columns have a fixed width, since names
/// contain spaces.
fn hard_limits(table: &str) -> BTreeMap<String, u64> {
    const NAMES: [(&str, &str); 16] = [
        ("Max address space", "as"),
        ("Max core file size", "core"),
        ("Max cpu time", "cpu"),
        ("Max data size", "data"),
        ("Max file size", "fsize"),
        ("Max file locks", "locks"),
        ("Max locked memory", "memlock"),
        ("Max msgqueue size", "msgqueue"),
        ("Max nice priority", "nice"),
        ("Max open files", "nofile"),
        ("Max processes", "nproc"),
        ("Max resident set", "rss"),
        ("Max realtime priority", "rtprio"),
        ("Max realtime timeout", "rttime"),
        ("Max pending signals", "sigpending"),
        ("Max stack size", "stack"),
    ];
    let limit = |line: &str| {
        let (title, name) = NAMES.iter().find(|(title, _)| line.starts_with(title))?;
        let hard = line[title.len()..].split_ascii_whitespace().nth(1)?;
        let hard = if hard == "unlimited" { u64::MAX } else { hard.parse().ok()? };
        Some(((*name).to_owned(), hard))
    };
    table.lines().filter_map(limit).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn go_arch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "386",
        "armv5tel" | "armv6l" | "armv7l" | "armv8l" => "arm",
        "loongarch64" => "loong64",
        other => other,
    }
}

fn capability_mask(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// Whether no seccomp filter applies to the process with this `/proc/PID/status`.
fn is_unfiltered(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "0"))
}

fn capability_names(mask: u64) -> Vec<String> {
    let held = |(bit, _): &(usize, &&str)| mask & (1 << bit) != 0;
    CAPABILITIES.iter().enumerate().filter(held).map(|(_, name)| (*name).to_owned()).collect()
}

/// Controllers that the kernel lists as enabled and that are mounted.
fn v1_controllers(mounts: &[Mount], cgroups: &str) -> Vec<String> {
    let mounted = |name: &str| {
        mounts
            .iter()
            .filter(|mount| mount.kind == "cgroup")
            .any(|mount| mount.super_options.split(',').any(|option| option == name))
    };
    let mut found: Vec<String> = cgroups
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [name, _hierarchy, _groups, "1"] = fields[..] else { return None };
            mounted(name).then(|| name.to_owned())
        })
        .collect();
    found.sort_unstable();
    found
}

fn v1_counts_swap(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| {
        mount.kind == "cgroup"
            && mount.super_options.split(',').any(|option| option == "memory")
            && mount.point.join("memory.memsw.limit_in_bytes").exists()
    })
}

/// The root cgroup has no swap files, so look in our own and then in the root's children.
fn v2_counts_swap(root: &Path, membership: &str) -> bool {
    let top = root.join("sys/fs/cgroup");
    let own = membership.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    if top.join(own).join("memory.swap.max").exists() {
        return true;
    }
    let Ok(children) = fs::read_dir(&top) else { return false };
    children.flatten().any(|child| child.path().join("memory.swap.max").exists())
}

#[cfg(test)]
mod tests;
