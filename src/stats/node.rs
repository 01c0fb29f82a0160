//! Usage of the whole node, as reported in `/proc`.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Cpu, Memory, Swap, Usage};
use crate::locks::Mutex;
use crate::model::UnixNanos;

/// Units per second of the times in `/proc/stat` (`USER_HZ`), the same on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// An earlier CPU time, needed for usage per second.
#[derive(Debug, Default)]
pub(super) struct Noted(Mutex<Option<Note>>);

#[derive(Debug, Clone, Copy)]
struct Note {
    at: UnixNanos,
    usage: u64,
    rate: Option<u64>,
}

impl Noted {
    /// The current usage. If the recorded sample is at least `age` old, a new one replaces it.
    pub fn read(&self, proc: &Path, at: UnixNanos, age: Duration) -> io::Result<Usage> {
        let text = |name| std::fs::read_to_string(proc.join(name));
        let mut usage = parse(&text("stat")?, &text("meminfo")?);
        usage.at = at;
        if let Some(cpu) = &mut usage.cpu {
            cpu.nano_cores = self.rate(at, cpu.usage, age);
        }
        Ok(usage)
    }

    fn rate(&self, at: UnixNanos, usage: u64, age: Duration) -> Option<u64> {
        let mut note = self.0.lock();
        let Some(last) = *note else {
            *note = Some(Note { at, usage, rate: None });
            return None;
        };
        let passed = u64::try_from(at.saturating_sub(last.at)).unwrap_or(0);
        if u128::from(passed) < age.as_nanos() || passed == 0 {
            return last.rate;
        }
        let used = u128::from(usage.saturating_sub(last.usage)) * 1_000_000_000;
        let rate = u64::try_from(used / u128::from(passed)).ok();
        *note = Some(Note { at, usage, rate });
        rate
    }
}

fn parse(stat: &str, meminfo: &str) -> Usage {
    let memory = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let total = memory("MemTotal").unwrap_or(0);
    let available = memory("MemAvailable").unwrap_or(0);
    let memory_usage = Memory {
        usage: total.saturating_sub(memory("MemFree").unwrap_or(0)),
        working_set: total.saturating_sub(available),
        available,
        rss: memory("AnonPages").unwrap_or(0),
        ..Memory::default()
    };
    let free = memory("SwapFree").unwrap_or(0);
    let swap = Swap {
        usage: memory("SwapTotal").unwrap_or(0).saturating_sub(free),
        available: Some(free),
    };
    Usage {
        cpu: busy(stat).map(|usage| Cpu { usage, ..Cpu::default() }),
        memory: Some(memory_usage),
        swap: Some(swap),
        ..Usage::default()
    }
}

/// Non-idle time of all cores together, in nanoseconds.
fn busy(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // Fields: user nice system idle iowait irq softirq steal guest guest_nice; user includes
    // guests.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
    Some(busy * (1_000_000_000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 10 50 9000 70 3 2 40 5 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
    const MEMINFO: &str = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  600 kB\n\
        AnonPages:  200 kB\nSwapTotal:  50 kB\nSwapFree:  20 kB\n";

    #[test]
    fn the_kernel_is_read() {
        let usage = parse(STAT, MEMINFO);
        assert_eq!(usage.cpu.unwrap().usage, 165 * 10_000_000);
        let memory = usage.memory.unwrap();
        assert_eq!(
            (memory.usage >> 10, memory.working_set >> 10, memory.available >> 10),
            (900, 400, 600)
        );
        assert_eq!(memory.rss >> 10, 200);
        assert_eq!(usage.swap, Some(Swap { usage: 30 << 10, available: Some(20 << 10) }));
        assert_eq!(parse("", "").cpu, None);
    }

    #[test]
    fn use_per_second_needs_two_looks() {
        let noted = Noted::default();
        let second = Duration::from_secs(1);
        assert_eq!(noted.rate(1_000_000_000, 5_000_000_000, second), None);
        assert_eq!(noted.rate(1_500_000_000, 6_000_000_000, second), None, "too soon");
        assert_eq!(noted.rate(3_000_000_000, 8_000_000_000, second), Some(1_500_000_000));
        assert_eq!(noted.rate(3_100_000_000, 9_000_000_000, second), Some(1_500_000_000));
    }
}
