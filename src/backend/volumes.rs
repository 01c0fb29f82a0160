//! Types for making the volumes of a pod.

use std::collections::BTreeMap;

/// The storage of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Medium {
    /// The disk of the parent directory.
    #[default]
    Disk,
    /// A tmpfs with this maximum size in bytes; `None` for the kernel's default. Never swapped out
    /// if the kernel supports that.
    Memory(Option<u64>),
    /// A hugetlbfs with this page size in bytes.
    HugePages(u64),
}

/// The top directory of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeDir {
    /// Its storage.
    pub medium: Medium,
    /// Its mode, independent of the umask.
    pub mode: u32,
    /// Its group; `None` for root's.
    pub gid: Option<u32>,
}

/// A file in a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeFile {
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its mode, independent of the umask.
    pub mode: u32,
    /// Its owner; `None` for root.
    pub uid: Option<u32>,
}

/// All files of a volume that podbay manages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeFiles {
    /// By path in the volume: relative, without `..`; the first component must not begin with `..`.
    pub files: BTreeMap<String, VolumeFile>,
    /// Group of all files and directories; `None` for root's. Directories pass it on to new entries
    /// (setgid).
    pub gid: Option<u32>,
}

/// Required type of a host path, as in `hostPath.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathKind {
    /// A directory; created with mode 0755 if nothing is there.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A regular file; created with mode 0644 if nothing is there, in an existing directory.
    FileOrCreate,
    /// A regular file.
    File,
    /// A UNIX socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl HostPathKind {
    /// The kubelet's name of the type.
    pub fn noun(self) -> &'static str {
        match self {
            Self::DirectoryOrCreate | Self::Directory => "directory",
            Self::FileOrCreate | Self::File => "file",
            Self::Socket => "socket file",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
        }
    }
}
