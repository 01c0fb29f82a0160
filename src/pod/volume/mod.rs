//! The volumes of pods: made before the first container, kept up to date, taken away at the end.
//!
//! All of a pod lies below `<root>/pods/<uid>`: `volumes/<kind>/<name>` are the volumes,
//! `volume-subpaths/…` parts of them as mounts, `containers/<name>/<restart>` the files for
//! termination messages, `pod.json` what is needed to go on with the pod when the store is lost. A folder or mount that is there is a finished one; so everything can be
//! done again at any time, and after a crash.

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

/// Mode of the top folder of a volume whose content podbay keeps. No user of the host gets there:
/// the folders above are root's alone.
const CONTENT_MODE: u32 = 0o777;
/// The file in a pod's folder with what is needed to go on with it. Its objects hold secrets, as the
/// store does.
const KEPT: &str = "pod.json";
const KEPT_MODE: u32 = 0o600;
const LONGEST_KEPT: usize = 16 << 20;

/// What the group of a volume gets on its top folder, and that it hands the group on.
const GROUP_MODE: u32 = 0o2770;

/// Where volumes are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of podbay's own; absolute. Pods lie in `pods` below it.
    pub root: PathBuf,
}

/// What the node has for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allocatable {
    /// Thousandths of a processor.
    pub milli_cpu: u64,
    /// Bytes of memory; zero is not known.
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

/// What volumes depend on besides the pod itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeContext {
    /// What the node has for pods: stands in for limits that a container does not set.
    pub allocatable: Allocatable,
    /// Limit in bytes of the pod's memory cgroup; `None` for none.
    pub pod_memory_limit: Option<u64>,
}

/// Makes, keeps and removes the volumes of pods.
pub struct Volumes {
    pods: PathBuf,
    host: Arc<dyn Host>,
}

impl Volumes {
    /// Volumes below a folder of ours.
    pub fn new(options: Options, host: Arc<dyn Host>) -> Self {
        Self { pods: options.root.join("pods"), host }
    }

    /// Makes all volumes of a pod and brings their content up to date. Those that are there are
    /// left alone. One that fails does not keep the others from being made; the error is the
    /// first.
    pub async fn setup(&self, given: &Given, context: &VolumeContext) -> Result<(), Error> {
        let mut done = Ok(());
        for volume in given.spec().volumes.iter().flatten() {
            done = done.and(self.make(given, volume, context).await.map(drop));
        }
        done
    }

    /// Brings the content of a pod's volumes up to date after its objects, labels or annotations
    /// have changed; returns the names of the volumes that are new. What cannot be made any more
    /// stays as it was.
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

    /// Unmounts and removes all that lies here of a pod; gone is fine. No link that a container
    /// has left is followed.
    pub async fn teardown(&self, uid: &str) -> Result<(), Error> {
        let failed = |source| Error::Teardown { uid: uid.to_owned(), source };
        self.host.remove_tree(&self.pod_dir(uid)?).await.map_err(failed)
    }

    /// Keeps what is needed to go on with a pod when the store is lost, in the pod's folder: it goes
    /// with that.
    pub async fn keep_pod(&self, life: &Life) -> Result<(), Error> {
        let failed = |source| Error::Keep { uid: life.uid.clone(), source };
        let content = serde_json::to_vec(life)
            .map_err(|error| failed(backend::Error::io("write a pod as JSON", error.into())))?;
        let path = self.pod_dir(&life.uid)?.join(KEPT);
        self.host.keep_file(&path, &content, KEPT_MODE).await.map_err(failed)
    }

    /// What [`Volumes::keep_pod`] has kept of a pod.
    pub async fn kept_pod(&self, uid: &str) -> Result<Option<Life>, Error> {
        let failed = |source| Error::Keep { uid: uid.to_owned(), source };
        let path = self.pod_dir(uid)?.join(KEPT);
        let content = self.host.read_file(&path, LONGEST_KEPT).await.map_err(failed)?;
        let life = content.map(|content| serde_json::from_slice(&content)).transpose();
        life.map_err(|error| failed(backend::Error::io("read a kept pod", error.into())))
    }

    /// Uids of the pods that something lies here of.
    pub async fn uids(&self) -> Result<Vec<String>, Error> {
        self.host.list_dir(&self.pods).await.map_err(Error::Orphans)
    }

    /// Removes what lies here of pods that nobody knows any more; returns their uids. One that
    /// fails does not keep the others from going; the error is the first.
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

    /// Whether anything was new.
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

    /// A volume whose content podbay keeps.
    async fn keep(
        &self,
        given: &Given,
        name: &str,
        kind: &Kind<'_>,
        context: &VolumeContext,
    ) -> Result<bool, Error> {
        let gid = fs_group(given);
        // Nothing is made for a volume that cannot be filled.
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

    /// Where a volume lies; `None` when it is no folder of ours.
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

/// The group that volumes belong to.
fn fs_group(given: &Given) -> Option<u32> {
    let group = given.spec().security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Refuses what could lead elsewhere as part of a path.
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
