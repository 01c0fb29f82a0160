//! Small files and directories of the agent.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::super::{Error, ErrorKind, Result, TrustedFile};
use super::{absolute, failed};

/// Mode of created parent directories.
const PARENT_MODE: u32 = 0o700;

/// Writes a file atomically: a reader sees the old or the new contents. There is no fsync; see
/// [`keep`] for files that must survive a power cut.
pub(in crate::backend) fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    replace(path, content, mode, |_| Ok(()))
}

/// Like [`write()`], with fsync of the file and then of its directory.
pub(super) fn keep(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    replace(path, content, mode, File::sync_all)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed("sync", folder, error))
}

fn replace(
    path: &Path,
    content: &[u8],
    mode: u32,
    written: impl FnOnce(&File) -> std::io::Result<()>,
) -> Result<()> {
    absolute("path", path)?;
    let temp = temp_beside(path)?;
    let mut file = match create_new(&temp) {
        Err(error) if error.kind() == IoKind::NotFound => {
            make_parent(path)?;
            create_new(&temp)
        }
        other => other,
    }
    .map_err(|error| failed("create", &temp, error))?;
    let done = file
        .write_all(content)
        // The mode must not depend on the umask.
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode & 0o7777)))
        .and_then(|()| written(&file))
        .and_then(|()| fs::rename(&temp, path));
    done.map_err(|error| {
        // Best effort: the first error is returned.
        let _ = fs::remove_file(&temp);
        failed("write", path, error)
    })
}

fn create_new(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn temp_beside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, format!("path: {} names no file", path.display()))
    })?;
    let mut temp = std::ffi::OsString::from(".");
    temp.push(name);
    temp.push(format!(".{:016x}", rand::random::<u64>()));
    Ok(path.with_file_name(temp))
}

fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), |parent| create_dir(parent, PARENT_MODE))
}

/// Reads a regular file of at most `max` bytes; does not block on a FIFO.
pub(in crate::backend) fn read(path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
    absolute("path", path)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed("open", path, error)),
    };
    read_regular(&file, max, &path.display().to_string()).map(Some)
}

/// Reads the end of a regular file; does not block on a FIFO.
pub(in crate::backend) fn read_tail(path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
    absolute("path", path)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed("open", path, error)),
    };
    let meta = file.metadata().map_err(|error| failed("stat", path, error))?;
    if !meta.is_file() {
        let tried = format!("{} is not a regular file", path.display());
        return Err(Error::new(ErrorKind::FailedPrecondition, tried));
    }
    let mut tail = Vec::with_capacity(max.min(meta.len() as usize));
    file.seek(SeekFrom::Start(meta.len().saturating_sub(max as u64)))
        .and_then(|_| file.take(max as u64).read_to_end(&mut tail))
        .map_err(|error| failed("read", path, error))?;
    Ok(Some(tail))
}

/// Reads an open file if it is regular and at most `max` bytes long.
pub(super) fn read_regular(file: &File, max: usize, name: &str) -> Result<Vec<u8>> {
    let meta = file.metadata().map_err(|error| Error::io(format!("stat {name}"), error))?;
    if !meta.is_file() {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("{name} is not a regular file"),
        ));
    }
    let too_large =
        || Error::new(ErrorKind::ResourceExhausted, format!("{name} is larger than {max} bytes"));
    if meta.len() > max as u64 {
        return Err(too_large());
    }
    // Files in /proc have no length, so the limit is checked again on the bytes read.
    let mut content = Vec::with_capacity(meta.len() as usize);
    file.take(max as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|error| Error::io(format!("read {name}"), error))?;
    if content.len() > max { Err(too_large()) } else { Ok(content) }
}

/// Changes the owner of a file or directory; for a link, of the link itself.
pub(super) fn set_owner(path: &Path, uid: u32, gid: u32) -> Result<()> {
    absolute("path", path)?;
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        .map_err(|error| failed("set owner of", path, error))
}

/// Makes a directory and its missing parents, all with `mode` independent of the umask. Existing
/// directories keep their mode.
pub(in crate::backend) fn create_dir(path: &Path, mode: u32) -> Result<()> {
    let make = || fs::DirBuilder::new().mode(mode).create(path);
    let made = match make() {
        Err(error) if error.kind() == IoKind::NotFound => {
            match path.parent() {
                Some(parent) => create_dir(parent, mode)?,
                None => return Err(failed("make folder", path, error)),
            }
            make()
        }
        other => other,
    };
    match made {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
            .map_err(|error| failed("set mode of", path, error)),
        Err(error) if error.kind() == IoKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(failed("make folder", path, error)),
    }
}

/// Names in a directory, sorted; names that are not UTF-8 are not ours and are omitted.
pub(in crate::backend) fn list(path: &Path) -> Result<Vec<String>> {
    absolute("path", path)?;
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", path, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", path, error))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// Makes all FIFOs or none.
pub(super) fn make_fifos(paths: &[PathBuf]) -> Result<()> {
    for (index, path) in paths.iter().enumerate() {
        if let Err(error) = make_fifo(path) {
            for made in &paths[..index] {
                let _ = fs::remove_file(made);
            }
            return Err(error);
        }
    }
    Ok(())
}

fn make_fifo(path: &Path) -> Result<()> {
    absolute("path", path)?;
    let mode = Mode::RUSR | Mode::WUSR;
    let make = || rustix::fs::mkfifoat(CWD, path, mode);
    match make() {
        Err(rustix::io::Errno::NOENT) => {
            make_parent(path)?;
            make()
        }
        other => other,
    }
    .map_err(|error| failed("make FIFO", path, error))
}

/// Files that only root could have written; see [`super::super::Host::trusted_files`].
pub(super) fn trusted(folder: &Path, max: usize) -> Result<Vec<TrustedFile>> {
    match fs::metadata(folder) {
        Err(error) if error.kind() == IoKind::NotFound => return Ok(Vec::new()),
        found => check_owner(folder, &found.map_err(|error| failed("stat", folder, error))?)?,
    }
    let one = |name: String| {
        let path = folder.join(&name);
        let content = fs::symlink_metadata(&path)
            .map_err(|error| failed("stat", &path, error))
            .and_then(|found| check_owner(&path, &found))
            .and_then(|()| read(&path, max))
            .map(Option::unwrap_or_default);
        TrustedFile { name, content }
    };
    let mut names = list(folder)?;
    names.sort_unstable();
    Ok(names.into_iter().map(one).collect())
}

fn check_owner(path: &Path, found: &fs::Metadata) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let refused = |problem: &str| {
        let tried = format!("trust {}: {problem}", path.display());
        Err(Error::new(ErrorKind::FailedPrecondition, tried))
    };
    let ours = [0, rustix::process::geteuid().as_raw()].contains(&found.uid());
    match (found.is_symlink(), ours, found.mode() & 0o022) {
        (true, ..) => refused("it is a symbolic link"),
        (_, false, _) => refused("not owned by root"),
        (_, _, 0) => Ok(()),
        _ => refused("writable by users other than its owner"),
    }
}

#[cfg(test)]
mod tests;
