//! Metrics of a container's processes: number, states, open files.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::cgroup::Controller::Pids;
use super::families;
use super::{Files, Samples};

/// Numbers of tasks by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct States {
    pub running: u64,
    pub sleeping: u64,
    pub stopped: u64,
    pub uninterruptible: u64,
}

impl States {
    /// Counts a task by its line of `/proc/PID/stat`. Dead tasks are not counted.
    pub fn count(&mut self, stat: &[u8]) {
        match state(stat) {
            Some(b'R') => self.running += 1,
            Some(b'S' | b'I') => self.sleeping += 1,
            Some(b'T' | b't') => self.stopped += 1,
            Some(b'D') => self.uninterruptible += 1,
            _ => {}
        }
    }
}

/// The field after the command name, which may itself contain spaces and parentheses.
fn state(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).copied()
}

/// Adds all these metrics. Processes that end meanwhile are not counted.
pub(super) fn add(samples: &mut Samples, files: &Files<'_>, proc: &Path, first: u32) {
    let (mut processes, mut descriptors, mut sockets, mut tasks) = (0, 0, 0, 0);
    let mut states = States::default();
    for pid in files.0.processes() {
        processes += 1;
        let process = proc.join(pid.to_string());
        for link in std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            descriptors += 1;
            let target = std::fs::read_link(link.path());
            let is_socket = |target: &Path| target.as_os_str().as_bytes().starts_with(b"socket:");
            sockets += u64::from(target.is_ok_and(|target| is_socket(&target)));
        }
        for task in std::fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
            if let Ok(stat) = std::fs::read(task.path().join("stat")) {
                tasks += 1;
                states.count(&stat);
            }
        }
    }
    samples.add(&families::PROCESSES, [], processes);
    samples.add(&families::FILE_DESCRIPTORS, [], descriptors);
    samples.add(&families::SOCKETS, [], sockets);
    let threads = files.number(Pids, "pids.current").unwrap_or(tasks);
    samples.add(&families::THREADS, [], threads);
    let most = files.number(Pids, "pids.max").filter(|most| *most != u64::MAX);
    samples.add(&families::THREADS_MAX, [], most.unwrap_or_default());
    for (state, count) in [
        ("running", states.running),
        ("sleeping", states.sleeping),
        ("stopped", states.stopped),
        ("uninterruptible", states.uninterruptible),
    ] {
        samples.add(&families::TASKS_STATE, [state], count);
    }
    let limits = std::fs::read_to_string(proc.join(format!("{first}/limits")));
    let open_files = limits.ok().and_then(|limits| max_open_files(&limits));
    samples.add_known(&families::ULIMITS_SOFT, ["max_open_files"], open_files);
}

/// The soft limit in `/proc/PID/limits`.
pub(super) fn max_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        // As cAdvisor does: -1 stored in an unsigned field.
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}
