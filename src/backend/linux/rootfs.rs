//! Access to a root file system without running anything in it.
//!
//! The root is opened and not kept mounted: an overlay is mounted in the scratch directory, opened
//! and detached at once, so that it lives exactly as long as the descriptor, even if the agent is
//! killed. All paths inside are resolved by the kernel below that descriptor.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::super::{Error, ErrorKind, Result, RootfsMount, UserFiles};
use super::{absolute, failed, files, idmap};

/// Largest /etc/passwd or /etc/group that is read.
const USER_FILE_LIMIT: usize = 10 << 20;

/// mount(2) accepts one page of options.
const MAX_MOUNT_OPTIONS: usize = 4095;

/// Resolution stays below the root: absolute links start there, `..` stops there, and neither magic
/// links nor mounts lead out. The kernel follows at most 40 links.
pub(super) const INSIDE: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// The directory for temporary mounts.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

/// How to get read-only access to the root of some mounts.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// A plain directory.
    Folder(PathBuf),
    /// An overlay of these directories, topmost first, with more options.
    Overlay { layers: Vec<String>, options: Vec<String> },
    /// Mounts of other types, stacked.
    Stack(Vec<(String, String, String)>),
}

impl Scratch {
    /// Creates the directory and removes what a killed predecessor left in it.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        absolute("scratch", &path)?;
        files::create_dir(&path, 0o700)?;
        for name in files::list(&path)? {
            let left = path.join(name);
            super::mounts::detach(&left)?;
            std::fs::remove_dir(&left).map_err(|error| failed("remove", &left, error))?;
        }
        Ok(Self(path))
    }

    /// Opens the root of a file system given by its mounts, read-only.
    pub(super) fn open_root(&self, rootfs: &[RootfsMount]) -> Result<OwnedFd> {
        match plan(rootfs)? {
            Plan::Folder(path) => open_folder(&path),
            Plan::Overlay { layers, options } => self.open_overlay(&layers, &options),
            Plan::Stack(mounts) => self.mount_and_open(|point| {
                let flags = MountFlags::RDONLY | SAFE;
                mounts.iter().try_for_each(|(kind, source, options)| {
                    mount(source, point, kind, flags, options)
                })
            }),
        }
    }

    fn open_overlay(&self, layers: &[String], options: &[String]) -> Result<OwnedFd> {
        self.mount_and_open(|point| mount_layers(point, layers, options, SAFE))
    }

    fn mount_and_open(&self, mount: impl FnOnce(&Path) -> Result<()>) -> Result<OwnedFd> {
        let point = self.0.join(format!("{:016x}", rand::random::<u64>()));
        files::create_dir(&point, 0o700)?;
        let opened = mount(&point).and_then(|()| open_folder(&point));
        super::mounts::detach(&point)?;
        std::fs::remove_dir(&point).map_err(|error| failed("remove", &point, error))?;
        opened
    }
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

fn mount(source: &str, point: &Path, kind: &str, flags: MountFlags, data: &str) -> Result<()> {
    let data = std::ffi::CString::new(data)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "mount options").because(error))?;
    rustix::mount::mount(source, point, kind, flags, data.as_c_str())
        .map_err(|error| Error::io(format!("mount {kind} {source} read-only"), error.into()))
}

fn mount_layers(
    point: &Path,
    layers: &[String],
    options: &[String],
    flags: MountFlags,
) -> Result<()> {
    let flags = MountFlags::RDONLY | flags;
    let data = overlay_data(layers, options);
    if data.len() <= MAX_MOUNT_OPTIONS {
        return mount("overlay", point, "overlay", flags, &data);
    }
    // The paths are too long for one page: name the layers by open descriptors instead.
    let mut open = Vec::with_capacity(layers.len());
    for layer in layers {
        open.push(open_folder(Path::new(&unescape(layer)))?);
    }
    let short: Vec<String> =
        open.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    mount("overlay", point, "overlay", flags, &overlay_data(&short, options))
}

/// Mounts a root file system read-only and permanently at a directory; see [`super::super::Host`].
/// Programs in it may be executed.
pub(super) fn mount_read_only(
    rootfs: &[RootfsMount],
    target: &Path,
    userns: Option<&Path>,
) -> Result<()> {
    absolute("target", target)?;
    if super::mounts::is_read_only_mount(target)? {
        return Ok(());
    }
    // Left half-done by an agent that died.
    super::mounts::detach(target)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mounted = match (plan(rootfs)?, userns) {
        (Plan::Folder(source), None) => super::mounts::bind_read_only(&source, target),
        (Plan::Folder(source), Some(userns)) => idmap::bind(&source, target, userns),
        (Plan::Overlay { layers, options }, None) => mount_layers(target, &layers, &options, flags),
        (Plan::Overlay { layers, options }, Some(userns)) => {
            let plain: Vec<_> = layers.iter().map(|layer| unescape(layer).into()).collect();
            let mount = |mapped: &[String]| mount_layers(target, mapped, &options, flags);
            idmap::with_layers(&plain, target, userns, mount)
        }
        (Plan::Stack(_), Some(_)) => {
            let tried = "map the ids of an image that is not a directory tree";
            Err(Error::new(ErrorKind::Unsupported, tried))
        }
        (Plan::Stack(mounts), None) => mounts.iter().try_for_each(|(kind, source, options)| {
            mount(source, target, kind, MountFlags::RDONLY | flags, options)
        }),
    };
    if mounted.is_err() {
        super::mounts::detach(target)?;
    }
    mounted
}

/// Finds a directory or regular file below `root`; see [`super::super::Host`].
pub(super) fn find_inside(root: &Path, path: &str) -> Result<PathBuf> {
    absolute("root", root)?;
    let open = open_folder(root)?;
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Ok(root.to_owned());
    }
    let tried = || format!("find {path:?} in the image");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = match rustix::fs::openat2(&open, path, flags, Mode::empty(), INSIDE) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(Error::new(ErrorKind::NotFound, tried())),
        Err(error @ (Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG)) => {
            return Err(Error::new(ErrorKind::FailedPrecondition, tried())
                .because(std::io::Error::from(error)));
        }
        Err(error) => return Err(Error::io(tried(), error.into())),
    };
    let stat = rustix::fs::fstat(&found).map_err(|error| Error::io(tried(), error.into()))?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if !kind.is_dir() && !kind.is_file() {
        return Err(Error::new(ErrorKind::FailedPrecondition, tried())
            .because("it is neither a folder nor a regular file"));
    }
    let name = format!("/proc/self/fd/{}", found.as_raw_fd());
    std::fs::read_link(&name).map_err(|error| Error::io(tried(), error))
}

fn overlay_data(layers: &[String], options: &[String]) -> String {
    let mut data = format!("lowerdir={}", layers.join(":"));
    for option in options {
        data.push(',');
        data.push_str(option);
    }
    data
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed("open", path, error))
}

/// Converts a snapshot's mounts to a form that cannot change the snapshot.
fn plan(rootfs: &[RootfsMount]) -> Result<Plan> {
    let unfit = |problem: &str| {
        Err(Error::new(ErrorKind::InvalidArgument, format!("root file system: {problem}")))
    };
    match rootfs {
        [] => unfit("there are no mounts"),
        [one] if one.kind == "overlay" => overlay_plan(one),
        [one] if is_bind(one) => Ok(Plan::Folder(one.source.clone().into())),
        all if all.iter().any(|m| is_bind(m) || m.kind == "overlay" || !m.target.is_empty()) => {
            unfit("this combination of mounts is not supported")
        }
        all => Ok(Plan::Stack(
            all.iter()
                .map(|m| (m.kind.clone(), m.source.clone(), file_system_options(m)))
                .collect(),
        )),
    }
}

fn is_bind(mount: &RootfsMount) -> bool {
    mount.kind == "bind" || mount.options.iter().any(|o| o == "bind" || o == "rbind")
}

fn file_system_options(mount: &RootfsMount) -> String {
    let flags = ["ro", "rw", "nodev", "nosuid", "noexec", "relatime", "noatime", "loop"];
    let kept = mount.options.iter().map(String::as_str).filter(|option| !flags.contains(option));
    kept.collect::<Vec<_>>().join(",")
}

/// The writable layer becomes the topmost read-only one. Options of writable overlays are dropped,
/// and so are id mappings, because names and ids must be read as they are on disk.
fn overlay_plan(mount: &RootfsMount) -> Result<Plan> {
    let (mut upper, mut lower, mut options) = (None, Vec::new(), Vec::new());
    for option in &mount.options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("upperdir", dir) => upper = Some(escape(dir)),
            ("lowerdir", dirs) => lower = split_layers(dirs),
            ("workdir" | "uidmap" | "gidmap" | "fsync", _) | ("ro" | "rw" | "volatile", "") => {}
            _ => options.push(option.clone()),
        }
    }
    let layers: Vec<String> = upper.into_iter().chain(lower).collect();
    match &layers[..] {
        [] => {
            Err(Error::new(ErrorKind::InvalidArgument, "root file system: overlay without layers"))
        }
        // The kernel refuses a read-only overlay with a single layer.
        [one] => Ok(Plan::Folder(unescape(one).into())),
        _ => Ok(Plan::Overlay { layers, options }),
    }
}

/// `upperdir` is a single path, but `lowerdir` is a list, in which a colon needs a backslash.
fn escape(path: &str) -> String {
    path.replace(':', "\\:")
}

fn unescape(layer: &str) -> String {
    layer.replace("\\:", ":").replace("\\\\", "\\")
}

fn split_layers(list: &str) -> Vec<String> {
    let (mut layers, mut escaped) = (vec![String::new()], false);
    for c in list.chars() {
        if c == ':' && !escaped {
            layers.push(String::new());
        } else if let Some(layer) = layers.last_mut() {
            layer.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

/// /etc/passwd and /etc/group of a root file system.
pub(super) fn user_files(scratch: &Scratch, rootfs: &[RootfsMount]) -> Result<UserFiles> {
    let root = scratch.open_root(rootfs)?;
    Ok(UserFiles {
        passwd: read_inside(&root, "etc/passwd", USER_FILE_LIMIT)?,
        group: read_inside(&root, "etc/group", USER_FILE_LIMIT)?,
    })
}

/// Reads a regular file below `root`. Its type is checked on an O_PATH descriptor, because really
/// opening a device or FIFO could already have an effect.
fn read_inside(root: &OwnedFd, path: &str, max: usize) -> Result<Option<Vec<u8>>> {
    let name = format!("/{path} of the image");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = match rustix::fs::openat2(root, path, flags, Mode::empty(), INSIDE) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error @ (Errno::LOOP | Errno::XDEV)) => {
            return Err(Error::new(ErrorKind::FailedPrecondition, format!("resolve {name}"))
                .because(std::io::Error::from(error)));
        }
        Err(error) => return Err(Error::io(format!("resolve {name}"), error.into())),
    };
    let stat = rustix::fs::fstat(&found)
        .map_err(|error| Error::io(format!("stat {name}"), error.into()))?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("{name} is not a regular file"),
        ));
    }
    let reopened = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(reopened, flags, Mode::empty())
        .map_err(|error| Error::io(format!("open {name}"), error.into()))?;
    files::read_regular(&File::from(file), max, &name).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> RootfsMount {
        RootfsMount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn the_writable_layer_becomes_the_top_read_only_one() {
        let overlay = mount(
            "overlay",
            "overlay",
            &[
                "index=off",
                "workdir=/s/3/work",
                "upperdir=/s/3:x/fs",
                "lowerdir=/s/2\\:y/fs:/s/1/fs",
                "uidmap=0:1000:65536",
                "gidmap=0:1000:65536",
                "userxattr",
                "volatile",
            ],
        );
        assert_eq!(
            plan(&[overlay]).unwrap(),
            Plan::Overlay {
                layers: vec!["/s/3\\:x/fs".into(), "/s/2\\:y/fs".into(), "/s/1/fs".into()],
                options: vec!["index=off".into(), "userxattr".into()],
            }
        );
    }

    #[test]
    fn one_layer_and_binds_need_no_mount() {
        let view = mount("bind", "/s/1/fs", &["ro", "rbind"]);
        assert_eq!(plan(&[view]).unwrap(), Plan::Folder("/s/1/fs".into()));
        let single = mount("overlay", "overlay", &["lowerdir=/s/1\\:z/fs"]);
        assert_eq!(plan(&[single]).unwrap(), Plan::Folder("/s/1:z/fs".into()));
    }

    #[test]
    fn other_types_are_mounted_read_only_and_nonsense_is_refused() {
        let ext4 = mount("ext4", "/dev/loop7", &["rw", "discard", "loop"]);
        assert_eq!(
            plan(&[ext4]).unwrap(),
            Plan::Stack(vec![("ext4".into(), "/dev/loop7".into(), "discard".into())])
        );
        let bind = mount("bind", "/a", &["rbind"]);
        for bad in [vec![], vec![bind.clone(), bind], vec![mount("overlay", "overlay", &["rw"])]] {
            assert_eq!(plan(&bad).unwrap_err().kind, ErrorKind::InvalidArgument, "{bad:?}");
        }
    }
}
