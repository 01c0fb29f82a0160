//! Processes of the host, as /proc shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind as IoKind, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::super::{Error, HostProcess, Result};
use super::failed;

/// How many times the processes of a tree are checked until all are stopped, and the delay between.
/// One that cannot be stopped (asleep in the kernel, frozen) cannot fork either.
const LOOKS: usize = 100;
const PAUSE: Duration = Duration::from_millis(2);

/// How much of a command line is read, in bytes.
const LONGEST_COMMAND_LINE: u64 = 64 << 10;

/// The required fields of /proc/PID/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: u32,
    state: u8,
    parent: u32,
    session: u32,
    /// In clock ticks since boot.
    start_time: u64,
}

impl Stat {
    /// Parses the fields after the command name, which may contain spaces and parentheses; the
    /// first of them is field 3.
    fn parse(pid: u32, line: &[u8]) -> Option<Self> {
        let after = line.iter().rposition(|byte| *byte == b')')? + 1;
        let fields: Vec<&str> =
            std::str::from_utf8(&line[after..]).ok()?.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3);
        Some(Self {
            pid,
            state: *field(3)?.as_bytes().first()?,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            start_time: field(22)?.parse().ok()?,
        })
    }

    fn read(pid: u32) -> Result<Option<Self>> {
        let path = format!("/proc/{pid}/stat");
        match fs::read(&path) {
            Ok(line) => Ok(Self::parse(pid, &line)),
            Err(error)
                if error.kind() == IoKind::NotFound
                    || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
            {
                Ok(None)
            }
            Err(error) => Err(failed("read", Path::new(&path), error)),
        }
    }

    /// Whether it cannot run: stopped, traced or dead.
    fn stands_still(&self) -> bool {
        matches!(self.state, b'T' | b't' | b'Z' | b'X')
    }
}

/// Start time of a process in clock ticks since boot; `None` when it is gone.
pub(super) fn start_time(pid: u32) -> Result<Option<u64>> {
    Ok(Stat::read(pid)?.map(|stat| stat.start_time))
}

/// Whether the process with this start time runs.
pub(super) fn lives(pid: u32, start_time: u64) -> Result<bool> {
    let stat = Stat::read(pid)?.filter(|stat| stat.start_time == start_time);
    Ok(stat.is_some_and(|stat| !matches!(stat.state, b'Z' | b'X')))
}

/// A pidfd of the process with this start time; `None` when it has ended.
pub(super) fn hold(pid: u32, start_time: u64) -> Result<Option<OwnedFd>> {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let process = match pidfd_open(id, PidfdFlags::NONBLOCK) {
        Err(Errno::SRCH) => return Ok(None),
        process => {
            process.map_err(|error| Error::io(format!("open process {pid}"), error.into()))?
        }
    };
    // Opened first and then compared, so it is certainly the right process.
    Ok(lives(pid, start_time)?.then_some(process))
}

/// Kills a process and its descendants. See [`super::super::Host::kill_tree`].
pub(super) fn kill_tree(root: u32, start_time: u64) -> Result<()> {
    let Some(first) = Stat::read(root)?.filter(|stat| stat.start_time == start_time) else {
        return Ok(());
    };
    let mut stopped = BTreeMap::new();
    let all_found = stop_tree(&first, &mut stopped);
    // Also after an error: stopped processes must not stay stopped.
    let killed = stopped.iter().map(|(pid, process)| signal(*pid, process, Signal::KILL));
    killed.fold(all_found, Result::and)
}

/// Stops the root and everything that belongs to it, until no more is found and all are stopped.
fn stop_tree(root: &Stat, stopped: &mut BTreeMap<u32, OwnedFd>) -> Result<()> {
    stop(root, stopped)?;
    let inside = Inside::of(root.pid);
    for _ in 0..LOOKS {
        let mut all_still = true;
        let all = all()?;
        let orphans = orphans(root, &all).filter(|stat| inside.has(stat.pid));
        let known = orphans.map(|stat| stat.pid).chain([root.pid]).collect();
        for found in tree(known, &all) {
            all_still &= stopped.contains_key(&found.pid) && found.stands_still();
            stop(&found, stopped)?;
        }
        if all_still {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Stops a process once and keeps its pidfd, so that its PID cannot be confused with another's.
fn stop(found: &Stat, stopped: &mut BTreeMap<u32, OwnedFd>) -> Result<()> {
    if stopped.contains_key(&found.pid) {
        return Ok(());
    }
    let Some(pid) = i32::try_from(found.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        process => process
            .map_err(|error| Error::io(format!("open process {}", found.pid), error.into()))?,
    };
    // Opened first and then compared, so it is certainly the process that was found.
    if Stat::read(found.pid)?.is_some_and(|now| now.start_time == found.start_time) {
        signal(found.pid, &process, Signal::STOP)?;
        stopped.insert(found.pid, process);
    }
    Ok(())
}

fn signal(pid: u32, process: &OwnedFd, signal: Signal) -> Result<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(Error::io(format!("send {signal:?} to process {pid}"), error.into())),
    }
}

/// All processes of the host; those that end meanwhile are left out.
fn all() -> Result<Vec<Stat>> {
    pids()?.into_iter().filter_map(|pid| Stat::read(pid).transpose()).collect()
}

/// PIDs of all processes of the host.
fn pids() -> Result<Vec<u32>> {
    let error = |error| failed("list", Path::new("/proc"), error);
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        pids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// Processes whose command line contains all of these arguments. A process that ends meanwhile is
/// skipped.
pub(super) fn with_arguments(wanted: &[String]) -> Result<Vec<HostProcess>> {
    let (mut found, mut line) = (Vec::new(), Vec::new());
    for pid in pids()? {
        // Most processes are others, so only the command line is read of them. It is read again
        // after the start time, which then belongs to it even if the PID was reused.
        if !shows_all(pid, wanted, &mut line) {
            continue;
        }
        let Some(Stat { start_time, .. }) = Stat::read(pid)? else { continue };
        if shows_all(pid, wanted, &mut line) {
            let text = String::from_utf8_lossy(&line);
            let arguments = text.split_terminator('\0').map(str::to_owned).collect();
            found.push(HostProcess { pid, start_time, arguments });
        }
    }
    Ok(found)
}

/// Reads a process's command line into `line`; whether it contains all of these arguments.
fn shows_all(pid: u32, wanted: &[String], line: &mut Vec<u8>) -> bool {
    line.clear();
    // Limited reads do not ask for the size first, which /proc does not tell.
    let read = File::open(format!("/proc/{pid}/cmdline"))
        .and_then(|file| file.take(LONGEST_COMMAND_LINE).read_to_end(line));
    let has = |word: &String| line.split(|byte| *byte == 0).any(|it| it == word.as_bytes());
    read.is_ok() && wanted.iter().all(has)
}

/// Processes in the session of the root if that has no leader any more: crun puts an exec into a
/// session that an intermediate process has made. The leader's PID is not used again while there are
/// processes in its session.
fn orphans<'a>(root: &Stat, all: &'a [Stat]) -> impl Iterator<Item = &'a Stat> {
    let session = root.session;
    let is_led = session == 0 || all.iter().any(|stat| stat.pid == session);
    all.iter().filter(move |stat| !is_led && stat.session == session)
}

/// A PID namespace other than this process's own.
struct Inside(Option<PathBuf>);

impl Inside {
    /// That of a process; of none if it is in the agent's own.
    fn of(pid: u32) -> Self {
        let own = namespace("self");
        Self(namespace(&pid.to_string()).filter(|found| own.is_some_and(|own| own != *found)))
    }

    /// Whether a process is in it, so that no session of the host's is taken for a container's.
    fn has(&self, pid: u32) -> bool {
        self.0.is_some() && namespace(&pid.to_string()) == self.0
    }
}

fn namespace(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/pid")).ok()
}

/// These processes, their descendants, the sessions led by any of them, and their descendants.
fn tree(mut members: BTreeSet<u32>, all: &[Stat]) -> Vec<Stat> {
    loop {
        let before = members.len();
        for stat in all {
            if members.contains(&stat.parent) || members.contains(&stat.session) {
                members.insert(stat.pid);
            }
        }
        if members.len() == before {
            return all.iter().filter(|stat| members.contains(&stat.pid)).copied().collect();
        }
    }
}

#[cfg(test)]
mod tests;
