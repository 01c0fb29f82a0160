//! Opening a log file safely.
//!
//! A container may be able to write to the directory of its log (a host path mount of /var/log). So
//! neither the directory nor the file is opened through a symbolic link, and only a regular file is
//! written to.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

/// Opens the log file for appending, creating it (0640) and its parent directories (0755) if
/// needed. Directories above the file's own may be links: those are the administrator's choice.
///
/// An unterminated last record, left by a writer that was killed during a write, is removed: a
/// reader would join it with the next record. `longest` is the maximum length of a record.
pub(super) fn open_log(path: &Path, longest: usize) -> io::Result<File> {
    let folder = open_folder(path)?;
    let name = path.file_name().unwrap_or_default();
    let flags = OFlags::RDWR
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK // a FIFO put here must not block the thread
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let fd = openat(&folder, name, flags, Mode::from_raw_mode(0o640)).map_err(|errno| {
        if errno == Errno::LOOP { refused(path, "is a symbolic link") } else { failed(path, errno) }
    })?;
    let file = File::from(fd);
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        let problem = if kind.is_fifo() { "is a FIFO" } else { "is not a regular file" };
        return Err(refused(path, problem));
    }
    end_last_record(&file, longest)?;
    Ok(file)
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || path.file_name().is_none() || !path.components().all(plain) {
        return Err(refused(path, "is not an absolute path without .."));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else {
        return openat(CWD, folder, flags, Mode::empty()).map_err(|errno| failed(folder, errno));
    };
    DirBuilder::new().recursive(true).mode(0o755).create(above)?;
    let above_fd =
        openat(CWD, above, flags, Mode::empty()).map_err(|errno| failed(above, errno))?;
    make_dir(&above_fd, name).map_err(|errno| failed(folder, errno))?;
    openat(&above_fd, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(|errno| {
        if errno == Errno::NOTDIR {
            refused(folder, "is a symbolic link or not a folder")
        } else {
            failed(folder, errno)
        }
    })
}

fn make_dir(above: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match mkdirat(above, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// Cuts off what follows the last line feed; appends a line feed if there is none near the end.
fn end_last_record(file: &File, longest: usize) -> io::Result<()> {
    let size = file.metadata()?.len();
    let mut last = [0];
    if size == 0 || (file.read_at(&mut last, size - 1)? == 1 && last == *b"\n") {
        return Ok(());
    }
    let start = size.saturating_sub(longest as u64 + 1);
    let mut tail = vec![0; (size - start) as usize];
    file.read_exact_at(&mut tail, start)?;
    match memchr::memrchr(b'\n', &tail) {
        Some(end) => file.set_len(start + end as u64 + 1),
        None if start == 0 => file.set_len(0),
        // It was not written by this agent: keep it.
        None => rustix::io::write(file, b"\n").map(drop).map_err(io::Error::from),
    }
}

fn failed(path: &Path, errno: Errno) -> io::Error {
    let source = io::Error::from(errno);
    io::Error::new(source.kind(), format!("open {}: {source}", path.display()))
}

fn refused(path: &Path, problem: &str) -> io::Error {
    let text = format!("open {}: it {problem}", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const LONGEST: usize = 64;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary folder")
    }

    #[test]
    fn makes_folders_and_file_with_their_modes() {
        let dir = dir();
        let path = dir.path().join("pod/ctr/0.log");
        let file = open_log(&path, LONGEST).expect("open");
        assert_eq!(file.metadata().expect("stat").mode() & 0o777, 0o640);
        for folder in ["pod", "pod/ctr"] {
            let mode = std::fs::metadata(dir.path().join(folder)).expect("stat").mode();
            assert_eq!(mode & 0o777, 0o755, "{folder}");
        }
    }

    #[test]
    fn follows_no_link_to_a_folder_or_file() {
        let dir = dir();
        let victim = dir.path().join("victim");
        std::fs::create_dir(&victim).expect("mkdir");
        std::fs::write(victim.join("secret"), "s").expect("write");
        symlink(&victim, dir.path().join("ctr")).expect("link");
        std::fs::create_dir(dir.path().join("real")).expect("mkdir");
        symlink(victim.join("secret"), dir.path().join("real/0.log")).expect("link");
        for path in ["ctr/0.log", "real/0.log"] {
            let error = open_log(&dir.path().join(path), LONGEST).expect_err(path);
            assert!(error.to_string().contains("symbolic link"), "{error}");
        }
        assert_eq!(std::fs::read_dir(&victim).expect("list").count(), 1);
        assert_eq!(std::fs::read(victim.join("secret")).expect("read"), b"s");
    }

    #[test]
    fn writes_to_no_special_file() {
        let dir = dir();
        let fifo = dir.path().join("0.log");
        rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR).expect("mkfifo");
        assert!(open_log(&fifo, LONGEST).expect_err("FIFO").to_string().contains("FIFO"));
        assert!(open_log(Path::new("/dev/null"), LONGEST).is_err());
        assert!(open_log(dir.path(), LONGEST).is_err());
    }

    #[test]
    fn refuses_paths_that_climb() {
        for path in ["0.log", "/tmp/../etc/x.log", "/", "/tmp/a/.."] {
            let error = open_log(Path::new(path), LONGEST).expect_err(path);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}: {error}");
        }
    }

    #[test]
    fn a_torn_last_record_is_removed() {
        let dir = dir();
        let path = dir.path().join("0.log");
        let foreign = "y".repeat(2 * LONGEST);
        let foreign_ended = format!("{foreign}\n");
        for (before, after) in [
            ("one\ntwo\n", "one\ntwo\n"),
            ("one\ntw", "one\n"),
            ("on", ""),
            ("", ""),
            (foreign.as_str(), foreign_ended.as_str()),
        ] {
            std::fs::write(&path, before).expect("write");
            open_log(&path, LONGEST).expect("open");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), after);
        }
    }
}
