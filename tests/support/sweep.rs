//! Removes leftovers of a failed test or bench run: shims, container processes, cgroups, mounts,
//! links. Everything is found by names that belong to one world only.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process::processes_with;

/// Kills the shims of the containerd at this address.
pub fn kill_shims(address: &Path) {
    for pid in processes_with(&["containerd-shim", &address.display().to_string()]) {
        kill9(pid);
    }
}

/// Kills what runs in a cgroup or below, and removes the cgroups as far as they are empty then.
pub fn kill_cgroups(parent: &str) {
    for cgroup in cgroups_below(parent) {
        let pids = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        pids.lines().filter_map(|line| line.parse().ok()).for_each(kill9);
        let _busy_or_gone = std::fs::remove_dir(&cgroup);
    }
}

fn kill9(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let _gone_already = kill(pid, Signal::SIGKILL);
}

/// Detaches every mount below a folder.
pub fn unmount_below(folder: &Path) {
    for mount in mounts_below(folder).iter().rev() {
        let _gone_already = umount2(Path::new(mount), MntFlags::MNT_DETACH);
    }
}

/// Deletes a bridge and what is plugged into it.
pub fn delete_bridge(name: &str) {
    names_in(&ports_of(name)).iter().for_each(|port| delete_link(port));
    delete_link(name);
}

fn delete_link(name: &str) {
    let mut command = Command::new("ip");
    let _absent = command.args(["link", "delete", name]).stderr(Stdio::null()).status();
}

/// Mount points below a folder, parents first.
pub fn mounts_below(folder: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let prefix = format!("{}/", folder.display());
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| point.starts_with(&prefix)).map(str::to_owned).collect()
}

/// A cgroup and all below it, in every hierarchy, leaves first.
pub fn cgroups_below(parent: &str) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let mut roots = vec![base.to_owned()];
    roots.extend(names_in(base).into_iter().map(|name| base.join(name)));
    let mut found = Vec::new();
    for root in roots {
        let top = root.join(parent.trim_start_matches('/'));
        if top.is_dir() {
            found.extend(all_below(&top).into_iter().filter(|path| path.is_dir()));
            found.push(top);
        }
    }
    found
}

/// The folder that names what is plugged into a bridge.
pub fn ports_of(bridge: &str) -> PathBuf {
    Path::new("/sys/class/net").join(bridge).join("brif")
}

/// Names in a folder; none when it is absent.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// All paths below a folder, children before their parent, links not followed.
pub fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(all_below(&path));
        }
        found.push(path);
    }
    found
}
