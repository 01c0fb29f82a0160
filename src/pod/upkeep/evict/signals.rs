//! The monitored resources of a node, and thresholds for them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

use crate::pod::Quantity;
use crate::pod::admit::Pressure;

/// A monitored resource. Shortages are handled in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Bytes of memory not in the working set.
    MemoryAvailable,
    /// Free bytes on the disk of the agent, its logs and volumes.
    NodefsAvailable,
    /// Free inodes on that disk.
    NodefsInodesFree,
    /// Free bytes on the disk of images and writable layers.
    ImagefsAvailable,
    /// Free inodes on that disk.
    ImagefsInodesFree,
    /// Free process ids.
    PidAvailable,
}

impl Signal {
    const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::PidAvailable,
    ];

    /// Its name in the configuration: `memory.available`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// The resource that is short.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodefsAvailable | Self::ImagefsAvailable => "ephemeral-storage",
            Self::NodefsInodesFree | Self::ImagefsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    /// Whether removing files helps.
    pub fn is_disk(self) -> bool {
        !matches!(self, Self::MemoryAvailable | Self::PidAvailable)
    }

    /// Whether it counts inodes.
    pub(super) fn is_inodes(self) -> bool {
        matches!(self, Self::NodefsInodesFree | Self::ImagefsInodesFree)
    }

    fn is_bytes(self) -> bool {
        !self.is_inodes() && self != Self::PidAvailable
    }

    /// Formats an amount for messages.
    pub(super) fn show(self, amount: u64) -> String {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        let bytes = self.is_bytes();
        if bytes { Quantity::bytes(amount) } else { Quantity::units(amount) }.to_string()
    }
}

/// The minimum of a resource.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Bytes, inodes or processes.
    Amount(u64),
    /// Percentage of the capacity.
    Percent(f64),
}

/// A node is short of a resource when less than this is left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// The resource.
    pub signal: Signal,
    /// The minimum.
    pub limit: Limit,
}

impl Threshold {
    /// The minimum amount for this capacity.
    pub(super) fn least(self, capacity: u64) -> u64 {
        match self.limit {
            Limit::Amount(amount) => amount,
            Limit::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

/// A text that is not a valid threshold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a threshold such as \"memory.available<100Mi\" or \"nodefs.available<10%\"")]
pub struct BadThreshold(pub String);

impl FromStr for Threshold {
    type Err = BadThreshold;

    fn from_str(text: &str) -> Result<Self, BadThreshold> {
        let bad = || BadThreshold(text.to_owned());
        let (name, limit) = text.split_once('<').ok_or_else(bad)?;
        let known = Signal::ALL.into_iter().find(|signal| signal.as_str() == name.trim());
        let signal = known.ok_or_else(bad)?;
        let limit = limit.trim();
        let limit = match limit.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse::<f64>().map_err(|_| bad())?;
                let allowed = percent > 0.0 && percent < 100.0;
                Limit::Percent(Some(percent).filter(|_| allowed).ok_or_else(bad)?)
            }
            None => {
                let amount = limit.parse::<Quantity>().map_err(|_| bad())?;
                Limit::Amount(u64::try_from(amount.value()).map_err(|_| bad())?)
            }
        };
        Ok(Self { signal, limit })
    }
}

/// In the format that is parsed.
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Limit::Amount(amount) => {
                write!(f, "{}<{}", self.signal.as_str(), self.signal.show(amount))
            }
            Limit::Percent(percent) => write!(f, "{}<{percent}%", self.signal.as_str()),
        }
    }
}

/// The kubelet's default thresholds on Linux.
pub fn defaults() -> Vec<Threshold> {
    let of = |signal, limit| Threshold { signal, limit };
    vec![
        of(Signal::MemoryAvailable, Limit::Amount(100 << 20)),
        of(Signal::NodefsAvailable, Limit::Percent(10.0)),
        of(Signal::NodefsInodesFree, Limit::Percent(5.0)),
        of(Signal::ImagefsAvailable, Limit::Percent(15.0)),
        of(Signal::ImagefsInodesFree, Limit::Percent(5.0)),
    ]
}

/// A measurement of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Free amount.
    pub available: u64,
    /// Total; 0 where nothing is counted, e.g. inodes of btrfs.
    pub capacity: u64,
}

/// All measurements.
pub type Observations = BTreeMap<Signal, Observation>;

/// Crossed thresholds, and when they were last crossed.
#[derive(Debug)]
pub struct Signals {
    thresholds: Vec<Threshold>,
    hold: Duration,
    last: BTreeMap<Signal, Instant>,
}

impl Signals {
    /// Initially no threshold was crossed.
    pub fn new(thresholds: Vec<Threshold>, hold: Duration) -> Self {
        Self { thresholds, hold, last: BTreeMap::new() }
    }

    /// The thresholds crossed by these observations, most urgent first, and what the node is short
    /// of, now or within the hold time.
    pub fn note(&mut self, seen: &Observations, now: Instant) -> (Vec<Signal>, Pressure) {
        let met = |threshold: &&Threshold| {
            let seen = seen.get(&threshold.signal).filter(|seen| seen.capacity > 0);
            seen.is_some_and(|seen| seen.available < threshold.least(seen.capacity))
        };
        let mut met: Vec<_> = self.thresholds.iter().filter(met).map(|it| it.signal).collect();
        met.sort_unstable();
        met.dedup();
        self.last.retain(|_, last| now.saturating_duration_since(*last) < self.hold);
        self.last.extend(met.iter().map(|signal| (*signal, now)));
        let mut pressure = Pressure::default();
        for signal in self.last.keys() {
            match signal {
                Signal::MemoryAvailable => pressure.memory = true,
                Signal::PidAvailable => pressure.pid = true,
                _ => pressure.disk = true,
            }
        }
        (met, pressure)
    }
}
