//! A containerd for one test, with its own root, state, sockets and configuration in one temporary
//! directory, all removed when it is dropped.

#![allow(dead_code)] // each test binary uses a part of it

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::parts;

const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(10);

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// The distribution's 1.x.
    V1,
    /// The 2.x of the folder [`parts`].
    V2,
}

impl Line {
    fn binary(self) -> PathBuf {
        match self {
            Self::V1 => "/usr/bin/containerd".into(),
            Self::V2 => parts().join("containerd"),
        }
    }

    /// Where the daemon finds its shim and runc.
    fn path(self) -> String {
        match self {
            Self::V1 => criu_path(),
            Self::V2 => format!("{}:{}", parts().display(), criu_path()),
        }
    }
}

/// The system's programs, and before them a CRIU that works, where the system's own does not.
pub fn criu_path() -> String {
    format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", parts().join("criu-kit").display())
}

/// A running containerd that belongs to one test.
pub struct PrivateContainerd {
    line: Line,
    dir: TempDir,
    daemon: Option<Child>,
}

impl PrivateContainerd {
    /// Starts one without its CRI plugin and waits till it serves.
    pub fn start(line: Line) -> Self {
        Self::start_with(line, false)
    }

    /// Starts one, with its own CRI plugin if wanted, and waits till it serves.
    pub fn start_with(line: Line, with_cri: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("podbay-ctrd-").tempdir().expect("temp folder");
        // The root of a pod in a user namespace goes through it to its bundle.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).expect("its mode");
        let config = configuration(line, dir.path(), with_cri);
        fs::write(dir.path().join("config.toml"), config).expect("write configuration");
        let mut containerd = Self { line, dir, daemon: None };
        containerd.launch();
        containerd
    }

    /// Its gRPC socket.
    pub fn address(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    /// The folder that holds all of it; tests may put their own things below `work/`.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Which one it is.
    pub fn line(&self) -> Line {
        self.line
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }

    /// Starts it again with its CRI plugin on; `sections` is more TOML of the configuration.
    pub fn serve_cri(&mut self, sections: &str) {
        self.end(Signal::SIGTERM);
        let config = configuration(self.line, self.root(), true) + sections;
        fs::write(self.root().join("config.toml"), config).expect("write configuration");
        self.launch();
    }

    /// Kills the daemon at once. Shims and containers live on.
    pub fn kill9(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Stops the daemon if it runs and starts it again on the same folders.
    pub fn restart(&mut self) {
        self.end(Signal::SIGTERM);
        self.launch();
    }

    /// Ends the daemon, its shims and all that runs in them.
    pub fn kill_all(&mut self) {
        self.end(Signal::SIGTERM);
        self.kill_shims();
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("containerd.log")).unwrap_or_default()
    }

    fn launch(&mut self) {
        let binary = self.line.binary();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("containerd.log"))
            .expect("open log");
        let _ = fs::remove_file(self.address());
        let daemon = Command::new(&binary)
            .arg("--config")
            .arg(self.dir.path().join("config.toml"))
            .env("PATH", self.line.path())
            .env("TMPDIR", self.dir.path())
            // Its CRI plugin makes missing relative paths of mounts here.
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("these tests need {}: {error}", binary.display()));
        self.daemon = Some(daemon);
        // It listens only after all of its plugins are up.
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(self.address()).is_err() {
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten());
            assert!(ended.is_none(), "containerd ended ({ended:?}):\n{}", self.log());
            assert!(Instant::now() < until, "containerd does not serve:\n{}", self.log());
            sleep(TICK);
        }
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut daemon) = self.daemon.take() else { return };
        send(daemon.id(), signal);
        let until = Instant::now() + PATIENCE;
        while let Ok(None) = daemon.try_wait() {
            if Instant::now() > until {
                let _ = daemon.kill();
            }
            sleep(TICK);
        }
    }

    /// The shims of this daemon: they name its socket.
    pub fn shims(&self) -> Vec<u32> {
        let address = self.address();
        let address = address.to_str().expect("temp folders are UTF-8");
        processes()
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let mut words = line.split(|byte| *byte == 0);
                words.next().is_some_and(|name| name.windows(15).any(|w| w == b"containerd-shim"))
                    && words.any(|word| word == address.as_bytes())
            })
            .collect()
    }

    /// Kills all shims and what runs below them, and removes the cgroups of the latter.
    fn kill_shims(&self) {
        let sockets = self.shim_sockets();
        let shims = self.shims();
        let family = descendants(&shims);
        let cgroups: BTreeSet<PathBuf> = family.iter().flat_map(|pid| cgroups(*pid)).collect();
        // Shims first: they would report and clean up in between.
        for pid in shims.iter().chain(&family) {
            send(*pid, Signal::SIGKILL);
        }
        let all: Vec<u32> = shims.iter().chain(&family).copied().collect();
        wait_gone(&all);
        for cgroup in cgroups.iter().rev() {
            let _ = fs::remove_dir(cgroup);
        }
        for socket in sockets {
            let _ = fs::remove_file(socket);
        }
    }

    /// Sockets of shims lie outside of the state folder, and daemons leave some behind. The log
    /// tells of all tasks there were; the name of a socket follows from the task's.
    fn shim_sockets(&self) -> BTreeSet<PathBuf> {
        let log = self.log();
        let told = log.split("unix:///run/containerd/s/").skip(1);
        let told = told.map(|rest| rest.chars().take_while(char::is_ascii_hexdigit).collect());
        let tasks = log.split("io.containerd.runtime.v2.task/").skip(1);
        let named = tasks.filter_map(|rest| {
            let (namespace, rest) = rest.split_once('/')?;
            let id: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
            let name = self.address().join(namespace).join(id);
            Some(hex::encode(Sha256::digest(name.as_os_str().as_encoded_bytes())))
        });
        let names: BTreeSet<String> = told.chain(named).collect();
        names.iter().map(|name| Path::new("/run/containerd/s").join(name)).collect()
    }

    fn unmount_all(&self) {
        let below = |path: &Path| path.starts_with(self.dir.path());
        for mount in mounts().iter().rev().filter(|mount| below(mount)) {
            let _ = umount2(mount, MntFlags::MNT_DETACH);
        }
    }
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines = log.lines().filter(|line| !line.contains("loading plugin"));
            let tail: Vec<&str> = lines.rev().take(20).collect();
            eprintln!("last lines of containerd ({:?}):", self.line);
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
        self.kill_all();
        self.unmount_all();
    }
}

fn configuration(line: Line, dir: &Path, with_cri: bool) -> String {
    let at = |name: &str| format!("{:?}", dir.join(name));
    // NRI would open its socket at a place that all daemons share.
    let mut disabled = vec!["io.containerd.nri.v1.nri"];
    if !with_cri {
        disabled.extend([
            "io.containerd.grpc.v1.cri",
            "io.containerd.cri.v1.images",
            "io.containerd.cri.v1.runtime",
        ]);
    }
    let (version, cri) = match line {
        Line::V1 => (2, "io.containerd.grpc.v1.cri"),
        Line::V2 => (3, "io.containerd.cri.v1.runtime"),
    };
    let cri_section = format!("[plugins.{cri:?}]\nrestrict_oom_score_adj = true\n");
    format!(
        "version = {version}\nroot = {}\nstate = {}\ndisabled_plugins = {disabled:?}\n\
         [grpc]\naddress = {}\n[ttrpc]\naddress = {}\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = {}\n{}",
        at("root"),
        at("state"),
        at("containerd.sock"),
        at("containerd.sock.ttrpc"),
        at("opt"),
        if with_cri { cri_section.as_str() } else { "" },
    )
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).expect("a process id");
    let _ = kill(Pid::from_raw(pid), signal);
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    list(Path::new("/proc")).into_iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok())
}

/// Parent and state of a process, `None` when it is gone.
fn stat(pid: u32) -> Option<(u32, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.rsplit_once(") ")?.1.split(' ');
    let state = words.next()?.chars().next()?;
    Some((words.next()?.parse().ok()?, state))
}

fn descendants(roots: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in processes() {
        if let Some((parent, _)) = stat(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut left = roots.to_vec();
    while let Some(pid) = left.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(child);
            left.push(child);
        }
    }
    found
}

/// Waits until these have ended. A zombie that init has not collected yet has ended.
fn wait_gone(pids: &[u32]) {
    let until = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| stat(*pid).is_some_and(|(_, state)| state != 'Z')) {
        if Instant::now() > until {
            // No panic: this runs in a drop.
            eprintln!("processes {pids:?} do not end");
            return;
        }
        sleep(TICK);
    }
}

/// The cgroup folders of a process, other than the root ones.
fn cgroups(pid: u32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let foreign = text.lines().filter(|line| !own.contains(*line));
    foreign
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            let controllers = controllers.trim_start_matches("name=");
            let base = Path::new("/sys/fs/cgroup");
            let tops = [base.join(controllers), base.join("unified"), base.to_owned()];
            let path = tops.iter().map(|top| top.join(path)).find(|path| path.is_dir());
            path.filter(|found| !tops.contains(found))
        })
        .collect()
}

/// All mount points of this process, in the order they were mounted.
fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}
