//! Loads the images of an archive.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::contents::{Contents, Intake};
use super::entries::Entries;
use super::input::Input;
use super::layout::{self, Named};
use super::{INDEX, LAYOUT, LoadOptions, Loaded, MANIFEST, Upload, docker};
use crate::backend::Lease;
use crate::image::content::{Documents, Kind, Piece, Stored, Tree, walk};
use crate::image::error::Step;
use crate::image::naming::Naming;
use crate::image::reference::Reference;
use crate::image::{Error, Inner, manifest};
use crate::model::StringMap;
use crate::model::image::{Descriptor, Digest};

/// The documents of an archive only, not those that are only in the store.
struct Archived<'a> {
    inner: &'a Inner,
    here: &'a HashMap<Digest, u64>,
}

impl Archived<'_> {
    fn check(&self, blob: &Descriptor) -> Result<(), Error> {
        match self.here.get(&blob.digest) {
            Some(size) if *size == blob.size => Ok(()),
            Some(_) => Err(Error::bad_archive(format!("{} has the wrong size", blob.digest))),
            None => Err(Error::bad_archive(format!("{} is missing", blob.digest))),
        }
    }
}

#[async_trait]
impl Documents for Archived<'_> {
    async fn document(&self, kind: Kind, descriptor: &Descriptor) -> Result<Bytes, Error> {
        self.check(descriptor)?;
        let most = if kind == Kind::Config { manifest::MAX_CONFIG } else { manifest::MAX_MANIFEST };
        if descriptor.size > most as u64 {
            return Err(Error::bad_archive(format!("{} is too large", descriptor.digest)));
        }
        Stored(&*self.inner.store).document(kind, descriptor).await
    }
}

impl Inner {
    pub(super) async fn load(
        &self,
        from: Upload,
        options: LoadOptions,
    ) -> Result<Vec<Loaded>, Error> {
        let snapshotter = self.snapshotter_of(&options.handler)?;
        let names = options.names.iter().map(|name| Reference::parse(name));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let stop = CancellationToken::new();
        let lease = self.store.lease().await.step("making a lease for an archive")?;
        let work = async {
            let input = Input::begin(from, self.options.no_progress_timeout, stop.clone()).await?;
            self.take(&lease, input, names, snapshotter, &stop).await
        };
        tokio::pin!(work);
        // Cancel-safe: `work` is only borrowed here, and awaited below.
        let loaded = tokio::select! {
            loaded = &mut work => loaded,
            () = self.tasks.draining() => {
                stop.cancel();
                work.await
            }
        };
        // After a failure this waits for garbage collection, so that nothing is left over.
        let released = self.store.release(&lease, loaded.is_err()).await;
        if let Err(error) = released {
            tracing::warn!(lease = lease.0, %error,
                "cannot delete lease of archive, it remains until it expires");
        }
        match &loaded {
            Ok(images) => tracing::info!(images = images.len(), "image archive loaded"),
            Err(error) => tracing::warn!(%error, "image archive load failed"),
        }
        // Errors in an archive's document are reported as errors of the archive.
        loaded.map_err(|error| match error {
            Error::BadContent { what, problem } => Error::bad_archive(format!("{what}: {problem}")),
            other => other,
        })
    }

    async fn take(
        &self,
        lease: &Lease,
        input: Input,
        names: Vec<Reference>,
        snapshotter: &str,
        stop: &CancellationToken,
    ) -> Result<Vec<Loaded>, Error> {
        let intake = Intake { store: &*self.store, lease };
        let contents = self.with_room(snapshotter, intake.take(Entries::new(input))).await?;
        let mut here = contents.sizes();
        let mut images = self.images_of(lease, &contents, &mut here).await?;
        drop(contents);
        if !names.is_empty() {
            let [image] = images.as_mut_slice() else {
                return Err(Error::NamesForMany(images.len()));
            };
            image.names = names;
        }
        one_each(&images)?;
        let (mut known, mut namings, mut loaded) = (Vec::new(), Vec::new(), Vec::new());
        for Named { names, target } in images {
            let names = checked(&names, &target)?;
            let tree = self.unpack(lease, &target, &here, snapshotter, stop).await?;
            let pinned = names.iter().any(|name| self.is_pinned(name));
            let image = tree.image(&target);
            let id = image.id.clone();
            known.push(image);
            for name in names.iter().cloned().chain([id.to_string()]) {
                namings.push(Naming { name, target: target.clone(), pinned });
            }
            loaded.push(Loaded { id, names, target: target.digest });
        }
        known.into_iter().for_each(|image| self.index.learn(image));
        self.put_all(lease, namings).await?;
        Ok(loaded)
    }

    /// The images listed in an archive's documents.
    async fn images_of(
        &self,
        lease: &Lease,
        contents: &Contents,
        here: &mut HashMap<Digest, u64>,
    ) -> Result<Vec<Named>, Error> {
        let document = |name| contents.documents.get(name);
        if let (Some(layout), Some(index)) = (document(LAYOUT), document(INDEX)) {
            return layout::images(layout, index, &self.platform);
        }
        let Some(manifest) = document(MANIFEST) else {
            return Err(Error::bad_archive(
                "it is neither an OCI image layout nor a docker archive",
            ));
        };
        let mut images = Vec::new();
        for (named, bytes) in docker::images(manifest, contents)? {
            here.insert(named.target.digest.clone(), named.target.size);
            let descriptor = named.target.clone();
            let labels = StringMap::new();
            let piece = Piece { kind: Kind::Manifest, descriptor, bytes, labels };
            self.store_piece(lease, &piece).await?;
            named.add(&mut images)?;
        }
        Ok(images)
    }

    /// Checks an image's documents and unpacks its layers.
    async fn unpack(
        &self,
        lease: &Lease,
        target: &Descriptor,
        here: &HashMap<Digest, u64>,
        snapshotter: &str,
        stop: &CancellationToken,
    ) -> Result<Tree, Error> {
        let archived = Archived { inner: self, here };
        let platform = &self.platform;
        let name = target.digest.as_str();
        let tree = walk(&archived, target, platform, snapshotter, name).await?;
        tree.manifest.layers.iter().try_for_each(|layer| archived.check(layer))?;
        for n in 0..tree.chains.len() {
            if stop.is_cancelled() {
                return Err(Error::Abandoned);
            }
            let work = self.unpack_layer(lease, &tree, n, snapshotter);
            self.with_room(snapshotter, work).await?;
        }
        for piece in &tree.pieces {
            self.store_piece(lease, piece).await?;
        }
        Ok(tree)
    }
}

/// Refuses one name for two images: it would end up on whichever comes last.
fn one_each(images: &[Named]) -> Result<(), Error> {
    let mut taken = HashSet::new();
    match images.iter().flat_map(|image| &image.names).find(|name| !taken.insert(*name)) {
        Some(name) => Err(Error::bad_archive(format!("two images are named {name}"))),
        None => Ok(()),
    }
}

/// The names to give an image; a name with a digest must match the image's own.
fn checked(names: &[Reference], target: &Descriptor) -> Result<Vec<String>, Error> {
    for name in names {
        if name.digest().is_some_and(|digest| *digest != target.digest) {
            return Err(Error::bad_archive(format!("{name} is not {}", target.digest)));
        }
    }
    Ok(names.iter().map(Reference::to_string).collect())
}
