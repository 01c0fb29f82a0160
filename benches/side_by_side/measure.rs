//! What the daemons of a side cost: memory and CPU time, read from /proc.

use anyhow::{Context, Result};

use super::world::Side;

/// Readings of the processes of a side.
pub struct Usage;

impl Usage {
    /// Resident (RSS) and proportional (PSS) memory in MiB.
    pub fn memory(side: &Side) -> Result<Vec<(&'static str, f64)>> {
        let (mut rss, mut pss) = (0.0, 0.0);
        let mut found = Vec::new();
        for pid in pids(side) {
            let resident = field_kib(pid, "status", "VmRSS:")?;
            rss += resident;
            pss += field_kib(pid, "smaps_rollup", "Pss:")?;
            if Some(pid) == side.agent_pid() {
                found.push(("agent alone, RSS", resident));
            }
        }
        found.push(("daemons together, RSS", rss));
        found.push(("daemons together, PSS", pss));
        Ok(found)
    }

    /// CPU seconds used so far.
    pub fn cpu(side: &Side) -> Result<Vec<(&'static str, f64)>> {
        let mut total = 0.0;
        let mut found = Vec::new();
        for pid in pids(side) {
            let seconds = cpu_seconds(pid)?;
            total += seconds;
            if Some(pid) == side.agent_pid() {
                found.push(("agent alone", seconds));
            }
        }
        found.push(("daemons together", total));
        Ok(found)
    }
}

fn pids(side: &Side) -> Vec<u32> {
    side.agent_pid().into_iter().chain([side.containerd_pid()]).collect()
}

/// A `Name:   1234 kB` line in MiB.
fn field_kib(pid: u32, file: &str, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/{file}");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {name} in {path}"))? / 1024.0)
}

/// CPU time of the whole process, with that of threads that have ended. Its 10 ms ticks are 0.03 %
/// of a core over half a minute.
fn cpu_seconds(pid: u32) -> Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The command may hold spaces; utime and stime are the 12th and 13th words behind it.
    let behind = text.rsplit(')').next().unwrap_or_default();
    let times = behind.split_whitespace().skip(11).take(2);
    Ok(times.filter_map(|word| word.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND)
}
