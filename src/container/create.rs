//! CreateContainer: stores the intent, makes the root file system, adds the containerd record.

use std::path::PathBuf;
use std::sync::Arc;

use super::entry::Entry;
use super::error::{Error, Step};
use super::prepare::{HostParts, resolve_user, user_request};
use super::{Container, ContainerRecord, ContainerState, Containers, EventKind, PodContext};
use crate::backend::{ContainerMoment, Hold, RootfsMount, RootfsOptions, RuntimeContainer, Stdio};
use crate::cdi;
use crate::clock::now;
use crate::ids::{ContainerId, PodId};
use crate::lifecycle::{Backoff, unless_panic};
use crate::model::StringMap;
use crate::model::container::ContainerConfig;
use crate::model::image::Image;
use crate::model::signal::Signal;
use crate::oci::user::ResolvedUser;
use crate::oci::{
    self, ContainerInput, PodNamespaces, add_identity, check_container, container_spec,
    plain_cgroup, record_labels, resources_of, snapshot_labels, spec_json,
};
use crate::store::Batch;
use crate::telemetry::error_chain;

/// containerd label by which cAdvisor distinguishes containers from pod sandboxes.
pub(crate) const KIND_LABEL: &str = "io.cri-containerd.kind";

impl Containers {
    /// Creates a container in a ready pod. The caller runs this in an owned task and prevents the
    /// pod from being stopped meanwhile.
    ///
    /// A second call with the same name joins the first, or returns its container if that has not
    /// been started yet, so that a retry after a time-out finds the earlier result.
    pub async fn create(
        self: &Arc<Self>,
        pod: &PodContext,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        check_container(&pod.config, &config, &pod.features).map_err(in_request)?;
        let image = self.image_of(&config).await?;
        let id = ContainerId::random();
        let entry = Entry::new(self.new_record(&id, pod, config, &image)?);
        let _changing = entry.changing.lock().await;
        // Registered before its name is: a caller that finds the name taken must find the entry to
        // join.
        self.entries().insert(id.clone(), entry.clone());
        let config = entry.config();
        while let Err(taken) = self.names.reserve(&pod.id, &config.metadata, &id) {
            if let Some(outcome) = self.adopt(&taken, &pod.id, &config).await {
                self.entries().remove(&id);
                return outcome;
            }
        }
        // Boxed, as it is large and moved.
        let make = Box::pin(self.make(&entry, pod, &image));
        let made = unless_panic("make-container", make).await.unwrap_or(Err(Error::Panicked));
        match made {
            Ok(_hold) => {
                entry.publish(&self.deps, Some(EventKind::Created));
                self.tell(&entry, ContainerMoment::PostCreate).await;
                Ok(id)
            }
            Err(error) => {
                let error = Arc::new(error);
                self.undo_create(&entry, error.clone()).await;
                Err(Error::Shared(error))
            }
        }
    }

    async fn image_of(&self, config: &ContainerConfig) -> Result<Image, Error> {
        let wanted = &config.image.image;
        let image = self.deps.images.get(wanted).await?;
        image.ok_or_else(|| Error::ImageNotFound(wanted.clone()))
    }

    /// Handles a taken name: joins the creation of an identical container, else fails. `None` when
    /// its container is removed meanwhile, so that the name is free.
    async fn adopt(
        &self,
        taken: &ContainerId,
        pod: &PodId,
        config: &ContainerConfig,
    ) -> Option<Result<ContainerId, Error>> {
        let name = || format!("{}_{}", config.metadata.name, config.metadata.attempt);
        let in_use = || Error::NameInUse { name: name(), id: taken.clone() };
        let Ok(entry) = self.entry(taken) else {
            // Its removal is about to release the name.
            self.names.release(pod, &config.metadata, taken);
            return None;
        };
        if *entry.config() != *config {
            return Some(Err(in_use()));
        }
        // A creation or removal in progress holds this lock until it is done.
        let _changing = entry.changing.lock().await;
        if let Some(source) = entry.failure.get().cloned() {
            return Some(Err(Error::JoinedFailed { id: taken.clone(), source }));
        }
        if self.entry(taken).is_err() {
            return None;
        }
        let is_new = entry.state() == ContainerState::Created && !entry.is_removing();
        Some(if is_new { Ok(taken.clone()) } else { Err(in_use()) })
    }

    fn new_record(
        &self,
        id: &ContainerId,
        pod: &PodContext,
        config: ContainerConfig,
        image: &Image,
    ) -> Result<ContainerRecord, Error> {
        let stop_signal = config.stop_signal.unwrap_or_else(|| stop_signal_of(image, id));
        let log_path = match (&pod.config.log_directory, &config.log_path) {
            (Some(directory), Some(path)) => Some(directory.join(path)),
            _ => None,
        };
        let image_name = match config.image.user_specified_image.as_str() {
            "" => config.image.image.clone(),
            given => given.to_owned(),
        };
        let driver = pod.handler.cgroup_driver();
        Ok(ContainerRecord {
            container: Container {
                id: id.clone(),
                pod: pod.id.clone(),
                owner: pod.owner,
                image_id: image.id.clone(),
                image_name: image
                    .repo_tags
                    .first()
                    .or(image.repo_digests.first())
                    .unwrap_or(&config.image.image)
                    .clone(),
                image_ref: image
                    .repo_digests
                    .first()
                    .cloned()
                    .unwrap_or_else(|| image.id.to_string()),
                mounted_images: pod.mounted_images.clone(),
                created_at: now(),
                state: ContainerState::Creating,
                user: ResolvedUser::default(),
                resources: config.resources.clone(),
                stop_signal,
                log_path,
                config: Arc::new(config),
            },
            handler: pod.handler.clone(),
            image_name,
            stdio: Stdio::default(),
            memory_cgroup: None,
            init: None,
            removing: false,
            boot_id: self.deps.host.facts().boot_id.clone(),
            cgroup: plain_cgroup(driver, &pod.config.cgroup_parent, id.as_str()),
            limits_before: None,
        })
    }

    /// Returns the hold on plugins: the container that they were asked about must be published
    /// before they see anything else.
    async fn make(&self, entry: &Entry, pod: &PodContext, image: &Image) -> Result<Hold, Error> {
        entry.save(&self.deps, |_| {}).await?;
        let config = entry.config();
        let host = self.host_parts(pod, &config);
        let request = user_request(&config, image);
        let volumes = self.volume_places(&entry.id, &config, image);
        // With plugins: they may be slow, and they expect the root file system to exist.
        let simple = volumes.is_empty() && !self.deps.hooks.has_plugins();
        let known = self.known_user_files(image, &request).filter(|_| simple);
        let (host, user, volumes, rootfs) = match known {
            // Nothing has to be read from the root file system, so it can be made later.
            Some(files) => (host.await?, resolve_user(&request, &files)?, Vec::new(), None),
            None => {
                let (host, rootfs) = tokio::join!(host, self.prepare_rootfs(entry, pod, image));
                let (host, rootfs) = (host?, rootfs?);
                let files = match self.known_user_files(image, &request) {
                    Some(files) => files,
                    None => self.read_user_files(image, &rootfs).await?,
                };
                let user = resolve_user(&request, &files)?;
                let volumes = self.make_volumes(&entry.id, pod, &config, image, &rootfs).await?;
                (host, user, volumes, Some(rootfs))
            }
        };
        let found = Found { host: &host, user: &user, volumes: &volumes };
        let (hold, below) = self.describe(entry, pod, image, found).await?;
        let resources = resources_of(&below.spec);
        let act = async {
            let rootfs = async {
                match rootfs {
                    Some(made) => Ok(made),
                    None => self.prepare_rootfs(entry, pod, image).await,
                }
            };
            let create = self.deps.runtime.create_container(&below);
            // Both run to completion: what was made must be known so that it can be undone.
            let (rootfs, created) = tokio::join!(rootfs, create);
            created.step("store the container record")?;
            rootfs
        };
        let created = |record: &mut ContainerRecord| {
            record.container.user = user;
            record.container.resources = resources;
            record.container.state = ContainerState::Created;
        };
        // Stored meanwhile: recovery looks whether both parts are there.
        entry.set_rootfs(entry.save_during(&self.deps, created, act).await?);
        Ok(hold)
    }

    async fn prepare_rootfs(
        &self,
        entry: &Entry,
        pod: &PodContext,
        image: &Image,
    ) -> Result<Vec<RootfsMount>, Error> {
        let (key, snapshotter) = (entry.id.as_str(), pod.handler.snapshotter.as_str());
        let labels = snapshot_labels(&entry.config().annotations);
        let options = RootfsOptions { labels, id_mappings: pod.config.id_mappings() };
        let chain = image.chain_id.as_ref();
        let runtime = &self.deps.runtime;
        let make = || runtime.prepare_rootfs(snapshotter, key, chain, &options);
        let made = self.deps.images.on_snapshots(image, snapshotter, make).await?;
        made.step("prepare the root file system")
    }

    /// Describes the container for containerd, with the plugins' changes; also returns the hold on
    /// plugins.
    async fn describe(
        &self,
        entry: &Entry,
        pod: &PodContext,
        image: &Image,
        Found { host, user, volumes }: Found<'_>,
    ) -> Result<(Hold, RuntimeContainer), Error> {
        let mut record = ContainerRecord::clone(&entry.record());
        record.container.user = user.clone();
        let config = &record.container.config;
        let namespaces = PodNamespaces {
            pause_pid: pod.pause_pid,
            netns: pod.netns.clone(),
            userns: pod.userns.clone(),
            target_pid: host.target_pid,
        };
        let spec = container_spec(&ContainerInput {
            id: &entry.id,
            pod_id: &pod.id,
            pod: &pod.config,
            config,
            image: &image.config,
            image_name: &record.image_name,
            user,
            namespaces: &namespaces,
            files: &pod.files,
            mounts: &host.mounts,
            volumes,
            devices: &host.devices,
            seccomp_profile: host.seccomp.as_ref(),
            hostname: &pod.hostname,
            selinux_level: pod.selinux_level.as_deref(),
            facts: self.deps.host.facts(),
            handler: &pod.handler,
            features: &pod.features,
            settings: &self.options.oci,
        })?;
        let mut spec = spec_json(&spec);
        cdi::apply(&mut spec, &host.cdi);
        let mut labels: StringMap = record_labels(&image.config.labels, &config.labels);
        add_identity(&mut labels, &pod.config.metadata, Some(&config.metadata.name));
        labels.insert(KIND_LABEL.to_owned(), "container".to_owned());
        let (hold, spec) = self.ask_about_new(entry, pod, &labels, spec).await?;
        entry.set_process(&spec);
        record.container.resources = resources_of(&spec);
        let container = RuntimeContainer {
            id: entry.id.to_string(),
            image: record.image_name.clone(),
            labels,
            sandbox: Some(pod.id.to_string()),
            handler: pod.handler.clone(),
            spec,
            snapshot_key: Some(entry.id.to_string()),
            extension: to_json("the container's record", &record)?,
        };
        Ok((hold, container))
    }

    /// Undoes a failed creation. Its name is free for a retry at once; what cannot be removed now
    /// is tried again until it is gone.
    async fn undo_create(self: &Arc<Self>, entry: &Arc<Entry>, error: Arc<Error>) {
        entry.failure.get_or_init(|| error);
        self.tell_removed(entry).await;
        let undone = self.destroy(entry).await;
        self.forget(entry);
        if let Err(undo) = undone {
            tracing::warn!(container = %entry.id, error = error_chain(&undo),
                "cannot undo container creation yet");
            // For the next agent, since the row may say that it was created.
            let unwanted = entry.save_end(&self.deps, |record| record.removing = true).await;
            if let Err(error) = unwanted {
                tracing::warn!(container = %entry.id, error = error_chain(&error),
                    "cannot store that a container is to be removed");
            }
            let (room, entry) = (self.clone(), entry.clone());
            drop(self.deps.tasks.spawn_until_drain("container-undo", async move {
                Backoff::of_undo().retry_later(|| room.destroy(&entry)).await
            }));
        }
    }

    /// Removes a container from the in-memory maps.
    pub(super) fn forget(&self, entry: &Entry) {
        self.entries().remove(&entry.id);
        let name = entry.config().metadata.clone();
        self.names.release(&entry.pod, &name, &entry.id);
    }

    /// Removes a container's row from the store.
    pub(super) async fn erase(&self, entry: &Entry) -> Result<(), Error> {
        let batch = Batch::new().delete::<ContainerRecord>(entry.id.as_str());
        self.deps.store.write(batch).await?;
        Ok(())
    }
}

/// The signal that an image wants to be stopped with.
fn stop_signal_of(image: &Image, id: &ContainerId) -> Signal {
    match image.config.stop_signal.as_str() {
        "" => Signal::TERM,
        // The image's word, not the caller's: no reason not to run it.
        text => Signal::parse(text).unwrap_or_else(|error| {
            tracing::warn!(container = %id, error = error_chain(&error),
                "invalid StopSignal in image");
            Signal::TERM
        }),
    }
}

/// A fault of what was asked for, by its place in the request.
fn in_request(error: oci::Error) -> Error {
    match error {
        oci::Error::Invalid { field, problem } => {
            Error::invalid(format!("config.{field}"), problem)
        }
        error @ (oci::Error::Unsupported { .. } | oci::Error::RecursiveReadOnly { .. }) => {
            Error::Unsupported(error.to_string())
        }
        other => other.into(),
    }
}

/// What was found for a spec on the host and in the image.
struct Found<'a> {
    host: &'a HostParts,
    user: &'a ResolvedUser,
    /// Anonymous volumes, as pairs of container path and host directory.
    volumes: &'a [(String, PathBuf)],
}

fn to_json(what: &'static str, value: &impl serde::Serialize) -> Result<serde_json::Value, Error> {
    serde_json::to_value(value).map_err(|error| Error::invalid(what, error.to_string()))
}
