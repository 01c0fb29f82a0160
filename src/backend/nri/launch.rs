//! Plugins started by podbay: programs in a directory of the operator.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::super::trust::is_trusted;
use super::plugin::Identity;

/// Maximum size of a plugin's configuration.
const MAX_CONFIG: u64 = 1 << 20;

/// The descriptor number of a plugin's end of the connection.
const SOCKET: i32 = 3;

/// A plugin's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) identity: Identity,
    path: PathBuf,
}

/// The process of a plugin; dropping it kills the process.
#[derive(Debug)]
pub(super) struct Launched(#[allow(dead_code)] Child);

/// The programs in `folder`, in calling order. Invalid ones are logged and skipped, so that a bad
/// file does not affect other plugins.
pub(super) fn discover(folder: &Path) -> Vec<Program> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(?folder, %error, "cannot read NRI plugin folder");
            return Vec::new();
        }
    };
    if let Err(problem) = is_trusted(folder) {
        tracing::warn!(?folder, problem, "refusing to start NRI plugins from this folder");
        return Vec::new();
    }
    let mut programs = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        match program(&path) {
            Ok(Some(identity)) => programs.push(Program { identity, path }),
            Ok(None) => {}
            Err(problem) => tracing::warn!(?path, problem, "ignoring NRI plugin"),
        }
    }
    programs.sort_by(|a, b| a.path.cmp(&b.path));
    programs
}

/// Index and name of the program at `path`; `None` when it is not a plugin.
fn program(path: &Path) -> Result<Option<Identity>, String> {
    let found = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        return Ok(None);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let identity = Identity::of_file(name)?;
    is_trusted(path)?;
    Ok(Some(identity))
}

/// The configuration of a plugin: for its index and name, or for its name only; empty when there is
/// none.
pub(super) fn config(folder: &Path, identity: &Identity) -> io::Result<String> {
    for name in [format!("{identity}.conf"), format!("{}.conf", identity.name)] {
        let path = folder.join(name);
        match std::fs::metadata(&path) {
            Ok(found) if found.len() > MAX_CONFIG => {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 1 MiB"));
            }
            Ok(_) => return std::fs::read_to_string(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::new())
}

impl Program {
    /// Starts it with its end of a connection as descriptor 3, and no other descriptors. Must be
    /// called inside a tokio runtime.
    pub(super) fn start(&self) -> io::Result<(UnixStream, Launched)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = std::process::Command::new(&self.path);
        command
            .env_clear()
            .env("NRI_PLUGIN_NAME", &self.identity.name)
            .env("NRI_PLUGIN_IDX", &self.identity.index)
            .env("NRI_PLUGIN_SOCKET", SOCKET.to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .fd_mappings(vec![FdMapping { parent_fd: theirs.into(), child_fd: SOCKET }])
            .map_err(io::Error::other)?;
        let child = Command::from(command).kill_on_drop(true).spawn()?;
        Ok((UnixStream::from_std(ours)?, Launched(child)))
    }
}
