//! Encodes an archive. Pure; the same images give the same bytes.

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::header::BLOCK;
use super::layout::{NAME, REF_NAME};
use super::{BLOBS, INDEX, LAYOUT, MANIFEST};
use crate::image::Reference;
use crate::image::manifest::{Manifest, OCI_INDEX};
use crate::model::image::{Descriptor, Digest};

/// A part of an archive.
pub(super) enum Part {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A blob of the store.
    Blob { digest: Digest, size: u64 },
}

impl Part {
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob { size, .. } => *size,
        }
    }
}

/// An image to write.
pub(super) struct Picked {
    pub names: Vec<Reference>,
    /// The index or manifest.
    pub target: Descriptor,
    /// The manifest for this host, for `docker load`.
    pub manifest: Manifest,
}

/// The parts of an archive: documents first, so that the reader knows what follows.
pub(super) fn parts(images: &[Picked], blobs: &[Descriptor]) -> Vec<Part> {
    let layout = json!({ "imageLayoutVersion": "1.0.0" });
    let mut parts = Vec::new();
    for (name, document) in
        [(LAYOUT, layout), (INDEX, index(images)), (MANIFEST, docker_manifest(images))]
    {
        let body = document.to_string().into_bytes();
        let head = head(name, EntryType::Regular, body.len() as u64);
        parts.push(Part::Bytes([&head[..], &body, fill(body.len() as u64)].concat().into()));
    }
    let folders = ["blobs/", BLOBS].map(|name| head(name, EntryType::Directory, 0));
    parts.push(Part::Bytes(Bytes::from(folders.concat())));
    for blob in blobs {
        let name = path(&blob.digest);
        parts.push(Part::Bytes(head(&name, EntryType::Regular, blob.size).to_vec().into()));
        parts.push(Part::Blob { digest: blob.digest.clone(), size: blob.size });
        parts.push(Part::Bytes(Bytes::from_static(fill(blob.size))));
    }
    // The end-of-archive marker.
    parts.push(Part::Bytes(BytesMut::zeroed(2 * BLOCK).freeze()));
    parts
}

fn path(digest: &Digest) -> String {
    format!("{BLOBS}{}", digest.hex())
}

/// An entry for each name, and one for an image without any.
fn index(images: &[Picked]) -> Value {
    let mut entries = Vec::new();
    for image in images {
        let mut bare = json!(image.target);
        bare["annotations"] = json!({});
        for name in &image.names {
            let mut entry = bare.clone();
            entry["annotations"] = json!({ NAME: name.to_string() });
            if let Some(tag) = name.tag() {
                entry["annotations"][REF_NAME] = json!(tag);
            }
            entries.push(entry);
        }
        if image.names.is_empty() {
            entries.push(json!(image.target));
        }
    }
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries })
}

fn docker_manifest(images: &[Picked]) -> Value {
    let image = |image: &Picked| {
        let tags = image.names.iter().filter(|name| name.tag().is_some());
        let layers = image.manifest.layers.iter().map(|layer| path(&layer.digest));
        json!({
            "Config": path(&image.manifest.config.digest),
            "RepoTags": tags.map(Reference::to_string).collect::<Vec<_>>(),
            "Layers": layers.collect::<Vec<_>>(),
        })
    };
    images.iter().map(image).collect()
}

fn head(name: &str, kind: EntryType, size: u64) -> [u8; BLOCK] {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o444 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    // All names are short, so this cannot fail; a reader would refuse a header without a name.
    let _short = header.set_path(name);
    header.set_cksum();
    *header.as_bytes()
}

/// Padding for the last block of a body.
fn fill(size: u64) -> &'static [u8] {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    &ZEROS[..(size.wrapping_neg() % BLOCK as u64) as usize]
}
