//! Read-only id-mapped mounts (mount_setattr(2)).
//!
//! Overlays do not support id mappings, but their layers do.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::super::Result;
use super::{failed, files, tree};

/// Bind-mounts a directory read-only, nosuid and nodev, with the id mappings of the user namespace
/// pinned at `userns`.
pub(super) fn bind(source: &Path, target: &Path, userns: &Path) -> Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = rustix::mount::open_tree(CWD, source, flags)
        .map_err(|error| failed("clone the mount of", source, error))?;
    let ids = rustix::fs::open(userns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("open", userns, error))?;
    map(clone.as_fd(), ids.as_fd()).map_err(|error| failed("map the ids of", source, error))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&clone, "", CWD, target, flags)
        .map_err(|error| failed("mount at", target, error))
}

/// Makes such a mount of each layer of an overlay while `mount` runs, which gets their paths in the
/// same order. A mounted overlay keeps its layers alive by itself.
pub(super) fn with_layers(
    layers: &[PathBuf],
    target: &Path,
    userns: &Path,
    mount: impl FnOnce(&[String]) -> Result<()>,
) -> Result<()> {
    let name = format!(".layers-{:016x}", rand::random::<u64>());
    let scratch = target.with_file_name(name);
    let mapped = layers.iter().enumerate().map(|(index, layer)| {
        let at = scratch.join(index.to_string());
        files::create_dir(&at, 0o700)?;
        bind(layer, &at, userns)?;
        Ok(at.display().to_string())
    });
    let mounted = mapped.collect::<Result<Vec<_>>>().and_then(|mapped| mount(&mapped));
    let removed = tree::remove(&scratch);
    mounted.and(removed)
}

/// Applies the attributes to a mount that is not attached yet.
fn map(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> std::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP
            | libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: userns.as_raw_fd().unsigned_abs().into(),
    };
    // SAFETY: both descriptors are open, the path is an empty C string, and the kernel reads no
    // more of the attributes than the given size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
