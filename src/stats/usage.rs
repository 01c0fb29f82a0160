//! What is measured, in plain types. All sizes are bytes, all durations nanoseconds.

use std::path::PathBuf;

use crate::board::{Container, Sandbox};
use crate::model::UnixNanos;

/// How long tasks waited for a resource (PSI, <https://docs.kernel.org/accounting/psi.html>).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Time in which some task waited.
    pub some: Waiting,
    /// Time in which all tasks waited.
    pub full: Waiting,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Waiting {
    /// Nanoseconds in all.
    pub total: u64,
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
}

/// CPU use (CRI `CpuUsage`).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cpu {
    /// Nanoseconds of all cores since the cgroup was made.
    pub usage: u64,
    /// Billionths of a core over the last seconds; `None` until that can be told.
    pub nano_cores: Option<u64>,
    /// Pressure, where the kernel tells it.
    pub pressure: Option<Pressure>,
}

/// Memory use (CRI `MemoryUsage`).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Memory {
    /// All of it, with caches.
    pub usage: u64,
    /// Without the cache of files that are not in active use.
    pub working_set: u64,
    /// What the limit leaves above the working set; 0 without a limit.
    pub available: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed the disk.
    pub major_page_faults: u64,
    /// Pressure, where the kernel tells it.
    pub pressure: Option<Pressure>,
}

/// Swap use (CRI `SwapUsage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swap {
    /// Bytes swapped out.
    pub usage: u64,
    /// What the limit leaves; `None` without a limit.
    pub available: Option<u64>,
}

/// Use of one cgroup with all below it. What the kernel does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// When it was read.
    pub at: UnixNanos,
    /// CPU.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap.
    pub swap: Option<Swap>,
    /// Pressure on block devices.
    pub io: Option<Pressure>,
}

impl Usage {
    /// Both together. Of pressure there is no sum.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        let cpu = merged(self.cpu, other.cpu, |a, b| Cpu {
            usage: a.usage.saturating_add(b.usage),
            nano_cores: merged(a.nano_cores, b.nano_cores, u64::saturating_add),
            pressure: None,
        });
        let memory = merged(self.memory, other.memory, |a, b| Memory {
            usage: a.usage.saturating_add(b.usage),
            working_set: a.working_set.saturating_add(b.working_set),
            // A sum of limits is none as soon as one part has no limit.
            available: if a.available == 0 || b.available == 0 {
                0
            } else {
                a.available.saturating_add(b.available)
            },
            rss: a.rss.saturating_add(b.rss),
            page_faults: a.page_faults.saturating_add(b.page_faults),
            major_page_faults: a.major_page_faults.saturating_add(b.major_page_faults),
            pressure: None,
        });
        let swap = merged(self.swap, other.swap, |a, b| Swap {
            usage: a.usage.saturating_add(b.usage),
            available: a.available.zip(b.available).map(|(a, b)| a.saturating_add(b)),
        });
        Self { at: self.at.max(other.at), cpu, memory, swap, io: None }
    }
}

fn merged<T>(a: Option<T>, b: Option<T>, both: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(both(a, b)),
        (one, other) => one.or(other),
    }
}

/// The writable layer of a container (CRI `FilesystemUsage`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layer {
    /// When it was measured.
    pub at: UnixNanos,
    /// Folder of the snapshotter, by which its file system is known; empty until containerd told.
    pub mountpoint: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Counters of one direction of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// Counters of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Name inside the pod.
    pub name: String,
    /// Received.
    pub received: Traffic,
    /// Sent.
    pub sent: Traffic,
}

/// A container with its use.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStats {
    /// The container.
    pub container: Container,
    /// `None` when it does not run.
    pub usage: Option<Usage>,
    /// Its writable layer as last measured; empty as of its creation when it never was.
    pub layer: Layer,
}

/// A pod with its use.
#[derive(Debug, Clone, PartialEq)]
pub struct PodStats {
    /// The pod.
    pub sandbox: Sandbox,
    /// When it was read.
    pub at: UnixNanos,
    /// `None` when it does not run.
    pub usage: Option<Usage>,
    /// Interfaces but `lo`; `None` in the host's network or when it does not run.
    pub network: Option<Vec<Interface>>,
    /// Processes in its containers; `None` when it does not run.
    pub processes: Option<u64>,
    /// Its containers.
    pub containers: Vec<ContainerStats>,
}
