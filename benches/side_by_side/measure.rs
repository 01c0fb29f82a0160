//! Memory and CPU time of a side's daemons, read from /proc.

use anyhow::{Context, Result, bail};

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
            let (seconds, _) = cpu_seconds(pid)?;
            total += seconds;
            if Some(pid) == side.agent_pid() {
                found.push(("agent alone", seconds));
            }
        }
        found.push(("daemons together", total));
        Ok(found)
    }

    /// CPU milliseconds used so far by all of a side, and who used them. The plugins of the CNI
    /// are children of podbay's agent on one side, and of containerd on the other.
    pub fn spent(side: &Side) -> Result<Vec<(&'static str, f64)>> {
        let all = side.cpu.millis()?;
        let mut found = vec![("all together", all)];
        let mut rest = all;
        let names = [
            ("agent", "children of the agent: CNI plugins"),
            ("containerd", "children of containerd: shim starts"),
        ];
        let agent = side.agent_pid().map(|pid| (pid, names[0]));
        for (pid, (own_name, children_name)) in
            agent.into_iter().chain([(side.containerd_pid(), names[1])])
        {
            let (own, children) = cpu_seconds(pid)?;
            found.extend([(own_name, own * 1e3), (children_name, children * 1e3)]);
            rest -= (own + children) * 1e3;
        }
        found.push(("shims and OCI runtimes", rest));
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

/// CPU seconds of the whole process, with those of threads that have ended, and of its children
/// that have ended. The ticks of 10 ms are 0.03 % of a core over half a minute.
fn cpu_seconds(pid: u32) -> Result<(f64, f64)> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The command may hold spaces; utime, stime and those of children are behind it from the
    // 12th word on.
    let behind = text.rsplit(')').next().unwrap_or_default();
    let times = behind.split_whitespace().skip(11).take(4);
    let times: Vec<f64> = times.filter_map(|word| word.parse().ok()).collect();
    let [user, system, of_children @ ..] = &times[..] else { bail!("no times in {path}") };
    Ok(((user + system) / TICKS_PER_SECOND, of_children.iter().sum::<f64>() / TICKS_PER_SECOND))
}
