//! Images mounted as volumes.
//!
//! An image is mounted read-only below the pod's run-time directory, once for each pod and image,
//! when a container that uses it is created. It is unmounted when the pod is stopped; until then
//! the image cannot be removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Room;
use super::entry::Entry;
use super::error::{Error, Step};
use super::record::{Owed, SandboxRecord};
use crate::backend::{self, ErrorKind, RootfsMount};
use crate::container::PodContext;
use crate::ids::PodId;
use crate::image::Hold;
use crate::model::container::{ContainerConfig, Mount};
use crate::model::image::{ChainId, Digest, Image};

/// Separates the pod id from the image id in a snapshot key.
const SEPARATOR: char = '.';

/// The image volumes of a pod, by image id.
pub(super) type Volumes = BTreeMap<Digest, Volume>;

/// One image volume.
pub(super) struct Volume {
    _hold: Hold,
    /// Whether this agent process mounted it completely; a previous one may have died half-way.
    mounted: bool,
    /// How many container creations used it. Only failed creations are subtracted.
    users: usize,
}

/// The mounted images of a container.
#[derive(Default)]
pub(super) struct Mounted {
    /// Bind mount sources, by index of the container's mount.
    pub(super) sources: BTreeMap<usize, PathBuf>,
    /// Image ids, by index of the container's mount.
    pub(super) ids: BTreeMap<usize, Digest>,
    used: Vec<Digest>,
}

/// The pod or container that a snapshot belongs to: its key is that id, or begins with the pod id.
pub(super) fn owner_of(key: &str) -> &str {
    key.split_once(SEPARATOR).map_or(key, |(owner, _)| owner)
}

fn key_of(pod: &PodId, image: &Digest) -> String {
    format!("{pod}{SEPARATOR}{}", image.hex())
}

impl Room {
    fn images_dir(&self, pod: &PodId) -> PathBuf {
        self.dir(pod).join("images")
    }

    /// Mounts the images that a container uses. If the container's creation then fails, call
    /// [`Room::give_back`].
    pub(super) async fn mount_images(
        &self,
        pod: &PodContext,
        config: &ContainerConfig,
    ) -> Result<Mounted, Error> {
        let mut mounted = Mounted::default();
        for (index, mount) in config.mounts.iter().enumerate() {
            let Some(image) = &mount.image else { continue };
            match self.mount_image(pod, &image.image, mount, &mut mounted.used).await {
                Ok(source) => {
                    mounted.sources.insert(index, source);
                    mounted.ids.extend(mounted.used.last().map(|id| (index, id.clone())));
                }
                Err(source) => {
                    self.give_back(pod, &mounted).await;
                    return Err(Error::ImageVolume { index, source: Box::new(source) });
                }
            }
        }
        Ok(mounted)
    }

    async fn mount_image(
        &self,
        pod: &PodContext,
        name: &str,
        mount: &Mount,
        used: &mut Vec<Digest>,
    ) -> Result<PathBuf, Error> {
        check_sub_path(&mount.image_sub_path)?;
        let base = &self.deps.base;
        let entry = self.entry(&pod.id)?;
        let image = base.images.get(name).await?;
        let image = image.ok_or_else(|| Error::VolumeImageNotFound(name.to_owned()))?;
        let dir = self.images_dir(&pod.id).join(image.id.hex());
        let mut volumes = entry.volumes.lock().await;
        let volume = volumes.entry(image.id.clone()).or_insert_with(|| Volume {
            _hold: base.images.hold(&image.id),
            mounted: false,
            users: 0,
        });
        volume.users += 1;
        used.push(image.id.clone());
        if !volume.mounted {
            self.make_volume(&entry, pod, &image, &dir).await?;
            volume.mounted = true;
        }
        self.find_sub_path(&dir, &mount.image_sub_path).await
    }

    /// Releases a failed container's image volumes, and removes those that no other container has
    /// used. What cannot be removed now stays owed until the pod is stopped.
    pub(super) async fn give_back(&self, pod: &PodContext, mounted: &Mounted) {
        let Ok(entry) = self.entry(&pod.id) else { return };
        let mut volumes = entry.volumes.lock().await;
        for id in &mounted.used {
            let Some(volume) = volumes.get_mut(id) else { continue };
            volume.users -= 1;
            if volume.users > 0 {
                continue;
            }
            let (dir, key) = (self.images_dir(&pod.id).join(id.hex()), key_of(&pod.id, id));
            let base = &self.deps.base;
            let unmounted = base.host.remove_tree(&dir).await;
            let removed = base.runtime.remove_rootfs(&pod.handler.snapshotter, &key).await;
            match unmounted.and(removed) {
                Ok(()) => drop(volumes.remove(id)),
                Err(error) => {
                    volume.mounted = false;
                    tracing::warn!(pod = %pod.id, image = %id, %error,
                        "cannot remove image volume");
                }
            }
        }
    }

    async fn make_volume(
        &self,
        entry: &Entry,
        pod: &PodContext,
        image: &Image,
        dir: &Path,
    ) -> Result<(), Error> {
        let snapshotter = pod.handler.snapshotter.as_str();
        let base = &self.deps.base;
        let Some(chain) = &image.chain_id else {
            return Err(Error::invalid("image.image", "an image without layers has no content"));
        };
        if !entry.record().owed.contains(&Owed::Images) {
            let owe = |record: &mut SandboxRecord| {
                record.owed.insert(Owed::Images);
            };
            entry.save(base, owe).await?;
        }
        base.host.create_dir(dir, 0o700).await.step("make the folder of an image volume")?;
        let key = key_of(&entry.id, &image.id);
        let make = || self.view(snapshotter, &key, chain);
        let rootfs = base.images.on_snapshots(image, snapshotter, make).await?;
        let rootfs = rootfs.step("make a view of the image")?;
        // All containers of a pod share its user namespace.
        base.host.mount_image(&rootfs, dir, pod.userns.as_deref()).await.step("mount the image")
    }

    async fn view(
        &self,
        snapshotter: &str,
        key: &str,
        chain: &ChainId,
    ) -> backend::Result<Vec<RootfsMount>> {
        let runtime = &self.deps.base.runtime;
        match runtime.view_rootfs(snapshotter, key, chain).await {
            // Left by a previous agent process.
            Err(error) if error.is_already_exists() => {
                runtime.rootfs_mounts(snapshotter, key).await
            }
            other => other,
        }
    }

    async fn find_sub_path(&self, dir: &Path, sub_path: &str) -> Result<PathBuf, Error> {
        match self.deps.base.host.find_inside(dir, sub_path).await {
            Err(error) if error.kind == ErrorKind::NotFound => {
                let problem = format!("{sub_path:?} is not in the image");
                Err(Error::invalid("image_sub_path", problem))
            }
            other => other.step("find the sub path"),
        }
    }

    /// Unmounts the image volumes of a pod, including those of a previous agent process. No
    /// container of the pod may be running.
    pub(super) async fn unmount_images(&self, entry: &Entry) -> Result<(), Error> {
        let base = &self.deps.base;
        let dir = self.images_dir(&entry.id);
        base.host.remove_tree(&dir).await.step("unmount the image volumes")?;
        let snapshotter = &entry.record().handler.snapshotter;
        let keys = base.runtime.list_rootfs(snapshotter).await;
        let keys = keys.step("list the snapshots of image volumes")?;
        let own = |key: &&String| key.contains(SEPARATOR) && owner_of(key) == entry.id.as_str();
        for key in keys.iter().filter(own) {
            let removed = base.runtime.remove_rootfs(snapshotter, key).await;
            removed.step("remove the snapshot of an image volume")?;
        }
        entry.volumes.lock().await.clear();
        Ok(())
    }

    /// Takes the holds on a pod's mounted images again after a restart of the agent.
    pub(super) async fn recall_images(&self, entry: &Arc<Entry>) {
        let base = &self.deps.base;
        let names = base.host.list_dir(&self.images_dir(&entry.id)).await.unwrap_or_default();
        let ids = names.iter().filter_map(|hex| Digest::try_from(format!("sha256:{hex}")).ok());
        let mut volumes = entry.volumes.lock().await;
        for id in ids {
            // A record restored from containerd may have been written before there were any.
            entry.change(|record| {
                record.owed.insert(Owed::Images);
            });
            let hold = base.images.hold(&id);
            // Its containers are not counted, so it is kept until the pod is stopped.
            volumes.insert(id, Volume { _hold: hold, mounted: false, users: 1 });
        }
    }
}

/// Refuses a path in an image that is not one below its root.
fn check_sub_path(path: &str) -> Result<(), Error> {
    const FIELD: &str = "image_sub_path";
    if path.starts_with('/') {
        return Err(Error::invalid(FIELD, "must be a relative path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(Error::invalid(FIELD, "must not contain .."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_volume_tells_its_pod() {
        let (pod, image) = (PodId::random(), Digest::of(b"x"));
        assert_eq!(owner_of(&key_of(&pod, &image)), pod.as_str());
        assert_eq!(owner_of(pod.as_str()), pod.as_str());
    }
}
