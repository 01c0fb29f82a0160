//! Plugins that are still running from a previous agent process.
//!
//! They are recognised by their environment, which their children inherit: a CNI command for one of
//! our pods.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::ids::PodId;

/// How long they may take to end, and the delay between two checks.
const LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// Maximum number of bytes read from an environment.
const LONGEST: usize = 1 << 20;

/// A running plugin.
struct Plugin {
    pid: Pid,
    process: OwnedFd,
}

/// Kills the plugins running for these pods with their process groups, and waits until none is
/// left; returns false if that takes too long.
pub(super) fn end(pods: &[PodId]) -> io::Result<bool> {
    let pods: BTreeSet<&str> = pods.iter().map(PodId::as_str).collect();
    let give_up = Instant::now() + LIMIT;
    let mut told = BTreeSet::new();
    loop {
        let found = at_work(&pods)?;
        if found.is_empty() {
            return Ok(true);
        }
        for plugin in &found {
            let pid = plugin.pid.as_raw_nonzero();
            if told.insert(pid) {
                tracing::warn!(pid, "killing a CNI plugin that an earlier agent left running");
            }
            kill(plugin);
        }
        if Instant::now() >= give_up {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The group first, whose id is valid because the plugin is held; then the plugin itself.
fn kill(plugin: &Plugin) {
    let own = rustix::process::getpgrp();
    if let Ok(group) = rustix::process::getpgid(Some(plugin.pid))
        && group != own
    {
        // A process that has ended is fine; a remaining one is found again.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _ = pidfd_send_signal(&plugin.process, Signal::KILL);
}

fn at_work(pods: &BTreeSet<&str>) -> io::Result<Vec<Plugin>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|pid| *pid != rustix::process::getpid()) else { continue };
        if !is_of(pid, pods) {
            continue;
        }
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => continue,
            process => process?,
        };
        // Opened first, then checked again, so that it is certainly the process that was found.
        if is_of(pid, pods) {
            found.push(Plugin { pid, process });
        }
    }
    Ok(found)
}

/// Whether it is a plugin running for one of these pods. It must have our user and PID
/// namespace, since a container could set its own environment.
fn is_of(pid: Pid, pods: &BTreeSet<&str>) -> bool {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    let ours = rustix::process::geteuid().as_raw();
    let namespace = |of: &str| fs::read_link(format!("{of}/ns/pid")).ok();
    // Zombies have no environment any more.
    let Ok(environment) = read(&format!("{folder}/environ")) else { return false };
    has_ours(&environment, pods)
        && fs::metadata(&folder).is_ok_and(|found| found.uid() == ours)
        && namespace(&folder).is_some_and(|seen| Some(seen) == namespace("/proc/self"))
}

fn read(path: &str) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LONGEST as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn has_ours(environment: &[u8], pods: &BTreeSet<&str>) -> bool {
    let value = |name: &str| {
        let mut all = environment.split(|byte| *byte == 0);
        all.find_map(|one| std::str::from_utf8(one).ok()?.strip_prefix(name)?.strip_prefix('='))
    };
    value("CNI_CONTAINERID").is_some_and(|pod| pods.contains(pod)) && value("CNI_COMMAND").is_some()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn plugins_of_our_pods_end_with_what_they_have_started() {
        let (ours, foreign) = (PodId::random(), PodId::random());
        let start = |pod: &PodId| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "sleep 1000 & sleep 1000"]).process_group(0);
            command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", pod.as_str());
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
        };
        let (mut cut, mut other) = (start(&ours), start(&foreign));
        // A zombie does not count, so nobody has to reap it meanwhile.
        assert!(end(std::slice::from_ref(&ours)).unwrap());
        assert!(!cut.wait().unwrap().success());
        assert!(at_work(&BTreeSet::from([ours.as_str()])).unwrap().is_empty());
        assert!(other.try_wait().unwrap().is_none(), "it is of nobody's pod");
        assert!(end(std::slice::from_ref(&foreign)).unwrap());
        other.wait().unwrap();
    }

    #[test]
    fn an_environment_names_a_command_and_a_pod() {
        let pods = BTreeSet::from(["a1"]);
        for (environment, expected) in [
            (&b"PATH=/bin\0CNI_COMMAND=ADD\0CNI_CONTAINERID=a1\0"[..], true),
            (b"CNI_CONTAINERID=a1\0", false),
            (b"CNI_COMMAND=ADD\0CNI_CONTAINERID=a12\0", false),
            (b"CNI_COMMAND=ADD\0XCNI_CONTAINERID=a1\0", false),
            (b"", false),
            (b"\xff\0CNI_COMMAND=DEL\0CNI_CONTAINERID=a1", true),
        ] {
            assert_eq!(has_ours(environment, &pods), expected);
        }
    }
}
