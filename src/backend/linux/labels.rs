//! SELinux labels of files, and the default labels of containers in the host's policy.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, XattrFlags, statat};
use rustix::io::Errno;

use super::super::{Result, SelinuxContexts};
use super::{absolute, failed};

/// The attribute that contains a file's label.
const LABEL: &str = "security.selinux";

/// Defaults for policies without a file about containers.
const PROCESS: &str = "system_u:system_r:container_t:s0";
const FILE: &str = "system_u:object_r:container_file_t:s0";

/// The labels of containers on the host with the root directory `root`, from its policy's
/// `lxc_contexts`.
pub(super) fn contexts(root: &Path) -> SelinuxContexts {
    let config = fs::read_to_string(root.join("etc/selinux/config")).unwrap_or_default();
    let policy = value(&config, "SELINUXTYPE").unwrap_or("targeted");
    let path = root.join("etc/selinux").join(policy).join("contexts/lxc_contexts");
    let table = fs::read_to_string(path).unwrap_or_default();
    SelinuxContexts {
        process: value(&table, "process").unwrap_or(PROCESS).to_owned(),
        file: value(&table, "file").unwrap_or(FILE).to_owned(),
    }
}

/// The value of a `key = "value"` line.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches('"'))
    })
}

/// Looks at a path without changing it: a dead file system does not answer.
pub(super) fn look(path: &Path) -> Result<()> {
    absolute("path", path)?;
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .map(drop)
        .map_err(|error| failed("look at", path, error))
}

/// Labels a file, or a directory with its contents.
pub(super) fn set(path: &Path, label: &str) -> Result<()> {
    absolute("path", path)?;
    // The kernel's labels end with a NUL.
    let label = [label.as_bytes(), b"\0"].concat();
    set_all(path, LABEL, &label).map_err(|error| failed("label", path, error))
}

/// Sets an attribute of a file or a tree. Directories are entered by descriptor, so replacing one
/// by a link does not lead elsewhere.
fn set_all(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    set_one(path, name, value)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(folder) => set_below(&folder, name, value),
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Err(error) => Err(error),
    }
}

fn set_below(folder: &OwnedFd, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    let place = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let file = entry.file_name();
        if matches!(file.to_bytes(), b"." | b"..") {
            continue;
        }
        set_one(&place.join(OsStr::from_bytes(file.to_bytes())), name, value)?;
        let kind = statat(folder, file, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(kind.st_mode).is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(folder, file, flags, Mode::empty())?;
            set_below(&inner, name, value)?;
        }
    }
    Ok(())
}

/// Files that have the value already, have disappeared or do not support the attribute are skipped.
/// A write costs far more than a look, and most volumes were labelled before.
fn set_one(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    let mut found = vec![0; value.len()];
    if rustix::fs::lgetxattr(path, name, &mut found) == Ok(value.len()) && found == value {
        return Ok(());
    }
    match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
        Err(Errno::NOTSUP | Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_from_the_policy() {
        let root = tempfile::tempdir().unwrap();
        let expected = |process: &str, file: &str| SelinuxContexts {
            process: process.to_owned(),
            file: file.to_owned(),
        };
        assert_eq!(contexts(root.path()), expected(PROCESS, FILE));
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/selinux/config", "# SELINUXTYPE= can be\nSELINUX=enforcing\nSELINUXTYPE=mls\n");
        let table = "process = \"u:r:svirt_t:s0\"\ncontent = \"x\"\nfile = \"u:o:file_t:s0\"\n";
        write("etc/selinux/mls/contexts/lxc_contexts", table);
        assert_eq!(contexts(root.path()), expected("u:r:svirt_t:s0", "u:o:file_t:s0"));
    }

    #[test]
    fn a_file_with_the_label_is_not_written() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        set_all(folder.path(), "user.podbay", b"x").unwrap();
        let written = || {
            let meta = fs::metadata(&file).unwrap();
            (meta.ctime(), meta.ctime_nsec())
        };
        let before = written();
        std::thread::sleep(std::time::Duration::from_millis(20));
        set_all(folder.path(), "user.podbay", b"x").unwrap();
        assert_eq!(written(), before);
        for longer_or_other in [&b"xy"[..], b"y"] {
            set_all(folder.path(), "user.podbay", longer_or_other).unwrap();
            let mut value = [0; 8];
            let length = rustix::fs::lgetxattr(&file, "user.podbay", &mut value).unwrap();
            assert_eq!(&value[..length], longer_or_other);
        }
    }

    #[test]
    fn a_tree_is_labelled_whole_and_links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, outside) = (folder.path().join("tree"), folder.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        fs::write(outside.join("file"), "").unwrap();
        let read = |path: &Path| {
            let mut value = [0; 16];
            rustix::fs::lgetxattr(path, "user.podbay", &mut value).map(|n| value[..n].to_vec())
        };
        set_all(&tree, "user.podbay", b"x").unwrap();
        for path in [&tree, &tree.join("a"), &tree.join("a/b/file")] {
            assert_eq!(read(path).unwrap(), b"x", "{}", path.display());
        }
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        // Links do not support attributes of this kind.
        let _ = set_all(&tree, "user.podbay", b"y");
        assert!(read(&outside).is_err() && read(&outside.join("file")).is_err());
    }
}
