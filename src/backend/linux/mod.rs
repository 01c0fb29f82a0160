//! The real [`Host`]: uses the Linux kernel directly, without helper programs.
//!
//! Everything that may block runs on the blocking pool; network namespaces are made on separate
//! threads that end afterwards. Paths from an image or a container are resolved by the kernel
//! inside their root (`openat2`), never as strings.

mod apparmor;
pub(in crate::backend) mod archive;
mod bus;
mod cgroup;
mod cgroup_tree;
mod connect;
mod copy;
mod criu;
mod devices;
mod facts;
pub(in crate::backend) mod files;
mod foreign;
mod idmap;
mod labels;
mod limits;
mod links;
mod logind;
mod mountinfo;
mod mounts;
mod netns;
pub(in crate::backend) mod payload;
mod pidfd;
mod processes;
mod rootfs;
pub(in crate::backend) mod slices;
mod standin;
pub(in crate::backend) mod subpath;
mod tree;
mod turns;
mod userns;
pub(in crate::backend) mod volume;
mod x32;

pub use limits::raise_file_limit;
pub use logind::Logind;
pub use slices::Slices;
pub(super) use standin::StandIn;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::{TcpStream, UdpSocket};

use super::{
    DeviceNode, Error, ErrorKind, Host, HostFacts, HostPathKind, HostProcess, MemoryUse,
    NetnsState, Result, RootfsMount, TrustedFile, UserFiles, VolumeDir, VolumeFiles,
};
use crate::locks::KeyedLocks;
use crate::model::container::Propagation;
use crate::model::resources::{CgroupDriver, CgroupLimits};
use crate::model::security::IdMappings;
use foreign::{foreign, foreign_tree};
use turns::blocking;

/// The directories of a [`LinuxHost`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the pinned network namespaces. It is made a shared mount, as by `ip netns`, so
    /// that network daemons also see namespaces pinned later.
    pub netns_dir: PathBuf,
    /// Prefix of the names of our namespaces. Agents that share `netns_dir` need different
    /// prefixes.
    pub netns_prefix: String,
    /// Directory for temporary mounts, used only by this object.
    pub scratch: PathBuf,
    /// Directory for the text of AppArmor profiles.
    pub apparmor: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            netns_dir: "/var/run/netns".into(),
            netns_prefix: "podbay-".to_owned(),
            scratch: "/run/podbay/scratch".into(),
            apparmor: "/run/podbay/apparmor".into(),
        }
    }
}

/// The host this process runs on.
#[derive(Debug)]
pub struct LinuxHost {
    facts: HostFacts,
    netns: Arc<netns::Folder>,
    scratch: Arc<rootfs::Scratch>,
    /// Trees that are labelled.
    walks: KeyedLocks,
    /// Locked while a profile is loaded.
    profiles: tokio::sync::Mutex<apparmor::ProfileLoader>,
    memory: Option<cgroup::MemoryHierarchy>,
    hierarchies: Arc<[cgroup::Hierarchy]>,
    slices: Slices,
}

impl LinuxHost {
    /// Examines the host and prepares the scratch directory: mounts and files left in it by a
    /// killed predecessor are removed.
    pub fn new(options: Options) -> Result<Self> {
        absolute("netns_dir", &options.netns_dir)?;
        if options.netns_prefix.is_empty() || options.netns_prefix.contains('/') {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("netns_prefix: {:?} is empty or contains a slash", options.netns_prefix),
            ));
        }
        let mounts = mountinfo::read()?;
        let hierarchies = cgroup::hierarchies(&mounts, Path::new("/sys/fs/cgroup"));
        Ok(Self {
            facts: facts::detect(Path::new("/"), &mounts)?,
            netns: Arc::new(netns::Folder::new(options.netns_dir, options.netns_prefix)),
            scratch: Arc::new(rootfs::Scratch::open(options.scratch)?),
            walks: KeyedLocks::default(),
            profiles: apparmor::ProfileLoader::of_host(options.apparmor).into(),
            memory: cgroup::memory_hierarchy(&hierarchies),
            hierarchies,
            slices: Slices::default(),
        })
    }
}

/// Whether a live namespace is pinned at `path`.
pub(in crate::backend) fn is_netns(path: &Path) -> bool {
    matches!(netns::state(path), Ok(NetnsState::Live))
}

/// Refuses a path that is not absolute or contains `..`.
fn absolute(what: &str, path: &Path) -> Result<()> {
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute() && !climbs {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("{what}: {} is not an absolute path without \"..\"", path.display()),
    ))
}

/// A failed system call on a path.
fn failed(what: &str, path: &Path, error: impl Into<std::io::Error>) -> Error {
    Error::io(format!("{what} {}", path.display()), error.into())
}

#[async_trait]
impl Host for LinuxHost {
    fn facts(&self) -> &HostFacts {
        &self.facts
    }

    fn hostname(&self) -> String {
        facts::hostname()
    }

    async fn create_netns(&self, path: &Path) -> Result<()> {
        netns::create(Arc::clone(&self.netns), path.to_owned()).await
    }

    async fn create_userns(
        &self,
        path: &Path,
        ids: IdMappings,
        netns: Option<&Path>,
    ) -> Result<()> {
        let (folder, path) = (Arc::clone(&self.netns), path.to_owned());
        userns::create(folder, path, ids, netns.map(Path::to_owned)).await
    }

    async fn netns_state(&self, path: &Path) -> Result<NetnsState> {
        let path = path.to_owned();
        blocking(move || netns::state(&path)).await
    }

    async fn missing_netns(&self, mut paths: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
        let look = move || {
            paths.retain(|path| matches!(netns::state(path), Ok(NetnsState::Gone)));
            Ok(paths)
        };
        blocking(look).await
    }

    async fn remove_netns(&self, path: &Path) -> Result<()> {
        let (folder, path) = (Arc::clone(&self.netns), path.to_owned());
        blocking(move || folder.remove(&path)).await
    }

    async fn list_netns(&self) -> Result<Vec<PathBuf>> {
        let folder = Arc::clone(&self.netns);
        blocking(move || folder.list()).await
    }

    async fn process_start_time(&self, pid: u32) -> Result<Option<u64>> {
        blocking(move || processes::start_time(pid)).await
    }

    async fn process_lives(&self, pid: u32, start_time: u64) -> Result<bool> {
        blocking(move || processes::lives(pid, start_time)).await
    }

    async fn process_end(&self, pid: u32, start_time: u64) -> Result<()> {
        let Some(process) = blocking(move || processes::hold(pid, start_time)).await? else {
            return Ok(());
        };
        pidfd::end_of(pid, process).await
    }

    async fn write_file(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        let (path, content) = (path.to_owned(), content.to_vec());
        blocking(move || files::write(&path, &content, mode)).await
    }

    async fn keep_file(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        let (path, content) = (path.to_owned(), content.to_vec());
        blocking(move || files::keep(&path, &content, mode)).await
    }

    async fn read_file(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
        let path = path.to_owned();
        blocking(move || files::read(&path, max)).await
    }

    async fn trusted_files(&self, folder: &Path, max: usize) -> Result<Vec<TrustedFile>> {
        let path = folder.to_owned();
        foreign(folder, move || files::trusted(&path, max)).await
    }

    async fn create_dir(&self, path: &Path, mode: u32) -> Result<()> {
        let path = path.to_owned();
        blocking(move || {
            absolute("path", &path)?;
            files::create_dir(&path, mode)
        })
        .await
    }

    async fn remove_tree(&self, path: &Path) -> Result<()> {
        let path = path.to_owned();
        blocking(move || tree::remove(&path)).await
    }

    async fn list_dir(&self, path: &Path) -> Result<Vec<String>> {
        let path = path.to_owned();
        blocking(move || files::list(&path)).await
    }

    async fn mount_shm(&self, path: &Path, size: u64) -> Result<()> {
        let path = path.to_owned();
        blocking(move || mounts::shm(&path, size)).await
    }

    async fn create_volume(&self, path: &Path, dir: VolumeDir) -> Result<()> {
        let path = path.to_owned();
        blocking(move || volume::create(&path, dir)).await
    }

    async fn write_volume(&self, volume: &Path, files: &VolumeFiles) -> Result<bool> {
        let (volume, files) = (volume.to_owned(), files.clone());
        blocking(move || payload::write(&volume, &files)).await
    }

    async fn bind_sub_path(&self, volume: &Path, sub: &Path, target: &Path) -> Result<()> {
        let (source, sub, target) = (volume.to_owned(), sub.to_owned(), target.to_owned());
        foreign(volume, move || subpath::bind(&source, &sub, &target)).await
    }

    async fn read_in_volume(
        &self,
        volume: &Path,
        sub: &Path,
        max: usize,
    ) -> Result<Option<Vec<u8>>> {
        let (source, sub) = (volume.to_owned(), sub.to_owned());
        foreign(volume, move || subpath::read(&source, &sub, max)).await
    }

    async fn check_host_path(&self, path: &Path, kind: HostPathKind) -> Result<bool> {
        let source = path.to_owned();
        foreign(path, move || volume::check_host_path(&source, kind)).await
    }

    async fn read_tail(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
        let path = path.to_owned();
        blocking(move || files::read_tail(&path, max)).await
    }

    async fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> Result<()> {
        let path = path.to_owned();
        blocking(move || files::set_owner(&path, uid, gid)).await
    }

    async fn relabel(&self, path: &Path, label: &str) -> Result<()> {
        let (seen, source, label) = (path.to_owned(), path.to_owned(), label.to_owned());
        let work = move || labels::set(&source, &label);
        foreign_tree(path, &self.walks, move || labels::look(&seen), work).await
    }

    async fn load_apparmor(&self, name: &str, replace: bool) -> Result<()> {
        self.profiles.lock().await.load(name, replace).await
    }

    async fn unmount(&self, path: &Path) -> Result<()> {
        let path = path.to_owned();
        blocking(move || mounts::detach(&path)).await
    }

    async fn mount_image(
        &self,
        rootfs: &[RootfsMount],
        target: &Path,
        userns: Option<&Path>,
    ) -> Result<()> {
        let (rootfs, target) = (rootfs.to_vec(), target.to_owned());
        let userns = userns.map(Path::to_owned);
        blocking(move || rootfs::mount_read_only(&rootfs, &target, userns.as_deref())).await
    }

    async fn find_inside(&self, root: &Path, path: &str) -> Result<PathBuf> {
        let (root, path) = (root.to_owned(), path.to_owned());
        blocking(move || rootfs::find_inside(&root, &path)).await
    }

    async fn read_user_files(&self, rootfs: &[RootfsMount]) -> Result<UserFiles> {
        let (scratch, rootfs) = (Arc::clone(&self.scratch), rootfs.to_vec());
        blocking(move || rootfs::user_files(&scratch, &rootfs)).await
    }

    async fn copy_from_rootfs(
        &self,
        rootfs: &[RootfsMount],
        path: &str,
        dest: &Path,
    ) -> Result<()> {
        let (scratch, rootfs) = (Arc::clone(&self.scratch), rootfs.to_vec());
        let (path, dest) = (path.to_owned(), dest.to_owned());
        blocking(move || {
            absolute("dest", &dest)?;
            let root = scratch.open_root(&rootfs)?;
            copy::from_root(&root, &path, &dest)
        })
        .await
    }

    async fn resolve_mount_source(&self, path: &Path, create_missing: bool) -> Result<PathBuf> {
        let source = path.to_owned();
        foreign(path, move || mounts::resolve_source(&source, create_missing)).await
    }

    async fn allows_propagation(&self, path: &Path, wanted: Propagation) -> Result<bool> {
        let source = path.to_owned();
        foreign(path, move || mounts::allows_propagation(&source, wanted)).await
    }

    async fn devices(&self, host_path: &Path, container_path: &str) -> Result<Vec<DeviceNode>> {
        let (source, target) = (host_path.to_owned(), container_path.to_owned());
        foreign(host_path, move || devices::below(&source, &target)).await
    }

    async fn all_devices(&self) -> Result<Vec<DeviceNode>> {
        blocking(|| devices::below(Path::new("/dev"), "/dev")).await
    }

    async fn make_fifos(&self, paths: &[PathBuf]) -> Result<()> {
        let paths = paths.to_vec();
        blocking(move || files::make_fifos(&paths)).await
    }

    async fn memory_cgroup(&self, pid: u32) -> Result<Option<PathBuf>> {
        let Some(memory) = &self.memory else { return Ok(None) };
        // Reading procfs takes microseconds, less than switching to another thread.
        memory.cgroup_of(pid)
    }

    async fn kill_tree(&self, pid: u32, start_time: u64) -> Result<()> {
        blocking(move || processes::kill_tree(pid, start_time)).await
    }

    async fn processes_with(&self, arguments: &[String]) -> Result<Vec<HostProcess>> {
        let arguments = arguments.to_vec();
        blocking(move || processes::with_arguments(&arguments)).await
    }

    async fn connect_in_netns(&self, netns: Option<&Path>, port: u16) -> Result<TcpStream> {
        connect::to_localhost(netns, port).await
    }

    async fn connect_udp_in_netns(&self, netns: Option<&Path>, port: u16) -> Result<UdpSocket> {
        connect::udp_to_localhost(netns, port).await
    }

    async fn oom_kills(&self, memory_cgroup: &Path) -> Result<Option<u64>> {
        let (Some(memory), cgroup) = (self.memory.clone(), memory_cgroup.to_owned()) else {
            return Ok(None);
        };
        blocking(move || memory.oom_kills(&cgroup)).await
    }

    async fn memory_use(&self, memory_cgroup: &Path) -> Result<Option<MemoryUse>> {
        let (Some(memory), cgroup) = (self.memory.clone(), memory_cgroup.to_owned()) else {
            return Ok(None);
        };
        blocking(move || memory.memory_use(&cgroup)).await
    }

    async fn criu_version(&self) -> Result<Option<u32>> {
        criu::version().await
    }

    async fn check_archive(&self, path: &Path) -> Result<()> {
        let place = path.to_owned();
        foreign(path, move || archive::check_place(&place)).await
    }

    async fn write_archive(
        &self,
        path: &Path,
        folder: &Path,
        files: &[(String, PathBuf)],
    ) -> Result<()> {
        let (path, folder, files) = (path.to_owned(), folder.to_owned(), files.to_vec());
        blocking(move || archive::write(&path, &folder, &files)).await
    }

    async fn remove_cgroup(&self, path: &Path) -> Result<()> {
        let (hierarchies, path) = (Arc::clone(&self.hierarchies), path.to_owned());
        blocking(move || cgroup::remove(&hierarchies, &path)).await
    }

    async fn make_cgroup(
        &self,
        driver: CgroupDriver,
        path: &Path,
        limits: &CgroupLimits,
    ) -> Result<()> {
        if let Some(unit) = slices::unit(driver, path)? {
            self.slices.make(unit, limits, self.facts.cgroup).await?;
        }
        // systemd knows neither all limits nor all hierarchies.
        let (hierarchies, path) = (Arc::clone(&self.hierarchies), path.to_owned());
        let limits = limits.clone();
        blocking(move || cgroup_tree::make(&hierarchies, &path, &limits)).await
    }

    async fn destroy_cgroup(&self, driver: CgroupDriver, path: &Path) -> Result<()> {
        let unit = slices::unit(driver, path)?;
        let (hierarchies, folder) = (Arc::clone(&self.hierarchies), path.to_owned());
        // First: systemd gives processes a minute and a half to end.
        blocking(move || cgroup_tree::destroy(&hierarchies, &folder)).await?;
        match unit {
            None => Ok(()),
            Some(unit) => self.slices.stop(unit).await,
        }
    }
}
