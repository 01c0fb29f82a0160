//! A containerd of a test's own: own root, state, socket; ended by its pid.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::Daemon;

/// Which line of containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// The distribution's 1.x.
    V1,
    /// 2.x from the parts folder.
    V2,
}

impl Line {
    pub fn bin(self) -> PathBuf {
        match self {
            Self::V1 => "/usr/bin".into(),
            Self::V2 => std::env::var_os("PODBAY_PARTS")
                .map_or_else(|| "/opt/podbay-parts/bin".into(), PathBuf::from),
        }
    }
}

pub struct PrivateContainerd {
    daemon: Daemon,
    folder: TempDir,
    line: Line,
}

impl PrivateContainerd {
    pub fn start(line: Line) -> Self {
        let folder = tempfile::Builder::new().prefix("pbc-").tempdir().expect("a folder");
        let daemon = launch(line, folder.path());
        let it = Self { daemon, folder, line };
        it.wait();
        it
    }

    pub fn address(&self) -> PathBuf {
        self.folder.path().join("c.sock")
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn kill9(&mut self) {
        self.daemon.kill9();
    }

    pub fn restart(&mut self) {
        self.daemon.kill9();
        self.daemon = launch(self.line, self.folder.path());
        self.wait();
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(self.address()).is_err() {
            assert!(Instant::now() < deadline, "{}", self.daemon.last_words());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

fn launch(line: Line, dir: &Path) -> Daemon {
    let at = dir.display();
    let disabled = match line {
        Line::V1 => "[\"io.containerd.grpc.v1.cri\"]",
        Line::V2 => {
            "[\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.grpc.v1.cri\"]"
        }
    };
    let version = if line == Line::V1 { 2 } else { 3 };
    let text = format!(
        "version = {version}\nroot = \"{at}/root\"\nstate = \"{at}/state\"\ndisabled_plugins = {disabled}\n\
         [grpc]\n  address = \"{at}/c.sock\"\n[ttrpc]\n  address = \"{at}/c.sock.ttrpc\"\n"
    );
    std::fs::write(dir.join("config.toml"), text).expect("config");
    let path = format!("{}:{}", line.bin().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(line.bin().join("containerd"));
    command.arg("--config").arg(dir.join("config.toml")).env("PATH", path);
    Daemon::start(&mut command, &dir.join("log"))
}
