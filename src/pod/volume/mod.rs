//! The volumes of pods: created before the first container, updated, removed at the end.
//!
//! Everything of a pod is below `<root>/pods/<uid>`: volumes in `volumes/<kind>/<name>`, mounted
//! sub paths in `volume-subpaths/…`, files for termination messages in
//! `containers/<name>/<restart>`, and in `pod.json` a copy of the record, for the case that the
//! store is lost. A directory or mount that exists is complete, so every step can be repeated at
//! any time, also after a crash.

mod content;
mod empty_dir;
mod env_files;
mod error;
mod kind;
mod mounts;
mod termination;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Volume};

use self::kind::Kind;
use super::Given;
use super::record::Life;
use crate::backend::{self, Host, HostPathKind, Medium, VolumeDir};
use crate::pod::translate::Amounts;

pub use self::empty_dir::EmptyDir;
pub use self::error::Error;
pub use self::mounts::MountContext;

/// Mode of the top directory of a volume that podbay manages. Host users cannot access it, because
/// its parents are accessible only to root.
const CONTENT_MODE: u32 = 0o777;
/// The file in a pod's directory with a copy of its record. It contains secrets, like the store.
const KEPT: &str = "pod.json";
const KEPT_MODE: u32 = 0o600;
const LONGEST_KEPT: usize = 16 << 20;

/// Permissions of a volume's group on the top directory, including setgid.
const GROUP_MODE: u32 = 0o2770;

/// Location of the volumes.
#[derive(Debug, Clone)]
pub struct Options {
    /// podbay's directory, an absolute path. Pods are in `pods` below it.
    pub root: PathBuf,
}

/// Resources that the node offers to pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allocatable {
    /// Thousandths of a processor.
    pub milli_cpu: u64,
    /// Bytes of memory; zero if unknown.
    pub memory: u64,
    /// Bytes of disk.
    pub ephemeral_storage: u64,
}

impl Allocatable {
    fn amounts(&self) -> Amounts {
        let signed = |amount| i64::try_from(amount).unwrap_or(i64::MAX);
        Amounts {
            milli_cpu: signed(self.milli_cpu),
            memory: signed(self.memory),
            ephemeral_storage: signed(self.ephemeral_storage),
            ..Amounts::default()
        }
    }
}

/// What volumes depend on besides the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeContext {
    /// The node's allocatable resources: defaults for limits that a container does not set.
    pub allocatable: Allocatable,
    /// Limit in bytes of the pod's memory cgroup; `None` for none.
    pub pod_memory_limit: Option<u64>,
}

/// Creates, updates and removes the volumes of pods.
pub struct Volumes {
    pods: PathBuf,
    host: Arc<dyn Host>,
}

impl Volumes {
    /// Volumes below a directory of podbay.
    pub fn new(options: Options, host: Arc<dyn Host>) -> Self {
        Self { pods: options.root.join("pods"), host }
    }

    /// Creates all volumes of a pod and updates their contents. Existing ones are kept. If one
    /// fails the others are created nevertheless; the first error is returned.
    pub async fn setup(&self, given: &Given, context: &VolumeContext) -> Result<(), Error> {
        let mut done = Ok(());
        for volume in given.spec().volumes.iter().flatten() {
            done = done.and(self.make(given, volume, context).await.map(drop));
        }
        done
    }

    /// Updates the contents of a pod's volumes after its objects, labels or annotations have
    /// changed; returns the names of the changed volumes. One that cannot be updated is kept
    /// unchanged.
    pub async fn refresh(
        &self,
        given: &Given,
        context: &VolumeContext,
    ) -> Result<Vec<String>, Error> {
        let (mut changed, mut failed) = (Vec::new(), None);
        let volumes = given.spec().volumes.iter().flatten();
        for volume in volumes.filter(|volume| Kind::of(volume).has_content()) {
            match self.make(given, volume, context).await {
                Ok(true) => changed.push(volume.name.clone()),
                Ok(false) => {}
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(changed), Err)
    }

    /// Unmounts and removes everything of a pod; a missing one is fine. No link planted by a
    /// container is followed.
    pub async fn teardown(&self, uid: &str) -> Result<(), Error> {
        let failed = |source| Error::Teardown { uid: uid.to_owned(), source };
        self.host.remove_tree(&self.pod_dir(uid)?).await.map_err(failed)
    }

    /// Stores a copy of a pod's record in its directory, for the case that the store is lost.
    pub async fn keep_pod(&self, life: &Life) -> Result<(), Error> {
        let failed = |source| Error::Keep { uid: life.uid.clone(), source };
        let content = serde_json::to_vec(life)
            .map_err(|error| failed(backend::Error::io("write a pod as JSON", error.into())))?;
        let path = self.pod_dir(&life.uid)?.join(KEPT);
        self.host.keep_file(&path, &content, KEPT_MODE).await.map_err(failed)
    }

    /// The copy of a pod's record stored by [`Volumes::keep_pod`].
    pub async fn kept_pod(&self, uid: &str) -> Result<Option<Life>, Error> {
        let failed = |source| Error::Keep { uid: uid.to_owned(), source };
        let path = self.pod_dir(uid)?.join(KEPT);
        let content = self.host.read_file(&path, LONGEST_KEPT).await.map_err(failed)?;
        let life = content.map(|content| serde_json::from_slice(&content)).transpose();
        life.map_err(|error| failed(backend::Error::io("read a kept pod", error.into())))
    }

    /// Uids of the pods with a directory here.
    pub async fn uids(&self) -> Result<Vec<String>, Error> {
        self.host.list_dir(&self.pods).await.map_err(Error::Orphans)
    }

    /// Removes directories of unknown pods; returns their uids. If one fails the others are removed
    /// nevertheless; the first error is returned.
    pub async fn orphans(&self, known: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let (mut gone, mut failed) = (Vec::new(), None);
        for uid in self.uids().await? {
            if known.contains(&uid) {
                continue;
            }
            match self.teardown(&uid).await {
                Ok(()) => gone.push(uid),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(gone), Err)
    }

    /// Returns whether anything changed.
    async fn make(
        &self,
        given: &Given,
        volume: &Volume,
        context: &VolumeContext,
    ) -> Result<bool, Error> {
        let kind = Kind::of(volume);
        match &kind {
            Kind::EmptyDir(source) => {
                self.make_empty_dir(given, &volume.name, *source, context).await.map(|()| false)
            }
            Kind::HostPath(source) => {
                self.check_host_path(&volume.name, source).await.map(|()| false)
            }
            Kind::Image(_) => Ok(false),
            Kind::Other(what) => {
                Err(Error::Unsupported { volume: volume.name.clone(), what: what.clone() })
            }
            _ => self.keep(given, &volume.name, &kind, context).await,
        }
    }

    /// Creates or updates a volume that podbay manages.
    async fn keep(
        &self,
        given: &Given,
        name: &str,
        kind: &Kind<'_>,
        context: &VolumeContext,
    ) -> Result<bool, Error> {
        let gid = fs_group(given);
        // Nothing is created for a volume that cannot be filled.
        let files = content::files(given, name, kind, gid, context)?;
        let Some(path) = self.volume_dir(given, name, kind)? else { return Ok(false) };
        let medium = match kind.is_secret() {
            true => Medium::Memory(empty_dir::most_memory(None, context)),
            false => Medium::Disk,
        };
        let mode = CONTENT_MODE | if gid.is_some() { GROUP_MODE } else { 0 };
        let failed = |source| Error::SetUp { volume: name.to_owned(), source };
        let dir = VolumeDir { medium, mode, gid };
        self.host.create_volume(&path, dir).await.map_err(failed)?;
        self.host.write_volume(&path, &files).await.map_err(failed)
    }

    async fn check_host_path(
        &self,
        name: &str,
        source: &HostPathVolumeSource,
    ) -> Result<(), Error> {
        let wanted = match source.type_.as_deref().unwrap_or_default() {
            "" => return Ok(()),
            "DirectoryOrCreate" => HostPathKind::DirectoryOrCreate,
            "Directory" => HostPathKind::Directory,
            "FileOrCreate" => HostPathKind::FileOrCreate,
            "File" => HostPathKind::File,
            "Socket" => HostPathKind::Socket,
            "CharDevice" => HostPathKind::CharDevice,
            "BlockDevice" => HostPathKind::BlockDevice,
            other => {
                let problem = format!("{other} is an invalid volume type");
                return Err(Error::Value { volume: name.to_owned(), problem });
            }
        };
        let checked = self.host.check_host_path(source.path.as_ref(), wanted).await;
        match checked {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::HostPath {
                volume: name.to_owned(),
                path: source.path.clone(),
                noun: wanted.noun(),
            }),
            Err(source) => Err(Error::SetUp { volume: name.to_owned(), source }),
        }
    }

    fn pod_dir(&self, uid: &str) -> Result<PathBuf, Error> {
        Ok(self.pods.join(file_name("pod uid", uid)?))
    }

    /// The directory of a volume; `None` when it is not podbay's.
    fn volume_dir(
        &self,
        given: &Given,
        name: &str,
        kind: &Kind<'_>,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(folder) = kind.folder() else { return Ok(None) };
        let name = file_name("volume", name)?;
        Ok(Some(self.pod_dir(given.uid())?.join("volumes").join(folder).join(name)))
    }
}

/// The group that owns the volumes.
fn fs_group(given: &Given) -> Option<u32> {
    let group = given.spec().security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Refuses names that are unsafe as a path component.
fn file_name<'v>(what: &'static str, value: &'v str) -> Result<&'v str, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !value.is_empty()
        && value.len() <= 253
        && !value.starts_with('.')
        && value.chars().all(plain)
    {
        return Ok(value);
    }
    Err(Error::Name { what, value: value.to_owned() })
}

#[cfg(test)]
mod tests;
