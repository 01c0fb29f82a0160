//! The files of a volume that podbay manages, replaced atomically.
//!
//! The layout is the same as in Kubernetes: the files are in a directory with a new name each time,
//! `..data` is a link to it, and each visible name is a link into `..data`. One rename replaces all
//! files.
//!
//! A container with enough privileges may write into the volume. So existing files are never
//! written or followed: files are put into a newly created directory, links are only replaced, and
//! removals never follow anything out of the volume.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::super::{Error, ErrorKind, Result, VolumeFile, VolumeFiles};
use super::{absolute, failed, tree};

const DATA: &str = "..data";
const DIR_MODE: u32 = 0o755;
const SETGID: u32 = 0o2000;

/// Only downwards, within this mount.
const BELOW: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Writes the files of a volume; see [`super::super::Host::write_volume`].
pub(in crate::backend) fn write(volume: &Path, files: &VolumeFiles) -> Result<bool> {
    absolute("volume", volume)?;
    files.files.keys().try_for_each(|path| check(path))?;
    let top = rustix::fs::open(volume, FOLDER, Mode::empty())
        .map_err(|error| failed("open volume", volume, error))?;
    let wrong = |error: Errno| failed("write to volume", volume, error);
    let current = current(&top);
    let same = match &current {
        Some(name) => has(&top, name, files).map_err(wrong)?,
        None => false,
    };
    let kept = match current {
        Some(name) if same => name,
        _ => {
            let new = fill_new(&top, files).map_err(|e| failed("write to volume", volume, e))?;
            point_to(&top, &new).map_err(|error| {
                // Best effort: the first error is returned.
                let _ = tree::remove_at(top.as_fd(), &new);
                wrong(error)
            })?;
            new
        }
    };
    let relinked = link_names(&top, files).map_err(wrong)?;
    // The files are written already; leftovers are harmless and are removed by the next change.
    let _ = sweep(&top, &kept, files);
    Ok(!same || relinked)
}

/// Refuses a path that leaves the volume or collides with `..data`.
fn check(path: &str) -> Result<()> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.is_empty() && !path.starts_with("..") && !path.contains('\0') {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("path: {path:?} is not relative, has \"..\", or begins with it"),
    ))
}

/// The directory to which `..data` points, if it has a name of ours.
fn current(top: &OwnedFd) -> Option<OsString> {
    let link = rustix::fs::readlinkat(top, DATA, Vec::new()).ok()?;
    let name = link.to_bytes();
    let ours = name.starts_with(b"..2") && !name.contains(&b'/');
    ours.then(|| OsStr::from_bytes(name).to_owned())
}

/// Whether a directory has exactly these files.
fn has(top: &OwnedFd, name: &OsStr, wanted: &VolumeFiles) -> std::result::Result<bool, Errno> {
    let folder = match rustix::fs::openat2(top, name, FOLDER, Mode::empty(), BELOW) {
        Ok(folder) => folder,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(false),
        Err(error) => return Err(error),
    };
    for (path, file) in &wanted.files {
        if !is_so(&folder, Path::new(path), file, wanted.gid)? {
            return Ok(false);
        }
    }
    let mut known: BTreeSet<&Path> = wanted.files.keys().map(Path::new).collect();
    let folders = folders_of(wanted);
    known.extend(folders.iter().copied());
    for inside in std::iter::once(Path::new("")).chain(folders) {
        let path = Path::new(".").join(inside);
        let Ok(open) = rustix::fs::openat2(&folder, &path, FOLDER, Mode::empty(), BELOW) else {
            return Ok(false);
        };
        if !names(&open)?.iter().all(|(name, _)| known.contains(inside.join(name).as_path())) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_so(
    folder: &OwnedFd,
    path: &Path,
    wanted: &VolumeFile,
    gid: Option<u32>,
) -> std::result::Result<bool, Errno> {
    // O_NONBLOCK, because somebody may have put a FIFO there.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat2(folder, path, flags, Mode::empty(), BELOW) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO) => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let stat = rustix::fs::fstat(&file)?;
    let as_wanted = FileType::from_raw_mode(stat.st_mode).is_file()
        && stat.st_size as u64 == wanted.content.len() as u64
        && stat.st_mode & 0o7777 == wanted.mode & 0o7777
        && wanted.uid.is_none_or(|uid| uid == stat.st_uid)
        && gid.is_none_or(|gid| gid == stat.st_gid);
    if !as_wanted {
        return Ok(false);
    }
    let mut content = Vec::with_capacity(wanted.content.len());
    let read = File::from(file).take(wanted.content.len() as u64).read_to_end(&mut content);
    Ok(read.is_ok() && content == wanted.content)
}

/// The directories required by the files, parents first.
fn folders_of(files: &VolumeFiles) -> BTreeSet<&Path> {
    let above = |path| Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
    files.files.keys().flat_map(above).collect()
}

/// Writes all files into a directory with a new name.
fn fill_new(top: &OwnedFd, files: &VolumeFiles) -> std::io::Result<OsString> {
    let now = time::OffsetDateTime::now_utc();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    let name = OsString::from(format!(
        "..{year:04}_{:02}_{day:02}_{hour:02}_{minute:02}_{second:02}.{:010}",
        u8::from(month),
        rand::random::<u32>(),
    ));
    let filled = make_folder(top, Path::new(&name), files.gid).map_err(Into::into).and_then(
        |folder| -> std::io::Result<()> {
            for path in folders_of(files) {
                make_folder(&folder, path, files.gid)?;
            }
            files
                .files
                .iter()
                .try_for_each(|(path, file)| write_file(&folder, Path::new(path), file, files.gid))
        },
    );
    match filled {
        Ok(()) => Ok(name),
        Err(error) => {
            // Best effort: the first error is returned.
            let _ = tree::remove_at(top.as_fd(), &name);
            Err(error)
        }
    }
}

fn make_folder(
    above: &OwnedFd,
    path: &Path,
    gid: Option<u32>,
) -> std::result::Result<OwnedFd, Errno> {
    let (parent, name) = open_parent(above, path)?;
    rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
    let folder = rustix::fs::openat2(&parent, name, FOLDER, Mode::empty(), BELOW)?;
    if gid.is_some() {
        rustix::fs::fchown(&folder, None, gid.map(Gid::from_raw))?;
    }
    let setgid = if gid.is_some() { SETGID } else { 0 };
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(DIR_MODE | setgid))?;
    Ok(folder)
}

/// Opens the parent directory, because calls without a flag against following links may only get a
/// single name.
fn open_parent<'p>(
    folder: &OwnedFd,
    path: &'p Path,
) -> std::result::Result<(OwnedFd, &'p OsStr), Errno> {
    let above = Path::new(".").join(path.parent().unwrap_or(Path::new("")));
    let name = path.file_name().ok_or(Errno::INVAL)?;
    Ok((rustix::fs::openat2(folder, &above, FOLDER, Mode::empty(), BELOW)?, name))
}

fn write_file(
    folder: &OwnedFd,
    path: &Path,
    file: &VolumeFile,
    gid: Option<u32>,
) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let private = Mode::RUSR | Mode::WUSR;
    let mut open = File::from(rustix::fs::openat2(folder, path, flags, private, BELOW)?);
    open.write_all(&file.content)?;
    if file.uid.is_some() || gid.is_some() {
        rustix::fs::fchown(&open, file.uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
    }
    rustix::fs::fchmod(&open, Mode::from_raw_mode(file.mode & 0o7777))?;
    Ok(())
}

/// Atomically puts a link at `name`, replacing whatever is there.
fn put_link(top: &OwnedFd, target: &Path, name: &OsStr) -> std::result::Result<(), Errno> {
    let temp = OsString::from(format!("..new_{:016x}", rand::random::<u64>()));
    rustix::fs::symlinkat(target, top, &temp)?;
    let put = rustix::fs::renameat(top, &temp, top, name).or_else(|error| match error {
        // A directory made by somebody else.
        Errno::ISDIR => {
            tree::remove_at(top.as_fd(), name)?;
            rustix::fs::renameat(top, &temp, top, name)
        }
        error => Err(error),
    });
    put.inspect_err(|_| {
        // Best effort: the first error is returned.
        let _ = rustix::fs::unlinkat(top, &temp, AtFlags::empty());
    })
}

fn point_to(top: &OwnedFd, folder: &OsStr) -> std::result::Result<(), Errno> {
    put_link(top, Path::new(folder), OsStr::new(DATA))
}

fn visible(files: &VolumeFiles) -> BTreeSet<&OsStr> {
    files.files.keys().filter_map(|path| Path::new(path).iter().next()).collect()
}

/// Creates visible names that are missing or wrong; returns whether there were any.
fn link_names(top: &OwnedFd, files: &VolumeFiles) -> std::result::Result<bool, Errno> {
    let mut changed = false;
    for name in visible(files) {
        let target = PathBuf::from(DATA).join(name);
        let there = rustix::fs::readlinkat(top, name, Vec::new());
        if !there.is_ok_and(|there| there.to_bytes() == target.as_os_str().as_bytes()) {
            put_link(top, &target, name)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Removes links of obsolete names, old directories, and leftovers of a killed predecessor.
fn sweep(top: &OwnedFd, kept: &OsStr, files: &VolumeFiles) -> std::result::Result<(), Errno> {
    let visible = visible(files);
    for (name, kind) in names(top)? {
        let ours = name.as_bytes().starts_with(b"..");
        let stale = match ours {
            true => name != DATA && name != kept,
            // Anything but a link was not made here; it may be the directory of a sub path.
            false => kind == FileType::Symlink && !visible.contains(name.as_os_str()),
        };
        if stale {
            tree::remove_at(top.as_fd(), &name)?;
        }
    }
    Ok(())
}

fn names(folder: &OwnedFd) -> std::result::Result<Vec<(OsString, FileType)>, Errno> {
    let mut found = Vec::new();
    let mut entries = Dir::read_from(folder)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            found.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
