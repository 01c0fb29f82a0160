//! Implements the upkeep traits with the other rooms.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::containers::{Containers, Dead, Sandbox};
use super::images::{Disks, ImageStore, ImageUse};
use super::rotate::Logs;
use crate::container::{self, StateName};
use crate::ids::{ContainerId, PodId};
use crate::image::Images;
use crate::model::Owner;
use crate::model::image::{Digest, Image};
use crate::pod::translate::POD_UID_LABEL;
use crate::sandbox::{self, Sandboxes};
use crate::telemetry::error_chain;

/// Whether the engine knows a pod with this uid.
pub type IsKnown = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Logs, containers and images of the engine's pods. Those of other owners are left alone, but
/// images used by them count as used.
pub struct Below {
    /// Sandboxes and containers.
    pub sandboxes: Arc<Sandboxes>,
    /// Images.
    pub images: Arc<Images>,
    /// Distinguishes existing pods from remains.
    pub is_known: IsKnown,
    /// Whether unused images are removed.
    pub collects_images: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Below {
    fn containers(&self, state: StateName) -> Vec<Arc<container::Container>> {
        let filter = container::Filter {
            owner: Some(Owner::Pod),
            state: Some(state),
            ..container::Filter::default()
        };
        self.sandboxes.containers(&filter)
    }
}

#[async_trait]
impl Logs for Below {
    fn running(&self) -> Vec<(ContainerId, PathBuf)> {
        let running = self.containers(StateName::Running).into_iter();
        let file = |it: Arc<container::Container>| Some((it.id.clone(), it.log_path.clone()?));
        running.filter_map(file).collect()
    }

    async fn reopen(&self, container: &ContainerId) -> Result<(), String> {
        let reopened = self.sandboxes.reopen_log(container.as_str()).await;
        reopened.map_err(|error| error_chain(&error))
    }
}

#[async_trait]
impl Containers for Below {
    fn dead(&self) -> Vec<Dead> {
        let dead = self.containers(StateName::Exited).into_iter().map(|container| {
            let uid = container.config.labels.get(POD_UID_LABEL).cloned().unwrap_or_default();
            Dead {
                pod_gone: !(self.is_known)(&uid),
                uid,
                name: container.config.metadata.name.clone(),
                created: container.created_at,
                id: container.id.clone(),
            }
        });
        dead.collect()
    }

    fn sandboxes(&self) -> Vec<Sandbox> {
        let all = container::Filter { owner: Some(Owner::Pod), ..container::Filter::default() };
        // Read before the containers, so that a newer container's sandbox is not in the list.
        let filter = sandbox::Filter { owner: Some(Owner::Pod), ..sandbox::Filter::default() };
        let sandboxes = self.sandboxes.list(&filter);
        let containers = self.sandboxes.containers(&all).into_iter();
        let with_containers: BTreeSet<PodId> = containers.map(|it| it.pod.clone()).collect();
        let sandbox = |sandbox: Arc<sandbox::Sandbox>| {
            let uid = sandbox.config.metadata.uid.clone();
            Sandbox {
                pod_gone: !(self.is_known)(&uid),
                uid,
                created: sandbox.created_at,
                in_use: sandbox.is_ready() || with_containers.contains(&sandbox.id),
                id: sandbox.id.clone(),
            }
        };
        sandboxes.into_iter().map(sandbox).collect()
    }

    async fn remove(&self, container: &ContainerId) -> Result<(), String> {
        let removed = self.sandboxes.remove_container(container.as_str()).await;
        removed.map_err(|error| error_chain(&error))
    }

    async fn remove_sandbox(&self, sandbox: &PodId) -> Result<(), String> {
        let removed = self.sandboxes.remove(sandbox.as_str()).await;
        removed.map_err(|error| error_chain(&error))
    }
}

#[async_trait]
impl ImageStore for Below {
    fn collects(&self) -> bool {
        (self.collects_images)()
    }

    async fn images(&self) -> Result<Vec<ImageUse>, String> {
        let images = self.images.list(None).await;
        let images = images.map_err(|error| error_chain(&error))?;
        let image =
            |image: Image| ImageUse { id: image.id, size: image.size, pinned: image.pinned };
        Ok(images.into_iter().map(image).collect())
    }

    /// Images of containers of all owners. Images mounted as volumes are protected by the image
    /// room itself.
    fn in_use(&self) -> BTreeSet<Digest> {
        let all = self.sandboxes.containers(&container::Filter::default());
        all.into_iter().map(|container| container.image_id.clone()).collect()
    }

    async fn disk(&self) -> Result<Disks, String> {
        let folder = self.images.folder().await.map_err(|error| error_chain(&error))?;
        let measure = move || rustix::fs::statvfs(&folder);
        let stat = tokio::task::spawn_blocking(measure).await.map_err(|error| error.to_string())?;
        let stat = stat.map_err(|error| format!("measure the disk of images: {error}"))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Disks { capacity: bytes(stat.f_blocks), available: bytes(stat.f_bavail) })
    }

    async fn remove(&self, image: &Digest) -> Result<(), String> {
        let removed = self.images.remove(image.as_str()).await;
        removed.map_err(|error| error_chain(&error))
    }
}
