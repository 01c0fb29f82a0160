//! Parsers of kernel files: cgroup v1 and v2, pressure, `/proc/PID/net/dev`. Pure.
//!
//! Unexpected lines are skipped: kernels add new ones, and a missing value is better than a
//! failure.

use super::usage::{Interface, Pressure, Traffic, Waiting};

/// A memory limit above this means no limit: the kernel rounds "no limit" to pages.
pub const UNLIMITED: u64 = 1 << 62;

/// A single-number file; `max` gives the largest number.
pub fn number(text: &[u8]) -> Option<u64> {
    match text.trim_ascii() {
        b"max" => Some(u64::MAX),
        [] => None,
        digits => digits.iter().try_fold(0u64, |value, &byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            value.checked_mul(10)?.checked_add(digit)
        }),
    }
}

/// Lines of `key number`.
pub fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let space = line.iter().position(|&byte| byte == b' ')?;
        Some((&line[..space], number(&line[space + 1..])?))
    })
}

/// The value of one key.
pub fn value_of(text: &[u8], wanted: &str) -> Option<u64> {
    pairs(text).find_map(|(key, value)| (key == wanted.as_bytes()).then_some(value))
}

/// `memory.stat` of either version, including child cgroups. Missing values are 0, or `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryStat {
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Files mapped into memory.
    pub mapped_file: u64,
    /// Page cache in active use.
    pub active_file: u64,
    /// Page cache not in active use.
    pub inactive_file: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that required I/O.
    pub major_page_faults: u64,
    /// Page faults without child cgroups (v1).
    pub own_page_faults: Option<u64>,
    /// Page faults that required I/O, without child cgroups (v1).
    pub own_major_page_faults: Option<u64>,
    /// Kernel memory (v2); before 5.18 the sum of the reported parts.
    pub kernel: Option<u64>,
    /// Swapped out memory (v1, with swap accounting).
    pub swap: Option<u64>,
    /// Lowest limit of this cgroup and its ancestors (v1).
    pub limit: Option<u64>,
    /// Lowest limit of memory plus swap of this cgroup and its ancestors (v1, with swap
    /// accounting).
    pub swap_limit: Option<u64>,
}

/// cgroup v1: the `total_…` values include child cgroups.
pub fn memory_stat_v1(text: &[u8]) -> MemoryStat {
    let mut stat = MemoryStat::default();
    for (key, value) in pairs(text) {
        match key {
            b"total_rss" => stat.rss = value,
            b"total_cache" => stat.cache = value,
            b"total_mapped_file" => stat.mapped_file = value,
            b"total_active_file" => stat.active_file = value,
            b"total_inactive_file" => stat.inactive_file = value,
            b"total_pgfault" => stat.page_faults = value,
            b"total_pgmajfault" => stat.major_page_faults = value,
            b"pgfault" => stat.own_page_faults = Some(value),
            b"pgmajfault" => stat.own_major_page_faults = Some(value),
            b"total_swap" => stat.swap = Some(value),
            b"hierarchical_memory_limit" => stat.limit = Some(value),
            b"hierarchical_memsw_limit" => stat.swap_limit = Some(value),
            _ => {}
        }
    }
    stat
}

/// cgroup v2: all values include child cgroups.
pub fn memory_stat_v2(text: &[u8]) -> MemoryStat {
    let mut stat = MemoryStat::default();
    let mut parts_of_kernel = 0u64;
    for (key, value) in pairs(text) {
        match key {
            b"anon" => stat.rss = value,
            b"file" => stat.cache = value,
            b"file_mapped" => stat.mapped_file = value,
            b"active_file" => stat.active_file = value,
            b"inactive_file" => stat.inactive_file = value,
            b"pgfault" => stat.page_faults = value,
            b"pgmajfault" => stat.major_page_faults = value,
            b"kernel" => stat.kernel = Some(value),
            b"kernel_stack" | b"slab" | b"pagetables" | b"percpu" | b"sock" => {
                parts_of_kernel = parts_of_kernel.saturating_add(value);
            }
            _ => {}
        }
    }
    stat.kernel = stat.kernel.or(Some(parts_of_kernel));
    stat
}

/// Parses a pressure file. `None` without a `some` line; older kernels have no `full` line for CPU.
pub fn pressure(text: &[u8]) -> Option<Pressure> {
    let text = std::str::from_utf8(text).ok()?;
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(waiting);
    let some = line("some ")?;
    Some(Pressure { some, full: line("full ").unwrap_or_default() })
}

fn waiting(fields: &str) -> Waiting {
    let mut waiting = Waiting::default();
    for (key, value) in fields.split_ascii_whitespace().filter_map(|field| field.split_once('=')) {
        let average = || value.parse().unwrap_or_default();
        match key {
            "avg10" => waiting.avg10 = average(),
            "avg60" => waiting.avg60 = average(),
            "avg300" => waiting.avg300 = average(),
            // The kernel reports microseconds.
            "total" => {
                waiting.total = value.parse().map_or(0, |total: u64| total.saturating_mul(1000));
            }
            _ => {}
        }
    }
    waiting
}

/// Parses `/proc/PID/net/dev` (proc(5)): all interfaces of the network namespace except `lo`.
pub fn interfaces(text: &str) -> Vec<Interface> {
    text.lines().filter_map(interface).filter(|interface| interface.name != "lo").collect()
}

/// Eight received and eight sent values, each beginning with bytes, packets, errors, drops. The two
/// header lines contain no colon.
fn interface(line: &str) -> Option<Interface> {
    let (name, numbers) = line.rsplit_once(':')?;
    let mut numbers = numbers.split_ascii_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (bytes, packets, errors, dropped) = (next()?, next()?, next()?, next()?);
    let received = Traffic { bytes, packets, errors, dropped };
    for _fifo_frame_compressed_multicast in 0..4 {
        next()?;
    }
    let (bytes, packets, errors, dropped) = (next()?, next()?, next()?, next()?);
    let sent = Traffic { bytes, packets, errors, dropped };
    Some(Interface { name: name.trim().to_owned(), received, sent })
}

#[cfg(test)]
mod tests;
