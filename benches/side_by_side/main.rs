//! podbay against containerd's own CRI plugin: same containerd binary, runc, CNI plugins, image
//! and machine, same load over gRPC, alternating in one run.
//!
//! ```text
//! make bench
//! make bench BENCH_ARGS='--quick'
//! make bench BENCH_ARGS='--rounds 5 --profile'
//! make bench BENCH_ARGS=--against-itself      # the noise: the plugin on both sides
//! make bench BENCH_ARGS='--nri --only cri'    # podbay with NRI on against NRI off
//! ```
//!
//! It prints a table of both with the ratio and the bar that each figure has to reach, and writes
//! the same as JSON. Without `--strict` the exit code is 0 even if bars are missed: a missed figure
//! is for the reader to judge.

mod cpu;
mod load;
mod measure;
mod report;
mod streams;
mod whole;
mod world;

#[path = "../../tests/support/images.rs"]
#[allow(dead_code)]
mod images;
#[path = "../../tests/support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../../tests/support/registry.rs"]
#[allow(dead_code)]
mod registry;
#[path = "../../tests/support/sweep.rs"]
#[allow(dead_code)]
mod sweep;
#[path = "../../tests/support/wait.rs"]
#[allow(dead_code)]
mod wait;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use wait::eventually;

use load::{Crowd, Images};
use measure::Usage;
use report::Report;
use world::{Kind, Side};

/// How long a side is at most left alone before its idle CPU is measured.
const SETTLE: Duration = Duration::from_secs(10);

/// Side by side bench of podbay and containerd's CRI plugin.
#[derive(Parser, Debug)]
pub struct Options {
    /// Pods of the crowd, two containers each.
    #[arg(long, default_value_t = 50)]
    pods: usize,
    /// Pods at a time.
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// Rounds of the crowd on each side.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Single pods on each side.
    #[arg(long, default_value_t = 20)]
    singles: usize,
    /// Calls of each list and status request.
    #[arg(long, default_value_t = 60)]
    queries: usize,
    /// Pods on podbay when its memory is measured once more, in the first round.
    #[arg(long, default_value_t = 150)]
    many: usize,
    /// Containers of the longest list.
    #[arg(long, default_value_t = 400)]
    listed: usize,
    /// Seconds of doing nothing.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
    /// A short run to see that it works: few pods, one round, 3 s idle.
    #[arg(long, env = "KIT_BENCH_QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
    /// containerd's plugin on both sides: shows how far two equal sides differ.
    #[arg(long, conflicts_with = "nri")]
    against_itself: bool,
    /// podbay on both sides, on the first with NRI switched on and no plugin.
    #[arg(long)]
    nri: bool,
    /// One half alone: the calls of the CRI, or whole pods.
    #[arg(long, value_enum)]
    only: Option<Half>,
    /// Tells how to profile the agent, and waits before the first crowd until a line is read.
    #[arg(long)]
    profile: bool,
    /// Ends with code 1 when a bar is missed.
    #[arg(long)]
    strict: bool,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

/// What is measured beside or without the other.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// Both sides by the calls of the CRI.
    Cri,
    /// podbay by `podbay.v1`.
    Pods,
}

impl Options {
    fn has(&self, half: Half) -> bool {
        self.only.is_none_or(|only| only == half)
    }

    fn shortened(mut self) -> Self {
        if self.quick {
            (self.pods, self.rounds, self.singles) = (6, 1, 4);
            (self.queries, self.listed, self.idle_seconds) = (10, 24, 3);
            self.many = 8;
        }
        self
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse().shortened();
    ensure!(nix::unistd::geteuid().is_root(), "the bench needs root");
    let kinds = match (options.against_itself, options.nri) {
        (true, _) => [Kind::Plugin, Kind::Plugin],
        (_, true) => [Kind::PodbayWithNri, Kind::Podbay],
        _ => [Kind::Podbay, Kind::Plugin],
    };
    let registry = registry::Registry::start().await;
    let mut images = Images::push(&registry).await;
    let mut sides = Vec::new();
    for (number, kind) in kinds.into_iter().enumerate() {
        let side = Side::start(number, kind, &images.pause).await?;
        images.pull(&side).await?;
        println!("{}: {}", side.name(), side.version);
        sides.push(side);
    }
    let mut report = Report::new(&options, &sides);
    if options.profile {
        profile_hint(&sides);
    }
    if options.has(Half::Cri) {
        singles(&options, &sides, &images, &mut report).await?;
        for round in 0..options.rounds {
            for number in order(round) {
                crowd(&options, &sides[number], &images, round, &mut report).await?;
            }
        }
    }
    if options.has(Half::Pods) && !options.against_itself && !options.nri {
        // Its memory is that of 50 pods, not of what it did before.
        sides[0].renew_agent().await?;
        whole::measure(&options, &sides[0], &images.app, &mut report).await?;
        println!("whole pods done");
    }
    for side in &mut sides {
        side.stop().await?;
    }
    report.print();
    report.write_json(&options.json)?;
    println!("written: {}", options.json.display());
    ensure!(!options.strict || report.all_met(), "a bar is missed");
    Ok(())
}

/// Which side goes first changes from round to round.
fn order(round: usize) -> [usize; 2] {
    if round.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

async fn singles(
    options: &Options,
    sides: &[Side],
    images: &Images,
    report: &mut Report,
) -> Result<()> {
    // Two for warmth, not counted.
    for round in 0..options.singles + 2 {
        for number in order(round) {
            let name = format!("single-{round}");
            let times = load::one_life(&sides[number], images, &name).await?;
            if round >= 2 {
                report.add_all(number, "one pod", times);
            }
        }
    }
    println!("single pods done");
    Ok(())
}

async fn crowd(
    options: &Options,
    side: &Side,
    images: &Images,
    round: usize,
    report: &mut Report,
) -> Result<()> {
    report.add_all(side.number, "output of a container", streams::log(side, images, round).await?);
    let mut crowd = Crowd::new(side, images, round);
    let before = Usage::spent(side)?;
    let (times, rate) = crowd.fill(options.pods, options.parallel).await?;
    for ((name, after), (_, before)) in Usage::spent(side)?.into_iter().zip(before) {
        let each = (after - before) / options.pods as f64;
        report.add(side.number, "CPU to start a pod of the crowd, ms", name, each);
    }
    report.add_all(side.number, "crowd", times);
    report.add(side.number, "crowd", "pods started per second", rate);
    let times = crowd.query(options.queries).await?;
    report.add_all(side.number, "queries at full house", times);
    for (name, value) in Usage::memory(side)? {
        report.add(side.number, "memory with all pods, MiB", name, value);
    }
    if round == 0 {
        let times = crowd.list_many(options.listed, options.queries).await?;
        let group = format!("list of {} containers", options.listed);
        report.add_all(side.number, &group, times);
        // What the containers of the long list leave to do is not idling.
        let idle = Duration::from_secs(options.idle_seconds);
        tokio::time::sleep(idle.min(SETTLE)).await;
        let before = Usage::cpu(side)?;
        tokio::time::sleep(idle).await;
        for ((name, after), (_, before)) in Usage::cpu(side)?.into_iter().zip(before) {
            let percent = (after - before) / options.idle_seconds as f64 * 100.0;
            report.add(side.number, "idle CPU, % of a core", name, percent);
        }
    }
    if round == 0 && side.kind == Kind::Podbay {
        crowd.fill(options.many.saturating_sub(options.pods), options.parallel).await?;
        let group = format!("memory with {} pods, MiB", options.many);
        for (name, value) in Usage::memory(side)? {
            report.add(side.number, &group, name, value);
        }
        crowd.shrink(options.pods, options.parallel).await?;
    }
    let before = side.cpu.millis()?;
    let (times, rate) = crowd.shrink(0, options.parallel).await?;
    let each = (side.cpu.millis()? - before) / options.pods as f64;
    report.add(side.number, "CPU to end a pod of the crowd, ms", "all together", each);
    report.add_all(side.number, "crowd", times);
    report.add(side.number, "crowd", "pods removed per second", rate);
    println!("round {} of {} done", round + 1, side.name());
    Ok(())
}

fn profile_hint(sides: &[Side]) {
    let pid = sides[0].agent_pid().unwrap_or_else(|| sides[0].containerd_pid());
    println!(
        "profile: perf record -F 499 --call-graph dwarf -p {pid} -o target/bench.perf -- sleep 20\n\
         \x20        perf report -i target/bench.perf   (build with CARGO_PROFILE_RELEASE_DEBUG=line-tables-only\n\
         \x20        KEEP_SYMBOLS=1 for names). Press Enter to go on."
    );
    let mut line = String::new();
    let _closed_is_fine = std::io::stdin().read_line(&mut line);
}
