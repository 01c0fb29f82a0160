//! Cost limits for hostile texts: each is refused quickly and with little memory.
//!
//! The peak memory of the whole process is measured, so this file has a single test.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use podbay::pod::manifest::{ParseOptions, parse};
use podbay::proto::podbay::v1::ApplyRequest;
use prost::Message as _;

/// More memory than before, in KiB, at the highest.
const MEMORY: u64 = 64 << 10;

/// Time of the processor; what is not optimised takes some ten times as long.
const TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 1 });

/// A line of `/proc/self/status` in KiB.
fn status(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let found = text.lines().find_map(|found| found.strip_prefix(line)).expect("the line");
    found.trim_start_matches(':').trim_end_matches("kB").trim().parse().expect("a number")
}

fn processor() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the use of this process");
    let spent = usage.user_time() + usage.system_time();
    Duration::from_micros(spent.num_microseconds().unsigned_abs())
}

/// What it took: memory in KiB and time.
fn cost(work: impl FnOnce()) -> (u64, Duration) {
    // The highest mark begins anew; where the kernel has no such thing, it counts what was before.
    let _old_kernel = std::fs::write("/proc/self/clear_refs", "5");
    let (memory, time) = (status("VmRSS"), processor());
    work();
    (status("VmHWM").saturating_sub(memory), processor() - time)
}

/// Nine levels, each nine times the one before: 9^9 values.
fn aliases() -> String {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (this, last) in ('b'..='i').zip('a'..) {
        let list = vec![format!("*{last}"); 9].join(", ");
        text += &format!("{this}: &{this} [{list}]\n");
    }
    text
}

fn texts() -> Vec<(&'static str, String)> {
    const MOST: usize = 10 << 20;
    let pod = |rest: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers: {rest}\n")
    };
    vec![
        ("aliases", aliases()),
        ("aliases in a pod", format!("{}\n{}", aliases(), pod("*i"))),
        ("merge keys", {
            let mut text = "a: &a {k: v}\n".to_owned();
            for (this, last) in ('b'..='i').zip('a'..) {
                let list = vec![format!("*{last}"); 9].join(", ");
                text += &format!("{this}: &{this} {{<<: [{list}]}}\n");
            }
            text
        }),
        ("a long text again and again", {
            format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a,".repeat(900))
        }),
        ("brackets", "[".repeat(100_000)),
        ("braces", "{".repeat(100_000)),
        ("JSON brackets", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        ("JSON objects", "{\"a\":".repeat(100_000)),
        ("dashes", "- ".repeat(100_000)),
        ("deep blocks", (0..3_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect()),
        ("values", format!("[{}]", "1,".repeat(MOST / 2 - 8))),
        ("keys", (0..MOST / 16).map(|n| format!("k{n:010}: 1\n")).collect()),
        ("documents", "---\na\n".repeat(MOST / 8)),
        ("one byte too many", "#".repeat(MOST + 1)),
        ("a comment", "#".repeat(MOST)),
        ("one word", "x".repeat(MOST)),
        ("in a pod", pod(&"[".repeat(100_000))),
        ("numbers", pod(&format!("[{{name: {}}}]", "9".repeat(1 << 20)))),
    ]
}

/// Groups in groups, which any message may have as an unknown field.
fn groups() -> Vec<u8> {
    const START: u8 = (15 << 3) | 3;
    vec![START; 100_000]
}

#[test]
fn hostile_texts_are_refused_within_bounds() {
    let texts = texts();
    let mut told = Vec::new();
    let mut judge = |name: &str, (memory, time): (u64, Duration)| {
        told.push(format!("{name}: {memory} KiB, {time:?}"));
        assert!(memory < MEMORY, "{name} took {memory} KiB\n{told:#?}");
        assert!(time < TIME, "{name} took {time:?}\n{told:#?}");
    };
    for lenient in [false, true] {
        let options = ParseOptions { lenient, ..ParseOptions::default() };
        for (name, text) in &texts {
            let cost = cost(|| {
                let refused = parse(text.as_bytes(), &options);
                assert!(refused.is_err(), "{name} was taken");
            });
            judge(name, cost);
        }
    }
    let deep = groups();
    let cost = cost(|| assert!(ApplyRequest::decode(deep.as_slice()).is_err(), "it was taken"));
    judge("groups", cost);
}
