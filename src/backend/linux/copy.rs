//! Copies a directory out of an image's root with all attributes, without leaving that root.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use super::super::{Error, ErrorKind, Result};
use super::{failed, files, rootfs, tree};

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const BELOW: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Attributes that depend on a file's location rather than its contents.
const LOCAL_XATTRS: &[&str] = &["trusted.overlay.", "user.overlay.", "security.selinux"];

/// Maximum size of an extended attribute's value (xattr(7)).
const XATTR_LIMIT: usize = 64 << 10;

/// Copies the contents of `path` inside `root` into the new directory `dest`, which gets the
/// original's owner and mode. If `path` does not exist, `dest` is an empty directory with mode
/// 0755. On failure `dest` is removed.
pub(super) fn from_root(root: &OwnedFd, path: &str, dest: &Path) -> Result<()> {
    let inside = path.trim_start_matches('/');
    let inside = if inside.is_empty() { "." } else { inside };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let source = match rustix::fs::openat2(root, inside, flags, Mode::empty(), rootfs::INSIDE) {
        Ok(found) => {
            let flags = FOLDER.difference(OFlags::NOFOLLOW);
            let folder = rustix::fs::openat(&found, ".", flags, Mode::empty())
                .map_err(|error| not_a_folder(path, error))?;
            Some(folder)
        }
        Err(Errno::NOENT) => None,
        Err(error) => return Err(not_a_folder(path, error)),
    };
    if std::fs::symlink_metadata(dest).is_ok() {
        let tried = format!("copy to {}", dest.display());
        return Err(Error::new(ErrorKind::AlreadyExists, tried));
    }
    if let Some(parent) = dest.parent() {
        files::create_dir(parent, 0o700)?;
    }
    files::create_dir(dest, 0o755)?;
    let Some(source) = source else { return Ok(()) };
    let copied = rustix::fs::open(dest, FOLDER, Mode::empty())
        .map_err(|error| failed("open", dest, error))
        .and_then(|target| Copy { source, target, links: HashMap::new() }.run(path));
    if copied.is_err()
        && let Err(error) = tree::remove(dest)
    {
        tracing::warn!(dest = %dest.display(), %error, "cannot remove failed copy");
    }
    copied
}

fn not_a_folder(path: &str, error: Errno) -> Error {
    Error::new(ErrorKind::FailedPrecondition, format!("open folder {path:?} of the image"))
        .because(io::Error::from(error))
}

struct Copy {
    source: OwnedFd,
    target: OwnedFd,
    /// Files with several hard links: the copy of the first one.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    /// Walks the directories with a work list, so depth costs no stack and no descriptors.
    fn run(&mut self, path: &str) -> Result<()> {
        let mut folders = vec![PathBuf::from(".")];
        let mut next = 0;
        while next < folders.len() {
            let folder = folders[next].clone();
            next += 1;
            let found = self.folder(&folder).map_err(|error| {
                let inside = Path::new(path).join(&folder);
                Error::io(format!("copy {} of the image", inside.display()), error)
            })?;
            folders.extend(found);
        }
        // Last and bottom-up, because filling a directory changes its times.
        for folder in folders.iter().rev() {
            self.finish_folder(folder).map_err(|error| {
                Error::io(format!("set attributes of {}", folder.display()), error)
            })?;
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let from = rustix::fs::openat2(&self.source, path, FOLDER, Mode::empty(), BELOW)?;
        let to = rustix::fs::openat2(&self.target, path, FOLDER, Mode::empty(), BELOW)?;
        let mut folders = Vec::new();
        for entry in Dir::read_from(&from)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                rustix::fs::mkdirat(&to, name, Mode::RWXU)?;
                folders.push(path.join(name));
            } else {
                self.file(&from, &to, name, &stat, path)?;
            }
        }
        Ok(folders)
    }

    fn file(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
        folder: &Path,
    ) -> io::Result<()> {
        let identity = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&identity) {
            rustix::fs::linkat(&self.target, first, to, name, AtFlags::empty())?;
            return Ok(());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => copy_regular(from, to, name, stat)?,
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&link, to, name)?;
                own(to, name, stat)?;
            }
            // A socket is useless without its process.
            FileType::Socket => return Ok(()),
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode);
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
                own(to, name, stat)?;
                rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
            }
        }
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(to, name, &times(stat), no_follow)?;
        if stat.st_nlink > 1 {
            self.links.insert(identity, folder.join(name));
        }
        Ok(())
    }

    fn finish_folder(&self, path: &Path) -> io::Result<()> {
        let from = rustix::fs::openat2(&self.source, path, FOLDER, Mode::empty(), BELOW)?;
        let to = rustix::fs::openat2(&self.target, path, FOLDER, Mode::empty(), BELOW)?;
        let stat = rustix::fs::fstat(&from)?;
        rustix::fs::fchown(
            &to,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        )?;
        rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
        copy_xattrs(&from, &to)?;
        rustix::fs::futimens(&to, &times(&stat))?;
        Ok(())
    }
}

fn copy_regular(from: &OwnedFd, to: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = File::from(rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
    copy_data(&source, &target, stat.st_size as u64)?;
    // Owner before mode and capabilities: a change of owner clears both.
    own(to, name, stat)?;
    rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode))?;
    copy_xattrs(&source, &target)
}

/// Copies data and keeps holes: a sparse file must not fill the disk.
fn copy_data(source: &File, mut target: &File, size: u64) -> io::Result<()> {
    target.set_len(size)?;
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(source, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // The file system does not support holes.
            Err(Errno::INVAL) => position,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start)).unwrap_or(size);
        rustix::fs::seek(source, SeekFrom::Start(start))?;
        rustix::fs::seek(target, SeekFrom::Start(start))?;
        let copied = io::copy(&mut source.take(end - start), &mut target)?;
        if copied == 0 {
            break;
        }
        position = start + copied;
    }
    Ok(())
}

fn own(folder: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos as i64 };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn copy_xattrs(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd) -> io::Result<()> {
    let mut names = vec![0; XATTR_LIMIT];
    let length = match rustix::fs::flistxattr(&from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if LOCAL_XATTRS.iter().any(|local| name.starts_with(local)) {
            continue;
        }
        value.resize(XATTR_LIMIT, 0);
        let length = rustix::fs::fgetxattr(&from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(&to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
