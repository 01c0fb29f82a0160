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

/// Nanosecond figures of all threads: idle use is far below the 10 ms ticks of /proc/PID/stat.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let folder = format!("/proc/{pid}/task");
    let mut nanos = 0.0;
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        let path = entry?.path().join("schedstat");
        // A thread may end between the two reads.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        nanos += text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(nanos / 1e9)
}
