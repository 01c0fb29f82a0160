//! Rotation of container logs, as the kubelet does it.
//!
//! ```text
//!   0.log                        live
//!   0.log.20260101-000010        the newest rotated one, which followers may still read
//!   0.log.20260101-000000.gz     older ones
//! ```
//!
//! A container may be able to write to its log directory (a host path of /var/log), so no link is
//! followed, and only files with names as above are touched.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, fstat, openat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::ids::ContainerId;

const COMPRESSED: &str = ".gz";
const UNFINISHED: &str = ".tmp";

/// When logs are rotated, and how many files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Size in bytes from which a log is rotated.
    pub size: u64,
    /// Number of files per container including the live one; at least 2.
    pub files: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { size: 10 << 20, files: 5 }
    }
}

/// The logs of this node.
#[async_trait]
pub trait Logs: Send + Sync {
    /// The running containers of the engine that have a log, and its path.
    fn running(&self) -> Vec<(ContainerId, PathBuf)>;

    /// Makes the writer of a log continue in a new file of the same name.
    async fn reopen(&self, container: &ContainerId) -> Result<(), String>;
}

/// One round over all logs. A log that cannot be rotated is reported and tried again in the next
/// round.
pub async fn rotate(logs: &dyn Logs, limits: LogLimits, now: SystemTime) {
    let found = logs.running();
    let sizes = move || found.into_iter().map(|(id, path)| (size(&path), id, path)).collect();
    let found: Vec<(io::Result<Option<u64>>, _, PathBuf)> =
        blocking(sizes).await.unwrap_or_default();
    for (size, id, path) in found {
        let result = match size {
            Ok(Some(size)) if size < limits.size => continue,
            Ok(Some(_)) => one(logs, &id, path.clone(), limits, now).await,
            // Somebody removed the file: reopen it, so that new output is visible.
            Ok(None) => logs.reopen(&id).await.map_err(io::Error::other),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            let path = path.display();
            tracing::warn!(container = %id, %path, %error, "cannot rotate log");
        }
    }
}

async fn one(
    logs: &dyn Logs,
    id: &ContainerId,
    path: PathBuf,
    limits: LogLimits,
    now: SystemTime,
) -> io::Result<()> {
    let folder = blocking(move || {
        let folder = Folder::open(&path)?;
        // A full disk must not prevent the rotation.
        if let Err(error) = folder.make_room(limits.files) {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot compress old logs");
        }
        folder.set_aside(now).map(|aside| (folder, aside))
    });
    let (folder, aside) = folder.await??;
    let Err(problem) = logs.reopen(id).await else { return Ok(()) };
    // Its last lines may still go to the old file, which must be found under its original name.
    blocking(move || folder.rename(&aside, &folder.log)).await??;
    Err(io::Error::other(problem))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Size of a regular file; `None` when there is none.
fn size(path: &Path) -> io::Result<Option<u64>> {
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => {
            Ok(Some(u64::try_from(stat.st_size).unwrap_or_default()))
        }
        Ok(_) => Err(io::Error::other("it is not a regular file")),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What to do with the files of a log before its rotation.
#[derive(Debug, PartialEq, Eq, Default)]
struct Plan {
    remove: Vec<String>,
    compress: Vec<String>,
}

/// Removes unfinished files, those that also exist compressed, and the oldest, to make room for one
/// more.
fn plan(log: &str, names: &[String], files: usize) -> Plan {
    let mut kept: Vec<&String> = names.iter().filter(|name| is_rotated(log, name)).collect();
    kept.sort_unstable();
    let mut plan = Plan::default();
    kept.retain(|name| {
        let twice = names.contains(&format!("{name}{COMPRESSED}"));
        let remove = twice || name.ends_with(UNFINISHED);
        if remove {
            plan.remove.push((*name).clone());
        }
        !remove
    });
    let surplus = kept.len().saturating_sub(files.saturating_sub(2));
    plan.remove.extend(kept.drain(..surplus).cloned());
    plan.compress = kept.into_iter().filter(|name| !name.ends_with(COMPRESSED)).cloned().collect();
    plan
}

/// Whether this is the name of a rotated file of this log: `<log>.20260101-000000`, optionally with
/// `.gz` or `.tmp`.
fn is_rotated(log: &str, name: &str) -> bool {
    let rest = name.strip_prefix(log).and_then(|rest| rest.strip_prefix('.'));
    let Some((stamp, end)) = rest.and_then(|rest| rest.split_at_checked(15)) else { return false };
    let digits =
        |(at, byte): (usize, u8)| if at == 8 { byte == b'-' } else { byte.is_ascii_digit() };
    stamp.bytes().enumerate().all(digits) && ["", COMPRESSED, UNFINISHED].contains(&end)
}

/// The directory of a log.
struct Folder {
    fd: OwnedFd,
    log: String,
}

impl Folder {
    fn open(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(log)) = (path.parent(), path.file_name().and_then(OsStr::to_str))
        else {
            return Err(io::Error::other("it is not the path of a log"));
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, folder, flags, Mode::empty())?;
        Ok(Self { fd, log: log.to_owned() })
    }

    fn make_room(&self, files: usize) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        let plan = plan(&self.log, &names, files);
        for name in &plan.remove {
            self.remove(name)?;
        }
        plan.compress.iter().try_for_each(|name| self.compress(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Renames without replacing a file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE)?)
    }

    /// Compresses a file atomically.
    fn compress(&self, name: &str) -> io::Result<()> {
        let unfinished = format!("{name}{UNFINISHED}");
        let done = self.write_compressed(name, &unfinished).and_then(|()| {
            self.rename(&unfinished, &format!("{name}{COMPRESSED}"))?;
            self.remove(name)
        });
        if done.is_err() {
            let _ = self.remove(&unfinished);
        }
        done
    }

    fn write_compressed(&self, name: &str, to: &str) -> io::Result<()> {
        // NONBLOCK, because somebody may have put a FIFO here.
        let common = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = openat(&self.fd, name, common | OFlags::RDONLY, Mode::empty())?;
        if !FileType::from_raw_mode(fstat(&from)?.st_mode).is_file() {
            return Err(io::Error::other(format!("{name} is not a regular file")));
        }
        let flags = common | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let to = openat(&self.fd, to, flags, Mode::from_raw_mode(0o640))?;
        let mut encoder = GzEncoder::new(File::from(to), Compression::default());
        io::copy(&mut File::from(from), &mut encoder)?;
        encoder.finish()?.sync_all()
    }

    /// Renames the log to the name of a rotated file, which is returned.
    fn set_aside(&self, now: SystemTime) -> io::Result<String> {
        let format = format_description!("[year][month][day]-[hour][minute][second]");
        let stamp = OffsetDateTime::from(now).format(format).map_err(io::Error::other)?;
        let aside = format!("{}.{stamp}", self.log);
        self.rename(&self.log, &aside)?;
        Ok(aside)
    }
}

#[cfg(test)]
mod tests;
