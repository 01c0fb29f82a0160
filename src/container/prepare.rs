//! Looks up everything on the host and in the image that a container's spec needs, before it is
//! built: user files, mount sources, devices, seccomp profiles, anonymous volumes.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::try_join_all;

use super::error::{Error, Step};
use super::{Containers, PodContext};
use crate::backend::{APPARMOR_PROFILES, DeviceNode, RootfsMount, UserFiles, has_apparmor_profile};
use crate::cdi;
use crate::ids::ContainerId;
use crate::locks::Mutex;
use crate::model::container::{ContainerConfig, Mount, Propagation};
use crate::model::image::{ChainId, Image};
use crate::model::security::{IdMappings, NamespaceMode, SecurityProfile};
use crate::oci::seccomp::localhost_path;
use crate::oci::selinux::check_relabel;
use crate::oci::user::{ResolvedUser, UserRequest, needs_files, resolve};
use crate::oci::{apparmor, clean_path};
use crate::telemetry::error_chain;

const SECCOMP_PROFILE_MAX: usize = 1 << 20;
const APPARMOR_LIST_MAX: usize = 4 << 20;
/// How many chains' user files are cached, and the maximum size of each.
const CACHED_CHAINS: usize = 32;
const CACHED_BYTES: usize = 64 << 10;

/// User files by chain id. Entries never go stale: a chain's content never changes.
#[derive(Default)]
pub(super) struct UserFilesCache(Mutex<VecDeque<(ChainId, Arc<UserFiles>)>>);

impl UserFilesCache {
    fn get(&self, chain: &ChainId) -> Option<Arc<UserFiles>> {
        let cache = self.0.lock();
        cache.iter().find(|(known, _)| known == chain).map(|(_, files)| files.clone())
    }

    fn put(&self, chain: &ChainId, files: &Arc<UserFiles>) {
        let size = |file: &Option<Vec<u8>>| file.as_ref().map_or(0, Vec::len);
        if size(&files.passwd) + size(&files.group) > CACHED_BYTES {
            return;
        }
        let mut cache = self.0.lock();
        if cache.len() == CACHED_CHAINS {
            cache.pop_front();
        }
        cache.push_back((chain.clone(), files.clone()));
    }
}

/// What a container uses from the host.
pub(super) struct HostParts {
    pub(super) mounts: Vec<Mount>,
    pub(super) devices: Vec<(DeviceNode, String)>,
    pub(super) seccomp: Option<serde_json::Value>,
    pub(super) target_pid: Option<u32>,
    pub(super) cdi: cdi::Edits,
}

impl Containers {
    pub(super) async fn host_parts(
        &self,
        pod: &PodContext,
        config: &ContainerConfig,
    ) -> Result<HostParts, Error> {
        let (mounts, devices, seccomp, cdi, ()) = tokio::try_join!(
            self.resolve_mounts(pod, config),
            self.resolve_devices(pod, config),
            self.seccomp_profile(config.security.seccomp.as_ref(), config.security.privileged),
            self.cdi_edits(pod, config),
            self.check_apparmor(config),
        )?;
        Ok(HostParts { mounts, devices, seccomp, target_pid: self.target_pid(pod, config)?, cdi })
    }

    async fn resolve_mounts(
        &self,
        pod: &PodContext,
        config: &ContainerConfig,
    ) -> Result<Vec<Mount>, Error> {
        let labels = self.labels(pod, config)?;
        let labels = labels.as_ref();
        try_join_all(config.mounts.iter().enumerate().map(|(index, mount)| async move {
            let resolved = match pod.image_mounts.get(&index) {
                Some(of_image) => of_image.clone(),
                None => {
                    let source = Path::new(&mount.host_path);
                    let resolved = self.deps.host.resolve_mount_source(source, true).await;
                    resolved.step("resolve a mount source")?
                }
            };
            if mount.propagation != Propagation::Private {
                let allowed = self.deps.host.allows_propagation(&resolved, mount.propagation).await;
                if !allowed.step("read the propagation of a mount source")? {
                    let wanted = match mount.propagation {
                        Propagation::Bidirectional => "shared",
                        _ => "shared or slave",
                    };
                    return Err(Error::invalid(
                        format!("config.mounts[{index}].propagation"),
                        format!("path {:?} is not mounted {wanted} on the host", mount.host_path),
                    ));
                }
            }
            let host_path = resolved.into_os_string().into_string().map_err(|path| {
                let problem = format!("resolves to {path:?}, which is not UTF-8");
                Error::invalid(format!("config.mounts[{index}].host_path"), problem)
            })?;
            // Only mounts that the caller asked for: the pod's own files already have their label.
            if let Some(labels) = labels.filter(|_| mount.selinux_relabel) {
                check_relabel(&host_path, || format!("mounts[{index}].selinux_relabel"))?;
                let source = Path::new(&host_path);
                let labelled = self.deps.host.relabel(source, &labels.files).await;
                labelled.step("label a mount source")?;
            }
            let mut resolved = Mount { host_path, ..mount.clone() };
            if let Some(ids) = pod.config.id_mappings().filter(|_| mount.image.is_some()) {
                take_mappings(index, &mut resolved, ids)?;
            }
            Ok(resolved)
        }))
        .await
    }

    async fn resolve_devices(
        &self,
        pod: &PodContext,
        config: &ContainerConfig,
    ) -> Result<Vec<(DeviceNode, String)>, Error> {
        let mut devices = Vec::new();
        if config.security.privileged && !pod.handler.privileged_without_host_devices {
            let all = self.deps.host.all_devices().await.step("list the host's devices")?;
            devices.extend(all.into_iter().map(|node| (node, "rwm".to_owned())));
        }
        for (index, device) in config.devices.iter().enumerate() {
            let path = Path::new(&device.host_path);
            let nodes = self.deps.host.devices(path, &device.container_path).await;
            let nodes = nodes.map_err(|error| {
                let problem = format!("{:?}: {}", device.host_path, error_chain(&error));
                Error::invalid(format!("config.devices[{index}].host_path"), problem)
            })?;
            devices.extend(nodes.into_iter().map(|node| (node, device.permissions.clone())));
        }
        Ok(devices)
    }

    /// Reads the file that a Localhost seccomp profile names.
    pub async fn seccomp_profile(
        &self,
        profile: Option<&SecurityProfile>,
        privileged: bool,
    ) -> Result<Option<serde_json::Value>, Error> {
        const FIELD: &str = "linux.security_context.seccomp.localhost_ref";
        let Some(path) = localhost_path(profile, privileged)? else { return Ok(None) };
        let content = self.deps.host.read_file(path, SECCOMP_PROFILE_MAX).await;
        let content = content
            .step("read the seccomp profile")?
            .ok_or_else(|| Error::invalid(FIELD, format!("no profile at {path:?}")))?;
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(|error| Error::invalid(FIELD, format!("{path:?} is not valid JSON: {error}")))
    }

    /// Fails unless the container's AppArmor profile is loaded. The default one is loaded again if
    /// somebody has unloaded it, as a restart of AppArmor's own service does.
    async fn check_apparmor(&self, config: &ContainerConfig) -> Result<(), Error> {
        let (facts, settings) = (self.deps.host.facts(), &self.options.oci);
        let Some(name) = apparmor::profile_of(&config.security, facts, settings)? else {
            return Ok(());
        };
        let mut list = self.apparmor_profiles().await?;
        let is_default = settings.apparmor_default.as_ref() == Some(&name);
        if is_default && !has_apparmor_profile(&list, &name) {
            tracing::warn!(name, "default AppArmor profile was unloaded, loading it again");
            let loaded = self.deps.host.load_apparmor(&name, false).await;
            loaded.step("load the default AppArmor profile")?;
            list = self.apparmor_profiles().await?;
        }
        Ok(apparmor::check_loaded(&list, &name)?)
    }

    /// The kernel's list of loaded profiles.
    async fn apparmor_profiles(&self) -> Result<Vec<u8>, Error> {
        let list = self.deps.host.read_file(Path::new(APPARMOR_PROFILES), APPARMOR_LIST_MAX).await;
        Ok(list.step("read the list of AppArmor profiles")?.unwrap_or_default())
    }

    /// PID of the process whose PID namespace is joined; checked at creation and again at start.
    pub(super) fn target_pid(
        &self,
        pod: &PodContext,
        config: &ContainerConfig,
    ) -> Result<Option<u32>, Error> {
        const FIELD: &str = "config.linux.security_context.namespace_options.target_id";
        let namespaces = &config.security.namespaces;
        if namespaces.pid != NamespaceMode::Target {
            return Ok(None);
        }
        let target = self.get(&namespaces.target_id).map_err(|error| match error {
            Error::NotFound(id) => Error::invalid(FIELD, format!("container {id:?} not found")),
            other => other,
        })?;
        if target.pod != pod.id {
            let problem = format!("container {} is in another pod", target.id);
            return Err(Error::invalid(FIELD, problem));
        }
        match target.state {
            super::ContainerState::Running { pid, .. } => Ok(Some(pid)),
            _ => Err(Error::invalid(FIELD, format!("container {} is not running", target.id))),
        }
    }

    /// User files available without a root file system: none are needed, or they are cached.
    pub(super) fn known_user_files(
        &self,
        image: &Image,
        request: &UserRequest<'_>,
    ) -> Option<Arc<UserFiles>> {
        match &image.chain_id {
            Some(chain) if needs_files(request) => self.user_files.get(chain),
            _ => Some(Arc::default()),
        }
    }

    pub(super) async fn read_user_files(
        &self,
        image: &Image,
        rootfs: &[RootfsMount],
    ) -> Result<Arc<UserFiles>, Error> {
        let files = self.deps.host.read_user_files(rootfs).await;
        let files = Arc::new(files.step("read the image's user files")?);
        if let Some(chain) = &image.chain_id {
            self.user_files.put(chain, &files);
        }
        Ok(files)
    }

    /// Fills the image's anonymous volumes that no mount covers, and labels them like the
    /// container's root; returns their locations.
    pub(super) async fn make_volumes(
        &self,
        id: &ContainerId,
        pod: &PodContext,
        config: &ContainerConfig,
        image: &Image,
        rootfs: &[RootfsMount],
    ) -> Result<Vec<(String, PathBuf)>, Error> {
        let labels = self.labels(pod, config)?;
        let host = &self.deps.host;
        let mut volumes = Vec::new();
        for (path, dir) in self.volume_places(id, config, image) {
            let copied = host.copy_from_rootfs(rootfs, &path, &dir).await;
            copied.step("fill an anonymous volume")?;
            if let Some(labels) = &labels {
                let labelled = host.relabel(&dir, &labels.files).await;
                labelled.step("label an anonymous volume")?;
            }
            volumes.push((path, dir));
        }
        Ok(volumes)
    }

    /// Anonymous volumes of the image, as pairs of container path and host directory.
    pub(super) fn volume_places(
        &self,
        id: &ContainerId,
        config: &ContainerConfig,
        image: &Image,
    ) -> Vec<(String, PathBuf)> {
        let covered = |path: &str| {
            config.mounts.iter().any(|mount| clean_path(&mount.container_path) == *path)
        };
        let root = self.options.root.join(id.as_str()).join("volumes");
        let paths = image.config.volumes.iter().map(|path| clean_path(path));
        let paths = paths.filter(|path| path != "/" && !covered(path)).enumerate();
        paths.map(|(index, path)| (path, root.join(index.to_string()))).collect()
    }
}

/// Accepts the id mappings of an image mount: images are mounted with the pod's mappings already,
/// so equal ones are dropped and different ones refused.
fn take_mappings(index: usize, mount: &mut Mount, ids: IdMappings) -> Result<(), Error> {
    let uids = std::mem::take(&mut mount.uid_mappings);
    let gids = std::mem::take(&mut mount.gid_mappings);
    let none = uids.is_empty() && gids.is_empty();
    if none || (uids == [ids.uids] && gids == [ids.gids]) {
        return Ok(());
    }
    let problem = "must be those of the pod's user namespace for an image";
    Err(Error::invalid(format!("config.mounts[{index}].uidMappings"), problem))
}

pub(super) fn user_request<'a>(config: &'a ContainerConfig, image: &'a Image) -> UserRequest<'a> {
    UserRequest::new(&image.config.user, &config.security)
}

pub(super) fn resolve_user(
    request: &UserRequest<'_>,
    files: &UserFiles,
) -> Result<ResolvedUser, Error> {
    Ok(resolve(request, files)?)
}
