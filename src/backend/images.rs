//! The seam to what stores images: blobs, layers, names, leases.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{FsUsage, Result};
use crate::model::StringMap;
use crate::model::image::{ChainId, Descriptor, Digest};

/// A lease that keeps new content and snapshots from the garbage collector. It also has an
/// expiry, so that a crash leaks nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease(pub String);

/// A stored blob.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlobInfo {
    /// Size in bytes.
    pub size: u64,
    /// Labels.
    pub labels: StringMap,
}

/// An image name and what it points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Name: normalised reference, or a bare digest.
    pub name: String,
    /// Index or manifest.
    pub target: Descriptor,
    /// Labels.
    pub labels: StringMap,
}

/// A layer to unpack on top of its parent.
#[derive(Debug, Clone)]
pub struct LayerUnpack<'a> {
    /// Holds what is made.
    pub lease: &'a Lease,
    /// Snapshotter.
    pub snapshotter: &'a str,
    /// The (compressed) layer blob, already stored.
    pub layer: &'a Descriptor,
    /// Chain below, `None` for the first layer.
    pub parent: Option<&'a ChainId>,
    /// Chain id after this layer.
    pub chain: &'a ChainId,
    /// Digest that the uncompressed layer must have.
    pub diff_id: &'a Digest,
    /// Labels for the snapshot (`containerd.io/snapshot/…`).
    pub labels: &'a StringMap,
}

/// The bytes of a blob in their order. An error is the last item.
pub type BlobBytes = BoxStream<'static, Result<Bytes>>;

/// A blob being written. Dropping it without `commit` leaves a resumable ingest until the lease
/// ends; `abort` removes it at once.
#[async_trait]
pub trait BlobWriter: Send {
    /// Bytes already stored from an earlier try: write on from here.
    fn offset(&self) -> u64;

    /// Forgets what is stored and starts at 0 again.
    async fn truncate(&mut self) -> Result<()>;

    /// Appends.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Says which digest the bytes have, to a writer that was opened without one.
    fn expect(&mut self, digest: &Digest);

    /// Ends: size and digest are checked by the store (`FailedPrecondition` when they differ,
    /// and nothing becomes visible). A blob that came into being meanwhile is success.
    async fn commit(self: Box<Self>, labels: &StringMap) -> Result<()>;

    /// Gives up and removes the ingest.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// Stores images. Calls have their own deadline inside the adapter, except `unpack`.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// A new lease (label `io.podbay/lease`, expiry 24 h).
    async fn lease(&self) -> Result<Lease>;

    /// Ends a lease; `sync` waits for a garbage collection. Gone is fine.
    async fn release(&self, lease: &Lease, sync: bool) -> Result<()>;

    /// Leases of ours that exist: those of a dead agent are found so.
    async fn list_leases(&self) -> Result<Vec<Lease>>;

    /// A blob's size and labels, `None` when it is not complete here. With a lease, the blob is
    /// held by it.
    async fn blob(&self, digest: &Digest, lease: Option<&Lease>) -> Result<Option<BlobInfo>>;

    /// Reads a whole small blob; `InvalidArgument` when it is over `max` bytes.
    async fn read_blob(&self, digest: &Digest, max: usize) -> Result<Bytes>;

    /// Reads a blob of any size in pieces; `NotFound` at once when it is not complete here.
    async fn open_blob(&self, digest: &Digest) -> Result<BlobBytes>;

    /// Starts or resumes writing a blob under the shared ingest name of its kind
    /// (`layer-sha256:…`). `AlreadyExists` when it is complete (the lease then holds it);
    /// `Unavailable` while another writer has the same name open.
    async fn write_blob(
        &self,
        lease: &Lease,
        ingest: &str,
        blob: &Descriptor,
    ) -> Result<Box<dyn BlobWriter>>;

    /// As `write_blob`, for so many bytes whose digest is known when all have come: then
    /// [`BlobWriter::expect`] tells it.
    async fn write_unnamed(
        &self,
        lease: &Lease,
        ingest: &str,
        size: u64,
    ) -> Result<Box<dyn BlobWriter>>;

    /// Sets labels on a blob (an empty value removes one).
    async fn label_blob(&self, digest: &Digest, labels: &StringMap) -> Result<()>;

    /// Whether a chain is unpacked. With a lease it is held by it.
    async fn has_chain(
        &self,
        snapshotter: &str,
        chain: &ChainId,
        lease: Option<&Lease>,
    ) -> Result<bool>;

    /// Applies one layer and commits its snapshot; existing is success; a wrong diff id is
    /// `FailedPrecondition` and leaves nothing.
    async fn unpack(&self, layer: LayerUnpack<'_>) -> Result<()>;

    /// One name.
    async fn image(&self, name: &str) -> Result<Option<ImageRecord>>;

    /// All names.
    async fn list_images(&self) -> Result<Vec<ImageRecord>>;

    /// Creates a name, or moves it and replaces its labels.
    async fn put_image(&self, record: &ImageRecord, lease: Option<&Lease>) -> Result<()>;

    /// Deletes a name; gone is fine. `sync` waits for a garbage collection.
    async fn delete_image(&self, name: &str, sync: bool) -> Result<()>;

    /// Sum over all snapshots of a snapshotter.
    async fn snapshots_usage(&self, snapshotter: &str) -> Result<FsUsage>;

    /// Sum over all blobs.
    async fn content_usage(&self) -> Result<FsUsage>;
}
