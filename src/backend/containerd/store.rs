//! Implements [`Images`]: every call is delegated to the file of its service.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Containerd, blobs, content, images, leases, snapshots, unpack};
use crate::backend::{
    BlobBytes, BlobInfo, BlobWriter, DiskSpace, Error, ErrorKind, FsUsage, ImageRecord, Images,
    LayerUnpack, Lease, Result,
};
use crate::model::StringMap;
use crate::model::image::{ChainId, Descriptor, Digest};

#[async_trait]
impl Images for Containerd {
    async fn lease(&self) -> Result<Lease> {
        leases::create(&self.0.client).await
    }

    async fn release(&self, lease: &Lease, sync: bool) -> Result<()> {
        leases::release(&self.0.client, lease, sync).await
    }

    async fn list_leases(&self) -> Result<Vec<Lease>> {
        leases::list(&self.0.client).await
    }

    async fn blob(&self, digest: &Digest, lease: Option<&Lease>) -> Result<Option<BlobInfo>> {
        content::info(&self.0.client, digest, lease).await
    }

    async fn read_blob(&self, digest: &Digest, max: usize) -> Result<Bytes> {
        content::read(&self.0.client, digest, max).await
    }

    async fn open_blob(&self, digest: &Digest) -> Result<BlobBytes> {
        content::open(Arc::clone(&self.0), digest).await
    }

    async fn write_blob(
        &self,
        lease: &Lease,
        ingest: &str,
        blob: &Descriptor,
    ) -> Result<Box<dyn BlobWriter>> {
        blobs::open(Arc::clone(&self.0), lease, ingest, (Some(&blob.digest), blob.size)).await
    }

    async fn write_unnamed(
        &self,
        lease: &Lease,
        ingest: &str,
        size: u64,
    ) -> Result<Box<dyn BlobWriter>> {
        blobs::open(Arc::clone(&self.0), lease, ingest, (None, size)).await
    }

    async fn label_blob(&self, digest: &Digest, labels: &StringMap) -> Result<()> {
        content::label(&self.0.client, digest, labels).await
    }

    async fn has_chain(
        &self,
        snapshotter: &str,
        chain: &ChainId,
        lease: Option<&Lease>,
    ) -> Result<bool> {
        snapshots::has_chain(&self.0.client, snapshotter, chain, lease).await
    }

    async fn unpack(&self, layer: LayerUnpack<'_>) -> Result<()> {
        unpack::unpack(&self.0.client, layer).await
    }

    async fn image(&self, name: &str) -> Result<Option<ImageRecord>> {
        images::get(&self.0.client, name).await
    }

    async fn list_images(&self) -> Result<Vec<ImageRecord>> {
        images::list(&self.0.client).await
    }

    async fn put_image(&self, record: &ImageRecord, lease: Option<&Lease>) -> Result<()> {
        images::put(&self.0.client, record, lease).await
    }

    async fn delete_image(&self, name: &str, sync: bool) -> Result<()> {
        images::delete(&self.0.client, name, sync).await
    }

    async fn snapshots_usage(&self, snapshotter: &str) -> Result<FsUsage> {
        snapshots::total_usage(&self.0.client, &self.0.usage, snapshotter).await
    }

    async fn content_usage(&self) -> Result<FsUsage> {
        content::total_usage(&self.0.client).await
    }

    async fn disk_space(&self, folder: &Path) -> Result<DiskSpace> {
        let tried = || format!("look at the disk of {}", folder.display());
        let path = folder.to_owned();
        let stat = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&path)).await;
        let stat = stat.map_err(|error| Error::new(ErrorKind::Other, tried()).because(error))?;
        let stat = stat.map_err(|error| Error::io(tried(), error.into()))?;
        Ok(DiskSpace {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_inodes: stat.f_favail,
            inodes: stat.f_files,
        })
    }
}
