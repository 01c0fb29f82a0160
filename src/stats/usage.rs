//! The measured values, as plain types. All sizes are in bytes, all durations in nanoseconds.

use std::path::PathBuf;
use std::sync::Arc;

use crate::board::{Container, Sandbox};
use crate::model::UnixNanos;

/// How long tasks waited for a resource (PSI, <https://docs.kernel.org/accounting/psi.html>).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Time during which at least one task waited.
    pub some: Waiting,
    /// Time during which all tasks waited.
    pub full: Waiting,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Waiting {
    /// Total time in nanoseconds.
    pub total: u64,
    /// Percentage of the last 10 seconds.
    pub avg10: f64,
    /// Percentage of the last minute.
    pub avg60: f64,
    /// Percentage of the last five minutes.
    pub avg300: f64,
}

/// CPU use (CRI `CpuUsage`).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cpu {
    /// Nanoseconds of all cores since the cgroup was created.
    pub usage: u64,
    /// Billionths of a core over the last seconds; `None` until it can be computed.
    pub nano_cores: Option<u64>,
    /// Pressure, if the kernel reports it.
    pub pressure: Option<Pressure>,
}

/// Memory use (CRI `MemoryUsage`).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Memory {
    /// Total, including caches.
    pub usage: u64,
    /// Total without inactive page cache.
    pub working_set: u64,
    /// Limit minus working set; 0 without a limit.
    pub available: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that required I/O.
    pub major_page_faults: u64,
    /// Pressure, if the kernel reports it.
    pub pressure: Option<Pressure>,
}

/// Swap use (CRI `SwapUsage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swap {
    /// Bytes swapped out.
    pub usage: u64,
    /// Swap left below the limit; `None` without a limit.
    pub available: Option<u64>,
}

/// Usage of one cgroup and its descendants. Values that the kernel does not report are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Time of the reading.
    pub at: UnixNanos,
    /// CPU.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap.
    pub swap: Option<Swap>,
    /// I/O pressure.
    pub io: Option<Pressure>,
}

impl Usage {
    /// The sum of both, without pressure, which cannot be added.
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
            // The sum has no limit if one part has none.
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
    /// Time of the measurement.
    pub at: UnixNanos,
    /// Directory of the snapshotter, which identifies the file system; empty until containerd
    /// reported it.
    pub mountpoint: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Counters of an interface in one direction.
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

/// A container with its usage.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStats {
    /// The container.
    pub container: Arc<Container>,
    /// `None` when it does not run.
    pub usage: Option<Usage>,
    /// Its writable layer as last measured; if never measured, empty and dated at its creation.
    pub layer: Layer,
}

/// A pod with its usage.
#[derive(Debug, Clone, PartialEq)]
pub struct PodStats {
    /// The pod.
    pub sandbox: Arc<Sandbox>,
    /// Time of the reading.
    pub at: UnixNanos,
    /// `None` when it does not run.
    pub usage: Option<Usage>,
    /// Interfaces except `lo`; `None` for the host network, or when it does not run.
    pub network: Option<Vec<Interface>>,
    /// Number of processes in its containers; `None` when it does not run.
    pub processes: Option<u64>,
    /// Its containers.
    pub containers: Vec<ContainerStats>,
}
