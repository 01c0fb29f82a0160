//! The manifests directory: lists its files and reads those that changed.
//!
//! Only regular files are opened; before that only an O_PATH descriptor is used, which has no
//! effect on devices and does not block on pipes. Links are followed within the directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use tokio::time::Instant;

use crate::locks::Mutex;

/// Longest manifest, in bytes.
const LONGEST: u64 = 10 << 20;
/// File name extensions of manifests.
const ENDINGS: &[&str] = &["yaml", "yml", "json"];

/// Metadata that changes when a file is replaced or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: (u64, u64),
    size: i64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// The text of a file, or why it cannot be read.
pub(super) type Content = Result<Vec<u8>, String>;

/// The result of looking at the directory.
pub(super) struct Look {
    /// All existing manifest files.
    pub present: BTreeSet<PathBuf>,
    /// Names of files that are no manifests, by their extension.
    pub ignored: BTreeSet<String>,
    /// Changed files: their metadata, and their text or the error.
    pub changed: Vec<(PathBuf, Option<Stamp>, Content)>,
    /// Whether a file may be in the middle of being written, so that another look should follow
    /// soon.
    pub unsettled: bool,
}

/// The manifests directory.
#[derive(Clone)]
pub(super) struct Folder {
    path: PathBuf,
    /// Identity of the directory when it last contained manifests.
    filled: Arc<Mutex<Option<(u64, u64)>>>,
    /// Until when an empty directory is not believed.
    waits: Instant,
}

impl Folder {
    /// `patience` is how long from now on an empty directory is not believed: its file system may
    /// not be mounted yet.
    pub fn new(path: PathBuf, patience: Duration) -> Self {
        Self { path, filled: Arc::default(), waits: Instant::now() + patience }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at the directory and reads files that differ from `known`. A file written less than
    /// `settle` ago is left for the next look, unless it is in `complete`.
    ///
    /// # Errors
    /// Why the whole directory cannot be trusted; then nothing is known of its files.
    pub fn look(
        &self,
        known: &BTreeMap<PathBuf, Stamp>,
        complete: &BTreeSet<String>,
        settle: Duration,
    ) -> Result<Look, String> {
        let folder = self.open()?;
        let (names, ignored) = names(&folder)?;
        let mut look =
            Look { present: BTreeSet::new(), ignored, changed: Vec::new(), unsettled: false };
        for name in names {
            let path = self.path.join(&name);
            let place = match place(&folder, &name) {
                Ok(Some(place)) => place,
                Ok(None) => continue,
                Err(why) => {
                    look.present.insert(path.clone());
                    look.changed.push((path, None, Err(why)));
                    continue;
                }
            };
            look.present.insert(path.clone());
            let (file, shown) = place;
            let done = complete.contains(&name);
            if known.get(&path) == Some(&stamp(&shown)) && !done {
                continue;
            }
            if !done && age(&shown) < settle {
                look.unsettled = true;
                continue;
            }
            look.changed.push((path, Some(stamp(&shown)), read(&file, &shown)));
        }
        self.not_another_and_empty(&folder, &look)?;
        Ok(look)
    }

    fn open(&self) -> Result<OwnedFd, String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&self.path, flags, Mode::empty())
            .map_err(|error| format!("open the manifests folder: {error}"))?;
        let shown = rustix::fs::fstat(&folder)
            .map_err(|error| format!("inspect the manifests folder: {error}"))?;
        only_ours(&shown)?;
        Ok(folder)
    }

    /// Refuses a different, empty directory, as after unmounting, and one that is empty at the
    /// start, as before mounting: it must not end all pods.
    fn not_another_and_empty(&self, folder: &OwnedFd, look: &Look) -> Result<(), String> {
        let shown = rustix::fs::fstat(folder)
            .map_err(|error| format!("inspect the manifests folder: {error}"))?;
        let identity = (shown.st_dev, shown.st_ino);
        let mut filled = self.filled.lock();
        if !look.present.is_empty() {
            *filled = Some(identity);
        }
        match *filled {
            Some(before) if before != identity => {
                Err("it was replaced by an empty folder: keeping the pods".to_owned())
            }
            None if Instant::now() < self.waits => {
                Err("it is empty, it may not be mounted yet: keeping the pods".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Refuses files that others can write: manifests decide what runs as root.
fn only_ours(shown: &Stat) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    if shown.st_uid != 0 && shown.st_uid != own {
        return Err(format!("it is owned by user {}, not by root", shown.st_uid));
    }
    if shown.st_mode & 0o022 != 0 {
        let mode = shown.st_mode & 0o7777;
        return Err(format!("it is writable by users other than its owner (mode {mode:04o})"));
    }
    Ok(())
}

/// Names of manifests, sorted, and of other files. Names that begin with a dot are left out.
fn names(folder: &OwnedFd) -> Result<(Vec<String>, BTreeSet<String>), String> {
    let failed = |error| format!("list the manifests folder: {error}");
    let (mut names, mut others) = (Vec::new(), BTreeSet::new());
    for entry in Dir::read_from(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        if name.starts_with('.') {
            continue;
        }
        if ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
            names.push(name.to_owned());
        } else if entry.file_type() == FileType::RegularFile {
            others.insert(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok((names, others))
}

/// An O_PATH descriptor and metadata of a file; `None` for a directory or a file that is gone.
fn place(folder: &OwnedFd, name: &str) -> Result<Option<(OwnedFd, Stat)>, String> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let place = match rustix::fs::openat2(folder, name, flags, Mode::empty(), inside) {
        Ok(place) => place,
        Err(rustix::io::Errno::NOENT) => {
            let there = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            return if there { Err("it is a dangling link".to_owned()) } else { Ok(None) };
        }
        Err(rustix::io::Errno::XDEV) => {
            return Err("it is a link out of the manifests folder".to_owned());
        }
        Err(error) => return Err(format!("open it: {error}")),
    };
    let shown = rustix::fs::fstat(&place).map_err(|error| format!("look at it: {error}"))?;
    match FileType::from_raw_mode(shown.st_mode) {
        FileType::RegularFile => only_ours(&shown).map(|()| Some((place, shown))),
        FileType::Directory => Ok(None),
        kind => Err(format!("it is not a regular file ({kind:?})")),
    }
}

fn read(place: &OwnedFd, shown: &Stat) -> Result<Vec<u8>, String> {
    let too_long = || format!("it has more than the {LONGEST} bytes allowed");
    if u64::try_from(shown.st_size).unwrap_or(0) > LONGEST {
        return Err(too_long());
    }
    // Opens exactly the file that was checked, whatever its name refers to by now.
    let path = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
    let file = File::open(path).map_err(|error| format!("open it: {error}"))?;
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(|error| format!("read it: {error}"))?;
    if text.len() as u64 > LONGEST { Err(too_long()) } else { Ok(text) }
}

fn stamp(shown: &Stat) -> Stamp {
    Stamp {
        inode: (shown.st_dev, shown.st_ino),
        size: shown.st_size,
        written: (shown.st_mtime, shown.st_mtime_nsec as i64),
        changed: (shown.st_ctime, shown.st_ctime_nsec as i64),
    }
}

/// Time since it was written; a time in the future counts as long ago.
fn age(shown: &Stat) -> Duration {
    let seconds = u64::try_from(shown.st_mtime).unwrap_or(0);
    let written = UNIX_EPOCH + Duration::new(seconds, shown.st_mtime_nsec as u32);
    SystemTime::now().duration_since(written).unwrap_or(Duration::MAX)
}
