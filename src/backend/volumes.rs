//! What the host is asked for to make the volumes of a pod.

use std::collections::BTreeMap;

/// What the files of a volume lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Medium {
    /// The disk of the folder above.
    #[default]
    Disk,
    /// A tmpfs of at most so many bytes; `None` for the kernel's limit. Never in swap where the
    /// kernel can say so.
    Memory(Option<u64>),
    /// A hugetlbfs of pages of so many bytes.
    HugePages(u64),
}

/// The top folder of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeDir {
    /// What it lies on.
    pub medium: Medium,
    /// Its mode, whatever the umask is.
    pub mode: u32,
    /// Its group; `None` for root's.
    pub gid: Option<u32>,
}

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeFile {
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its mode, whatever the umask is.
    pub mode: u32,
    /// Its owner; `None` for root.
    pub uid: Option<u32>,
}

/// All files of a volume whose content podbay keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeFiles {
    /// By path in the volume: relative, without `..`, its first element not beginning with `..`.
    pub files: BTreeMap<String, VolumeFile>,
    /// Group of all files and folders; `None` for root's. Folders hand it on to what is made in
    /// them.
    pub gid: Option<u32>,
}

/// What has to be at a path of the host, as `hostPath.type` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathKind {
    /// A folder; made with mode 0755 when nothing is there.
    DirectoryOrCreate,
    /// A folder.
    Directory,
    /// A regular file; made with mode 0644 when nothing is there, in a folder that is.
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
    /// What it is, as the kubelet calls it.
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
