//! The files of one log: found by name and opened safely.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use flate2::read::MultiGzDecoder;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, statat};
use rustix::io::Errno;

/// Maximum number of rotated files that are read; older ones are ignored.
const MOST: usize = 100;

/// How many times the directory is listed again if a rotation happens meanwhile.
const LOOKS: usize = 5;

/// How many bytes of two files are compared to detect that one is the compressed form of the other.
/// This suffices, since records have timestamps with nanoseconds.
const BEGINNING: usize = 512;

/// Device and inode.
type FileId = (u64, u64);

/// One open file of a log.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) file: Arc<File>,
    /// Whether it is compressed.
    pub(super) packed: bool,
    /// Time of rotation, from its name; `None` for the live file.
    rotated: Option<String>,
    id: FileId,
    changed: SystemTime,
}

impl LogFile {
    fn new(file: File, rotated: Option<String>, packed: bool) -> io::Result<Self> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let changed = meta.modified().unwrap_or_else(|_| SystemTime::now());
        let file = Arc::new(file);
        Ok(Self { file, packed, rotated, id: (meta.dev(), meta.ino()), changed })
    }

    /// Last modification time; all of its records are older.
    pub(super) fn changed(&self) -> SystemTime {
        self.changed
    }

    /// The text of a compressed file, from the start.
    pub(super) fn unpacked(&self) -> Unpacked {
        MultiGzDecoder::new(At { file: Arc::clone(&self.file), offset: 0 })
    }

    /// Whether this is the same file as `other`, which may have been compressed since.
    fn is(&self, other: &Self) -> bool {
        if self.id == other.id {
            return true;
        }
        let same = || {
            let (mut mine, mut theirs) = (Vec::new(), vec![0; BEGINNING]);
            self.unpacked().take(BEGINNING as u64).read_to_end(&mut mine).ok()?;
            let length = other.file.read_at(&mut theirs, 0).ok()?;
            Some(length > 0 && mine == theirs[..length])
        };
        self.packed && !other.packed && same().unwrap_or(false)
    }
}

/// The text of a compressed file.
pub(super) type Unpacked = MultiGzDecoder<At>;

/// Reads a shared file at an offset of its own.
#[derive(Debug)]
pub(super) struct At {
    file: Arc<File>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// The files of a log at one time, oldest first.
#[derive(Debug, Default)]
pub(super) struct Set {
    pub(super) files: Vec<LogFile>,
    /// Time in the name of the newest existing rotated file.
    pub(super) newest: Option<String>,
}

/// The location of a log's files.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    name: OsString,
}

impl Place {
    /// The location of the log with this live file.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        match (path.parent(), path.file_name()) {
            (Some(folder), Some(name)) if path.is_absolute() && path.components().all(plain) => {
                Ok(Self { folder: folder.to_owned(), name: name.to_owned() })
            }
            _ => {
                let text = format!("{}: not an absolute path without ..", path.display());
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }

    /// The directory of the files.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The error for a log without any file.
    pub(super) fn absent(&self) -> io::Error {
        let text = format!("{}: there is no such log", self.folder.join(&self.name).display());
        io::Error::new(io::ErrorKind::NotFound, text)
    }

    /// Opens all existing files.
    pub(super) fn open_all(&self) -> io::Result<Set> {
        let mut look = 1;
        loop {
            let Some(folder) = self.open_folder()? else { return Ok(Set::default()) };
            let live = self.open_file(&folder, &self.name, None, false)?;
            let times = self.rotated(&folder)?;
            let mut set = self.open_rotated(&folder, &times, live.as_ref())?;
            // There was a rotation meanwhile: a file between the listed ones and the live one may
            // be missing. A listing may also miss a file that was renamed during it.
            let changed =
                self.live_id(&folder)?.is_some_and(|id| live.as_ref().is_none_or(|f| f.id != id));
            let missed = || Ok::<_, io::Error>(!self.rotated(&folder)?.is_subset(&times));
            if look == LOOKS || !(changed || missed()?) {
                set.files.extend(live);
                return Ok(set);
            }
            look += 1;
        }
    }

    /// The files newer than `now`, which was live when the newest rotated one was `known`.
    pub(super) fn newer(&self, now: &LogFile, known: Option<&str>) -> io::Result<Set> {
        let Some(folder) = self.open_folder()? else { return Ok(Set::default()) };
        if self.live_id(&folder)? == Some(now.id) {
            return Ok(Set::default());
        }
        let mut set = self.open_all()?;
        let place = set.files.iter().position(|file| file.is(now));
        match place {
            Some(place) => drop(set.files.drain(..=place)),
            // It was removed: everything rotated after `known` is newer.
            None => set.files.retain(|file| match (&file.rotated, known) {
                (Some(rotated), Some(known)) => rotated.as_str() > known,
                _ => true,
            }),
        }
        Ok(set)
    }

    fn open_rotated(
        &self,
        folder: &OwnedFd,
        times: &BTreeSet<String>,
        live: Option<&LogFile>,
    ) -> io::Result<Set> {
        let mut set = Set { files: Vec::new(), newest: times.last().cloned() };
        for time in times.iter().rev().take(MOST) {
            for (ending, packed) in [("", false), (".gz", true)] {
                let mut name = self.name.clone();
                name.push(format!(".{time}{ending}"));
                // A file that is not ours, or has disappeared, is skipped.
                let opened = self.open_file(folder, &name, Some(time.clone()), packed);
                let Ok(Some(file)) = opened else { continue };
                if live.is_none_or(|live| !file.is(live)) {
                    set.files.push(file);
                }
                break;
            }
        }
        set.files.reverse();
        Ok(set)
    }

    /// Rotation times from the names of the files, oldest first.
    fn rotated(&self, folder: &OwnedFd) -> io::Result<BTreeSet<String>> {
        let mut times = BTreeSet::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            let time = name
                .strip_prefix(&*self.name.to_string_lossy())
                .and_then(|rest| rest.strip_prefix('.'))
                .map(|rest| rest.strip_suffix(".gz").unwrap_or(rest));
            // Others, e.g. `.tmp`, are unfinished.
            let is_time =
                |time: &&str| time.starts_with(|c: char| c.is_ascii_digit()) && !time.contains('.');
            times.extend(time.filter(is_time).map(str::to_owned));
        }
        Ok(times)
    }

    /// The directory itself must not be a link; those above it are the administrator's choice.
    fn open_folder(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(CWD, &self.folder, flags, Mode::empty()) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(&self.folder, errno.into())),
        }
    }

    fn open_file(
        &self,
        folder: &OwnedFd,
        name: &OsStr,
        rotated: Option<String>,
        packed: bool,
    ) -> io::Result<Option<LogFile>> {
        let flags = OFlags::RDONLY
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK // a FIFO put here must not block
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        match openat(folder, name, flags, Mode::empty()) {
            Ok(file) => LogFile::new(file.into(), rotated, packed)
                .map(Some)
                .map_err(|error| failed(&self.folder.join(name), error)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(&self.folder.join(name), errno.into())),
        }
    }

    fn live_id(&self, folder: &OwnedFd) -> io::Result<Option<FileId>> {
        match statat(folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(&self.folder.join(&self.name), errno.into())),
        }
    }
}

fn failed(path: &Path, source: io::Error) -> io::Error {
    let link = source.raw_os_error() == Some(Errno::LOOP.raw_os_error());
    let kind = if link { io::ErrorKind::InvalidInput } else { source.kind() };
    io::Error::new(kind, format!("open {}: {source}", path.display()))
}
