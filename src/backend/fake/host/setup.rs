//! Methods by which tests configure and inspect the fake host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::super::{
    APPARMOR_PROFILES, CgroupVersion, DeviceNode, HostFacts, HostProcess, MemoryUse, SHIM_ID,
    has_apparmor_profile,
};
use super::FakeHost;
use crate::model::resources::CgroupLimits;

pub(super) fn default_facts() -> HostFacts {
    HostFacts {
        kernel: (6, 1),
        arch: "amd64".into(),
        cgroup: CgroupVersion::V2,
        controllers: ["cpu", "cpuset", "io", "memory", "pids"].map(String::from).into(),
        swap_accounting: true,
        capabilities: ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_RESOURCE"]
            .map(String::from)
            .into(),
        oom_score_adj: 0,
        seccomp: true,
        x32: false,
        apparmor: false,
        selinux: None,
        rlimits: BTreeMap::new(),
        boot_id: "boot-1".into(),
        hostname: "fake-node".into(),
        systemd: false,
    }
}

impl FakeHost {
    /// The same host after a reboot.
    pub(in crate::backend::fake) fn after_reboot(&self) -> Self {
        let number = self.facts.boot_id.rsplit('-').next().and_then(|text| text.parse().ok());
        let boot_id = format!("boot-{}", number.unwrap_or(1) + 1);
        self.with_facts(HostFacts { boot_id, ..self.facts.clone() })
    }

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

    /// Adds a host file outside the directory, e.g. `/etc/resolv.conf`; others do not exist.
    pub fn put_file(&self, path: &Path, content: &[u8]) {
        self.lock().files.insert(path.to_owned(), content.to_vec());
    }

    /// Adds a device node; its host path is `device.path`.
    pub fn put_device(&self, device: DeviceNode) {
        self.lock().devices.insert(PathBuf::from(&device.path), device);
    }

    /// The owner set for a file or directory.
    pub fn owner(&self, path: &Path) -> Option<(u32, u32)> {
        self.lock().owners.get(path).copied()
    }

    /// The SELinux label set for a file or directory.
    pub fn label(&self, path: &Path) -> Option<String> {
        self.lock().labels.get(path).cloned()
    }

    /// The host name from now on.
    pub fn set_hostname(&self, name: &str) {
        self.lock().hostname = Some(name.to_owned());
    }

    /// Adds an AppArmor profile to the list of loaded ones.
    pub(super) fn add_profile(&self, name: &str) {
        let mut state = self.lock();
        let list = state.files.entry(PathBuf::from(APPARMOR_PROFILES)).or_default();
        if !has_apparmor_profile(list, name) {
            list.extend(format!("{name} (enforce)\n").into_bytes());
        }
    }

    /// The version of CRIU from now on; it is not installed else.
    pub fn set_criu(&self, version: Option<u32>) {
        self.lock().criu = version;
    }

    /// Sets use and limit of a memory cgroup; other cgroups have no such figures.
    pub fn set_memory(&self, cgroup: &Path, memory: MemoryUse) {
        self.lock().memory.insert(cgroup.to_owned(), memory);
    }

    /// The limits of a cgroup that contains others.
    pub fn limits(&self, cgroup: &Path) -> Option<CgroupLimits> {
        self.world.lock().pod_cgroups.get(cgroup).cloned()
    }

    /// Adds an empty cgroup, like one left by an OCI runtime killed while it created a container.
    pub fn put_cgroup(&self, path: &Path) {
        self.world.lock().empty_cgroups.insert(path.to_owned());
    }

    /// Adds a shim of this task that the runtime has lost.
    pub fn put_lost_shim(&self, pid: u32, task: &str) {
        let arguments = ["fake-shim", SHIM_ID, task].map(str::to_owned).to_vec();
        self.world.lock().strays.push(HostProcess { pid, start_time: u64::from(pid), arguments });
    }

    /// The tasks of lost shims that still live.
    pub fn lost_shims(&self) -> Vec<String> {
        self.world.lock().strays.iter().map(|it| it.arguments[2].clone()).collect()
    }
}
