//! Mounts made by the agent, and queries about mounts of the host.

use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::super::{Error, ErrorKind, Result};
use super::{absolute, failed, files, mountinfo};
use crate::model::container::Propagation;

/// Maximum number of mounts stacked on one mount point; more would be a bug.
const STACKED_MOUNTS: usize = 64;

/// Mounts the shared memory of a pod at an existing directory.
pub(super) fn shm(path: &Path, size: u64) -> Result<()> {
    absolute("path", path)?;
    let options = std::ffi::CString::new(format!("mode=1777,size={size}"))
        .map_err(|error| failed("mount tmpfs at", path, std::io::Error::from(error)))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    rustix::mount::mount("shm", path, "tmpfs", flags, options.as_c_str())
        .map_err(|error| failed("mount tmpfs at", path, error))
}

/// Detaches everything mounted at `path` itself; fine if nothing is mounted or it does not exist.
pub(super) fn detach(path: &Path) -> Result<()> {
    absolute("path", path)?;
    for _ in 0..STACKED_MOUNTS {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed("unmount", path, error)),
        }
    }
    Err(Error::new(
        ErrorKind::FailedPrecondition,
        format!("unmount {}: mounts keep appearing", path.display()),
    ))
}

/// Whether something is mounted at `path` itself, read-only.
pub(super) fn is_read_only_mount(path: &Path) -> Result<bool> {
    let parent = path.parent().unwrap_or(path);
    if mount_id(path)? == mount_id(parent)? {
        return Ok(false);
    }
    let stat = rustix::fs::statvfs(path).map_err(|error| failed("look at", path, error))?;
    Ok(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Bind-mounts a directory read-only, nosuid and nodev.
pub(super) fn bind_read_only(source: &Path, target: &Path) -> Result<()> {
    rustix::mount::mount_bind(source, target).map_err(|error| failed("bind at", target, error))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount(target, MountFlags::BIND | flags, "")
        .map_err(|error| failed("make read-only", target, error))
}

/// Resolves a mount source; see [`super::super::Host::resolve_mount_source`].
pub(super) fn resolve_source(path: &Path, create_missing: bool) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("host_path: {} is not absolute", path.display()),
        ));
    }
    match fs::canonicalize(path) {
        Err(error) if error.kind() == IoKind::NotFound && create_missing => {
            files::create_dir(path, 0o755)?;
            fs::canonicalize(path)
        }
        other => other,
    }
    .map_err(|error| failed("resolve host_path", path, error))
}

/// Whether the mount that contains `path` has the required propagation.
pub(super) fn allows_propagation(path: &Path, wanted: Propagation) -> Result<bool> {
    if wanted == Propagation::Private {
        return Ok(true);
    }
    let holder = mount_id(path)?;
    let mounts = mountinfo::read()?;
    let mount = mounts.iter().find(|mount| mount.id == holder).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("find the mount of {}", path.display()))
    })?;
    Ok(match wanted {
        Propagation::Private => true,
        Propagation::HostToContainer => mount.shared || mount.slave,
        Propagation::Bidirectional => mount.shared,
    })
}

/// Id of the mount that contains a path. The kernel reports it for an open file; comparing paths
/// would be wrong for stacked mounts.
pub(super) fn mount_id(path: &Path) -> Result<u64> {
    use std::os::fd::AsRawFd;
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("open", path, error))?;
    let info = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = fs::read_to_string(&info).map_err(|e| failed("read", Path::new(&info), e))?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("mnt_id is missing in {info}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_links_and_makes_missing_folders_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
        let missing = root.join("link/x/y");
        assert!(resolve_source(&missing, false).unwrap_err().is_not_found());
        assert!(!root.join("x").exists());
        assert_eq!(resolve_source(&missing, true).unwrap(), root.join("x/y"));
        let relative = resolve_source(Path::new("x"), true).unwrap_err();
        assert_eq!(relative.kind, ErrorKind::InvalidArgument);
    }

    #[test]
    fn private_is_always_allowed_and_a_plain_folder_detaches_fine() {
        let dir = tempfile::tempdir().unwrap();
        assert!(allows_propagation(dir.path(), Propagation::Private).unwrap());
        detach(dir.path()).unwrap();
        detach(&dir.path().join("gone")).unwrap();
        assert!(mount_id(dir.path()).unwrap() > 0);
    }
}
