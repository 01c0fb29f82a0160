//! Removes a directory tree that containers may have written to.
//!
//! The walk uses descriptors, which the kernel resolves below the tree's root without following
//! links or mounts, so that concurrent changes cannot lead it elsewhere. It uses a work list
//! instead of recursion: depth costs no stack and no descriptors.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use super::super::{Error, ErrorKind, Result};
use super::{absolute, failed, mountinfo, mounts};

/// How long unmounting a busy mount is retried before it is detached.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Directories deeper than this are moved up first, because a path is limited by PATH_MAX.
const LONG_PATH: usize = 2000;

/// How many times the tree is walked again because something appeared in it.
const PASSES: usize = 16;

/// Only downwards, within this mount.
const BELOW: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Why a removal stopped.
enum Stop {
    /// Something is mounted in the tree.
    Mounted,
    /// A system call failed on this path below the root.
    Failed(PathBuf, Errno),
}

/// Removes a tree; a missing one is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    absolute("path", path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(ErrorKind::InvalidArgument, "path: the root is not removed"));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(failed("open", parent, error)),
    };
    for pass in 0..PASSES {
        match remove_entry(parent.as_fd(), name) {
            Ok(()) => return Ok(()),
            Err(Stop::Mounted) => unmount_below(&parent, name)?,
            Err(Stop::Failed(_, Errno::NOTEMPTY | Errno::EXIST)) if pass + 1 < PASSES => {}
            Err(Stop::Failed(inside, error)) => {
                return Err(failed("remove", &path.join(inside), error));
            }
        }
    }
    Err(Error::new(
        ErrorKind::FailedPrecondition,
        format!("remove {}: mounts keep appearing in it", path.display()),
    ))
}

/// Removes a directory entry with everything below, if nothing is mounted in it.
pub(super) fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> std::result::Result<(), Errno> {
    remove_entry(parent, name).map_err(|stop| match stop {
        Stop::Mounted => Errno::BUSY,
        Stop::Failed(_, error) => error,
    })
}

fn remove_entry(parent: BorrowedFd<'_>, name: &OsStr) -> std::result::Result<(), Stop> {
    if unlink(parent, name, AtFlags::empty())? {
        return Ok(());
    }
    let Some(top) = open_below(parent, Path::new(name))? else { return Ok(()) };
    let mut found = vec![PathBuf::new()];
    let mut next = 0;
    while next < found.len() {
        let folder = found[next].clone();
        next += 1;
        let Some(fd) = open_below(top.as_fd(), &folder)? else { continue };
        for child in empty_of_files(&fd, &folder)? {
            let mut inside = folder.join(&child);
            if inside.as_os_str().len() > LONG_PATH {
                let short = PathBuf::from(format!(".podbay-{:016x}", rand::random::<u64>()));
                rustix::fs::renameat(&fd, &child, &top, &short)
                    .map_err(|error| stopped(&inside, error))?;
                inside = short;
            }
            found.push(inside);
        }
    }
    // Parents were found before their children.
    for folder in found.iter().skip(1).rev() {
        let (Some(above), Some(last)) = (folder.parent(), folder.file_name()) else { continue };
        // The kernel must not walk a path of several components, since one may be a link by now.
        if let Some(above) = open_below(top.as_fd(), above)? {
            unlink(above.as_fd(), last, AtFlags::REMOVEDIR)?;
        }
    }
    drop(top);
    unlink(parent, name, AtFlags::REMOVEDIR).map(|_| ())
}

/// Opens a directory in the tree; `None` when it is gone or not a directory any more.
fn open_below(top: BorrowedFd<'_>, path: &Path) -> std::result::Result<Option<OwnedFd>, Stop> {
    let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(top, name, flags, Mode::empty(), BELOW) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(stopped(path, error)),
    }
}

/// Unlinks everything except directories, whose names are returned.
fn empty_of_files(fd: &OwnedFd, path: &Path) -> std::result::Result<Vec<PathBuf>, Stop> {
    let mut folders = Vec::new();
    let mut entries = Dir::read_from(fd).map_err(|error| stopped(path, error))?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(|error| stopped(path, error))?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        let name = OsStr::from_bytes(name.to_bytes());
        let folder = entry.file_type() == FileType::Directory
            || !unlink(fd.as_fd(), name, AtFlags::empty())?;
        if folder {
            folders.push(PathBuf::from(name));
        }
    }
    Ok(folders)
}

/// Unlinks an entry; `false` when it is a directory (or, with `REMOVEDIR`, is not one).
fn unlink(parent: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> std::result::Result<bool, Stop> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(stopped(Path::new(name), error)),
    }
}

fn stopped(path: &Path, error: Errno) -> Stop {
    match error {
        // A mount point can be neither entered nor removed, and nothing can be removed in a
        // read-only mount.
        Errno::BUSY | Errno::XDEV | Errno::ROFS => Stop::Mounted,
        error => Stop::Failed(path.to_owned(), error),
    }
}

/// Unmounts everything at and below an entry, deepest first.
fn unmount_below(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    let link = format!("/proc/self/fd/{}", parent.as_raw_fd());
    let real = rustix::fs::readlink(&link, Vec::new())
        .map_err(|error| failed("resolve", Path::new(&link), error))?;
    let root = PathBuf::from(std::ffi::OsString::from_vec(CString::into_bytes(real))).join(name);
    let give_up = Instant::now() + BUSY_LIMIT;
    let mut mounts = mountinfo::read()?;
    mounts.retain(|mount| mount.point.starts_with(&root));
    for mount in &mounts {
        let alone = MountPropagationFlags::PRIVATE;
        // A missing mount is fine. It is made private first: unmounting a shared mount would
        // propagate to the host's own mounts.
        match rustix::mount::mount_change(&mount.point, alone) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(failed("make private", &mount.point, error)),
        }
    }
    for mount in mounts.iter().rev() {
        unmount(&mount.point, give_up)?;
    }
    if mounts.is_empty() {
        // Not a mount, but busy or read-only: nothing can be done about that.
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("remove {}: busy or read-only, but nothing is mounted", root.display()),
        ));
    }
    Ok(())
}

fn unmount(point: &Path, give_up: Instant) -> Result<()> {
    loop {
        match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < give_up => std::thread::sleep(BUSY_PAUSE),
            Err(Errno::BUSY) => return mounts::detach(point),
            Err(error) => return Err(failed("unmount", point, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn removes_a_tree_but_nothing_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("keep"), b"x").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/f"), b"x").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("/nowhere", tree.join("dangling")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("keep").exists());
        remove(&tree).unwrap();
        remove(&dir.path().join("no/such/parent")).unwrap();
    }

    #[test]
    fn removes_a_link_or_a_file_itself() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        remove(&link).unwrap();
        assert!(fs::symlink_metadata(&link).is_err());
        fs::write(dir.path().join("f"), b"").unwrap();
        remove(&dir.path().join("f")).unwrap();
        assert!(!dir.path().join("f").exists());
    }

    #[test]
    fn removes_a_tree_deeper_than_a_path_may_be_long() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let name = "d".repeat(200);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut fd = rustix::fs::open(&tree, flags, Mode::empty()).unwrap();
        for _ in 0..100 {
            rustix::fs::mkdirat(&fd, &name, Mode::RWXU).unwrap();
            fd = rustix::fs::openat(&fd, &name, flags, Mode::empty()).unwrap();
        }
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn refuses_roots_and_climbing_paths() {
        for bad in ["/", "relative", "/tmp/../etc/x"] {
            assert_eq!(remove(Path::new(bad)).unwrap_err().kind, ErrorKind::InvalidArgument);
        }
    }
}
