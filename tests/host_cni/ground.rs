//! The environment of each test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use podbay::backend::linux::{LinuxHost, Options};

/// A temp folder with a host on it; everything mounted in it goes with it.
pub struct Ground {
    pub dir: tempfile::TempDir,
    pub host: LinuxHost,
}

impl Ground {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let dir = tempfile::tempdir().unwrap();
        let host = LinuxHost::new(Options {
            netns_dir: dir.path().join("netns"),
            scratch: dir.path().join("scratch"),
            ..Options::default()
        })
        .unwrap();
        Self { dir, host }
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    pub fn netns(&self, name: &str) -> PathBuf {
        self.path("netns").join(format!("podbay-{name}"))
    }

    /// Mount points below the folder.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
        points.filter(|point| point.starts_with(self.dir.path())).collect()
    }

    /// The pinned namespaces and the folder they are shared in are all that may be mounted.
    pub fn stray_mounts(&self) -> Vec<PathBuf> {
        let netns = self.path("netns");
        self.mounts().into_iter().filter(|point| *point != netns).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for point in self.mounts().iter().rev() {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Runs a program and returns what it printed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {complaint}");
    text
}

/// Waits for a condition.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < give_up, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs work in a network namespace, on a thread of its own.
pub fn in_netns<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let namespace = fs::File::open(path).unwrap();
    std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}
