//! Access to a part of a volume: bind-mounting or reading it.
//!
//! Whoever can write to the volume may put a link into the path at any moment. So the kernel
//! resolves the path below the volume in one call, and the result is a descriptor, which is then
//! checked, cloned and attached without using its name again.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

use super::super::{Error, ErrorKind, Result};
use super::{absolute, failed, files, mounts};

/// Links are followed if they stay below the volume, as those in a config map do.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// How many times a lookup is retried if concurrent renames disturb it.
const TRIES: usize = 64;

/// Mode of the parents of a mount point, which no container sees.
const PARENT_MODE: u32 = 0o700;

/// Mounts a part of a volume; see [`super::super::Host::bind_sub_path`].
pub(super) fn bind(volume: &Path, sub: &Path, target: &Path) -> Result<()> {
    absolute("target", target)?;
    let root = open_volume(volume, sub)?;
    let found = open_or_make(&root, sub).map_err(|error| refused(volume, sub, error))?;
    if prepare(&found, target)? {
        return Ok(());
    }
    attach(&found, target)
}

/// Reads a file in a volume; see [`super::super::Host::read_in_volume`].
pub(in crate::backend) fn read(volume: &Path, sub: &Path, max: usize) -> Result<Option<Vec<u8>>> {
    let root = open_volume(volume, sub)?;
    let found = match open_beneath(&root, sub) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(refused(volume, sub, error)),
    };
    let name = format!("{} in volume {}", sub.display(), volume.display());
    let meta = rustix::fs::fstat(&found).map_err(|error| failed("look at", sub, error))?;
    // Opening a device or a FIFO could have an effect.
    if !FileType::from_raw_mode(meta.st_mode).is_file() {
        let tried = format!("{name} is not a regular file");
        return Err(Error::new(ErrorKind::FailedPrecondition, tried));
    }
    // Reopens the same file, regardless of what its name points to by now.
    let held = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = fs::File::open(held).map_err(|error| failed("open", sub, error))?;
    files::read_regular(&file, max, &name).map(Some)
}

/// Opens the top directory of a volume that contains `sub`.
fn open_volume(volume: &Path, sub: &Path) -> Result<OwnedFd> {
    absolute("volume", volume)?;
    if sub.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        let tried = format!("sub path {} is not relative, or has \"..\"", sub.display());
        return Err(Error::new(ErrorKind::InvalidArgument, tried));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(volume, flags, Mode::empty())
        .map_err(|error| failed("open volume", volume, error))
}

fn refused(volume: &Path, sub: &Path, error: Errno) -> Error {
    let tried = format!("find {} in volume {}", sub.display(), volume.display());
    match error {
        Errno::XDEV | Errno::LOOP => Error::new(ErrorKind::FailedPrecondition, tried)
            .because("a link leads out of the volume"),
        error => Error::io(tried, error.into()),
    }
}

fn open_beneath(root: &OwnedFd, path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    for _ in 1..TRIES {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), BENEATH) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    rustix::fs::openat2(root, path, flags, Mode::empty(), BENEATH)
}

/// Opens `sub`; missing directories are created like the volume's own.
fn open_or_make(root: &OwnedFd, sub: &Path) -> std::result::Result<OwnedFd, Errno> {
    let sub = Path::new(".").join(sub);
    match open_beneath(root, &sub) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(root)?.st_mode);
    let mut above = open_beneath(root, Path::new("."))?;
    let mut path = PathBuf::new();
    for part in sub.components() {
        path.push(part);
        above = match open_beneath(root, &path) {
            Err(Errno::NOENT) => make(&above, Path::new(part.as_os_str()), mode)?,
            other => other?,
        };
    }
    Ok(above)
}

fn make(above: &OwnedFd, name: &Path, mode: Mode) -> std::result::Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(above, name, mode) {
        // It exists by now, or is a link to a missing file: the next lookup decides.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = BENEATH | ResolveFlags::NO_SYMLINKS;
    let made = rustix::fs::openat2(above, name, flags, Mode::empty(), below)?;
    // mkdir applies the umask and ignores the setgid bit.
    rustix::fs::fchmod(&made, mode)?;
    Ok(made)
}

/// Creates the mount point with the same type; `true` when the right thing is mounted there
/// already.
fn prepare(found: &OwnedFd, target: &Path) -> Result<bool> {
    let wanted =
        rustix::fs::fstat(found).map_err(|error| failed("look at the part for", target, error))?;
    let folder = FileType::from_raw_mode(wanted.st_mode).is_dir();
    match rustix::fs::lstat(target) {
        Ok(there) if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino) => {
            return Ok(true);
        }
        Ok(_) => {
            mounts::detach(target)?;
            let bare = fs::symlink_metadata(target).map_err(|e| failed("stat", target, e))?;
            if bare.is_dir() == folder {
                return Ok(false);
            }
            let gone = if bare.is_dir() { fs::remove_dir(target) } else { fs::remove_file(target) };
            gone.map_err(|error| failed("remove mount point", target, error))?;
        }
        Err(Errno::NOENT) => {}
        Err(error) => return Err(failed("look at", target, error)),
    }
    if folder {
        files::create_dir(target, PARENT_MODE)?;
    } else {
        files::write(target, b"", 0o600)?;
    }
    Ok(false)
}

fn attach(found: &OwnedFd, target: &Path) -> Result<()> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(found.as_fd(), "", clone)
        .map_err(|error| failed("clone the part for", target, error))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", CWD, target, flags)
        .map_err(|error| failed("mount a part of a volume at", target, error))?;
    // Unmounting it later must not unmount anything on the host.
    let one_way = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(target, one_way).map_err(|error| {
        // Best effort: the first error is returned.
        let _ = mounts::detach(target);
        failed("set the propagation of", target, error)
    })
}

#[cfg(test)]
mod tests;
