//! Device nodes of the host, for containers.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::super::{DeviceNode, Error, ErrorKind, Result};
use super::failed;

/// Directories in `/dev` that each container has of its own, or that other managers use.
const SKIPPED_FOLDERS: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// The device at `host_path`, or all devices in the directory there, in stable order.
pub(super) fn below(host_path: &Path, container_path: &str) -> Result<Vec<DeviceNode>> {
    let source = fs::canonicalize(host_path)
        .map_err(|error| failed("resolve device host_path", host_path, error))?;
    let meta = fs::metadata(&source).map_err(|error| failed("stat device", &source, error))?;
    let mut found = Vec::new();
    if meta.is_dir() {
        walk(&source, container_path.trim_end_matches('/'), &mut found)?;
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        return Ok(found);
    }
    found.extend(node(&meta, container_path));
    if found.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("device host_path: {} is not a device", host_path.display()),
        ));
    }
    Ok(found)
}

fn walk(folder: &Path, container_path: &str, found: &mut Vec<DeviceNode>) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // Devices may disappear during the walk.
        Err(error) if error.kind() == IoKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", folder, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", folder, error))?;
        let name = entry.file_name();
        let (Some(text), path) = (name.to_str(), entry.path()) else { continue };
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == IoKind::NotFound => continue,
            Err(error) => return Err(failed("stat", &path, error)),
        };
        let inside = format!("{container_path}/{text}");
        if meta.is_dir() {
            if !SKIPPED_FOLDERS.contains(&text) {
                walk(&path, &inside, found)?;
            }
        } else if name != OsStr::new("console") && !meta.file_type().is_fifo() {
            found.extend(node(&meta, &inside));
        }
    }
    Ok(())
}

fn node(meta: &Metadata, container_path: &str) -> Option<DeviceNode> {
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        kind if kind.is_fifo() => 'p',
        _ => return None,
    };
    let number = if kind == 'p' { 0 } else { meta.rdev() };
    Some(DeviceNode {
        path: container_path.to_owned(),
        kind,
        major: i64::from(rustix::fs::major(number)),
        minor: i64::from(rustix::fs::minor(number)),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn resolves_a_link_to_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("zero");
        symlink("/dev/null", &link).unwrap();
        let nodes = below(&link, "/dev/mine").unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!((nodes[0].path.as_str(), nodes[0].kind), ("/dev/mine", 'c'));
        assert_eq!((nodes[0].major, nodes[0].minor), (1, 3));
    }

    #[test]
    fn refuses_what_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(below(file.path(), "/x").unwrap_err().kind, ErrorKind::InvalidArgument);
        assert!(below(Path::new("/dev/no-such-device"), "/x").unwrap_err().is_not_found());
    }

    #[test]
    fn all_of_dev_without_what_containers_have_of_their_own() {
        let nodes = below(Path::new("/dev"), "/dev").unwrap();
        assert!(nodes.iter().any(|node| node.path == "/dev/null"));
        for skipped in ["/dev/console", "/dev/pts/", "/dev/shm/", "/dev/mqueue/"] {
            assert!(!nodes.iter().any(|node| node.path.starts_with(skipped)), "{skipped}");
        }
        assert!(nodes.iter().all(|node| node.kind != 'p'));
    }
}
