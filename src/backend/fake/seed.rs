//! Ready-made images for tests.

use bytes::Bytes;
use serde_json::json;

use super::super::ImageRecord;
use super::content::Blob;
use super::{FakeImages, SNAPSHOTTER};
use crate::model::StringMap;
use crate::model::image::{Descriptor, Digest};

impl FakeImages {
    /// Stores an image as a pull would leave it, with one empty, unpacked layer. `config` is the
    /// `config` object of its OCI configuration. Returns the image id.
    pub fn seed(&self, names: &[&str], config: &serde_json::Value) -> Digest {
        // Two blocks of zeros: an empty tar archive.
        let layer = Bytes::from(vec![0; 1024]);
        let chain = Digest::of(&layer);
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [chain] },
        });
        let config = Bytes::from(config.to_string());
        let config_digest = Digest::of(&config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest,
                "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": chain,
                "size": layer.len(),
            }],
        });
        let manifest = Bytes::from(manifest.to_string());
        let target = Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: Digest::of(&manifest),
            size: manifest.len() as u64,
            annotations: StringMap::new(),
        };
        let snapshot = format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}");
        let of_manifest = labels(&[
            ("containerd.io/gc.ref.content.config", config_digest.as_str()),
            ("containerd.io/gc.ref.content.l.0", chain.as_str()),
        ]);
        let of_config = labels(&[(snapshot.as_str(), chain.as_str())]);
        self.change(|content, world| {
            for (bytes, labels) in
                [(layer, StringMap::new()), (config, of_config), (manifest, of_manifest)]
            {
                content.blobs.insert(Digest::of(&bytes), Blob { bytes, labels });
            }
            world.chains.insert((SNAPSHOTTER.to_owned(), chain), None);
            for name in names {
                let record = ImageRecord {
                    name: (*name).to_owned(),
                    target: target.clone(),
                    labels: StringMap::new(),
                };
                content.names.insert(record.name.clone(), record);
            }
        });
        config_digest
    }
}

fn labels(pairs: &[(&str, &str)]) -> StringMap {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
