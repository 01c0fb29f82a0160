//! Volumes of the fake host: real files, mounts in memory.

use std::path::Path;

use super::super::super::linux::{files, payload, subpath, volume};
use super::super::super::{HostPathKind, Medium, Result, VolumeDir, VolumeFiles};
use super::FakeHost;

impl FakeHost {
    /// Groups are recorded, not set; a volume in memory is a directory that counts as a mount.
    pub(super) fn make_volume(&self, path: &Path, dir: VolumeDir) -> Result<()> {
        self.files.within(path)?;
        volume::create(path, VolumeDir { medium: Medium::Disk, gid: None, ..dir })?;
        if dir.medium != Medium::Disk {
            self.world.lock().mounts.insert(path.to_owned());
        }
        if let Some(gid) = dir.gid {
            self.lock().owners.insert(path.to_owned(), (0, gid));
        }
        Ok(())
    }

    pub(super) fn fill_volume(&self, volume: &Path, files: &VolumeFiles) -> Result<bool> {
        self.files.must_be_dir(volume)?;
        let mut files = files.clone();
        files.gid = None;
        files.files.values_mut().for_each(|file| file.uid = None);
        payload::write(volume, &files)
    }

    /// A folder or file that counts as a mount.
    pub(super) fn bind_part(&self, volume: &Path, sub: &Path, target: &Path) -> Result<()> {
        self.files.must_be_dir(volume)?;
        let source = volume.join(sub);
        if !source.exists() {
            self.files.create_dir(&source, 0o755)?;
        }
        if source.is_dir() {
            self.files.create_dir(target, 0o700)?;
        } else {
            self.files.write(target, b"", 0o600)?;
        }
        self.world.lock().mounts.insert(target.to_owned());
        Ok(())
    }

    pub(super) fn read_part(
        &self,
        volume: &Path,
        sub: &Path,
        max: usize,
    ) -> Result<Option<Vec<u8>>> {
        self.files.must_be_dir(volume)?;
        subpath::read(volume, sub, max)
    }

    pub(super) fn look_at(&self, path: &Path, kind: HostPathKind) -> Result<bool> {
        self.files.within(path)?;
        volume::check_host_path(path, kind)
    }

    pub(super) fn tail_of(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
        self.files.within(path)?;
        files::read_tail(path, max)
    }
}
