//! Tar archives that are created atomically.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tar::{Builder, EntryType, Header};

use super::super::{Error, ErrorKind, Result};
use super::{absolute, failed};

const FILE_MODE: u32 = 0o600;

/// Checks that an archive can be created at `path`: its parent exists, and it is not a directory.
pub(in crate::backend) fn check_place(path: &Path) -> Result<()> {
    absolute("archive", path)?;
    let folder = path.parent().filter(|_| path.file_name().is_some());
    match folder.map(fs::metadata) {
        Some(Ok(folder)) if folder.is_dir() => {}
        Some(Err(error)) if error.kind() != IoKind::NotFound => {
            return Err(failed("look at the folder of", path, error));
        }
        _ => {
            let tried = format!("the folder of {} does not exist", path.display());
            return Err(Error::new(ErrorKind::NotFound, tried));
        }
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == IoKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", path, error)),
        Ok(there) if there.is_dir() => {
            let tried = format!("{} is a folder", path.display());
            Err(Error::new(ErrorKind::AlreadyExists, tried))
        }
        Ok(_) => Ok(()),
    }
}

/// Packs everything below `folder` and additional files, given with their names in the archive.
/// Only regular files and directories are included, and links are not followed.
pub(in crate::backend) fn write(
    path: &Path,
    folder: &Path,
    files: &[(String, PathBuf)],
) -> Result<()> {
    check_place(path)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let packed = |file: File| {
        let mut tar = Builder::new(BufWriter::new(file));
        add_folder(&mut tar, folder, Path::new(""))
            .and_then(|()| files.iter().try_for_each(|(name, from)| add_file(&mut tar, from, name)))
            .and_then(|()| tar.into_inner()?.into_inner().map_err(|error| error.into_error()))
            .and_then(|file| file.sync_all().map(|()| file))
    };
    let tried = |error| failed("write", path, error);
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::from_raw_mode(FILE_MODE)) {
        // An unnamed file until it is complete, so nothing is left of a failure.
        Ok(nameless) => {
            let file = packed(File::from(nameless)).map_err(tried)?;
            let number = std::os::fd::AsRawFd::as_raw_fd(&file);
            let now = format!("/proc/self/fd/{number}");
            let link = |to: &Path| {
                let linked = rustix::fs::linkat(CWD, &now, CWD, to, AtFlags::SYMLINK_FOLLOW);
                linked.map_err(std::io::Error::from)
            };
            match link(path) {
                // A hard link cannot replace an existing file.
                Err(error) if error.kind() == IoKind::AlreadyExists => {
                    let beside = beside(path);
                    link(&beside).and_then(|()| replace(&beside, path)).map_err(tried)
                }
                named => named.map_err(tried),
            }
        }
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let beside = beside(path);
            let mut options = File::options();
            let file = options.write(true).create_new(true).mode(FILE_MODE).open(&beside);
            match packed(file.map_err(tried)?) {
                Ok(_) => replace(&beside, path).map_err(tried),
                Err(error) => {
                    // Best effort: the first error is returned.
                    let _ = fs::remove_file(&beside);
                    Err(tried(error))
                }
            }
        }
        Err(error) => Err(tried(error.into())),
    }
}

/// A temporary name in the same directory.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{:016x}", rand::random::<u64>()));
    path.with_file_name(name)
}

/// Gives a complete file its name, replacing an existing file.
fn replace(whole: &Path, path: &Path) -> std::io::Result<()> {
    fs::rename(whole, path).inspect_err(|_| {
        let _ = fs::remove_file(whole);
    })
}

fn add_folder(tar: &mut Builder<impl Write>, folder: &Path, inside: &Path) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = inside.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            tar.append_data(&mut header(EntryType::Directory, 0o700, 0), &name, std::io::empty())?;
            add_folder(tar, &entry.path(), &name)?;
        } else if kind.is_file() {
            add_file(tar, &entry.path(), &name.to_string_lossy())?;
        }
    }
    Ok(())
}

/// Adds a file with its current length, since it may be growing. A missing one is skipped.
fn add_file(tar: &mut Builder<impl Write>, from: &Path, name: &str) -> std::io::Result<()> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let opened = File::options().read(true).custom_flags(flags.cast_signed()).open(from);
    let file = match opened {
        Err(error) if error.kind() == IoKind::NotFound => return Ok(()),
        other => other?,
    };
    let about = file.metadata()?;
    if !about.is_file() {
        return Ok(());
    }
    let mut header = header(EntryType::Regular, FILE_MODE, about.len());
    tar.append_data(&mut header, name, file.take(about.len()))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn contents(archive: &Path) -> BTreeMap<String, String> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        let entries = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        entries.collect()
    }

    #[test]
    fn an_archive_is_whole_or_absent() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("in/checkpoint")).unwrap();
        fs::write(at("in/checkpoint/pages-1.img"), "pages").unwrap();
        fs::write(at("in/config.dump"), "{}").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("in/link")).unwrap();
        fs::write(at("log"), "line\n").unwrap();
        let files =
            [("container.log".to_owned(), at("log")), ("absent".to_owned(), at("there-is-none"))];
        write(&at("out.tar"), &at("in"), &files).unwrap();
        let wanted = [
            ("checkpoint", ""),
            ("checkpoint/pages-1.img", "pages"),
            ("config.dump", "{}"),
            ("container.log", "line\n"),
        ];
        let wanted = wanted.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let mut found = contents(&at("out.tar"));
        if let Some(folder) = found.remove("checkpoint/") {
            found.insert("checkpoint".to_owned(), folder);
        }
        assert_eq!(found, wanted.into());

        let kind = |path: &Path| write(path, &at("in"), &[]).unwrap_err().kind;
        assert_eq!(kind(&at("in")), ErrorKind::AlreadyExists);
        assert_eq!(kind(&at("nowhere/out.tar")), ErrorKind::NotFound);
        assert_eq!(kind(&at("log/out.tar")), ErrorKind::NotFound);
        assert_eq!(kind(Path::new("out.tar")), ErrorKind::InvalidArgument);
        assert_eq!(kind(&at("../out.tar")), ErrorKind::InvalidArgument);
        assert_eq!(kind(Path::new("/")), ErrorKind::NotFound);

        std::os::unix::fs::symlink("/etc/nothing", at("dangling")).unwrap();
        let before = fs::read_dir(place.path()).unwrap().count();
        for taken in ["out.tar", "dangling"] {
            write(&at(taken), &at("in/checkpoint"), &[]).unwrap();
            assert!(fs::symlink_metadata(at(taken)).unwrap().is_file(), "no link is followed");
            assert_eq!(contents(&at(taken)).into_keys().collect::<Vec<_>>(), ["pages-1.img"]);
        }
        for half in ["half.tar", "out.tar"] {
            assert!(write(&at(half), &at("no-such-folder"), &[]).is_err());
        }
        assert_eq!(contents(&at("out.tar")).len(), 1, "it is as it was");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), before, "nothing is left");
    }
}
