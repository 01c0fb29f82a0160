//! The fake image store: blobs, layers, names, leases.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::super::{
    BlobBytes, BlobInfo, BlobWriter, DiskSpace, Error, ErrorKind, FsUsage, ImageRecord, Images,
    LayerUnpack, Lease, Result, RuntimeEvent,
};
use super::content::{Blob, Content, Ingest};
use super::steps::Steps;
use super::world::{World, WorldState};
use crate::locks::{Mutex, MutexGuard};
use crate::model::StringMap;
use crate::model::image::{ChainId, Descriptor, Digest};

/// Size of the pieces in which a blob is read, in bytes.
const PIECE: usize = 64 << 10;

/// Stores images in memory; unreferenced objects are removed at once.
pub struct FakeImages(Arc<Inner>);

pub(super) struct Inner {
    steps: Steps,
    world: Arc<World>,
    content: Mutex<Content>,
}

impl FakeImages {
    pub(super) fn new(steps: Steps, world: Arc<World>) -> Self {
        Self(Arc::new(Inner { steps, world, content: Mutex::default() }))
    }

    pub(super) fn leftovers(&self) -> Vec<String> {
        let content = self.0.lock();
        let leases = content.leases.keys().map(|lease| format!("lease {lease}"));
        let ingests = content.ingests.keys().map(|ingest| format!("ingest {ingest}"));
        leases.chain(ingests).collect()
    }

    /// Changes contents and chains directly.
    pub(super) fn change(&self, work: impl FnOnce(&mut Content, &mut WorldState)) {
        work(&mut self.0.lock(), &mut self.0.world.lock());
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock()
    }

    async fn step<T>(
        &self,
        step: &'static str,
        subject: &str,
        work: impl FnOnce(&str, &mut Content) -> Result<T> + Send,
    ) -> Result<T> {
        let tried = format!("{step} {subject}");
        self.steps
            .run(step, subject, async {
                self.world.present(&tried)?;
                work(&tried, &mut self.lock())
            })
            .await
    }
}

impl Inner {
    /// Opens an ingest for a blob of this size, with its digest if known.
    async fn open_ingest(
        self: &Arc<Self>,
        step: &'static str,
        lease: &Lease,
        ingest: &str,
        digest: Option<&Digest>,
        size: u64,
    ) -> Result<Box<dyn BlobWriter>> {
        let work = |tried: &str, content: &mut Content| {
            let complete = digest.filter(|digest| content.blobs.contains_key(digest));
            let held = content.held(lease).ok_or_else(|| missing(tried, &lease.0))?;
            if let Some(digest) = complete {
                held.blobs.insert(digest.clone());
                return Err(Error::new(ErrorKind::AlreadyExists, tried));
            }
            held.ingests.insert(ingest.to_owned());
            let stored = content.ingests.entry(ingest.to_owned()).or_default();
            if stored.open {
                return Err(Error::new(ErrorKind::Unavailable, tried).because("it is locked"));
            }
            stored.open = true;
            if stored.bytes.len() as u64 > size {
                stored.bytes.clear();
            }
            Ok(stored.bytes.len() as u64)
        };
        let offset = self.step(step, ingest, work).await?;
        Ok(Box::new(Writer {
            images: Arc::clone(self),
            lease: lease.clone(),
            ingest: ingest.to_owned(),
            digest: digest.cloned(),
            size,
            offset,
        }))
    }
}

fn missing(tried: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, tried).because(format!("{what} is not there"))
}

fn wrong(tried: &str, why: &str) -> Error {
    Error::new(ErrorKind::FailedPrecondition, tried).because(why)
}

#[async_trait]
impl Images for FakeImages {
    async fn lease(&self) -> Result<Lease> {
        let work = |_: &str, content: &mut Content| {
            content.leases_made += 1;
            let lease = Lease(format!("lease-{}", content.leases_made));
            content.leases.insert(lease.0.clone(), Default::default());
            Ok(lease)
        };
        self.0.step("lease", "", work).await
    }

    async fn release(&self, lease: &Lease, _sync: bool) -> Result<()> {
        let work = |_: &str, content: &mut Content| {
            content.leases.remove(&lease.0);
            content.collect(&mut self.0.world.lock());
            Ok(())
        };
        self.0.step("release", &lease.0, work).await
    }

    async fn list_leases(&self) -> Result<Vec<Lease>> {
        let all = |_: &str, content: &mut Content| {
            Ok(content.leases.keys().cloned().map(Lease).collect())
        };
        self.0.step("list_leases", "", all).await
    }

    async fn blob(&self, digest: &Digest, lease: Option<&Lease>) -> Result<Option<BlobInfo>> {
        let work = |tried: &str, content: &mut Content| {
            let info = content.blobs.get(digest).map(|blob| BlobInfo {
                size: blob.bytes.len() as u64,
                labels: blob.labels.clone(),
            });
            if let Some(lease) = lease {
                let held = content.held(lease).ok_or_else(|| missing(tried, &lease.0))?;
                held.blobs.insert(digest.clone());
            }
            Ok(info)
        };
        self.0.step("blob", digest.as_str(), work).await
    }

    async fn read_blob(&self, digest: &Digest, max: usize) -> Result<Bytes> {
        let work = |tried: &str, content: &mut Content| {
            let blob = content.blobs.get(digest).ok_or_else(|| missing(tried, digest))?;
            if blob.bytes.len() > max {
                return Err(Error::new(ErrorKind::InvalidArgument, tried)
                    .because(format!("it is larger than {max} bytes")));
            }
            Ok(blob.bytes.clone())
        };
        self.0.step("read_blob", digest.as_str(), work).await
    }

    async fn open_blob(&self, digest: &Digest) -> Result<BlobBytes> {
        let work = |tried: &str, content: &mut Content| {
            let blob = content.blobs.get(digest).ok_or_else(|| missing(tried, digest))?;
            Ok(blob.bytes.clone())
        };
        let bytes = self.0.step("open_blob", digest.as_str(), work).await?;
        let pieces: Vec<_> = bytes.chunks(PIECE).map(|piece| Ok(bytes.slice_ref(piece))).collect();
        Ok(Box::pin(futures::stream::iter(pieces)))
    }

    async fn write_blob(
        &self,
        lease: &Lease,
        ingest: &str,
        blob: &Descriptor,
    ) -> Result<Box<dyn BlobWriter>> {
        self.0.open_ingest("write_blob", lease, ingest, Some(&blob.digest), blob.size).await
    }

    async fn write_unnamed(
        &self,
        lease: &Lease,
        ingest: &str,
        size: u64,
    ) -> Result<Box<dyn BlobWriter>> {
        self.0.open_ingest("write_unnamed", lease, ingest, None, size).await
    }

    async fn label_blob(&self, digest: &Digest, labels: &StringMap) -> Result<()> {
        let work = |tried: &str, content: &mut Content| {
            let blob = content.blobs.get_mut(digest).ok_or_else(|| missing(tried, digest))?;
            for (label, value) in labels {
                if value.is_empty() {
                    blob.labels.remove(label);
                } else {
                    blob.labels.insert(label.clone(), value.clone());
                }
            }
            Ok(())
        };
        self.0.step("label_blob", digest.as_str(), work).await
    }

    async fn has_chain(
        &self,
        snapshotter: &str,
        chain: &ChainId,
        lease: Option<&Lease>,
    ) -> Result<bool> {
        let place = (snapshotter.to_owned(), chain.clone());
        let work = |tried: &str, content: &mut Content| {
            if let Some(lease) = lease {
                let held = content.held(lease).ok_or_else(|| missing(tried, &lease.0))?;
                held.chains.insert(place.clone());
            }
            Ok(self.0.world.lock().chains.contains_key(&place))
        };
        self.0.step("has_chain", chain.as_str(), work).await
    }

    async fn unpack(&self, layer: LayerUnpack<'_>) -> Result<()> {
        let place = (layer.snapshotter.to_owned(), layer.chain.clone());
        let work = |tried: &str, content: &mut Content| {
            let mut world = self.0.world.lock();
            if !world.chains.contains_key(&place) {
                if let Some(parent) = layer.parent
                    && !world.chains.contains_key(&(place.0.clone(), parent.clone()))
                {
                    return Err(missing(tried, parent));
                }
                let digest = &layer.layer.digest;
                let blob = content.blobs.get(digest).ok_or_else(|| missing(tried, digest))?;
                if &diff_id(tried, &blob.bytes)? != layer.diff_id {
                    return Err(wrong(tried, "the layer has another diff id"));
                }
            }
            let held = content.held(layer.lease);
            held.ok_or_else(|| missing(tried, &layer.lease.0))?.chains.insert(place.clone());
            world.chains.entry(place.clone()).or_insert_with(|| layer.parent.cloned());
            Ok(())
        };
        self.0.step("unpack", layer.chain.as_str(), work).await
    }

    async fn image(&self, name: &str) -> Result<Option<ImageRecord>> {
        let work = |_: &str, content: &mut Content| Ok(content.names.get(name).cloned());
        self.0.step("image", name, work).await
    }

    async fn list_images(&self) -> Result<Vec<ImageRecord>> {
        let all = |_: &str, content: &mut Content| Ok(content.names.values().cloned().collect());
        self.0.step("list_images", "", all).await
    }

    async fn put_image(&self, record: &ImageRecord, lease: Option<&Lease>) -> Result<()> {
        let work = |tried: &str, content: &mut Content| {
            if let Some(lease) = lease {
                content.held(lease).ok_or_else(|| missing(tried, &lease.0))?;
            }
            content.names.insert(record.name.clone(), record.clone());
            self.0.world.publish(RuntimeEvent::ImagesChanged);
            Ok(())
        };
        self.0.step("put_image", &record.name, work).await
    }

    async fn delete_image(&self, name: &str, _sync: bool) -> Result<()> {
        let work = |_: &str, content: &mut Content| {
            if content.names.remove(name).is_some() {
                content.collect(&mut self.0.world.lock());
                self.0.world.publish(RuntimeEvent::ImagesChanged);
            }
            Ok(())
        };
        self.0.step("delete_image", name, work).await
    }

    async fn snapshots_usage(&self, snapshotter: &str) -> Result<FsUsage> {
        let work = |_: &str, _: &mut Content| {
            let world = self.0.world.lock();
            let chains = world.chains.keys().filter(|(name, _)| name == snapshotter).count();
            let roots = world.roots.keys().filter(|(name, _)| name == snapshotter).count();
            let inodes = (chains + roots) as u64;
            Ok(FsUsage { bytes: inodes * 4096, inodes })
        };
        self.0.step("snapshots_usage", snapshotter, work).await
    }

    async fn content_usage(&self) -> Result<FsUsage> {
        let work = |_: &str, content: &mut Content| {
            let bytes = content.blobs.values().map(|blob| blob.bytes.len() as u64).sum();
            Ok(FsUsage { bytes, inodes: content.blobs.len() as u64 })
        };
        self.0.step("content_usage", "", work).await
    }

    /// It is not limited.
    async fn disk_space(&self, folder: &Path) -> Result<DiskSpace> {
        let work = |_: &str, _: &mut Content| Ok(DiskSpace::default());
        self.0.step("disk_space", &folder.to_string_lossy(), work).await
    }
}

/// Digest of a layer after decompression; the compression is detected from the first bytes.
fn diff_id(tried: &str, layer: &[u8]) -> Result<Digest> {
    if !layer.starts_with(&[0x1f, 0x8b]) {
        return Ok(Digest::of(layer));
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(layer)
        .read_to_end(&mut plain)
        .map_err(|error| Error::new(ErrorKind::Other, tried).because(error))?;
    Ok(Digest::of(&plain))
}

/// An open ingest.
struct Writer {
    images: Arc<Inner>,
    lease: Lease,
    ingest: String,
    digest: Option<Digest>,
    size: u64,
    offset: u64,
}

impl Writer {
    fn ingest<'a>(&self, tried: &str, content: &'a mut Content) -> Result<&'a mut Ingest> {
        content.ingests.get_mut(&self.ingest).ok_or_else(|| missing(tried, &self.ingest))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(ingest) = self.images.lock().ingests.get_mut(&self.ingest) {
            ingest.open = false;
        }
    }
}

#[async_trait]
impl BlobWriter for Writer {
    fn offset(&self) -> u64 {
        self.offset
    }

    async fn truncate(&mut self) -> Result<()> {
        let work = |tried: &str, content: &mut Content| {
            self.ingest(tried, content)?.bytes.clear();
            Ok(())
        };
        self.images.step("blob_truncate", &self.ingest, work).await?;
        self.offset = 0;
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let work = |tried: &str, content: &mut Content| {
            let stored = self.ingest(tried, content)?;
            if (stored.bytes.len() + bytes.len()) as u64 > self.size {
                return Err(wrong(tried, "it is longer than its descriptor says"));
            }
            stored.bytes.extend_from_slice(&bytes);
            Ok(())
        };
        self.images.step("blob_write", &self.ingest, work).await?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn expect(&mut self, digest: &Digest) {
        self.digest = Some(digest.clone());
    }

    async fn commit(self: Box<Self>, labels: &StringMap) -> Result<()> {
        let work = |tried: &str, content: &mut Content| {
            let unnamed = || Error::new(ErrorKind::InvalidArgument, tried);
            let digest = self.digest.as_ref().ok_or_else(unnamed)?;
            if !content.blobs.contains_key(digest) {
                let stored = self.ingest(tried, content)?;
                let right =
                    stored.bytes.len() as u64 == self.size && &Digest::of(&stored.bytes) == digest;
                if !right {
                    return Err(wrong(tried, "size or digest differ"));
                }
                let bytes = Bytes::from(std::mem::take(&mut stored.bytes));
                content.blobs.insert(digest.clone(), Blob { bytes, labels: labels.clone() });
            }
            content.ingests.remove(&self.ingest);
            if let Some(held) = content.held(&self.lease) {
                held.ingests.remove(&self.ingest);
                held.blobs.insert(digest.clone());
            }
            Ok(())
        };
        self.images.step("blob_commit", &self.ingest, work).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let work = |_: &str, content: &mut Content| {
            content.ingests.remove(&self.ingest);
            Ok(())
        };
        self.images.step("blob_abort", &self.ingest, work).await
    }
}
