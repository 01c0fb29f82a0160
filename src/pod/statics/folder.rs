//! The manifests folder: which files it has, and the text of those that changed.
//!
//! Nothing is opened but regular files: first only their place is, which wakes no device and
//! waits for no pipe. Links are followed as far as they stay in the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::locks::Mutex;

/// Longest manifest, in bytes.
const LONGEST: u64 = 10 << 20;
/// What a manifest file is called.
const ENDINGS: &[&str] = &["yaml", "yml", "json"];

/// What a file shows when it is another one, or was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: (u64, u64),
    size: i64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// The text of a file, or why it cannot be had.
pub(super) type Content = Result<Vec<u8>, String>;

/// One look at the folder.
pub(super) struct Look {
    /// Every manifest file that is there.
    pub present: BTreeSet<PathBuf>,
    /// Those that changed: what they show now, and their text or why it cannot be had.
    pub changed: Vec<(PathBuf, Option<Stamp>, Content)>,
    /// A file is perhaps being written: look again soon.
    pub unsettled: bool,
}

/// The folder.
#[derive(Clone)]
pub(super) struct Folder {
    path: PathBuf,
    /// Which folder it was when it last had manifests in it.
    filled: Arc<Mutex<Option<(u64, u64)>>>,
}

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self { path, filled: Arc::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks, and reads what is not as `known`. A file that was written less than `settle` ago is
    /// left for the next look, unless it is known to be `complete`.
    ///
    /// # Errors
    /// Why the folder as a whole cannot be trusted; then nothing is known of its files.
    pub fn look(
        &self,
        known: &BTreeMap<PathBuf, Stamp>,
        complete: &BTreeSet<String>,
        settle: Duration,
    ) -> Result<Look, String> {
        let folder = self.open()?;
        let mut look = Look { present: BTreeSet::new(), changed: Vec::new(), unsettled: false };
        for name in names(&folder)? {
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
            .map_err(|error| format!("look at the manifests folder: {error}"))?;
        only_ours(&shown)?;
        Ok(folder)
    }

    /// Where a file system was unmounted there is an empty folder, which is not to end all pods.
    fn not_another_and_empty(&self, folder: &OwnedFd, look: &Look) -> Result<(), String> {
        let shown = rustix::fs::fstat(folder)
            .map_err(|error| format!("look at the manifests folder: {error}"))?;
        let identity = (shown.st_dev, shown.st_ino);
        let mut filled = self.filled.lock();
        if !look.present.is_empty() {
            *filled = Some(identity);
        }
        match *filled {
            Some(before) if before != identity => {
                Err("it is another folder than before, and empty: the pods stay".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Who may write a manifest, or into their folder, decides what runs as root.
fn only_ours(shown: &Stat) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    if shown.st_uid != 0 && shown.st_uid != own {
        return Err(format!("it is owned by user {}, who is not root", shown.st_uid));
    }
    if shown.st_mode & 0o022 != 0 {
        let mode = shown.st_mode & 0o7777;
        return Err(format!("others than its owner may write into it (mode {mode:04o})"));
    }
    Ok(())
}

/// Names of manifests, in order.
fn names(folder: &OwnedFd) -> Result<Vec<String>, String> {
    let failed = |error| format!("list the manifests folder: {error}");
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        if !name.starts_with('.') && ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The place of a file and what it shows; none of a folder, or of what is gone by now.
fn place(folder: &OwnedFd, name: &str) -> Result<Option<(OwnedFd, Stat)>, String> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let place = match rustix::fs::openat2(folder, name, flags, Mode::empty(), inside) {
        Ok(place) => place,
        Err(rustix::io::Errno::NOENT) => {
            let there = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            return if there { Err("it is a link to nothing".to_owned()) } else { Ok(None) };
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
        kind => Err(format!("it is no regular file ({kind:?})")),
    }
}

fn read(place: &OwnedFd, shown: &Stat) -> Result<Vec<u8>, String> {
    let too_long = || format!("it has more than the {LONGEST} bytes allowed");
    if u64::try_from(shown.st_size).unwrap_or(0) > LONGEST {
        return Err(too_long());
    }
    // The very file that was looked at, whatever its name means by now.
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

/// How long ago it was written; long ago when its time is in the future.
fn age(shown: &Stat) -> Duration {
    let seconds = u64::try_from(shown.st_mtime).unwrap_or(0);
    let written = UNIX_EPOCH + Duration::new(seconds, shown.st_mtime_nsec as u32);
    SystemTime::now().duration_since(written).unwrap_or(Duration::MAX)
}
