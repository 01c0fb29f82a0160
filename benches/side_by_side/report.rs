//! The figures of both sides, their ratio, and the bars they have to reach.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Options;
use super::world::Side;

/// What a figure has to reach.
#[derive(Debug, Clone, Copy)]
enum Bar {
    /// podbay's figure over the plugin's is at most this.
    RatioAtMost(f64),
    /// … is at least this.
    RatioAtLeast(f64),
    /// podbay's own figure is at most this.
    AtMost(f64),
    /// The 99th percentile of podbay's own is at most this.
    P99AtMost(f64),
}

const BARS: &[(&str, &str, Bar)] = &[
    ("one pod", "RunPodSandbox", Bar::RatioAtMost(0.90)),
    ("one pod", "StopPodSandbox", Bar::RatioAtMost(0.75)),
    ("crowd", "RunPodSandbox", Bar::RatioAtMost(1.0)),
    ("crowd", "StopPodSandbox", Bar::RatioAtMost(1.0)),
    ("crowd", "RemovePodSandbox", Bar::RatioAtMost(0.5)),
    ("crowd", "pods started per second", Bar::RatioAtLeast(1.05)),
    ("one pod", "CreateContainer + StartContainer", Bar::RatioAtMost(1.0)),
    ("crowd", "CreateContainer + StartContainer", Bar::RatioAtMost(1.0)),
    ("one pod", "StopContainer", Bar::RatioAtMost(0.9)),
    ("crowd", "StopContainer", Bar::RatioAtMost(0.9)),
    ("queries at full house", "ListContainers", Bar::RatioAtMost(1.0)),
    ("queries at full house", "ContainerStatus", Bar::RatioAtMost(1.0)),
    ("queries at full house", "ListContainerStats", Bar::AtMost(5.0)),
    ("list of 400 containers", "ListContainers", Bar::RatioAtMost(1.0)),
    ("queries at full house", "ExecSync", Bar::RatioAtMost(0.9)),
    ("output of a container", "MB per second", Bar::RatioAtLeast(1.0)),
    ("output of a container", "CPU for 100 MB, ms", Bar::RatioAtMost(1.0)),
    ("memory with all pods, MiB", "agent alone, RSS", Bar::AtMost(25.0)),
    ("memory with 150 pods, MiB", "agent alone, RSS", Bar::AtMost(30.0)),
    ("idle CPU, % of a core", "agent alone", Bar::AtMost(0.3)),
    ("whole pods", "Apply to first log line, one, s", Bar::AtMost(0.40)),
    ("whole pods", "Apply to first log line, 20 at once, median, s", Bar::AtMost(2.5)),
    ("whole pods", "Apply to first log line, 20 at once, last, s", Bar::AtMost(4.0)),
    ("whole pods", "agent alone with 50 pods, RSS, MiB", Bar::AtMost(30.0)),
    ("whole pods", "idle with 1 s HTTP probes, agent alone, % of a core", Bar::AtMost(2.0)),
    ("whole pods", "a change reaches one of 100 watchers, ms", Bar::P99AtMost(20.0)),
];

/// The bars of NRI: switched on without plugins it costs next to nothing.
const NRI_BARS: &[(&str, &str, Bar)] = &[
    ("one pod", "RunPodSandbox", Bar::RatioAtMost(1.03)),
    ("one pod", "CreateContainer + StartContainer", Bar::RatioAtMost(1.03)),
    ("crowd", "RunPodSandbox", Bar::RatioAtMost(1.03)),
    ("crowd", "CreateContainer + StartContainer", Bar::RatioAtMost(1.03)),
    ("crowd", "StopContainer", Bar::RatioAtMost(1.03)),
    ("crowd", "pods started per second", Bar::RatioAtLeast(0.97)),
];

impl Bar {
    fn met(self, own: Spread, ratio: Option<f64>) -> bool {
        match self {
            Self::RatioAtMost(bar) => ratio.is_some_and(|ratio| ratio <= bar),
            Self::RatioAtLeast(bar) => ratio.is_some_and(|ratio| ratio >= bar),
            Self::AtMost(bar) => own.p50 <= bar,
            Self::P99AtMost(bar) => own.p99 <= bar,
        }
    }

    fn text(self) -> String {
        match self {
            Self::RatioAtMost(bar) => format!("ratio <= {bar:.2}"),
            Self::RatioAtLeast(bar) => format!("ratio >= {bar:.2}"),
            Self::AtMost(bar) => format!("<= {bar}"),
            Self::P99AtMost(bar) => format!("p99 <= {bar}"),
        }
    }
}

type Samples = BTreeMap<(String, String), Vec<f64>>;

/// Quantiles of the samples of one figure, and how many there are.
#[derive(Debug, Clone, Copy)]
struct Spread {
    p50: f64,
    p95: f64,
    p99: f64,
    count: usize,
}

/// One line of the table.
struct Row {
    group: String,
    name: String,
    sides: [Option<Spread>; 2],
    ratio: Option<f64>,
    bar: Option<Bar>,
}

impl Row {
    fn met(&self) -> Option<bool> {
        let own = self.sides[0]?;
        self.bar.map(|bar| bar.met(own, self.ratio))
    }
}

/// All samples of a run.
pub struct Report {
    names: Vec<String>,
    facts: Value,
    /// Group and name of each figure, in the order of their first appearance.
    keys: Vec<(String, String)>,
    samples: [Samples; 2],
    bars: &'static [(&'static str, &'static str, Bar)],
}

impl Report {
    pub fn new(options: &Options, sides: &[Side]) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let versions: Vec<_> = sides.iter().map(|side| side.version.clone()).collect();
        Self {
            names: sides.iter().map(|side| side.name().to_owned()).collect(),
            facts: json!({
                "kernel": kernel.trim(), "cores": cores, "versions": versions,
                "pods": options.pods, "parallel": options.parallel, "rounds": options.rounds,
                "singles": options.singles, "idle_seconds": options.idle_seconds,
            }),
            keys: Vec::new(),
            samples: Default::default(),
            bars: match (options.against_itself, options.nri) {
                (true, _) => &[],
                (_, true) => NRI_BARS,
                _ => BARS,
            },
        }
    }

    pub fn add(&mut self, side: usize, group: &str, name: &str, value: f64) {
        let key = (group.to_owned(), name.to_owned());
        if !self.keys.contains(&key) {
            // After the last of its group, so that groups stay together.
            let last = self.keys.iter().rposition(|(other, _)| other == group);
            self.keys.insert(last.map_or(self.keys.len(), |at| at + 1), key.clone());
        }
        self.samples[side].entry(key).or_default().push(value);
    }

    /// Adds timed calls; a create and the start after it also count as one.
    pub fn add_all(&mut self, side: usize, group: &str, times: Vec<(&'static str, f64)>) {
        let mut created = None;
        for (name, value) in times {
            self.add(side, group, name, value);
            match name {
                "CreateContainer" => created = Some(value),
                "StartContainer" => {
                    if let Some(created) = created.take() {
                        self.add(side, group, "CreateContainer + StartContainer", created + value);
                    }
                }
                _ => {}
            }
        }
    }

    fn rows(&self) -> Vec<Row> {
        let row = |key: &(String, String)| {
            let sides = [0, 1].map(|side| self.samples[side].get(key).map(|all| spread(all)));
            let ratio = match sides {
                [Some(own), Some(other)] if other.p50 > 0.0 => Some(own.p50 / other.p50),
                _ => None,
            };
            let bar = self.bars.iter().find(|(group, name, _)| *group == key.0 && *name == key.1);
            let bar = bar.map(|(_, _, bar)| *bar);
            Row { group: key.0.clone(), name: key.1.clone(), sides, ratio, bar }
        };
        self.keys.iter().map(row).collect()
    }

    /// Whether every bar that could be measured is met.
    pub fn all_met(&self) -> bool {
        self.rows().iter().all(|row| row.met() != Some(false))
    }

    pub fn print(&self) {
        println!("\n{:<36}{:>22}{:>22}{:>8}  bar", "", self.names[0], self.names[1], "ratio");
        let mut group = String::new();
        for row in self.rows() {
            if row.group != group {
                group.clone_from(&row.group);
                println!("{group}");
            }
            let sides = row.sides.map(|side| side.map_or("-".to_owned(), show));
            let ratio = row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let verdict = match (row.bar, row.met()) {
                (Some(bar), Some(true)) => format!("{} ok", bar.text()),
                (Some(bar), Some(false)) => format!("{} MISSED", bar.text()),
                _ => String::new(),
            };
            println!("  {:<34}{:>22}{:>22}{ratio:>8}  {verdict}", row.name, sides[0], sides[1]);
        }
        println!(
            "(calls in ms as p50 / p95, of many samples also p99; other figures as median; ratio of the medians)"
        );
    }

    pub fn write_json(&self, path: &Path) -> Result<()> {
        let side = |row: &Row, number: usize| {
            let spread = row.sides[number]?;
            let Spread { p50, p95, p99, count } = spread;
            Some(json!({"p50": p50, "p95": p95, "p99": p99, "n": count}))
        };
        let rows: Vec<_> = self
            .rows()
            .iter()
            .map(|row| {
                json!({
                    "group": row.group, "name": row.name, "ratio": row.ratio,
                    "bar": row.bar.map(Bar::text), "met": row.met(),
                    "sides": [side(row, 0), side(row, 1)],
                })
            })
            .collect();
        let all = json!({"sides": self.names, "facts": self.facts, "figures": rows});
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(&all)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn show(spread: Spread) -> String {
    let Spread { p50, p95, p99, count } = spread;
    match count {
        0..=5 => format!("{p50:.2}"),
        6..=999 => format!("{p50:.2} / {p95:.2}"),
        _ => format!("{p50:.2} / {p95:.2} / {p99:.2}"),
    }
}

fn spread(samples: &[f64]) -> Spread {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
    Spread { p50: at(0.5), p95: at(0.95), p99: at(0.99), count: sorted.len() }
}
