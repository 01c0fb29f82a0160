//! Top directories of volumes, and checks of host paths.

use std::fs;
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::super::{Error, ErrorKind, HostPathKind, Medium, Result, VolumeDir};
use super::{absolute, failed, files, mounts};

/// Mode of the parents of a volume, which no container sees.
const PARENT_MODE: u32 = 0o700;
const MODE_BITS: u32 = 0o7777;

/// Makes the top folder of a volume; see [`super::super::Host::create_volume`].
pub(in crate::backend) fn create(path: &Path, dir: VolumeDir) -> Result<()> {
    absolute("path", path)?;
    let parent = path.parent().unwrap_or(path);
    match dir.medium {
        Medium::Disk => on_disk(path, parent, dir),
        Medium::Memory(size) => {
            let size = size.map_or(String::new(), |size| format!(",size={size}"));
            // The option `noswap` exists from Linux 6.4 on.
            mount_once("tmpfs", path, dir, &format!("{size},noswap")).or_else(
                |error| match invalid(&error) {
                    true => mount_once("tmpfs", path, dir, &size),
                    false => Err(error),
                },
            )
        }
        Medium::HugePages(page) => {
            let kib = page / 1024;
            let pool = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB");
            if !Path::new(&pool).exists() {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the host has no huge pages of {kib} KiB"),
                ));
            }
            mount_once("hugetlbfs", path, dir, &format!(",pagesize={kib}K"))
        }
    }
}

/// Created under another name first, so that a directory at `path` is always complete.
fn on_disk(path: &Path, parent: &Path, dir: VolumeDir) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Err(error) if error.kind() == IoKind::NotFound => {}
        Ok(_) => return Err(failed("make folder", path, Errno::NOTDIR)),
        Err(error) => return Err(failed("stat", path, error)),
    }
    files::create_dir(parent, PARENT_MODE)?;
    let new = parent.join(format!(".new-{:016x}", rand::random::<u64>()));
    let made = fs::create_dir(&new)
        .and_then(|()| chown(&new, None, dir.gid))
        // Last, because changing the group resets the setgid bit.
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(dir.mode & MODE_BITS)))
        .and_then(|()| fs::rename(&new, path));
    made.map_err(|error| {
        // Best effort: the first error is returned.
        let _ = fs::remove_dir(&new);
        failed("make folder", path, error)
    })
}

/// Mode and group are mount options, so that a mounted volume is always complete.
fn mount_once(kind: &str, path: &Path, dir: VolumeDir, more: &str) -> Result<()> {
    files::create_dir(path, PARENT_MODE)?;
    if mounts::mount_id(path)? != mounts::mount_id(path.parent().unwrap_or(path))? {
        return Ok(());
    }
    let gid = dir.gid.map_or(String::new(), |gid| format!(",gid={gid}"));
    let options = format!("mode={:o}{gid}{more}", dir.mode & MODE_BITS);
    let options = std::ffi::CString::new(options)
        .map_err(|error| failed("mount", path, std::io::Error::from(error)))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(kind, path, kind, flags, options.as_c_str())
        .map_err(|error| failed(&format!("mount {kind} at"), path, error))
}

fn invalid(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>());
    source.is_some_and(|e| e.raw_os_error() == Some(Errno::INVAL.raw_os_error()))
}

/// Checks a host path; see [`super::super::Host::check_host_path`].
pub(in crate::backend) fn check_host_path(path: &Path, wanted: HostPathKind) -> Result<bool> {
    absolute("hostPath.path", path)?;
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == IoKind::NotFound => {
            return match wanted {
                HostPathKind::DirectoryOrCreate => files::create_dir(path, 0o755).map(|()| true),
                HostPathKind::FileOrCreate => make_file(path).map(|()| true),
                _ => Ok(false),
            };
        }
        found => found.map_err(|error| failed("look at hostPath", path, error))?,
    };
    let kind = found.file_type();
    Ok(match wanted {
        HostPathKind::DirectoryOrCreate | HostPathKind::Directory => kind.is_dir(),
        HostPathKind::FileOrCreate | HostPathKind::File => kind.is_file(),
        HostPathKind::Socket => kind.is_socket(),
        // A whiteout of an overlay does not count as a device.
        HostPathKind::CharDevice => kind.is_char_device() && found.rdev() != 0,
        HostPathKind::BlockDevice => kind.is_block_device(),
    })
}

fn make_file(path: &Path) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    file.and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o644)))
        .map_err(|error| failed("make file", path, error))
}

#[cfg(test)]
mod tests;
