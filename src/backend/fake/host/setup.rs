//! What tests tell the fake host, and ask of it.

use std::path::{Path, PathBuf};

use super::super::super::{DeviceNode, HostFacts, HostProcess, SHIM_ID};
use super::FakeHost;

impl FakeHost {
    /// The same host with other facts.
    #[must_use]
    pub fn with_facts(&self, facts: HostFacts) -> Self {
        let (steps, world) = (self.steps.clone(), self.world.clone());
        Self { steps, world, facts, files: self.files.clone(), state: self.state.clone() }
    }

    /// A file that every image root has, for `copy_from_rootfs` and `find_inside`.
    pub fn put_rootfs_file(&self, path: &str, content: &[u8]) {
        self.lock().rootfs.insert(path.to_owned(), content.to_vec());
    }

    /// A file of the host outside its folder, e.g. `/etc/resolv.conf`; such files are absent else.
    pub fn put_file(&self, path: &Path, content: &[u8]) {
        self.lock().files.insert(path.to_owned(), content.to_vec());
    }

    /// A device node; its host path is `device.path`.
    pub fn put_device(&self, device: DeviceNode) {
        self.lock().devices.insert(PathBuf::from(&device.path), device);
    }

    /// Who was given a file or folder.
    pub fn owner(&self, path: &Path) -> Option<(u32, u32)> {
        self.lock().owners.get(path).copied()
    }

    /// The SELinux label that a file or folder was given.
    pub fn label(&self, path: &Path) -> Option<String> {
        self.lock().labels.get(path).cloned()
    }

    /// The version of CRIU from now on; it is not installed else.
    pub fn set_criu(&self, version: Option<u32>) {
        self.lock().criu = version;
    }

    /// An empty cgroup, as an OCI runtime leaves it that is killed while it creates a container.
    pub fn put_cgroup(&self, path: &Path) {
        self.world.lock().empty_cgroups.insert(path.to_owned());
    }

    /// A shim of this task that the runtime has lost.
    pub fn put_lost_shim(&self, pid: u32, task: &str) {
        let arguments = ["fake-shim", SHIM_ID, task].map(str::to_owned).to_vec();
        self.world.lock().strays.push(HostProcess { pid, start_time: u64::from(pid), arguments });
    }

    /// Tasks of lost shims that live.
    pub fn lost_shims(&self) -> Vec<String> {
        self.world.lock().strays.iter().map(|it| it.arguments[2].clone()).collect()
    }
}
