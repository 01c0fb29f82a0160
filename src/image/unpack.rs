//! Unpacks stored layers into snapshots, and writes small blobs into the store.

use bytes::Bytes;

use super::content::{Piece, Stored, Tree, walk};
use super::error::Step;
use super::manifest::snapshot_labels;
use super::{Error, Inner};
use crate::backend::{ErrorKind, LayerUnpack, Lease};
use crate::model::StringMap;
use crate::model::image::{Descriptor, Image};

impl Inner {
    /// Unpacks layer `n` on top of those below it; an existing snapshot is fine.
    pub(super) async fn unpack_layer(
        &self,
        lease: &Lease,
        tree: &Tree,
        n: usize,
        snapshotter: &str,
    ) -> Result<(), Error> {
        let (chain, layer) = (&tree.chains[n], &tree.manifest.layers[n]);
        // Serialised, so that images with shared layers do not unpack them twice.
        let _turn = self.chain_locks.lock(&format!("{snapshotter} {chain}")).await;
        let there = self.store.has_chain(snapshotter, chain, Some(lease)).await;
        if there.step("looking for a snapshot")? {
            return Ok(());
        }
        let work = LayerUnpack {
            lease,
            snapshotter,
            layer,
            parent: n.checked_sub(1).map(|below| &tree.chains[below]),
            chain,
            diff_id: &tree.config.diff_ids[n],
            labels: &snapshot_labels(layer),
        };
        match self.store.unpack(work).await {
            Err(error) if error.kind == ErrorKind::FailedPrecondition => {
                tracing::warn!(digest = %layer.digest, %error, "layer does not match its diff id");
                Err(Error::bad(layer.digest.to_string(), "unpacked, it differs from its diff id"))
            }
            unpacked => unpacked.step("unpacking a layer"),
        }
    }

    /// Unpacks an image whose snapshots are missing while its blobs are stored.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when blobs are missing too.
    pub(super) async fn ensure_unpacked(
        &self,
        image: &Image,
        snapshotter: &str,
    ) -> Result<(), Error> {
        let lease = self.store.lease().await.step("making a lease for unpacking")?;
        let unpacked = self.unpack_again(&lease, image, snapshotter).await;
        // After a failure this waits for garbage collection, so that nothing is left over.
        let released = self.store.release(&lease, unpacked.is_err()).await;
        if let Err(error) = released {
            tracing::warn!(lease = lease.0, %error,
                "cannot delete lease of unpack, it remains until it expires");
        }
        if unpacked.is_err() {
            self.index.forget(&image.target.digest);
        }
        unpacked
    }

    async fn unpack_again(
        &self,
        lease: &Lease,
        image: &Image,
        snapshotter: &str,
    ) -> Result<(), Error> {
        let incomplete = || Error::Incomplete { id: image.id.clone() };
        let documents = Stored(&*self.store);
        let platform = &self.platform;
        let name = image.id.to_string();
        let tree = walk(&documents, &image.target, platform, snapshotter, &name).await;
        let tree = tree.map_err(|error| match error {
            Error::Backend { source, .. } if source.is_not_found() => incomplete(),
            other => other,
        })?;
        for n in 0..tree.chains.len() {
            let layer = &tree.manifest.layers[n];
            let there = self.store.has_chain(snapshotter, &tree.chains[n], Some(lease)).await;
            if there.step("looking for a snapshot")? {
                continue;
            }
            let found = self.store.blob(&layer.digest, Some(lease)).await;
            if found.step("looking for a layer")?.is_none() {
                return Err(incomplete());
            }
            let work = self.unpack_layer(lease, &tree, n, snapshotter);
            self.with_room(snapshotter, work).await?;
        }
        for piece in &tree.pieces {
            self.store_piece(lease, piece).await?;
        }
        Ok(())
    }

    /// Stores a document with the GC labels for what it points at, or adds the labels to a stored
    /// document.
    pub(super) async fn store_piece(&self, lease: &Lease, piece: &Piece) -> Result<(), Error> {
        let ingest = piece.kind.ingest(&piece.descriptor.digest);
        self.store_bytes(lease, &ingest, &piece.descriptor, &piece.bytes, &piece.labels).await
    }

    /// Stores bytes from memory.
    pub(super) async fn store_bytes(
        &self,
        lease: &Lease,
        ingest: &str,
        blob: &Descriptor,
        bytes: &Bytes,
        labels: &StringMap,
    ) -> Result<(), Error> {
        let _turn = self.blob_locks.lock(blob.digest.as_str()).await;
        let found = self.store.blob(&blob.digest, Some(lease)).await.step("looking for a blob")?;
        if let Some(found) = found {
            let missing: StringMap = labels
                .iter()
                .filter(|(key, value)| found.labels.get(*key) != Some(*value))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            return self.store.label_blob(&blob.digest, &missing).await.step("labelling a blob");
        }
        let mut writer = match self.store.write_blob(lease, ingest, blob).await {
            Err(error) if error.is_already_exists() => {
                return self.store.label_blob(&blob.digest, labels).await.step("labelling a blob");
            }
            opened => opened.step("opening a blob for writing")?,
        };
        if writer.offset() > 0 {
            writer.truncate().await.step("starting a blob again")?;
        }
        if !bytes.is_empty()
            && let Err(error) = writer.write(bytes.clone()).await
        {
            if let Err(error) = writer.abort().await {
                tracing::warn!(digest = %blob.digest, %error, "cannot remove partial blob");
            }
            return Err(error).step("writing a blob");
        }
        writer.commit(labels).await.step("storing a blob")
    }
}
