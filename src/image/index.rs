//! The images of this host, cached in memory: every `CreateContainer` and a kubelet's regular calls
//! need them.
//!
//! containerd's store is authoritative. A change (the agent's own, or an event) only marks the
//! index stale. The next reader lists the names again, and reads documents only of new targets,
//! since content never changes under its digest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::content::stored_image;
use super::error::Step;
use super::platform::Platform;
use super::reference::{Name, Reference};
use super::{Error, PINNED_LABEL};
use crate::backend::{self, ImageRecord};
use crate::locks::{Mutex, MutexGuard};
use crate::model::image::{Digest, Image};

/// A consistent snapshot of all images.
#[derive(Default)]
pub(super) struct Snapshot {
    images: BTreeMap<Digest, Arc<Image>>,
    /// Record names, and their normalised form if that differs.
    names: HashMap<String, Named>,
    /// Record names of each image.
    records: HashMap<Digest, Vec<String>>,
}

#[derive(Clone)]
struct Named {
    id: Digest,
    target: Digest,
}

/// The index.
pub(super) struct Index {
    /// Incremented by each change.
    generation: AtomicU64,
    /// Names pinned by the operator, normalised.
    pinned: BTreeSet<String>,
    state: Mutex<State>,
    /// Held during a refresh; other readers wait for it.
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// The generation of `snapshot`.
    shown: u64,
    snapshot: Arc<Snapshot>,
    /// Images by target, without their names.
    known: HashMap<Digest, Arc<Image>>,
}

impl Index {
    pub fn new(pinned: &[String]) -> Self {
        let normal = |name: &String| Some(Reference::parse(name).ok()?.to_string());
        Self {
            generation: AtomicU64::new(1),
            pinned: pinned.iter().filter_map(normal).collect(),
            state: Mutex::default(),
            refreshing: tokio::sync::Mutex::new(()),
        }
    }

    /// Whether the operator pinned a name, given in normalised form.
    pub fn is_pinned(&self, name: &str) -> bool {
        self.pinned.contains(name)
    }

    /// Incremented whenever names may have changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Notes that names may have changed.
    pub fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Adds an image that was just stored, so that it need not be read again.
    pub fn learn(&self, image: Image) {
        self.lock().known.insert(image.target.digest.clone(), Arc::new(image));
    }

    /// Forgets an image whose snapshot turned out to be missing, so that it is read again.
    pub fn forget(&self, target: &Digest) {
        self.lock().known.remove(target);
        self.invalidate();
    }

    /// The current images.
    pub async fn look(
        &self,
        store: &dyn backend::Images,
        platform: &Platform,
        snapshotter: &str,
    ) -> Result<Arc<Snapshot>, Error> {
        if let Some(snapshot) = self.fresh() {
            return Ok(snapshot);
        }
        let _one = self.refreshing.lock().await;
        if let Some(snapshot) = self.fresh() {
            return Ok(snapshot);
        }
        // Read before the list, so that a change during the listing leaves the result stale.
        let generation = self.generation.load(Ordering::Acquire);
        let records = store.list_images().await.step("listing images")?;
        let mut known = HashMap::new();
        for record in &records {
            let target = &record.target;
            if known.contains_key(&target.digest) {
                continue;
            }
            let before = self.lock().known.get(&target.digest).cloned();
            let image = match before {
                Some(image) => Some(image),
                None => stored_image(store, target, platform, snapshotter).await?.map(Arc::new),
            };
            known.extend(image.map(|image| (target.digest.clone(), image)));
        }
        let snapshot = Arc::new(Snapshot::build(&records, &known, &self.pinned));
        let mut state = self.lock();
        *state = State { shown: generation, snapshot: Arc::clone(&snapshot), known };
        Ok(snapshot)
    }

    fn fresh(&self) -> Option<Arc<Snapshot>> {
        let generation = self.generation.load(Ordering::Acquire);
        let state = self.lock();
        (state.shown == generation).then(|| Arc::clone(&state.snapshot))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Snapshot {
    fn build(
        records: &[ImageRecord],
        known: &HashMap<Digest, Arc<Image>>,
        pinned: &BTreeSet<String>,
    ) -> Self {
        let mut images: BTreeMap<Digest, Image> = BTreeMap::new();
        let mut snapshot = Self::default();
        for record in records {
            let Some(bare) = known.get(&record.target.digest) else { continue };
            let named = Named { id: bare.id.clone(), target: record.target.digest.clone() };
            let image = images.entry(bare.id.clone()).or_insert_with(|| Image::clone(bare));
            image.pinned |= record.labels.get(PINNED_LABEL).is_some_and(|value| value == "pinned");
            // A bare id would also parse as a tag of a repository named sha256.
            if Digest::try_from(record.name.as_str()).is_err()
                && let Ok(reference) = Reference::parse(&record.name)
            {
                let normal = reference.to_string();
                image.pinned |= pinned.contains(&normal);
                snapshot.names.insert(normal.clone(), named.clone());
                let list = if reference.digest().is_some() {
                    &mut image.repo_digests
                } else {
                    &mut image.repo_tags
                };
                if !list.contains(&normal) {
                    list.push(normal);
                }
            }
            snapshot.names.insert(record.name.clone(), named);
            snapshot.records.entry(bare.id.clone()).or_default().push(record.name.clone());
        }
        for image in images.values_mut() {
            image.repo_tags.sort();
            image.repo_digests.sort();
        }
        snapshot.images = images.into_iter().map(|(id, image)| (id, Arc::new(image))).collect();
        snapshot
    }

    /// All images, by id.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values()
    }

    /// The image that a caller names. A reference takes precedence over an id prefix.
    pub fn find(&self, name: &Name) -> Result<Option<&Arc<Image>>, Error> {
        let (reference, prefix) = match name {
            Name::Id(id) => return Ok(self.images.get(id)),
            Name::Reference { reference, prefix } => (reference, prefix),
        };
        let named = reference.as_ref().and_then(|reference| self.names.get(&reference.to_string()));
        if let Some(named) = named {
            return Ok(self.images.get(&named.id));
        }
        let Some(prefix) = prefix else { return Ok(None) };
        let mut found = self.images.values().filter(|image| image.id.hex().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(Error::AmbiguousId(prefix.clone())),
            (one, _) => Ok(one),
        }
    }

    /// Whether a reference is a name of this image rather than a prefix of its id.
    pub fn is_name_of(&self, reference: &Reference, id: &Digest) -> bool {
        self.names.get(&reference.to_string()).is_some_and(|named| named.id == *id)
    }

    /// The record names of an image. The id comes last: its record holds the content until the end.
    pub fn records(&self, id: &Digest) -> Vec<String> {
        let mut names = self.records.get(id).cloned().unwrap_or_default();
        names.sort_by_key(|name| (name == id.as_str(), name.clone()));
        names
    }

    /// The image, if all of these records exist and point at this target.
    pub fn complete(&self, target: &Digest, names: &[String]) -> Option<&Arc<Image>> {
        let named = self.names.get(names.first()?)?;
        let same = |name| self.names.get(name).is_some_and(|named| named.target == *target);
        // A complete pull also has a record named by the bare id.
        let whole = names.iter().all(same) && self.names.contains_key(named.id.as_str());
        whole.then(|| self.images.get(&named.id)).flatten()
    }
}
