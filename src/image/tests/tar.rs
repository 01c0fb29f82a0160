//! Valid and invalid archives.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::registry::{Content, Parts};
use crate::image::manifest::OCI_INDEX;
use crate::model::image::Digest;

/// A tar built entry by entry, including invalid ones.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", bytes)
    }

    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    /// Any entry; long names are cut to what the header can hold.
    pub fn entry(self, kind: EntryType, path: &str, target: &str, bytes: &[u8]) -> Self {
        self.changed(kind, path, target, bytes, |_| {})
    }

    /// An entry whose header was modified before its checksum was computed.
    pub fn changed(
        mut self,
        kind: EntryType,
        path: &str,
        target: &str,
        bytes: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..path.len().min(100)].copy_from_slice(&path.as_bytes()[..path.len().min(100)]);
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.raw(bytes)
    }

    /// Adds a body with its padding.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let body: String = records.iter().map(|(key, value)| record(key, value)).collect();
        self.entry(EntryType::XHeader, "pax", "", body.as_bytes())
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    pub fn cut(self) -> Vec<u8> {
        self.0
    }
}

/// `LENGTH KEY=VALUE\n`, where the length includes itself.
pub fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

/// The files of an OCI image layout, which a test may modify before packing them.
#[derive(Clone, Default)]
pub struct Layout {
    pub files: BTreeMap<String, Vec<u8>>,
    pub entries: Vec<Value>,
}

impl Layout {
    /// All blobs of a registry, with no image listed yet.
    pub fn of(content: &Content) -> Self {
        let manifests = content.manifests.iter().map(|(name, (_, bytes))| (name, bytes));
        let blobs = content.blobs.iter().chain(manifests);
        let files = blobs.filter_map(|(digest, bytes)| {
            Some((format!("blobs/sha256/{}", digest.strip_prefix("sha256:")?), bytes.to_vec()))
        });
        Self { files: files.collect(), entries: Vec::new() }
    }

    pub fn entry(mut self, content: &Content, target: &Digest, annotations: Value) -> Self {
        let (kind, bytes) = &content.manifests[target.as_str()];
        self.entries.push(json!({"mediaType": kind, "digest": target, "size": bytes.len(),
            "annotations": annotations}));
        self
    }

    /// Lists an image under a full name.
    pub fn named(self, content: &Content, target: &Digest, name: &str) -> Self {
        self.entry(content, target, json!({"io.containerd.image.name": name}))
    }

    pub fn blob(&mut self, digest: &Digest) -> &mut Vec<u8> {
        self.files.get_mut(&format!("blobs/sha256/{}", digest.hex())).expect("a blob")
    }

    pub fn without(mut self, digest: &Digest) -> Self {
        self.files.remove(&format!("blobs/sha256/{}", digest.hex())).expect("a blob");
        self
    }

    /// The documents come last, as docker writes them.
    pub fn tar(&self) -> Tar {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.entries});
        let mut tar = Tar::default().entry(EntryType::Directory, "blobs/sha256/", "", b"");
        for (path, bytes) in &self.files {
            tar = tar.file(path, bytes);
        }
        tar.file("index.json", index.to_string().as_bytes())
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    pub fn pack(&self) -> Vec<u8> {
        self.tar().end()
    }
}

/// What `docker save` wrote before it used OCI layouts: a two-layer image, one layer being a link.
pub fn docker(content: &Content, parts: &Parts, tags: &[&str]) -> Tar {
    let config = &content.blobs[parts.config.as_str()];
    let plain = |n: usize| -> Bytes {
        let mut bytes = Vec::new();
        let blob = &content.blobs[parts.layers[n].as_str()];
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&blob[..]), &mut bytes)
            .expect("a layer");
        bytes.into()
    };
    let manifest = json!([{ "Config": format!("{}.json", parts.config.hex()),
        "RepoTags": tags, "Layers": ["a/layer.tar", "b/layer.tar", "packed.tar.gz"] }]);
    Tar::default()
        .entry(EntryType::Directory, "a/", "", b"")
        .file("a/VERSION", b"1.0")
        .file("a/json", b"{}")
        .file("a/layer.tar", &plain(0))
        .link("b/layer.tar", "../c/layer.tar")
        .file("c/VERSION", b"1.0")
        .file("c/layer.tar", &plain(1))
        .file("packed.tar.gz", &content.blobs[parts.layers[2].as_str()])
        .file(&format!("./{}.json", parts.config.hex()), config)
        .file("repositories", b"{}")
        .file("manifest.json", manifest.to_string().as_bytes())
}
