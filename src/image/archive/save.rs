//! Saves images into an archive.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::Saved;
use super::write::{Part, Picked, parts};
use crate::backend::Lease;
use crate::image::content::{Stored, walk};
use crate::image::error::Step;
use crate::image::index::Snapshot;
use crate::image::manifest::{self, MAX_INDEX_DEPTH, MAX_MANIFEST};
use crate::image::reference::{Name, Reference};
use crate::image::{Error, Inner};
use crate::model::image::{Descriptor, Digest, Image};

/// How many pieces are read ahead of the reader.
const AHEAD: usize = 4;
/// Maximum number of blobs of an index with everything below it; a larger one is saved without
/// other platforms.
const MAX_BLOBS: usize = 4096;

impl Inner {
    pub(super) async fn save(self: &Arc<Self>, names: &[String]) -> Result<Saved, Error> {
        let lease = self.store.lease().await.step("making a lease for saving images")?;
        let planned = self.plan(&lease, names).await;
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                self.let_go(&lease).await;
                return Err(error);
            }
        };
        let total = planned.iter().map(Part::size).sum();
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        let inner = Arc::clone(self);
        // In an owned task, so that a reader that leaves does not leave the lease behind.
        drop(self.tasks.spawn("save images", async move {
            // Cancel-safe: dropping a read leaves nothing behind.
            let ended = tokio::select! {
                ended = inner.send(planned, &sender) => ended,
                () = inner.tasks.draining() => Err(Error::Abandoned),
                () = sender.closed() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "image save failed");
                // The queue may be full; the reader notices the missing bytes anyway.
                let _ = sender.try_send(Err(error));
            }
            inner.let_go(&lease).await;
        }));
        let bytes = async_stream::try_stream! {
            let mut left: u64 = total;
            while let Some(piece) = receiver.recv().await {
                let piece: Bytes = piece?;
                left = left.saturating_sub(piece.len() as u64);
                yield piece;
            }
            if left > 0 {
                Err(Error::Abandoned)?;
            }
        };
        Ok(Saved { total, bytes: Box::pin(bytes) })
    }

    async fn let_go(&self, lease: &Lease) {
        if let Err(error) = self.store.release(lease, false).await {
            tracing::warn!(lease = lease.0, %error,
                "cannot delete lease of saved images, it remains until it expires");
        }
    }

    async fn plan(&self, lease: &Lease, names: &[String]) -> Result<Vec<Part>, Error> {
        let snapshot = self.look().await?;
        let mut picked: Vec<Picked> = Vec::new();
        let mut blobs = BTreeMap::new();
        for (image, references) in chosen(&snapshot, names)? {
            let (one, found) = self.pick(lease, &image, references).await?;
            blobs.extend(found.into_iter().map(|blob| (blob.digest.clone(), blob)));
            picked.push(one);
        }
        let blobs: Vec<_> = blobs.into_values().collect();
        Ok(parts(&picked, &blobs))
    }

    /// What to save of an image: everything that its index points at if it is all stored, else only
    /// what this host needs.
    async fn pick(
        &self,
        lease: &Lease,
        image: &Image,
        mut names: Vec<Reference>,
    ) -> Result<(Picked, Vec<Descriptor>), Error> {
        let (platform, snapshotter) = (&self.platform, &self.options.snapshotter);
        let id = image.id.to_string();
        let incomplete = || Error::Incomplete { id: image.id.clone() };
        let documents = Stored(&*self.store);
        let tree = walk(&documents, &image.target, platform, snapshotter, &id).await;
        let tree = tree.map_err(|error| match error {
            Error::Backend { source, .. } if source.is_not_found() => incomplete(),
            other => other,
        })?;
        if let Some(blobs) = self.whole(lease, &image.target).await? {
            return Ok((
                Picked { names, target: image.target.clone(), manifest: tree.manifest },
                blobs,
            ));
        }
        let mut documents = tree.pieces.iter().rev().map(|piece| &piece.descriptor);
        let (config, target) = (documents.next(), documents.next());
        let (Some(config), Some(target)) = (config.cloned(), target.cloned()) else {
            return Err(incomplete());
        };
        // A name with the digest of the index does not fit the manifest.
        names.retain(|name| name.digest().is_none_or(|digest| *digest == target.digest));
        let layers = tree.manifest.layers.iter().cloned();
        let blobs: Vec<_> = [target.clone(), config].into_iter().chain(layers).collect();
        for blob in &blobs {
            if !self.held(lease, blob).await? {
                return Err(incomplete());
            }
        }
        Ok((Picked { names, target, manifest: tree.manifest }, blobs))
    }

    /// All blobs reachable from a target, if they are all stored.
    async fn whole(
        &self,
        lease: &Lease,
        target: &Descriptor,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let mut found: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        let mut todo = vec![(target.clone(), 0)];
        while let Some((blob, depth)) = todo.pop() {
            if found.contains_key(&blob.digest) {
                continue;
            }
            if found.len() == MAX_BLOBS || !self.held(lease, &blob).await? {
                return Ok(None);
            }
            let kind = &blob.media_type;
            if manifest::is_index(kind) || manifest::is_manifest(kind) {
                let bytes = self.store.read_blob(&blob.digest, MAX_MANIFEST).await;
                let bytes = bytes.step("reading an image's documents")?;
                let Ok(children) = manifest::children(&bytes) else { return Ok(None) };
                if depth > MAX_INDEX_DEPTH {
                    return Ok(None);
                }
                todo.extend(children.into_iter().map(|child| (child, depth + 1)));
            }
            found.insert(blob.digest.clone(), blob);
        }
        Ok(Some(found.into_values().collect()))
    }

    /// Whether a blob is stored, which is then added to the lease.
    async fn held(&self, lease: &Lease, blob: &Descriptor) -> Result<bool, Error> {
        let found = self.store.blob(&blob.digest, Some(lease)).await.step("looking for a blob")?;
        Ok(found.is_some_and(|found| found.size == blob.size))
    }

    async fn send(
        &self,
        parts: Vec<Part>,
        to: &mpsc::Sender<Result<Bytes, Error>>,
    ) -> Result<(), Error> {
        for part in parts {
            match part {
                Part::Bytes(bytes) => self.hand_over(bytes, to).await?,
                Part::Blob { digest, size } => {
                    let opened = self.store.open_blob(&digest).await;
                    let mut bytes = opened.step("reading a blob of an image")?;
                    let mut sent = 0;
                    while let Some(piece) = bytes.next().await {
                        let piece = piece.step("reading a blob of an image")?;
                        sent += piece.len() as u64;
                        self.hand_over(piece, to).await?;
                    }
                    if sent != size {
                        let problem = format!("{sent} bytes instead of {size}");
                        return Err(Error::bad(digest.to_string(), problem));
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the reader, but with a limit, since a lease and a slot are held meanwhile.
    async fn hand_over(
        &self,
        bytes: Bytes,
        to: &mpsc::Sender<Result<Bytes, Error>>,
    ) -> Result<(), Error> {
        let after = self.options.no_progress_timeout;
        if bytes.is_empty() {
            return Ok(());
        }
        match to.send_timeout(Ok(bytes), after).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Error::Stalled { after }),
            // The receiver is gone: nobody reads any more.
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(Error::Abandoned),
        }
    }
}

/// Each selected image once, with its selected names.
fn chosen(snapshot: &Snapshot, names: &[String]) -> Result<Vec<(Image, Vec<Reference>)>, Error> {
    let mut chosen: Vec<(Image, Vec<Reference>)> = Vec::new();
    for text in names {
        let name = Name::parse(text)?;
        let image = snapshot.find(&name)?.ok_or_else(|| Error::NotFound(text.clone()))?;
        let own = || image.repo_tags.iter().filter_map(|tag| Reference::parse(tag).ok());
        let references = match name {
            Name::Reference { reference: Some(reference), .. }
                if snapshot.is_name_of(&reference, &image.id) =>
            {
                vec![reference]
            }
            _ => own().collect(),
        };
        let place = chosen.iter().position(|(one, _)| one.id == image.id);
        let place = place.unwrap_or_else(|| {
            chosen.push((Image::clone(image), Vec::new()));
            chosen.len() - 1
        });
        let kept = &mut chosen[place].1;
        for reference in references {
            if !kept.contains(&reference) {
                kept.push(reference);
            }
        }
    }
    Ok(chosen)
}
