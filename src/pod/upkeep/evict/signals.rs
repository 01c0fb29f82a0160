//! What a node may run out of, and when it is short of it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

use crate::pod::Quantity;
use crate::pod::admit::Pressure;

/// What is measured. In the order in which shortages are seen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Bytes of memory that nobody works with.
    MemoryAvailable,
    /// Bytes of the disk of the agent, its logs and volumes.
    NodefsAvailable,
    /// Inodes of that disk.
    NodefsInodesFree,
    /// Bytes of the disk of images and writable layers.
    ImagefsAvailable,
    /// Inodes of that disk.
    ImagefsInodesFree,
    /// Process ids.
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

    /// Its name in settings: `memory.available`.
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

    /// The resource that it is a shortage of.
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

    /// Whether it is counted in inodes.
    pub(super) fn is_inodes(self) -> bool {
        matches!(self, Self::NodefsInodesFree | Self::ImagefsInodesFree)
    }

    fn is_bytes(self) -> bool {
        !self.is_inodes() && self != Self::PidAvailable
    }

    /// An amount of it, as messages have it.
    pub(super) fn show(self, amount: u64) -> String {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        let bytes = self.is_bytes();
        if bytes { Quantity::bytes(amount) } else { Quantity::units(amount) }.to_string()
    }
}

/// What must be left of something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Bytes, inodes or processes.
    Amount(u64),
    /// Percent of all.
    Percent(f64),
}

/// A node is short of something when less than this is left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// How much.
    pub limit: Limit,
}

impl Threshold {
    /// The least that must be left, of so much in all.
    pub(super) fn least(self, capacity: u64) -> u64 {
        match self.limit {
            Limit::Amount(amount) => amount,
            Limit::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

/// A text that is no threshold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no threshold such as \"memory.available<100Mi\" or \"nodefs.available<10%\"")]
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

/// As it is parsed.
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

/// The kubelet's own thresholds on Linux.
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

/// How much is left of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Left.
    pub available: u64,
    /// In all; 0 where nothing is counted, e.g. inodes of btrfs.
    pub capacity: u64,
}

/// What could be measured.
pub type Observations = BTreeMap<Signal, Observation>;

/// Which thresholds are met, and when they last were.
#[derive(Debug)]
pub struct Signals {
    thresholds: Vec<Threshold>,
    hold: Duration,
    last: BTreeMap<Signal, Instant>,
}

impl Signals {
    /// Nothing was met yet.
    pub fn new(thresholds: Vec<Threshold>, hold: Duration) -> Self {
        Self { thresholds, hold, last: BTreeMap::new() }
    }

    /// Which thresholds these observations meet, the most urgent first, and what the node is
    /// short of now or was during the time that pressure is held for.
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
