//! The fake host: namespaces and mounts in memory; real files and FIFOs in a directory of the test.

mod setup;
mod volumes;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::{TcpStream, UdpSocket};

use super::super::linux::{archive, slices};
use super::super::{
    DeviceNode, Error, ErrorKind, Host, HostFacts, HostPathKind, HostProcess, MemoryUse,
    NetnsState, Result, RootfsMount, TrustedFile, UserFiles, VolumeDir, VolumeFiles,
};
use super::files::Files;
use super::steps::Steps;
use super::world::World;
use crate::locks::{Mutex, MutexGuard};
use crate::model::container::Propagation;
use crate::model::resources::{CgroupDriver, CgroupLimits};
use crate::model::security::IdMappings;

/// A host that does not touch the machine: it refuses to change files outside its directory.
pub struct FakeHost {
    steps: Steps,
    world: Arc<World>,
    facts: HostFacts,
    files: Files,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    users: UserFiles,
    /// Files in every image root, by absolute path.
    rootfs: BTreeMap<String, Vec<u8>>,
    /// Files of the host outside the directory.
    files: BTreeMap<PathBuf, Vec<u8>>,
    devices: BTreeMap<PathBuf, DeviceNode>,
    /// Directories mounted as images, by mount point.
    images: BTreeMap<PathBuf, PathBuf>,
    criu: Option<u32>,
    /// Memory of cgroups.
    memory: BTreeMap<PathBuf, MemoryUse>,
    /// The host name, if it was changed.
    hostname: Option<String>,
    /// Owners set for files, recorded only, because a test may lack the privilege to set them.
    owners: BTreeMap<PathBuf, (u32, u32)>,
    /// SELinux labels set for files.
    labels: BTreeMap<PathBuf, String>,
}

impl FakeHost {
    pub(super) fn new(root: &Path, steps: Steps, world: Arc<World>) -> Self {
        let state = State {
            users: UserFiles {
                passwd: Some(b"root:x:0:0:root:/root:/bin/sh\n".to_vec()),
                group: Some(b"root:x:0:\n".to_vec()),
            },
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        Self { steps, world, facts: setup::default_facts(), files: Files::new(root), state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    async fn step<T>(
        &self,
        step: &'static str,
        path: &Path,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        self.steps.run(step, path.display(), async { work() }).await
    }
}

#[async_trait]
impl Host for FakeHost {
    fn facts(&self) -> &HostFacts {
        &self.facts
    }

    fn hostname(&self) -> String {
        self.lock().hostname.clone().unwrap_or_else(|| self.facts.hostname.clone())
    }

    async fn create_netns(&self, path: &Path) -> Result<()> {
        let work = || {
            if self.world.lock().netns.insert(path.to_owned()) {
                return Ok(());
            }
            let tried = format!("create netns {}", path.display());
            Err(Error::new(ErrorKind::AlreadyExists, tried))
        };
        self.step("create_netns", path, work).await
    }

    async fn create_userns(
        &self,
        path: &Path,
        _ids: IdMappings,
        netns: Option<&Path>,
    ) -> Result<()> {
        let work = || {
            self.files.must_be_dir(path.parent().unwrap_or(path))?;
            let exists = |path: &Path| {
                Error::new(ErrorKind::AlreadyExists, format!("create {}", path.display()))
            };
            let mut world = self.world.lock();
            if world.mounts.contains(path) {
                return Err(exists(path));
            }
            if let Some(netns) = netns
                && !world.netns.insert(netns.to_owned())
            {
                return Err(exists(netns));
            }
            world.mounts.insert(path.to_owned());
            Ok(())
        };
        self.step("create_userns", path, work).await
    }

    async fn netns_state(&self, path: &Path) -> Result<NetnsState> {
        let live = || Ok(self.world.lock().netns.contains(path));
        let live = self.step("netns_state", path, live).await?;
        Ok(if live { NetnsState::Live } else { NetnsState::Gone })
    }

    async fn missing_netns(&self, mut paths: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
        paths.retain(|path| !self.world.lock().netns.contains(path));
        Ok(paths)
    }

    async fn remove_netns(&self, path: &Path) -> Result<()> {
        let work = || {
            self.world.lock().netns.remove(path);
            Ok(())
        };
        self.step("remove_netns", path, work).await
    }

    async fn list_netns(&self) -> Result<Vec<PathBuf>> {
        let all = || Ok(self.world.lock().netns.iter().cloned().collect());
        self.step("list_netns", Path::new(""), all).await
    }

    async fn process_start_time(&self, pid: u32) -> Result<Option<u64>> {
        let work = async { Ok(self.world.lock().processes.get(&pid).map(|live| live.start_time)) };
        self.steps.run("process_start_time", pid, work).await
    }

    async fn write_file(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.step("write_file", path, || self.files.write(path, content, mode)).await
    }

    async fn read_file(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
        let work = || match self.lock().files.get(path) {
            Some(content) if content.len() <= max => Ok(Some(content.clone())),
            Some(_) => {
                let tried = format!("read {}", path.display());
                Err(Error::new(ErrorKind::ResourceExhausted, tried))
            }
            None => self.files.read(path, max),
        };
        self.step("read_file", path, work).await
    }

    async fn trusted_files(&self, folder: &Path, max: usize) -> Result<Vec<TrustedFile>> {
        let work = || {
            let names = self.files.list(folder)?.into_iter();
            Ok(names
                .map(|name| {
                    let content = self.files.read(&folder.join(&name), max);
                    TrustedFile { name, content: content.map(Option::unwrap_or_default) }
                })
                .collect())
        };
        self.step("trusted_files", folder, work).await
    }

    async fn create_dir(&self, path: &Path, mode: u32) -> Result<()> {
        self.step("create_dir", path, || self.files.create_dir(path, mode)).await
    }

    async fn remove_tree(&self, path: &Path) -> Result<()> {
        let work = || {
            self.files.remove_tree(path)?;
            self.world.lock().mounts.retain(|mount| !mount.starts_with(path));
            Ok(())
        };
        self.step("remove_tree", path, work).await
    }

    async fn list_dir(&self, path: &Path) -> Result<Vec<String>> {
        self.step("list_dir", path, || self.files.list(path)).await
    }

    async fn mount_shm(&self, path: &Path, _size: u64) -> Result<()> {
        let work = || {
            self.files.must_be_dir(path)?;
            self.world.lock().mounts.insert(path.to_owned());
            Ok(())
        };
        self.step("mount_shm", path, work).await
    }

    async fn create_volume(&self, path: &Path, dir: VolumeDir) -> Result<()> {
        self.step("create_volume", path, || self.make_volume(path, dir)).await
    }

    async fn write_volume(&self, volume: &Path, files: &VolumeFiles) -> Result<bool> {
        self.step("write_volume", volume, || self.fill_volume(volume, files)).await
    }

    async fn bind_sub_path(&self, volume: &Path, sub: &Path, target: &Path) -> Result<()> {
        self.step("bind_sub_path", target, || self.bind_part(volume, sub, target)).await
    }

    async fn read_in_volume(
        &self,
        volume: &Path,
        sub: &Path,
        max: usize,
    ) -> Result<Option<Vec<u8>>> {
        self.step("read_in_volume", volume, || self.read_part(volume, sub, max)).await
    }

    async fn check_host_path(&self, path: &Path, kind: HostPathKind) -> Result<bool> {
        self.step("check_host_path", path, || self.look_at(path, kind)).await
    }

    async fn read_tail(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
        self.step("read_tail", path, || self.tail_of(path, max)).await
    }

    async fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> Result<()> {
        let work = || {
            self.files.must_be_there(path)?;
            self.lock().owners.insert(path.to_owned(), (uid, gid));
            Ok(())
        };
        self.step("set_owner", path, work).await
    }

    async fn relabel(&self, path: &Path, label: &str) -> Result<()> {
        let work = || {
            self.files.must_be_there(path)?;
            self.lock().labels.insert(path.to_owned(), label.to_owned());
            Ok(())
        };
        self.step("relabel", path, work).await
    }

    async fn load_apparmor(&self, name: &str, _replace: bool) -> Result<()> {
        let work = async {
            self.add_profile(name);
            Ok(())
        };
        self.steps.run("load_apparmor", name, work).await
    }

    async fn unmount(&self, path: &Path) -> Result<()> {
        let work = || {
            self.world.lock().mounts.remove(path);
            Ok(())
        };
        self.step("unmount", path, work).await
    }

    async fn mount_image(
        &self,
        rootfs: &[RootfsMount],
        target: &Path,
        _userns: Option<&Path>,
    ) -> Result<()> {
        let work = || {
            self.files.must_be_dir(target)?;
            if let [RootfsMount { kind, source, .. }] = rootfs
                && kind == "bind"
            {
                self.lock().images.insert(target.to_owned(), source.into());
            }
            self.world.lock().mounts.insert(target.to_owned());
            Ok(())
        };
        self.step("mount_image", target, work).await
    }

    async fn find_inside(&self, root: &Path, path: &str) -> Result<PathBuf> {
        let path = path.trim_matches('/');
        let work = || {
            let wanted = Path::new("/").join(path);
            let state = self.lock();
            let found = state.rootfs.keys().any(|file| Path::new(file).starts_with(&wanted))
                || state.images.get(root).is_some_and(|image| image.join(path).exists());
            if path.is_empty() {
                Ok(root.to_owned())
            } else if found {
                Ok(root.join(path))
            } else {
                Err(Error::new(ErrorKind::NotFound, format!("find {path:?} in the image")))
            }
        };
        self.step("find_inside", root, work).await
    }

    async fn read_user_files(&self, _rootfs: &[RootfsMount]) -> Result<UserFiles> {
        self.step("read_user_files", Path::new(""), || Ok(self.lock().users.clone())).await
    }

    async fn copy_from_rootfs(
        &self,
        _rootfs: &[RootfsMount],
        path: &str,
        dest: &Path,
    ) -> Result<()> {
        let work = || {
            self.files.must_be_absent(dest)?;
            self.files.create_dir(dest, 0o755)?;
            for (file, content) in &self.lock().rootfs {
                if let Ok(inside) = Path::new(file).strip_prefix(path) {
                    self.files.write(&dest.join(inside), content, 0o644)?;
                }
            }
            Ok(())
        };
        self.step("copy_from_rootfs", dest, work).await
    }

    async fn resolve_mount_source(&self, path: &Path, create_missing: bool) -> Result<PathBuf> {
        let work = || self.files.resolve(path, create_missing);
        self.step("resolve_mount_source", path, work).await
    }

    async fn allows_propagation(&self, path: &Path, _wanted: Propagation) -> Result<bool> {
        self.step("allows_propagation", path, || Ok(true)).await
    }

    async fn devices(&self, host_path: &Path, container_path: &str) -> Result<Vec<DeviceNode>> {
        let work = || {
            let state = self.lock();
            let found: Vec<DeviceNode> = state
                .devices
                .iter()
                .filter_map(|(path, device)| {
                    let inside = path.strip_prefix(host_path).ok()?;
                    let path = Path::new(container_path).join(inside);
                    // Joining an empty path leaves a trailing slash.
                    let path = path.display().to_string().trim_end_matches('/').to_owned();
                    Some(DeviceNode { path, ..device.clone() })
                })
                .collect();
            if found.is_empty() {
                let tried = format!("resolve device host_path {}", host_path.display());
                return Err(Error::new(ErrorKind::NotFound, tried));
            }
            Ok(found)
        };
        self.step("devices", host_path, work).await
    }

    async fn all_devices(&self) -> Result<Vec<DeviceNode>> {
        let all = || Ok(self.lock().devices.values().cloned().collect());
        self.step("all_devices", Path::new(""), all).await
    }

    async fn make_fifos(&self, paths: &[PathBuf]) -> Result<()> {
        let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
        self.step("make_fifos", first, || self.files.make_fifos(paths)).await
    }

    async fn memory_cgroup(&self, pid: u32) -> Result<Option<PathBuf>> {
        let work =
            async { Ok(self.world.lock().processes.get(&pid).map(|live| live.cgroup.clone())) };
        self.steps.run("memory_cgroup", pid, work).await
    }

    /// Processes of the fakes have no children. Nobody tells the runtime of the end, as if the shim
    /// hung.
    async fn kill_tree(&self, pid: u32, start_time: u64) -> Result<()> {
        let work = async {
            let same = |it: &HostProcess| (it.pid, it.start_time) == (pid, start_time);
            let mut world = self.world.lock();
            world.strays.retain(|it| !same(it));
            world.processes.retain(|it, live| (*it, live.start_time) != (pid, start_time));
            Ok(())
        };
        self.steps.run("kill_tree", pid, work).await
    }

    async fn processes_with(&self, arguments: &[String]) -> Result<Vec<HostProcess>> {
        let work = async {
            let state = self.world.lock();
            let wanted = |it: &&HostProcess| arguments.iter().all(|a| it.arguments.contains(a));
            Ok(state.strays.iter().filter(wanted).cloned().collect())
        };
        self.steps.run("processes_with", arguments.join(" "), work).await
    }

    /// All namespaces share the machine's localhost.
    async fn connect_in_netns(&self, netns: Option<&Path>, port: u16) -> Result<TcpStream> {
        let work = async {
            let tried = || format!("connect with port {port}");
            if netns.is_some_and(|netns| !self.world.lock().netns.contains(netns)) {
                return Err(Error::new(ErrorKind::NotFound, tried()));
            }
            let localhost = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
            let addresses = localhost.map(|ip| SocketAddr::new(ip, port));
            let connected = TcpStream::connect(&addresses[..]).await;
            connected.map_err(|error| Error::io(tried(), error))
        };
        self.steps.run("connect_in_netns", port, work).await
    }

    async fn connect_udp_in_netns(&self, netns: Option<&Path>, port: u16) -> Result<UdpSocket> {
        let work = async {
            let tried = || format!("open a UDP socket for port {port}");
            if netns.is_some_and(|netns| !self.world.lock().netns.contains(netns)) {
                return Err(Error::new(ErrorKind::NotFound, tried()));
            }
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let socket = socket.map_err(|error| Error::io(tried(), error))?;
            let connected = socket.connect((Ipv4Addr::LOCALHOST, port)).await;
            connected.map(|()| socket).map_err(|error| Error::io(tried(), error))
        };
        self.steps.run("connect_udp_in_netns", port, work).await
    }

    async fn oom_kills(&self, memory_cgroup: &Path) -> Result<Option<u64>> {
        let kills = || Ok(self.world.lock().cgroups.get(memory_cgroup).copied());
        self.step("oom_kills", memory_cgroup, kills).await
    }

    async fn memory_use(&self, memory_cgroup: &Path) -> Result<Option<MemoryUse>> {
        let known = || Ok(self.lock().memory.get(memory_cgroup).copied());
        self.step("memory_use", memory_cgroup, known).await
    }

    async fn criu_version(&self) -> Result<Option<u32>> {
        self.step("criu_version", Path::new(""), || Ok(self.lock().criu)).await
    }

    async fn check_archive(&self, path: &Path) -> Result<()> {
        self.step("check_archive", path, || archive::check_place(path)).await
    }

    async fn write_archive(
        &self,
        path: &Path,
        folder: &Path,
        files: &[(String, PathBuf)],
    ) -> Result<()> {
        self.step("write_archive", path, || {
            self.files.within(path)?;
            archive::write(path, folder, files)
        })
        .await
    }

    async fn remove_cgroup(&self, path: &Path) -> Result<()> {
        let work = || {
            self.world.lock().empty_cgroups.remove(path);
            Ok(())
        };
        self.step("remove_cgroup", path, work).await
    }

    async fn make_cgroup(
        &self,
        driver: CgroupDriver,
        path: &Path,
        limits: &CgroupLimits,
    ) -> Result<()> {
        let work = || {
            slices::unit(driver, path)?;
            self.world.lock().pod_cgroups.insert(path.to_owned(), limits.clone());
            Ok(())
        };
        self.step("make_cgroup", path, work).await
    }

    async fn destroy_cgroup(&self, driver: CgroupDriver, path: &Path) -> Result<()> {
        let work = || {
            slices::unit(driver, path)?;
            let mut world = self.world.lock();
            world.empty_cgroups.retain(|found| !found.starts_with(path));
            world.pod_cgroups.retain(|found, _| !found.starts_with(path));
            Ok(())
        };
        self.step("destroy_cgroup", path, work).await
    }
}
