//! Test images made from the machine's static busybox, with no network and no builder.
//!
//! [`ImageBuilder`] makes one OCI image; [`Bundle`] is anything that can be pushed or exported: an
//! image, or an index over several.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BUSYBOX: &str = "/bin/busybox";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Some bytes of an image, by their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub media_type: String,
    pub digest: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        Self { media_type: media_type.into(), digest, bytes }
    }

    /// Its OCI descriptor.
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An image or an index with everything below it.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// What a name points at.
    pub root: Blob,
    /// Manifests below an index.
    pub manifests: Vec<Blob>,
    /// Configurations and layers.
    pub blobs: Vec<Blob>,
    /// Platform of a single image.
    pub platform: Value,
    /// Digest of the configuration of a single image: the CRI image id.
    pub id: String,
}

/// One file system layer under construction.
struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }
}

impl Layer {
    fn put(
        &mut self,
        kind: tar::EntryType,
        path: &str,
        (mode, owner): (u32, (u64, u64)),
        body: Body,
    ) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(0);
        let path = path.trim_start_matches('/');
        let done = match body {
            Body::Bytes(bytes) => {
                header.set_size(bytes.len() as u64);
                self.tar.append_data(&mut header, path, bytes)
            }
            Body::Link(target) => {
                header.set_size(0);
                self.tar.append_link(&mut header, path, target)
            }
        };
        done.unwrap_or_else(|e| panic!("layer entry {path}: {e}"));
    }

    fn finish(self) -> Vec<u8> {
        self.tar.into_inner().expect("a tar in memory")
    }
}

enum Body<'a> {
    Bytes(&'a [u8]),
    Link(&'a str),
}

const ROOT: (u64, u64) = (0, 0);

/// Makes one image. Starts with the busybox layer; later calls add to one more layer.
pub struct ImageBuilder {
    config: Value,
    base: bool,
    extra: Option<Layer>,
    architecture: String,
}

impl ImageBuilder {
    /// /bin/busybox with a link for each applet, /etc/passwd and /etc/group with `root` and
    /// `worker` (1000:1000, also in group `staff`, 50), a world-writable /tmp, and a shell to run.
    pub fn busybox() -> Self {
        Self {
            config: json!({
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["sh"],
            }),
            base: true,
            extra: None,
            architecture: this_architecture().into(),
        }
    }

    /// No busybox layer: only the given files.
    pub fn empty() -> Self {
        Self { config: json!({}), base: false, ..Self::busybox() }
    }

    /// A web server on port 8080 that serves /www (one page, `hello`).
    pub fn web() -> Self {
        Self::busybox()
            .dir("/www", 0o755, 0, 0)
            .file("/www/index.html", b"hello\n", 0o644)
            .entrypoint(&["/bin/httpd", "-f", "-p", "8080", "-h", "/www"])
    }

    /// Any field of the OCI image configuration's `config` object.
    pub fn config(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    pub fn user(self, user: &str) -> Self {
        self.config("User", json!(user))
    }

    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.config("Entrypoint", json!(words)).config("Cmd", Value::Null)
    }

    pub fn cmd(self, words: &[&str]) -> Self {
        self.config("Cmd", json!(words))
    }

    pub fn working_dir(self, dir: &str) -> Self {
        self.config("WorkingDir", json!(dir))
    }

    pub fn stop_signal(self, signal: &str) -> Self {
        self.config("StopSignal", json!(signal))
    }

    pub fn volume(mut self, path: &str) -> Self {
        self.config["Volumes"][path] = json!({});
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.config["Labels"][key] = json!(value);
        self
    }

    /// Adds `KEY=value`.
    pub fn env(mut self, entry: &str) -> Self {
        if !self.config["Env"].is_array() {
            self.config["Env"] = json!([]);
        }
        self.config["Env"].as_array_mut().expect("an array").push(json!(entry));
        self
    }

    /// Claims this architecture (Go's name), whatever is inside.
    pub fn architecture(mut self, name: &str) -> Self {
        self.architecture = name.into();
        self
    }

    pub fn file(mut self, path: &str, bytes: &[u8], mode: u32) -> Self {
        self.layer().put(tar::EntryType::Regular, path, (mode, ROOT), Body::Bytes(bytes));
        self
    }

    pub fn dir(mut self, path: &str, mode: u32, uid: u64, gid: u64) -> Self {
        let path = format!("{}/", path.trim_end_matches('/'));
        self.layer().put(tar::EntryType::Directory, &path, (mode, (uid, gid)), Body::Bytes(&[]));
        self
    }

    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.layer().put(tar::EntryType::Symlink, path, (0o777, ROOT), Body::Link(target));
        self
    }

    fn layer(&mut self) -> &mut Layer {
        self.extra.get_or_insert_default()
    }

    /// The image.
    pub fn build(self) -> Bundle {
        let mut tars = Vec::new();
        if self.base {
            tars.push(busybox_layer());
        }
        tars.extend(self.extra.map(Layer::finish));
        let diff_ids: Vec<_> = tars.iter().map(|tar| Blob::new("", tar.clone()).digest).collect();
        let layers: Vec<_> = tars.iter().map(|tar| Blob::new(LAYER, gzip(tar))).collect();
        let platform = json!({"architecture": self.architecture, "os": "linux"});
        let config = json!({
            "architecture": self.architecture, "os": "linux", "config": self.config,
            "created": "2024-01-01T00:00:00Z",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Blob::new(CONFIG, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let root = Blob::new(MANIFEST, manifest.to_string().into_bytes());
        let id = config.digest.clone();
        let blobs = std::iter::once(config).chain(layers).collect();
        Bundle { root, manifests: Vec::new(), blobs, platform, id }
    }
}

impl Bundle {
    /// An index over these images, each under its own platform.
    pub fn index(images: &[Bundle]) -> Self {
        let entry = |image: &Bundle| {
            let mut descriptor = image.root.descriptor();
            descriptor["platform"] = image.platform.clone();
            descriptor
        };
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX,
            "manifests": images.iter().map(entry).collect::<Vec<_>>(),
        });
        Self {
            root: Blob::new(INDEX, index.to_string().into_bytes()),
            manifests: images.iter().map(|image| image.root.clone()).collect(),
            blobs: images.iter().flat_map(|image| image.blobs.clone()).collect(),
            platform: Value::Null,
            id: String::new(),
        }
    }

    /// All blobs, each once, leaves first.
    pub fn all_blobs(&self) -> Vec<&Blob> {
        let mut seen = BTreeSet::new();
        let all = self.blobs.iter().chain(&self.manifests).chain([&self.root]);
        all.filter(|blob| seen.insert(&blob.digest)).collect()
    }

    /// Compressed size of everything that a pull of a single image fetches.
    pub fn size(&self) -> u64 {
        self.all_blobs().iter().map(|blob| blob.bytes.len() as u64).sum()
    }

    /// Writes an OCI archive that `ctr images import` takes, under this full image name.
    pub fn export(&self, name: &str, to: &Path) {
        let mut files = BTreeMap::new();
        files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        let mut descriptor = self.root.descriptor();
        descriptor["annotations"] =
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]});
        files.insert("index.json".to_owned(), index.to_string().into_bytes());
        for blob in self.all_blobs() {
            let hex = blob.digest.trim_start_matches("sha256:");
            files.insert(format!("blobs/sha256/{hex}"), blob.bytes.clone());
        }
        let mut layer = Layer::default();
        for (path, bytes) in &files {
            layer.put(tar::EntryType::Regular, path, (0o644, ROOT), Body::Bytes(bytes));
        }
        std::fs::write(to, layer.finish())
            .unwrap_or_else(|e| panic!("cannot write {}: {e}", to.display()));
    }
}

fn busybox_layer() -> Vec<u8> {
    let mut layer = Layer::default();
    for (dir, mode) in
        [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("home/", 0o755), ("root/", 0o700)]
    {
        layer.put(tar::EntryType::Directory, dir, (mode, ROOT), Body::Bytes(&[]));
    }
    layer.put(tar::EntryType::Directory, "home/worker/", (0o755, (1000, 1000)), Body::Bytes(&[]));
    let busybox = std::fs::read(BUSYBOX).expect("a static /bin/busybox (package busybox-static)");
    layer.put(tar::EntryType::Regular, "bin/busybox", (0o755, ROOT), Body::Bytes(&busybox));
    let list = Command::new(BUSYBOX).arg("--list").output().expect("busybox --list");
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        let path = format!("bin/{applet}");
        layer.put(tar::EntryType::Symlink, &path, (0o777, ROOT), Body::Link("busybox"));
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n";
    let group = b"root:x:0:\nstaff:x:50:worker\nworker:x:1000:\n";
    layer.put(tar::EntryType::Regular, "etc/passwd", (0o644, ROOT), Body::Bytes(passwd));
    layer.put(tar::EntryType::Regular, "etc/group", (0o644, ROOT), Body::Bytes(group));
    layer.finish()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("gzip in memory");
    encoder.finish().expect("gzip in memory")
}

/// This machine's architecture in Go's words.
pub fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
