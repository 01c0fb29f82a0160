//! A store in memory that collects garbage as containerd does: after each synchronous release or
//! delete it removes everything that neither a name nor a lease references through labels.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;

use crate::backend::{
    BlobBytes, BlobInfo, BlobWriter, DiskSpace, Error, ErrorKind, FsUsage, ImageRecord, Images,
    LayerUnpack, Lease, Result,
};
use crate::model::StringMap;
use crate::model::image::{ChainId, Descriptor, Digest};

#[derive(Default)]
pub struct Store {
    state: Arc<Mutex<State>>,
    /// Whether unpacking fails.
    pub fail_unpack: AtomicBool,
    /// Prefix of the next name whose update fails.
    pub fail_put: Mutex<Option<String>>,
    /// A blob that cannot be read, and why.
    pub fail_read: Mutex<Option<(Digest, ErrorKind)>>,
    /// Space on its disk.
    pub disk: Mutex<DiskSpace>,
    /// The step that never ends: `unpack`, or the opening of the ingest of this name.
    pub hang: Mutex<String>,
    /// How many steps have not ended.
    pub hung: AtomicUsize,
    pub lists: AtomicUsize,
    pub reads: AtomicUsize,
    pub leases_made: AtomicUsize,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<Digest, (Bytes, StringMap)>,
    ingests: HashMap<String, (Vec<u8>, bool)>,
    leases: HashMap<String, HashSet<String>>,
    /// The parent chain, by snapshotter and chain.
    snapshots: BTreeMap<(String, ChainId), Option<ChainId>>,
    images: BTreeMap<String, ImageRecord>,
}

fn fail<T>(kind: ErrorKind, tried: &str) -> Result<T> {
    Err(Error::new(kind, tried))
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Names, and numbers of blobs, snapshots, ingests and leases, after a collection.
    pub fn census(&self) -> (Vec<String>, usize, usize, usize, usize) {
        let mut state = self.lock();
        state.collect();
        let names = state.images.keys().cloned().collect();
        let sizes = (state.blobs.len(), state.snapshots.len());
        (names, sizes.0, sizes.1, state.ingests.len(), state.leases.len())
    }

    pub fn is_empty(&self) -> bool {
        self.census() == (Vec::new(), 0, 0, 0, 0)
    }

    pub fn put_ingest(&self, name: &str, bytes: &[u8]) {
        self.lock().ingests.insert(name.into(), (bytes.to_vec(), false));
    }

    pub fn record(&self, name: &str) -> Option<ImageRecord> {
        self.lock().images.get(name).cloned()
    }

    /// Sets a name as another client would.
    pub fn tag(&self, record: ImageRecord) {
        self.lock().images.insert(record.name.clone(), record);
    }

    pub fn lose_snapshots(&self) {
        self.lock().snapshots.clear();
    }

    pub fn lose_blob(&self, digest: &Digest) {
        self.lock().blobs.remove(digest);
    }

    pub fn labels(&self, digest: &Digest) -> StringMap {
        self.lock().blobs[digest].1.clone()
    }

    /// Stores blobs under a new lease.
    pub async fn keep_all(&self, files: &BTreeMap<String, Vec<u8>>) -> Lease {
        let lease = self.lease().await.unwrap();
        let mut state = self.lock();
        for bytes in files.values() {
            let digest = Digest::of(bytes);
            state.hold(Some(&lease), digest.to_string()).unwrap();
            let bytes = Bytes::copy_from_slice(bytes);
            state.blobs.entry(digest).or_insert_with(|| (bytes, StringMap::new()));
        }
        lease
    }

    async fn may_hang(&self, step: &str) {
        let hangs = *self.hang.lock().unwrap() == step;
        if hangs {
            self.hung.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
    }

    pub fn bytes(&self, digest: &Digest) -> Bytes {
        self.lock().blobs[digest].0.clone()
    }

    fn open_ingest(
        &self,
        lease: &Lease,
        ingest: &str,
        digest: Option<Digest>,
        size: u64,
    ) -> Result<Box<dyn BlobWriter>> {
        let mut state = self.lock();
        let (_, locked) = state.ingests.entry(ingest.to_owned()).or_default();
        if std::mem::replace(locked, true) {
            return fail(ErrorKind::Unavailable, "write blob: locked");
        }
        Ok(Box::new(Writer {
            state: Arc::clone(&self.state),
            lease: lease.clone(),
            name: ingest.to_owned(),
            digest,
            size,
            ended: false,
        }))
    }
}

impl State {
    fn collect(&mut self) {
        let mut todo: Vec<String> = self.leases.values().flatten().cloned().collect();
        todo.extend(self.images.values().map(|image| image.target.digest.to_string()));
        let mut kept = BTreeSet::new();
        while let Some(item) = todo.pop() {
            if !kept.insert(item.clone()) {
                continue;
            }
            if let Some(place) = item.strip_prefix("snapshot ") {
                let (snapshotter, chain) = place.split_once(' ').unwrap();
                let place = (snapshotter.to_owned(), Digest::try_from(chain).unwrap());
                let parent = self.snapshots.get(&place).into_iter().flatten();
                todo.extend(parent.map(|parent| format!("snapshot {snapshotter} {parent}")));
            } else if let Some((_, labels)) = self.blobs.get(&Digest::try_from(&*item).unwrap()) {
                for (key, value) in labels {
                    if key.starts_with("containerd.io/gc.ref.content") {
                        todo.push(value.clone());
                    } else if let Some(snapshotter) =
                        key.strip_prefix("containerd.io/gc.ref.snapshot.")
                    {
                        todo.push(format!("snapshot {snapshotter} {value}"));
                    }
                }
            }
        }
        self.blobs.retain(|digest, _| kept.contains(digest.as_str()));
        self.snapshots
            .retain(|(name, chain), _| kept.contains(&format!("snapshot {name} {chain}")));
    }

    fn hold(&mut self, lease: Option<&Lease>, item: String) -> Result<()> {
        let Some(lease) = lease else { return Ok(()) };
        match self.leases.get_mut(&lease.0) {
            Some(held) => drop(held.insert(item)),
            None => return fail(ErrorKind::NotFound, "use lease"),
        }
        Ok(())
    }
}

struct Writer {
    state: Arc<Mutex<State>>,
    lease: Lease,
    name: String,
    digest: Option<Digest>,
    size: u64,
    ended: bool,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        if !self.ended
            && let Some(ingest) = state.ingests.get_mut(&self.name)
        {
            ingest.1 = false;
        }
    }
}

#[async_trait]
impl BlobWriter for Writer {
    fn offset(&self) -> u64 {
        self.state.lock().unwrap().ingests[&self.name].0.len() as u64
    }

    async fn truncate(&mut self) -> Result<()> {
        self.state.lock().unwrap().ingests.get_mut(&self.name).unwrap().0.clear();
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        assert!(!bytes.is_empty(), "empty writes only cost");
        let mut state = self.state.lock().unwrap();
        state.ingests.get_mut(&self.name).unwrap().0.extend_from_slice(&bytes);
        Ok(())
    }

    fn expect(&mut self, digest: &Digest) {
        self.digest = Some(digest.clone());
    }

    async fn commit(mut self: Box<Self>, labels: &StringMap) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let digest = self.digest.clone().expect("it was told");
        let bytes = Bytes::from(state.ingests[&self.name].0.clone());
        if bytes.len() as u64 != self.size || Digest::of(&bytes) != digest {
            return fail(ErrorKind::FailedPrecondition, "commit");
        }
        state.ingests.remove(&self.name);
        state.hold(Some(&self.lease), digest.to_string())?;
        state.blobs.entry(digest).or_insert_with(|| (bytes, labels.clone()));
        drop(state);
        self.ended = true;
        Ok(())
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.state.lock().unwrap().ingests.remove(&self.name);
        self.ended = true;
        Ok(())
    }
}

#[async_trait]
impl Images for Store {
    async fn lease(&self) -> Result<Lease> {
        let lease = format!("lease-{}", self.leases_made.fetch_add(1, Ordering::Relaxed));
        self.lock().leases.insert(lease.clone(), HashSet::new());
        Ok(Lease(lease))
    }

    async fn release(&self, lease: &Lease, sync: bool) -> Result<()> {
        let mut state = self.lock();
        state.leases.remove(&lease.0);
        if sync {
            state.collect();
        }
        Ok(())
    }

    async fn list_leases(&self) -> Result<Vec<Lease>> {
        Ok(self.lock().leases.keys().cloned().map(Lease).collect())
    }

    async fn blob(&self, digest: &Digest, lease: Option<&Lease>) -> Result<Option<BlobInfo>> {
        let mut state = self.lock();
        let found = state
            .blobs
            .get(digest)
            .map(|(bytes, labels)| BlobInfo { size: bytes.len() as u64, labels: labels.clone() });
        if found.is_some() {
            state.hold(lease, digest.to_string())?;
        }
        Ok(found)
    }

    async fn read_blob(&self, digest: &Digest, max: usize) -> Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let failing = self.fail_read.lock().unwrap().clone();
        if let Some((_, kind)) = failing.filter(|(failing, _)| failing == digest) {
            return fail(kind, "read blob");
        }
        match self.lock().blobs.get(digest) {
            Some((bytes, _)) if bytes.len() <= max => Ok(bytes.clone()),
            Some(_) => fail(ErrorKind::InvalidArgument, "read blob"),
            None => fail(ErrorKind::NotFound, "read blob"),
        }
    }

    async fn open_blob(&self, digest: &Digest) -> Result<BlobBytes> {
        let bytes = self.read_blob(digest, usize::MAX).await?;
        let pieces: Vec<_> = bytes.chunks(100_000).map(|it| Ok(bytes.slice_ref(it))).collect();
        Ok(Box::pin(futures::stream::iter(pieces)))
    }

    async fn write_blob(
        &self,
        lease: &Lease,
        ingest: &str,
        blob: &Descriptor,
    ) -> Result<Box<dyn BlobWriter>> {
        self.may_hang(ingest).await;
        let mut state = self.lock();
        if state.blobs.contains_key(&blob.digest) {
            state.hold(Some(lease), blob.digest.to_string())?;
            return fail(ErrorKind::AlreadyExists, "write blob");
        }
        drop(state);
        self.open_ingest(lease, ingest, Some(blob.digest.clone()), blob.size)
    }

    async fn write_unnamed(
        &self,
        lease: &Lease,
        ingest: &str,
        size: u64,
    ) -> Result<Box<dyn BlobWriter>> {
        self.open_ingest(lease, ingest, None, size)
    }

    async fn label_blob(&self, digest: &Digest, labels: &StringMap) -> Result<()> {
        match self.lock().blobs.get_mut(digest) {
            Some((_, have)) => have.extend(labels.clone()),
            None => return fail(ErrorKind::NotFound, "label blob"),
        }
        Ok(())
    }

    async fn has_chain(
        &self,
        snapshotter: &str,
        chain: &ChainId,
        lease: Option<&Lease>,
    ) -> Result<bool> {
        let mut state = self.lock();
        let found = state.snapshots.contains_key(&(snapshotter.to_owned(), chain.clone()));
        if found {
            state.hold(lease, format!("snapshot {snapshotter} {chain}"))?;
        }
        Ok(found)
    }

    async fn unpack(&self, layer: LayerUnpack<'_>) -> Result<()> {
        if self.fail_unpack.load(Ordering::Relaxed) {
            return fail(ErrorKind::Other, "apply layer");
        }
        self.may_hang("unpack").await;
        let mut state = self.lock();
        let Some((bytes, _)) = state.blobs.get(&layer.layer.digest) else {
            return fail(ErrorKind::NotFound, "apply layer");
        };
        let mut plain = bytes.to_vec();
        if layer.layer.media_type.ends_with("gzip") {
            plain.clear();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        }
        if Digest::of(&plain) != *layer.diff_id {
            return fail(ErrorKind::FailedPrecondition, "apply layer");
        }
        let place = |chain: &ChainId| (layer.snapshotter.to_owned(), chain.clone());
        let below = layer.parent.is_none_or(|p| state.snapshots.contains_key(&place(p)));
        assert!(below, "layers are unpacked bottom up");
        state.snapshots.insert(place(layer.chain), layer.parent.cloned());
        state.hold(Some(layer.lease), format!("snapshot {} {}", layer.snapshotter, layer.chain))
    }

    async fn image(&self, name: &str) -> Result<Option<ImageRecord>> {
        Ok(self.record(name))
    }

    async fn list_images(&self) -> Result<Vec<ImageRecord>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        Ok(self.lock().images.values().cloned().collect())
    }

    async fn put_image(&self, record: &ImageRecord, _: Option<&Lease>) -> Result<()> {
        let failing = self.fail_put.lock().unwrap().clone();
        if failing.is_some_and(|prefix| record.name.starts_with(&prefix)) {
            return fail(ErrorKind::Unavailable, "put image");
        }
        self.tag(record.clone());
        Ok(())
    }

    async fn delete_image(&self, name: &str, sync: bool) -> Result<()> {
        let mut state = self.lock();
        state.images.remove(name);
        if sync {
            state.collect();
        }
        Ok(())
    }

    async fn snapshots_usage(&self, snapshotter: &str) -> Result<FsUsage> {
        let of = |(place, _): &(&(String, ChainId), _)| place.0 == snapshotter;
        let count = self.lock().snapshots.iter().filter(of).count();
        Ok(FsUsage { bytes: 1000 * count as u64, inodes: 5 })
    }

    async fn content_usage(&self) -> Result<FsUsage> {
        let bytes = self.lock().blobs.values().map(|(bytes, _)| bytes.len() as u64).sum();
        Ok(FsUsage { bytes, inodes: 2 })
    }

    async fn disk_space(&self, _: &Path) -> Result<DiskSpace> {
        Ok(*self.disk.lock().unwrap())
    }
}
