//! The pause program, embedded in the agent, so that pods can start without a registry.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::model::image::Digest;

/// A static executable of a few KB for this agent's architecture. It waits for ever as PID 1 of a
/// pod, reaps orphans, and exits with code 0 on SIGTERM or SIGINT.
pub static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// Path of the program in its root directory.
pub const PATH: &str = "/pause";

/// Mount points that OCI runtimes need in a read-only root.
const MOUNT_POINTS: [&str; 5] = ["proc", "dev", "sys", "etc", "tmp"];

/// Writes the program and the mount points of a pod's root into a directory below `base`, and
/// returns that directory. It is named after the program's digest, so that pods of an older agent
/// keep theirs.
pub fn install(base: &Path) -> io::Result<PathBuf> {
    let root = base.join(&Digest::of(PROGRAM).hex()[..16]);
    for name in MOUNT_POINTS {
        DirBuilder::new().recursive(true).mode(0o755).create(root.join(name))?;
    }
    let path = root.join(&PATH[1..]);
    if fs::read(&path).is_ok_and(|content| content == PROGRAM) {
        return Ok(root);
    }
    let fresh = root.join(".pause.new");
    fs::write(&fresh, PROGRAM)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
    fs::File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, &path)?;
    Ok(root)
}

#[cfg(test)]
mod tests;
