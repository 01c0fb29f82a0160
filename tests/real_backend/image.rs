//! A hand-made busybox image, stored through the backend trait.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use podbay::backend::{ImageRecord, Images, LayerUnpack, Lease};
use podbay::model::StringMap;
use podbay::model::image::{ChainId, Descriptor, Digest};
use serde_json::json;

use crate::rig::SNAPSHOTTER;

const APPLETS: [&str; 8] = ["sh", "sleep", "cat", "echo", "dd", "stty", "true", "false"];

/// A blob with its descriptor.
#[derive(Clone)]
pub struct Blob {
    pub descriptor: Descriptor,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let descriptor = Descriptor {
            media_type: media_type.into(),
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            annotations: StringMap::new(),
        };
        Self { descriptor, bytes }
    }

    pub fn ingest(&self) -> String {
        format!("layer-{}", self.descriptor.digest)
    }

    /// Writes and commits it; there already is fine.
    pub async fn store(&self, images: &dyn Images, lease: &Lease, labels: &StringMap) {
        match images.write_blob(lease, &self.ingest(), &self.descriptor).await {
            Ok(mut writer) => {
                assert_eq!(writer.offset(), 0);
                writer.write(self.bytes.clone().into()).await.unwrap();
                writer.commit(labels).await.unwrap();
            }
            Err(error) => assert!(error.is_already_exists(), "{error:?}"),
        }
    }
}

/// One layer, one configuration, one manifest.
pub struct TestImage {
    pub layer: Blob,
    pub diff_id: Digest,
    pub config: Blob,
    pub manifest: Blob,
}

impl TestImage {
    pub const NAME: &str = "example.test/busybox:latest";

    pub fn busybox() -> Self {
        let tar = layer_tar();
        let diff_id = Digest::of(&tar);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
        gzip.write_all(&tar).unwrap();
        let layer =
            Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", gzip.finish().unwrap());
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let config = Blob::new("application/vnd.oci.image.config.v1+json", to_json(&config));
        let manifest = json!({
            "schemaVersion": 2,
            "config": config.descriptor,
            "layers": [layer.descriptor],
        });
        let manifest = Blob::new("application/vnd.oci.image.manifest.v1+json", to_json(&manifest));
        Self { layer, diff_id, config, manifest }
    }

    /// The only chain: that of one layer is its diff id.
    pub fn chain(&self) -> &ChainId {
        &self.diff_id
    }

    pub fn record(&self) -> ImageRecord {
        ImageRecord {
            name: Self::NAME.into(),
            target: self.manifest.descriptor.clone(),
            labels: StringMap::new(),
        }
    }

    pub fn layer_unpack<'a>(&'a self, lease: &'a Lease, labels: &'a StringMap) -> LayerUnpack<'a> {
        LayerUnpack {
            lease,
            snapshotter: SNAPSHOTTER,
            layer: &self.layer.descriptor,
            parent: None,
            chain: self.chain(),
            diff_id: &self.diff_id,
            labels,
        }
    }

    /// Writes the blobs, each holding what it refers to.
    pub async fn store_blobs(&self, images: &dyn Images, lease: &Lease) {
        let label = |key: &str, value: &Digest| (key.to_owned(), value.to_string());
        self.layer.store(images, lease, &StringMap::new()).await;
        let snapshot = format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}");
        let of_config = [label(&snapshot, self.chain())].into();
        self.config.store(images, lease, &of_config).await;
        let of_manifest = [
            label("containerd.io/gc.ref.content.config", &self.config.descriptor.digest),
            label("containerd.io/gc.ref.content.l.0", &self.layer.descriptor.digest),
        ];
        self.manifest.store(images, lease, &of_manifest.into()).await;
    }

    /// Stores, unpacks and names it, as a pull would.
    pub async fn store(&self, images: &dyn Images) -> ChainId {
        let lease = images.lease().await.unwrap();
        self.store_blobs(images, &lease).await;
        images.unpack(self.layer_unpack(&lease, &StringMap::new())).await.unwrap();
        images.put_image(&self.record(), Some(&lease)).await.unwrap();
        images.release(&lease, false).await.unwrap();
        self.chain().clone()
    }
}

fn to_json(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn layer_tar() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("these tests need a static /bin/busybox");
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size as u64);
        header
    };
    for dir in ["bin/", "proc/", "dev/", "tmp/"] {
        let mut header = header(tar::EntryType::Directory, 0);
        tar.append_data(&mut header, dir, std::io::empty()).unwrap();
    }
    let mut program = header(tar::EntryType::Regular, busybox.len());
    tar.append_data(&mut program, "bin/busybox", busybox.as_slice()).unwrap();
    for applet in APPLETS {
        let mut link = header(tar::EntryType::Symlink, 0);
        tar.append_link(&mut link, format!("bin/{applet}"), "busybox").unwrap();
    }
    tar.into_inner().unwrap()
}
