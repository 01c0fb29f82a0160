//! The kernel's table of mounts (proc(5), `/proc/[pid]/mountinfo`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::super::Result;
use super::failed;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Id of the mount, unique while it exists.
    pub id: u64,
    /// Mount point.
    pub point: PathBuf,
    /// Member of a peer group: mounts propagate in both directions.
    pub shared: bool,
    /// Receives mounts from a peer group.
    pub slave: bool,
    /// File system type.
    pub kind: String,
    /// Options of the super block, comma separated.
    pub super_options: String,
}

/// The mounts of this process's mount namespace.
pub(super) fn read() -> Result<Vec<Mount>> {
    let path = Path::new("/proc/self/mountinfo");
    let table = std::fs::read(path).map_err(|error| failed("read", path, error))?;
    Ok(parse(&table))
}

/// Parses a table; malformed lines are skipped.
pub(super) fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    // Skips parent id, device, and root inside the file system.
    let point = path(fields.nth(3)?);
    let _options = fields.next()?;
    let (mut shared, mut slave) = (false, false);
    loop {
        let tag = fields.next()?;
        if tag == b"-" {
            break;
        }
        shared |= tag.starts_with(b"shared:");
        slave |= tag.starts_with(b"master:");
    }
    let kind = text(fields.next()?)?.to_owned();
    let super_options = text(fields.nth(1)?).unwrap_or_default().to_owned();
    Some(Mount { id, point, shared, slave, kind, super_options })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// Decodes the kernel's octal escapes of space, tab, newline and backslash.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match (first, octal) {
            (b'\\', Some(digits)) => {
                let value =
                    digits.iter().fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
                bytes.push(value as u8);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
60 27 0:50 / /a\\040b\\134c rw shared:7 master:3 propagate_from:2 - tmpfs none rw,size=1k
broken line
61 27 0:51 / /tagless rw master:9 - nsfs nsfs rw
";

    #[test]
    fn reads_points_tags_and_types() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[0].point, Path::new("/"));
        assert!(!mounts[0].shared && !mounts[0].slave);
        assert_eq!(mounts[1].kind, "cgroup2");
        assert_eq!(mounts[2].point, Path::new("/a b\\c"));
        assert!(mounts[2].shared && mounts[2].slave);
        assert_eq!(mounts[2].super_options, "rw,size=1k");
        assert!(mounts[3].slave && !mounts[3].shared);
        assert_eq!(mounts[3].id, 61);
    }
}
