//! The trait for the image store: blobs, layers, names, leases.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{FsUsage, Result};
use crate::model::StringMap;
use crate::model::image::{ChainId, Descriptor, Digest};

/// A lease protects new content and snapshots from the garbage collector. It also expires, so that
/// a crash leaks nothing.
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

/// An image name and its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Name: normalised reference, or a bare digest.
    pub name: String,
    /// The index or manifest.
    pub target: Descriptor,
    /// Labels.
    pub labels: StringMap,
}

/// A layer to unpack on top of its parent.
#[derive(Debug, Clone)]
pub struct LayerUnpack<'a> {
    /// The lease for created objects.
    pub lease: &'a Lease,
    /// Snapshotter.
    pub snapshotter: &'a str,
    /// The (compressed) layer blob, already stored.
    pub layer: &'a Descriptor,
    /// Parent chain; `None` for the first layer.
    pub parent: Option<&'a ChainId>,
    /// Chain id after this layer.
    pub chain: &'a ChainId,
    /// Expected digest of the uncompressed layer.
    pub diff_id: &'a Digest,
    /// Labels for the snapshot (`containerd.io/snapshot/…`).
    pub labels: &'a StringMap,
}

/// Space on a disk; a total of 0 means that it is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskSpace {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// All bytes.
    pub bytes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
    /// All inodes.
    pub inodes: u64,
}

/// The bytes of a blob in order. After an error the stream ends.
pub type BlobBytes = BoxStream<'static, Result<Bytes>>;

/// A blob being written. Dropping it without `commit` leaves a resumable ingest until the lease
/// expires; `abort` removes it at once.
#[async_trait]
pub trait BlobWriter: Send {
    /// Number of bytes already stored by an earlier attempt: continue from here.
    fn offset(&self) -> u64;

    /// Discards the stored bytes and starts at 0 again.
    async fn truncate(&mut self) -> Result<()>;

    /// Appends bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Sets the expected digest of a writer that was opened without one.
    fn expect(&mut self, digest: &Digest);

    /// Completes the blob. The store verifies size and digest (`FailedPrecondition` when they
    /// differ, and nothing becomes visible). If the blob was stored meanwhile that is success.
    async fn commit(self: Box<Self>, labels: &StringMap) -> Result<()>;

    /// Removes the ingest.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// The image store. The adapter applies time limits to all calls except `unpack`.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// A new lease (label `io.podbay/lease`, expiry 24 h).
    async fn lease(&self) -> Result<Lease>;

    /// Deletes a lease; `sync` waits for garbage collection. A missing one is fine.
    async fn release(&self, lease: &Lease, sync: bool) -> Result<()>;

    /// podbay's existing leases, to find those of a dead agent.
    async fn list_leases(&self) -> Result<Vec<Lease>>;

    /// A blob's size and labels; `None` when it is not completely stored. If there is a lease, the
    /// blob is added to it.
    async fn blob(&self, digest: &Digest, lease: Option<&Lease>) -> Result<Option<BlobInfo>>;

    /// Reads a whole small blob; `InvalidArgument` when it exceeds `max` bytes.
    async fn read_blob(&self, digest: &Digest, max: usize) -> Result<Bytes>;

    /// Reads a blob of any size in pieces; `NotFound` at once when it is not completely stored.
    async fn open_blob(&self, digest: &Digest) -> Result<BlobBytes>;

    /// Starts or resumes writing a blob under the shared ingest name of its kind
    /// (`layer-sha256:…`). `AlreadyExists` when it is complete (it is then added to the lease);
    /// `Unavailable` while another writer has the same name open.
    async fn write_blob(
        &self,
        lease: &Lease,
        ingest: &str,
        blob: &Descriptor,
    ) -> Result<Box<dyn BlobWriter>>;

    /// Like `write_blob`, for a blob whose digest is not known until all bytes have arrived;
    /// [`BlobWriter::expect`] then sets it.
    async fn write_unnamed(
        &self,
        lease: &Lease,
        ingest: &str,
        size: u64,
    ) -> Result<Box<dyn BlobWriter>>;

    /// Sets labels on a blob (an empty value removes one).
    async fn label_blob(&self, digest: &Digest, labels: &StringMap) -> Result<()>;

    /// Whether a chain is unpacked. If there is a lease, it is added to that.
    async fn has_chain(
        &self,
        snapshotter: &str,
        chain: &ChainId,
        lease: Option<&Lease>,
    ) -> Result<bool>;

    /// Applies one layer and commits its snapshot; an existing one is success; a wrong diff id is
    /// `FailedPrecondition` and leaves nothing.
    async fn unpack(&self, layer: LayerUnpack<'_>) -> Result<()>;

    /// One name.
    async fn image(&self, name: &str) -> Result<Option<ImageRecord>>;

    /// All names.
    async fn list_images(&self) -> Result<Vec<ImageRecord>>;

    /// Creates a name, or updates its target and labels.
    async fn put_image(&self, record: &ImageRecord, lease: Option<&Lease>) -> Result<()>;

    /// Deletes a name; a missing one is fine. `sync` waits for garbage collection.
    async fn delete_image(&self, name: &str, sync: bool) -> Result<()>;

    /// Sum over all snapshots of a snapshotter.
    async fn snapshots_usage(&self, snapshotter: &str) -> Result<FsUsage>;

    /// Sum over all blobs.
    async fn content_usage(&self) -> Result<FsUsage>;

    /// Space on the disk of a directory of the store.
    async fn disk_space(&self, folder: &Path) -> Result<DiskSpace>;
}
