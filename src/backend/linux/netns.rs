//! Network namespaces, pinned by a bind mount as `ip netns` does.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind as IoKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::mount::MountPropagationFlags;

use super::super::{Error, ErrorKind, NetnsState, Result};
use super::{failed, files, links, mounts};
use crate::locks::Mutex;

/// Magic number of nsfs (magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// The directory of pinned namespaces.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    prefix: String,
    /// Whether `dir` was made a shared mount.
    shared: Mutex<bool>,
}

/// Makes and pins a namespace. If the caller is gone meanwhile, it is completed and then undone.
pub(super) async fn create(folder: Arc<Folder>, path: PathBuf) -> Result<()> {
    let undo = {
        let (folder, path) = (Arc::clone(&folder), path.clone());
        move || folder.remove(&path)
    };
    on_own_thread(move || folder.create(&path, pin_new), undo).await
}

/// Runs work on a dedicated thread that ends afterwards, so that no other work runs in the
/// namespaces it enters. If the caller is gone meanwhile, the result is undone.
pub(super) async fn on_own_thread(
    make: impl FnOnce() -> Result<()> + Send + 'static,
    undo: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<()> {
    let (answer, wait) = tokio::sync::oneshot::channel();
    let work = move || {
        let result = make();
        let made = result.is_ok();
        if answer.send(result).is_err()
            && made
            // Nobody will ever know about it.
            && let Err(error) = undo()
        {
            tracing::warn!(%error, "cannot remove abandoned network namespace");
        }
    };
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(work)
        .map_err(|error| Error::io("start a thread for a namespace", error))?;
    wait.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "make a namespace")))
}

/// What is at a path.
pub(super) fn state(path: &Path) -> Result<NetnsState> {
    match rustix::fs::statfs(path) {
        Ok(fs) if u64::try_from(fs.f_type) == Ok(NSFS_MAGIC) => Ok(NetnsState::Live),
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(NetnsState::Gone),
        Err(error) => Err(failed("look at network namespace", path, error)),
    }
}

impl Folder {
    pub(super) fn new(dir: PathBuf, prefix: String) -> Self {
        Self { dir, prefix, shared: Mutex::new(false) }
    }

    /// Creates the file to pin at, and calls `pin`.
    pub(super) fn create(&self, path: &Path, pin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.check(path)?;
        self.share()?;
        make_point(path)?;
        let pinned = pin(path);
        if pinned.is_err()
            && let Err(error) = self.remove(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove failed netns");
        }
        pinned
    }

    /// Unpins a namespace; a missing one is fine.
    pub(super) fn remove(&self, path: &Path) -> Result<()> {
        self.check(path)?;
        mounts::detach(path)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != IoKind::NotFound => Err(failed("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Everything pinned under our names, including leftover plain files.
    pub(super) fn list(&self) -> Result<Vec<PathBuf>> {
        let names = files::list(&self.dir)?.into_iter();
        Ok(names.filter(|n| n.starts_with(&self.prefix)).map(|n| self.dir.join(n)).collect())
    }

    /// Only our own names in our own directory may be changed.
    fn check(&self, path: &Path) -> Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ours = name.starts_with(&self.prefix) && name.len() > self.prefix.len();
        if ours && path.parent() == Some(&self.dir) {
            return Ok(());
        }
        let wanted = self.dir.join(format!("{}…", self.prefix));
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("netns path: {} is not of the form {}", path.display(), wanted.display()),
        ))
    }

    /// Creates the directory and makes it a shared mount, unless it is on one. `ip netns` does the
    /// same, under the same lock.
    fn share(&self) -> Result<()> {
        let mut shared = self.shared.lock();
        if *shared {
            return Ok(());
        }
        files::create_dir(&self.dir, 0o755)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&self.dir, flags, Mode::empty())
            .and_then(|fd| rustix::fs::flock(&fd, FlockOperation::LockExclusive).map(|()| fd))
            .map_err(|error| failed("lock", &self.dir, error))?;
        if !lies_on_shared_mount(&self.dir)? {
            let change = || {
                let flags = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
                rustix::mount::mount_change(&self.dir, flags)
            };
            // Only a mount point can be made shared.
            change()
                .or_else(|_| {
                    rustix::mount::mount_bind_recursive(&self.dir, &self.dir)
                        .and_then(|()| change())
                })
                .map_err(|error| failed("make a shared mount of", &self.dir, error))?;
        }
        drop(lock);
        *shared = true;
        Ok(())
    }
}

/// Creates an empty file as a mount point for a namespace.
pub(super) fn make_point(path: &Path) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
        .map(drop)
        .map_err(|error| failed("create", path, error))
}

/// Keeps the namespace of a /proc link alive by a bind mount at `path`.
pub(super) fn pin(link: &Path, path: &Path) -> Result<()> {
    rustix::mount::mount_bind(link, path).map_err(|error| failed("pin a namespace at", path, error))
}

fn lies_on_shared_mount(dir: &Path) -> Result<bool> {
    use crate::model::container::Propagation;
    mounts::allows_propagation(dir, Propagation::Bidirectional)
}

/// Moves this thread into a new namespace and pins that.
fn pin_new(path: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| failed("make network namespace", path, io::Error::from(error)))?;
    links::set_loopback_up().map_err(|error| failed("set lo up in", path, error))?;
    // Not /proc/self, which is the main thread in the host's namespace.
    pin(Path::new("/proc/thread-self/ns/net"), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touches_only_its_own_names() {
        let folder = Folder::new("/var/run/netns".into(), "podbay-".to_owned());
        folder.check(Path::new("/var/run/netns/podbay-1")).unwrap();
        for bad in [
            "/var/run/netns/podbay-",
            "/var/run/netns/cni-1",
            "/var/run/netns/podbay-/../../x",
            "/etc/podbay-1",
            "podbay-1",
            "/",
        ] {
            let error = folder.check(Path::new(bad)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn a_plain_file_is_gone_and_the_kernels_link_is_live() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(state(file.path()).unwrap(), NetnsState::Gone);
        assert_eq!(state(Path::new("/no/such/netns")).unwrap(), NetnsState::Gone);
        assert_eq!(state(Path::new("/proc/self/ns/net")).unwrap(), NetnsState::Live);
    }
}
