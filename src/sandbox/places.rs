//! Where the files of a pod are.
//!
//! Mount points and pins are in the run-time directory, whose file system is in memory. What
//! containers can write is on a disk, where it counts as their local storage: a file in memory would
//! take memory that belongs to nobody.

use std::path::PathBuf;

use super::record::SandboxRecord;
use super::{Room, Sandbox, Sandboxes};
use crate::ids::PodId;
use crate::oci::SharedFiles;

impl Sandboxes {
    /// The directory with the files of a pod that its containers can write, if it is on a disk.
    pub fn files_of(&self, id: &PodId) -> Option<PathBuf> {
        self.room.entries().get(id)?.read(|record| record.files.clone())
    }
}

impl Room {
    /// The run-time directory of a pod.
    pub(super) fn dir(&self, id: &PodId) -> PathBuf {
        self.options.state.join(id.as_str())
    }

    /// The directory for the files of a new pod.
    pub(super) fn files_dir(&self, id: &PodId) -> PathBuf {
        self.options.files.join(id.as_str())
    }

    /// Where the pod's user namespace is pinned.
    pub(super) fn userns(&self, sandbox: &Sandbox) -> Option<PathBuf> {
        sandbox.config.id_mappings().map(|_| self.dir(&sandbox.id).join("userns"))
    }

    /// Where the pod's /dev/shm is mounted, if it has one of its own.
    pub(super) fn shm(&self, sandbox: &Sandbox) -> Option<PathBuf> {
        (!sandbox.config.host_ipc()).then(|| self.dir(&sandbox.id).join("shm"))
    }

    pub(super) fn shared_files(&self, record: &SandboxRecord) -> SharedFiles {
        let sandbox = &record.sandbox;
        let dir = record.files.clone().unwrap_or_else(|| self.dir(&sandbox.id));
        SharedFiles {
            hostname: dir.join("hostname"),
            hosts: dir.join("hosts"),
            resolv_conf: dir.join("resolv.conf"),
            shm: self.shm(sandbox),
        }
    }
}
