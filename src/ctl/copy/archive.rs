//! Packs local files into archives, and unpacks archives to local files.
//!
//! An archive from a container is not trusted. It can create directories and regular files below
//! the destination, and nothing else: the kernel looks up every name below that directory without
//! following links; links and devices are skipped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2, unlinkat};
use rustix::io::Errno;
use tar::{Archive, Builder, EntryType, HeaderMode};
use tokio::sync::mpsc;

/// Bytes per piece of an archive.
const PIECE: usize = 64 << 10;

/// The result of unpacking.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Number of created files and directories.
    pub(super) files: usize,
    /// What was skipped, and why.
    pub(super) skipped: Vec<String>,
}

/// Packs a file or directory under a name; returns what was omitted: sockets and the like.
pub(super) fn pack(path: &Path, name: &str, to: mpsc::Sender<Bytes>) -> io::Result<Vec<String>> {
    let mut builder = Builder::new(io::BufWriter::with_capacity(PIECE, Pieces(to)));
    builder.follow_symlinks(false);
    builder.mode(HeaderMode::Complete);
    let mut skipped = Vec::new();
    let mut todo = vec![(path.to_owned(), PathBuf::from(name))];
    while let Some((path, name)) = todo.pop() {
        let kind = std::fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            builder.append_dir(&name, &path)?;
            let mut inside = Vec::new();
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                inside.push((entry.path(), name.join(entry.file_name())));
            }
            // The last one is taken first.
            inside.sort_by(|a, b| b.cmp(a));
            todo.extend(inside);
        } else if kind.is_file() || kind.is_symlink() {
            builder.append_path_with_name(&path, &name)?;
        } else {
            skipped.push(path.display().to_string());
        }
    }
    builder.into_inner()?.flush()?;
    Ok(skipped)
}

/// Unpacks into a directory. All names in the archive begin with `root`, which is replaced by
/// `as_name`, or omitted.
pub(super) fn unpack(
    from: mpsc::Receiver<Bytes>,
    into: &Path,
    root: &str,
    as_name: Option<&str>,
) -> io::Result<Unpacked> {
    let ground = rustix::fs::open(into, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut archive = Archive::new(Arrived { from, piece: Bytes::new() });
    let mut unpacked = Unpacked::default();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let refuse = |why: &str| {
            let path = path.display();
            io::Error::new(io::ErrorKind::InvalidData, format!("the archive has {path}: {why}"))
        };
        let inner = inner(&path, root).ok_or_else(|| refuse("outside the requested path"))?;
        let place = match as_name {
            Some(name) => Path::new(name).join(inner),
            None => inner,
        };
        let kind = entry.header().entry_type();
        match kind {
            _ if place.as_os_str().is_empty() && kind.is_dir() => {}
            _ if place.as_os_str().is_empty() => return Err(refuse("has no name")),
            EntryType::Directory => {
                folders(&ground, &place)?;
                unpacked.files += 1;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                folders(&ground, place.parent().unwrap_or(Path::new("")))?;
                let mode = entry.header().mode().unwrap_or(0o644);
                let mut file = create(&ground, &place, mode)?;
                io::copy(&mut entry, &mut file)?;
                unpacked.files += 1;
            }
            EntryType::Symlink | EntryType::Link => {
                unpacked.skipped.push(format!("{} is a link, skipping it", path.display()));
            }
            _ => unpacked
                .skipped
                .push(format!("{} is not a regular file, skipping it", path.display())),
        }
    }
    Ok(unpacked)
}

/// A name in the archive without its root; `None` if it is not below that.
fn inner(path: &Path, root: &str) -> Option<PathBuf> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    let rest = match (root, parts.split_first()) {
        (".", _) => &parts[..],
        (root, Some((first, rest))) if *first == OsStr::new(root) => rest,
        _ => return None,
    };
    Some(rest.iter().collect())
}

/// Opens a name below a directory without following links, not even in the last component.
fn below(ground: &OwnedFd, place: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(ground, place, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, resolve) {
            // Something was renamed during the look-up.
            Err(Errno::AGAIN | Errno::INTR) => {}
            found => return found,
        }
    }
}

/// Creates the missing directories of a path.
fn folders(ground: &OwnedFd, path: &Path) -> io::Result<()> {
    let mut whole = PathBuf::new();
    for part in path.components() {
        let above = match whole.as_os_str().is_empty() {
            true => ground.try_clone()?,
            false => below(ground, &whole, OFlags::DIRECTORY, Mode::empty())
                .map_err(|e| fault(&whole, e))?,
        };
        whole.push(part);
        match mkdirat(above.as_fd(), part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(fault(&whole, error)),
        }
    }
    if !whole.as_os_str().is_empty() {
        below(ground, &whole, OFlags::DIRECTORY, Mode::empty()).map_err(|e| fault(&whole, e))?;
    }
    Ok(())
}

/// Creates a file, replacing an existing one. Only the permission bits are used, so no set-user-ID
/// program can come from a container.
fn create(ground: &OwnedFd, place: &Path, mode: u32) -> io::Result<File> {
    let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = match parent {
        Some(parent) => {
            below(ground, parent, OFlags::DIRECTORY, Mode::empty()).map_err(|e| fault(place, e))?
        }
        None => ground.try_clone()?,
    };
    let name = place.file_name().unwrap_or_default();
    match unlinkat(folder.as_fd(), name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(fault(place, error)),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let file = below(&folder, Path::new(name), flags, Mode::from_raw_mode(mode & 0o777));
    file.map(File::from).map_err(|error| fault(place, error))
}

fn fault(place: &Path, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{}: {error}", place.display()))
}

/// A writer that sends pieces to a channel.
struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader of the received pieces.
struct Arrived {
    from: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Arrived {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
