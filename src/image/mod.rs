//! Images: references, pulls, names, removal, disk use.
//!
//! All containerd versions use one pull path: registry -> content store -> unpack, under a lease.
//! Stored images are read once and cached in an index in memory, which serves container creations
//! and a kubelet's regular calls.

mod archive;
mod content;
mod credentials;
mod error;
mod index;
#[doc(hidden)]
pub mod manifest;
mod meter;
mod mirrors;
mod naming;
mod platform;
mod progress;
mod pull;
mod reference;
mod registry;
mod room;
mod unpack;
mod usage;

pub use archive::{Broken, LoadOptions, Loaded, Saved, Upload};
pub use credentials::{Credentials, docker_credentials};
pub use error::Error;
pub use platform::Platform;
pub use progress::{PullProgress, PullState};
pub use reference::Reference;
#[doc(hidden)]
pub use registry::challenges;
pub(crate) use registry::tls::{accept_any_certificate, common_verifier};
pub use usage::FsInfo;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};

use self::error::Step;
use self::index::{Index, Snapshot};
use self::reference::Name;
use crate::backend;
use crate::lifecycle::Tasks;
use crate::locks::{KeyedLocks, Mutex};
use crate::model::StringMap;
use crate::model::image::{Digest, Image};

/// Label of images managed by CRI, the same as containerd's own plugin sets.
const MANAGED_LABEL: &str = "io.cri-containerd.image";
/// Label of images that are never garbage-collected.
const PINNED_LABEL: &str = "io.cri-containerd.pinned";

/// Settings of the image room.
#[derive(Debug, Clone)]
pub struct Options {
    /// Snapshotter to unpack with if the runtime handler has none of its own.
    pub snapshotter: String,
    /// The snapshotter of each runtime handler.
    pub handlers: BTreeMap<String, String>,
    /// The platform for which an image of an index is chosen.
    pub platform: Platform,
    /// Directories with a directory for each registry host (`hosts.toml`); the first one that has
    /// the host is used.
    pub config_dirs: Vec<PathBuf>,
    /// Credentials by registry host, for pulls without credentials.
    pub registry_auth: BTreeMap<String, Credentials>,
    /// A docker `config.json` with more credentials.
    pub docker_config: Option<PathBuf>,
    /// A pull fails when no byte arrives for this long.
    pub no_progress_timeout: Duration,
    /// Maximum number of concurrent layer downloads of one image.
    pub max_concurrent_layers: usize,
    /// Maximum number of concurrent pulls; others wait.
    pub max_concurrent_pulls: usize,
    /// Pulls and loads end when less than this percentage of the disk of the snapshots is free; 0
    /// for never.
    pub min_free_percent: u32,
    /// First delay before a failed request is repeated.
    pub retry_delay: Duration,
    /// Images that are never garbage-collected, e.g. a configured pause image.
    pub pinned: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            snapshotter: "overlayfs".to_owned(),
            handlers: BTreeMap::new(),
            platform: Platform::host(),
            config_dirs: vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()],
            registry_auth: BTreeMap::new(),
            docker_config: None,
            no_progress_timeout: Duration::from_secs(300),
            max_concurrent_layers: 3,
            max_concurrent_pulls: 16,
            min_free_percent: 1,
            retry_delay: Duration::from_millis(200),
            pinned: Vec::new(),
        }
    }
}

/// The image service.
pub struct Images {
    inner: Arc<Inner>,
}

/// The state shared by the parts of this room.
struct Inner {
    store: Arc<dyn backend::Images>,
    runtime: Arc<dyn backend::Runtime>,
    tasks: Tasks,
    platform: Platform,
    registry: registry::Registry,
    index: Index,
    flights: pull::Flights,
    /// Places of pulls.
    places: Semaphore,
    blob_locks: KeyedLocks,
    chain_locks: KeyedLocks,
    announcer: progress::Announcer,
    usage: usage::Usage,
    holds: Arc<Holds>,
    options: Options,
}

type Holds = Mutex<HashMap<Digest, usize>>;

/// Prevents the removal of an image until it is dropped.
pub struct Hold {
    id: Digest,
    holds: Arc<Holds>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock();
        if let Some(count) = holds.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.id);
            }
        }
    }
}

impl Images {
    /// Creates the service; `runtime` is queried for the snapshotters' directories.
    pub fn new(
        backend: Arc<dyn backend::Images>,
        runtime: Arc<dyn backend::Runtime>,
        tasks: Tasks,
        options: Options,
    ) -> Arc<Self> {
        let inner = Inner {
            store: backend,
            runtime,
            tasks,
            platform: options.platform.clone(),
            registry: registry::Registry::new(&options),
            index: Index::new(&options.pinned),
            flights: pull::Flights::default(),
            places: Semaphore::new(options.max_concurrent_pulls.max(1)),
            blob_locks: KeyedLocks::default(),
            chain_locks: KeyedLocks::default(),
            announcer: progress::Announcer::new(),
            usage: usage::Usage::default(),
            holds: Arc::default(),
            options,
        };
        Arc::new(Self { inner: Arc::new(inner) })
    }

    /// Pulls an image and returns it. Concurrent pulls of one image share one download, which
    /// continues only while somebody waits for it. If the image is already complete, only the
    /// registry is asked for its digest.
    ///
    /// # Errors
    /// Any [`Error`] of a registry or the store; then nothing of the pull is left.
    pub async fn pull(
        &self,
        image: &str,
        credentials: Option<Credentials>,
    ) -> Result<Image, Error> {
        self.pull_for("", image, credentials).await
    }

    /// Like [`Images::pull`], unpacked for this runtime handler; empty for the default one.
    ///
    /// # Errors
    /// [`Error::UnknownHandler`], otherwise as [`Images::pull`].
    pub async fn pull_for(
        &self,
        handler: &str,
        image: &str,
        credentials: Option<Credentials>,
    ) -> Result<Image, Error> {
        let snapshotter = self.inner.snapshotter_of(handler)?;
        self.inner.pull(image, credentials, snapshotter).await.map(Arc::unwrap_or_clone)
    }

    /// All images, one for each id, sorted by id. A filter names one image; an unknown name matches
    /// nothing.
    ///
    /// # Errors
    /// When the store fails, or the filter is ambiguous.
    pub async fn list(&self, filter: Option<&str>) -> Result<Vec<Image>, Error> {
        let images = self.inner.look().await?;
        let Some(filter) = filter else {
            return Ok(images.all().map(|image| Image::clone(image)).collect());
        };
        match Name::parse(filter) {
            Ok(name) => {
                Ok(images.find(&name)?.map(|image| Image::clone(image)).into_iter().collect())
            }
            Err(_) => Ok(Vec::new()),
        }
    }

    /// One image by id, unique id prefix, tag, digest reference or short name; `None` if unknown.
    ///
    /// # Errors
    /// [`Error::InvalidReference`], [`Error::AmbiguousId`], or a failure of the store.
    pub async fn get(&self, image: &str) -> Result<Option<Image>, Error> {
        let name = Name::parse(image)?;
        let images = self.inner.look().await?;
        Ok(images.find(&name)?.map(|image| Image::clone(image)))
    }

    /// Like [`Images::get`], but if this runtime handler has its own snapshotter, only if the image
    /// is unpacked for it.
    ///
    /// # Errors
    /// [`Error::UnknownHandler`], otherwise as [`Images::get`].
    pub async fn get_for(&self, handler: &str, image: &str) -> Result<Option<Image>, Error> {
        let snapshotter = self.inner.snapshotter_of(handler)?;
        let image = self.get(image).await?;
        let Some(image) = image else { return Ok(None) };
        let Some(chain) = &image.chain_id else { return Ok(Some(image)) };
        if snapshotter == self.inner.options.snapshotter {
            return Ok(Some(image));
        }
        let there = self.inner.store.has_chain(snapshotter, chain, None).await;
        Ok(there.step("looking for a snapshot")?.then_some(image))
    }

    /// The complete configuration document of an image.
    ///
    /// # Errors
    /// A failure of the store, or [`Error::BadContent`].
    pub async fn document(&self, image: &Image) -> Result<serde_json::Value, Error> {
        let bytes = self.inner.store.read_blob(&image.id, manifest::MAX_CONFIG).await;
        let bytes = bytes.step("reading an image's configuration")?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::bad(image.id.to_string(), error.to_string()))
    }

    /// Removes all names of an image's id; an unknown image is fine. Running containers keep their
    /// own snapshots.
    ///
    /// # Errors
    /// [`Error::InUse`] while it is held, otherwise as [`Images::get`].
    pub async fn remove(&self, image: &str) -> Result<(), Error> {
        self.inner.remove(image).await
    }

    /// Disk use: first of the default snapshotter together with the content store, then of each
    /// other snapshotter of a handler. Cached for up to 10 s, or until an image changes.
    ///
    /// # Errors
    /// When the store fails, or has no such snapshotter.
    pub async fn fs_info(&self) -> Result<Vec<FsInfo>, Error> {
        self.inner.fs_info().await
    }

    /// A directory on the disk of the images: that of the default snapshotter.
    ///
    /// # Errors
    /// When the daemon fails, or has no such snapshotter.
    pub async fn folder(&self) -> Result<PathBuf, Error> {
        self.inner.folder().await
    }

    /// Makes something on top of an image's snapshots. When it is told that they are not found
    /// (collected, or never made in this snapshotter) the image is unpacked again and `make` is
    /// tried once more; what it says is the inner result.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when the image's layers are missing too.
    pub async fn on_snapshots<T, F>(
        &self,
        image: &Image,
        snapshotter: &str,
        make: impl Fn() -> F,
    ) -> Result<backend::Result<T>, Error>
    where
        F: Future<Output = backend::Result<T>>,
    {
        match make().await {
            Err(error) if error.is_not_found() => {
                self.inner.ensure_unpacked(image, snapshotter).await?;
                Ok(make().await)
            }
            made => Ok(made),
        }
    }

    /// Notes that image names in the store may have changed, so that the next reader lists them
    /// again.
    pub fn invalidate(&self) {
        self.inner.index.invalidate();
    }

    /// Prevents the removal of an image, e.g. while it is mounted as a volume.
    pub fn hold(&self, id: &Digest) -> Hold {
        let holds = Arc::clone(&self.inner.holds);
        *holds.lock().entry(id.clone()).or_default() += 1;
        Hold { id: id.clone(), holds }
    }

    /// Subscribes to the progress of pulls. A slow reader misses the oldest events.
    pub fn progress(&self) -> broadcast::Receiver<PullProgress> {
        self.inner.announcer.subscribe()
    }
}

impl Inner {
    async fn look(&self) -> Result<Arc<Snapshot>, Error> {
        self.index.look(&*self.store, &self.platform, &self.options.snapshotter).await
    }

    /// The image of a whole id, which must be there.
    async fn get_by_id(&self, id: &Digest) -> Result<Arc<Image>, Error> {
        let images = self.look().await?;
        let found = images.find(&Name::Id(id.clone()))?;
        found.cloned().ok_or_else(|| Error::Incomplete { id: id.clone() })
    }

    fn snapshotter_of(&self, handler: &str) -> Result<&str, Error> {
        match (handler, self.options.handlers.get(handler)) {
            (_, Some(snapshotter)) => Ok(snapshotter),
            ("", None) => Ok(&self.options.snapshotter),
            _ => Err(Error::UnknownHandler(handler.to_owned())),
        }
    }

    fn is_pinned(&self, name: &str) -> bool {
        self.index.is_pinned(name)
    }

    fn name_labels(&self, pinned: bool) -> StringMap {
        let managed = (MANAGED_LABEL.to_owned(), "managed".to_owned());
        let pinned = pinned.then(|| (PINNED_LABEL.to_owned(), "pinned".to_owned()));
        [managed].into_iter().chain(pinned).collect()
    }

    async fn remove(&self, image: &str) -> Result<(), Error> {
        let name = Name::parse(image)?;
        let images = self.look().await?;
        let Some(found) = images.find(&name)? else {
            return self.remove_broken(&name).await;
        };
        let held = self.holds.lock().contains_key(&found.id);
        if held {
            return Err(Error::InUse { id: found.id.clone() });
        }
        let records = images.records(&found.id);
        let removed = self.remove_names(&records).await;
        self.index.invalidate();
        tracing::info!(id = %found.id, names = records.len(), "image removed");
        removed
    }

    /// The last removal waits for garbage collection, so that the disk space is free on return.
    async fn remove_names(&self, names: &[String]) -> Result<(), Error> {
        for (n, name) in names.iter().enumerate() {
            let last = n + 1 == names.len();
            self.store.delete_image(name, last).await.step("removing an image name")?;
        }
        Ok(())
    }

    /// Removes a name whose image is unusable and therefore in no list.
    async fn remove_broken(&self, name: &Name) -> Result<(), Error> {
        let record = match name {
            Name::Id(id) => id.to_string(),
            Name::Reference { reference: Some(reference), .. } => reference.to_string(),
            Name::Reference { reference: None, .. } => return Ok(()),
        };
        if self.store.image(&record).await.step("looking for an image name")?.is_some() {
            self.remove_names(&[record]).await?;
            self.index.invalidate();
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
