//! Images made here, for what needs no registry.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use crate::backend::Lease;
use crate::image::content::{Stored, walk};
use crate::image::error::Step;
use crate::image::manifest::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::image::reference::Reference;
use crate::image::{Error, Images, Inner};
use crate::model::StringMap;
use crate::model::image::{Descriptor, Digest, Image, ImageConfig};

/// The blobs of a one-layer image. The same input always gives the same bytes.
struct Made {
    layer: (Descriptor, Bytes),
    config: (Descriptor, Bytes),
    manifest: (Descriptor, Bytes),
}

fn blob(media_type: &str, bytes: Bytes) -> (Descriptor, Bytes) {
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        annotations: StringMap::new(),
    };
    (descriptor, bytes)
}

impl Images {
    /// Makes an image of one uncompressed layer and names it. Doing so again changes nothing.
    pub(super) async fn import(
        &self,
        name: &str,
        layer_tar: Bytes,
        config: &ImageConfig,
        pinned: bool,
    ) -> Result<Image, Error> {
        let imported = self.inner.import(name, layer_tar, config, pinned).await;
        imported.map(Arc::unwrap_or_clone)
    }
}

impl Inner {
    /// Makes an image of one layer and names it. An image that is there already stays.
    async fn import(
        &self,
        name: &str,
        layer_tar: Bytes,
        config: &ImageConfig,
        pinned: bool,
    ) -> Result<Arc<Image>, Error> {
        let reference = Reference::parse(name)?;
        let made = self.make(layer_tar, config)?;
        let target = &made.manifest.0;
        let names: Vec<_> = match reference.tag() {
            Some(_) => vec![reference.at(&target.digest).to_string(), reference.to_string()],
            None => vec![reference.to_string()],
        };
        let images = self.look().await?;
        if let Some(image) = images.complete(&target.digest, &names)
            && image.pinned >= pinned
        {
            let image = Arc::clone(image);
            let chain = &made.layer.0.digest;
            let there = self.store.has_chain(&self.options.snapshotter, chain, None).await;
            if there.step("looking for a snapshot")? {
                return Ok(image);
            }
        }
        let lease = self.store.lease().await.step("making a lease for an import")?;
        let names = names.into_iter().chain([made.config.0.digest.to_string()]).collect();
        let stored = self.store_made(&lease, &made, names, pinned).await;
        let released = self.store.release(&lease, stored.is_err()).await;
        if let Err(error) = released {
            tracing::warn!(lease = lease.0, %error, "lease of an import stays until it expires");
        }
        stored?;
        self.get_by_id(&made.config.0.digest).await
    }

    fn make(&self, layer_tar: Bytes, config: &ImageConfig) -> Result<Made, Error> {
        let layer = blob(OCI_LAYER, layer_tar);
        let document = json!({
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "config": {
                "User": config.user,
                "Env": config.env,
                "Entrypoint": config.entrypoint,
                "Cmd": config.cmd,
                "WorkingDir": config.working_dir,
                "Volumes": config.volumes.iter().map(|path| (path.clone(), json!({})))
                    .collect::<serde_json::Map<_, _>>(),
                "StopSignal": config.stop_signal,
                "Labels": config.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [layer.0.digest] },
        });
        let config = blob(OCI_CONFIG, encode(&document)?);
        let document = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.0,
            "layers": [layer.0],
        });
        let manifest = blob(OCI_MANIFEST, encode(&document)?);
        Ok(Made { layer, config, manifest })
    }

    async fn store_made(
        &self,
        lease: &Lease,
        made: &Made,
        names: Vec<String>,
        pinned: bool,
    ) -> Result<(), Error> {
        let none = StringMap::new();
        for ((descriptor, bytes), kind) in
            [(&made.layer, "layer"), (&made.config, "config"), (&made.manifest, "manifest")]
        {
            let ingest = format!("{kind}-{}", descriptor.digest);
            self.store_bytes(lease, &ingest, descriptor, bytes, &none).await?;
        }
        // Read back through the checks that every image has to pass.
        let target = &made.manifest.0;
        let (platform, snapshotter) = (&self.platform, &self.options.snapshotter);
        let documents = Stored(&*self.store);
        let tree = walk(&documents, target, platform, snapshotter, target.digest.as_str()).await?;
        for piece in &tree.pieces {
            self.store_piece(lease, piece).await?;
        }
        self.unpack_layer(lease, &tree, 0, snapshotter).await?;
        self.put_names(lease, names, target, pinned).await
    }
}

fn encode(document: &serde_json::Value) -> Result<Bytes, Error> {
    // serde_json sorts the keys of a map, so the bytes are deterministic.
    let bytes = serde_json::to_vec(document);
    bytes.map(Bytes::from).map_err(|error| Error::bad("the image configuration", error.to_string()))
}
