//! Parsing and validation of indexes, manifests and configurations. Pure.
//!
//! Follows the OCI image specification 1.1 and Docker image manifest version 2, schema 2. All
//! documents from a registry are checked here before they are used.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::platform::Platform;
use crate::model::StringMap;
use crate::model::image::{ChainId, Descriptor, Digest, ImageConfig};

/// Maximum size of an index or manifest, in bytes.
pub const MAX_MANIFEST: usize = 4 << 20;
/// Maximum size of a configuration, in bytes.
pub const MAX_CONFIG: usize = 4 << 20;
/// Maximum number of layers; overlayfs supports no more.
pub const MAX_LAYERS: usize = 500;
/// Maximum nesting depth of indexes.
pub const MAX_INDEX_DEPTH: usize = 4;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI uncompressed layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Docker image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const SNAPSHOT_LABEL: &str = "containerd.io/snapshot/";

/// A parsed index or manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Images for several platforms.
    Index(Vec<Entry>),
    /// One image.
    Manifest(Manifest),
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Descriptor of a manifest or another index.
    pub descriptor: Descriptor,
    /// Its platform, if stated.
    pub platform: Option<Platform>,
    /// Position in the index; part of the GC label.
    pub position: usize,
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Configuration.
    pub config: Descriptor,
    /// Layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// A validated image configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Platform; `None` when it names none.
    pub platform: Option<Platform>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The settings that containers inherit.
    pub image: ImageConfig,
}

/// What is wrong with a document. The text gives the location and never quotes large input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

fn malformed<T>(problem: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(problem.into()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    media_type: Option<String>,
    schema_version: Option<u32>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: Option<String>,
    size: Option<u64>,
    annotations: Option<StringMap>,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RawConfig {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    rootfs: Option<RawRootfs>,
    config: Option<RawImageConfig>,
}

#[derive(Deserialize)]
struct RawRootfs {
    r#type: Option<String>,
    diff_ids: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawImageConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    // Only category and position: serde_json's message may quote the input.
    serde_json::from_slice::<Option<T>>(bytes)
        .map_err(|error| {
            let kind = match error.classify() {
                serde_json::error::Category::Data => "a field has the wrong type",
                _ => "it is not valid JSON",
            };
            Malformed(format!("{kind} (line {} column {})", error.line(), error.column()))
        })?
        .ok_or_else(|| Malformed("it is null".to_owned()))
}

/// Whether a media type is that of an index.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Whether a media type is that of a manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

fn is_layer(media_type: &str) -> bool {
    const OCI: &str = "application/vnd.oci.image.layer.";
    if let Some(kind) = media_type.strip_prefix(OCI) {
        let kind = kind.strip_prefix("nondistributable.").unwrap_or(kind);
        return matches!(kind, "v1.tar" | "v1.tar+gzip" | "v1.tar+zstd");
    }
    let docker = media_type.strip_prefix("application/vnd.docker.image.rootfs.");
    let kind = docker.map(|kind| kind.strip_prefix("foreign.").unwrap_or(kind));
    matches!(kind, Some("diff.tar" | "diff.tar.gzip" | "diff.tar.zstd"))
}

/// The media type from a reply's `Content-Type`, or from the body if the header is missing.
///
/// # Errors
/// Neither states it, or they contradict each other.
pub fn media_type(content_type: Option<&str>, body: &[u8]) -> Result<String, Malformed> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let said = content_type.and_then(|header| header.split(';').next()).map(str::trim);
    match (said.filter(|said| !said.is_empty()), json::<Typed>(body)?.media_type) {
        (Some(said), Some(own)) if said != own => {
            malformed("its mediaType contradicts the Content-Type of the reply")
        }
        (Some(said), _) => Ok(said.to_owned()),
        (None, Some(own)) => Ok(own),
        (None, None) => malformed("it has no media type"),
    }
}

/// Checks size and digest of a whole small blob.
pub fn verify(expected: &Descriptor, bytes: &[u8]) -> Result<(), Malformed> {
    if bytes.len() as u64 != expected.size {
        return malformed(format!("{} bytes instead of {}", bytes.len(), expected.size));
    }
    let real = Digest::of(bytes);
    if real == expected.digest { Ok(()) } else { malformed(format!("its digest is {real}")) }
}

/// Parses an index or manifest of the given media type.
pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Document, Malformed> {
    if bytes.len() > MAX_MANIFEST {
        return malformed(format!("it is larger than {MAX_MANIFEST} bytes"));
    }
    if media_type.starts_with("application/vnd.docker.distribution.manifest.v1") {
        return malformed("Docker schema 1 images are not supported");
    }
    if !is_index(media_type) && !is_manifest(media_type) {
        return malformed("its media type is neither that of an index nor of an image manifest");
    }
    let raw: RawDocument = json(bytes)?;
    if raw.media_type.as_deref().is_some_and(|own| own != media_type) {
        return malformed("its mediaType contradicts the type it was announced with");
    }
    if raw.schema_version.is_some_and(|version| version != 2) || raw.fs_layers.is_some() {
        return malformed("only schemaVersion 2 is supported");
    }
    match raw {
        RawDocument { manifests: Some(entries), layers: None, config: None, .. }
            if is_index(media_type) =>
        {
            index(entries)
        }
        RawDocument { manifests: None, layers: Some(layers), config: Some(config), .. }
            if is_manifest(media_type) =>
        {
            manifest(config, layers)
        }
        RawDocument { manifests: Some(_), layers: Some(_), .. } => {
            malformed("it has both manifests and layers")
        }
        _ => malformed("its fields are not those of its media type"),
    }
}

/// All descriptors in a stored index or manifest, including those not needed here: other platforms,
/// attestations.
pub fn children(bytes: &[u8]) -> Result<Vec<Descriptor>, Malformed> {
    let raw: RawDocument = json(bytes)?;
    let all = raw.manifests.into_iter().flatten().chain(raw.config);
    let all = all.chain(raw.layers.into_iter().flatten());
    all.map(|descriptor| descriptor.descriptor("a descriptor")).collect()
}

fn index(entries: Vec<RawDescriptor>) -> Result<Document, Malformed> {
    let mut checked = Vec::new();
    for (position, mut raw) in entries.into_iter().enumerate() {
        let attested = raw.annotations.as_ref().is_some_and(|annotations| {
            annotations.contains_key("vnd.docker.reference.type")
                || annotations.contains_key("vnd.docker.reference.digest")
        });
        let platform = raw.platform.take().and_then(RawPlatform::platform);
        let unknown = platform.as_ref().is_some_and(|p| p.os == "unknown");
        let descriptor = raw.descriptor(&format!("manifests[{position}]"))?;
        let usable = is_manifest(&descriptor.media_type) || is_index(&descriptor.media_type);
        if usable && !attested && !unknown {
            checked.push(Entry { descriptor, platform, position });
        }
    }
    Ok(Document::Index(checked))
}

fn manifest(config: RawDescriptor, layers: Vec<RawDescriptor>) -> Result<Document, Malformed> {
    let config = config.descriptor("config")?;
    if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
        return malformed("config: its media type is not that of a container image");
    }
    if config.size > MAX_CONFIG as u64 {
        return malformed(format!("config: it is larger than {MAX_CONFIG} bytes"));
    }
    if layers.len() > MAX_LAYERS {
        return malformed(format!("it has more than {MAX_LAYERS} layers"));
    }
    let mut total = config.size;
    let mut checked = Vec::with_capacity(layers.len());
    for (n, layer) in layers.into_iter().enumerate() {
        let layer = layer.descriptor(&format!("layers[{n}]"))?;
        if !is_layer(&layer.media_type) {
            return malformed(format!("layers[{n}]: its media type is not that of a layer"));
        }
        let sum = total.checked_add(layer.size).filter(|sum| *sum <= i64::MAX as u64);
        total = sum.ok_or_else(|| Malformed("its layers are too large".to_owned()))?;
        checked.push(layer);
    }
    Ok(Document::Manifest(Manifest { config, layers: checked }))
}

impl RawDescriptor {
    fn descriptor(self, place: &str) -> Result<Descriptor, Malformed> {
        let Some(media_type) = self.media_type else {
            return malformed(format!("{place}: no mediaType"));
        };
        let digest = self.digest.and_then(|text| Digest::try_from(text).ok());
        let Some(digest) = digest else {
            return malformed(format!("{place}: no valid sha256 digest"));
        };
        let Some(size) = self.size.filter(|size| *size <= i64::MAX as u64) else {
            return malformed(format!("{place}: no valid size"));
        };
        let annotations = self.annotations.unwrap_or_default();
        Ok(Descriptor { media_type, digest, size, annotations })
    }
}

impl RawPlatform {
    fn platform(self) -> Option<Platform> {
        let (os, architecture) = (self.os?, self.architecture?);
        if os.is_empty() || architecture.is_empty() {
            return None;
        }
        Some(Platform::new(&os, &architecture, self.variant.as_deref().unwrap_or_default()))
    }
}

/// The entry for a platform: the best match, else the first without a platform, whose configuration
/// is checked later.
pub fn choose<'a>(entries: &'a [Entry], host: &Platform) -> Option<&'a Entry> {
    let ranked = entries.iter().filter_map(|entry| {
        let rank = entry.platform.as_ref().map_or(Some(u32::MAX), |offered| host.rank(offered));
        Some((rank?, entry))
    });
    ranked.min_by_key(|(rank, entry)| (*rank, entry.position)).map(|(_, entry)| entry)
}

/// Parses the configuration of `manifest`.
pub fn parse_config(manifest: &Manifest, bytes: &[u8]) -> Result<Config, Malformed> {
    let raw: RawConfig = json(bytes)?;
    let Some(rootfs) = raw.rootfs else { return malformed("it has no rootfs") };
    if rootfs.r#type.as_deref().is_some_and(|kind| kind != "layers") {
        return malformed("its rootfs type is not layers");
    }
    let texts = rootfs.diff_ids.unwrap_or_default();
    if texts.len() != manifest.layers.len() {
        let (ids, layers) = (texts.len(), manifest.layers.len());
        return malformed(format!("it has {ids} diff ids and the manifest {layers} layers"));
    }
    let digests = texts.into_iter().map(Digest::try_from).collect::<Result<Vec<_>, _>>();
    let diff_ids = digests.map_err(|_| Malformed("a diff id is not a sha256 digest".to_owned()))?;
    let platform =
        RawPlatform { os: raw.os, architecture: raw.architecture, variant: raw.variant }.platform();
    Ok(Config { platform, diff_ids, image: raw.config.unwrap_or_default().into() })
}

impl From<RawImageConfig> for ImageConfig {
    fn from(raw: RawImageConfig) -> Self {
        let labels = raw.labels.unwrap_or_default().into_iter();
        Self {
            user: raw.user.unwrap_or_default(),
            env: raw.env.unwrap_or_default(),
            entrypoint: raw.entrypoint.unwrap_or_default(),
            cmd: raw.cmd.unwrap_or_default(),
            working_dir: raw.working_dir.unwrap_or_default(),
            volumes: raw.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: raw.stop_signal.unwrap_or_default(),
            labels: labels.map(|(key, value)| (key, value.unwrap_or_default())).collect(),
        }
    }
}

/// Chain ids of a stack of layers, lowest first (OCI image specification, layer ChainID).
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<ChainId> {
    let mut chains: Vec<ChainId> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chains.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chains.push(next);
    }
    chains
}

/// GC labels for an index's chosen entry.
pub fn index_labels(entry: &Entry) -> StringMap {
    let key = format!("containerd.io/gc.ref.content.m.{}", entry.position);
    StringMap::from([(key, entry.descriptor.digest.to_string())])
}

/// GC labels for a manifest's configuration and layers.
pub fn manifest_labels(manifest: &Manifest) -> StringMap {
    let layers = manifest.layers.iter().enumerate().map(|(n, layer)| {
        (format!("containerd.io/gc.ref.content.l.{n}"), layer.digest.to_string())
    });
    let config = manifest.config.digest.to_string();
    layers.chain([("containerd.io/gc.ref.content.config".to_owned(), config)]).collect()
}

/// GC labels for the snapshots of an unpacked image; they are set on the configuration.
pub fn config_labels(snapshotter: &str, top: Option<&ChainId>) -> StringMap {
    let key = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    top.map(|chain| (key, chain.to_string())).into_iter().collect()
}

/// The annotations of a layer that become labels of its snapshot. Id mappings are excluded, since
/// only the agent sets them, as are labels over containerd's limit of 4096 bytes.
pub fn snapshot_labels(layer: &Descriptor) -> StringMap {
    let passed = layer.annotations.iter().filter(|(key, value)| {
        let name = key.strip_prefix(SNAPSHOT_LABEL);
        name.is_some_and(|name| !matches!(name, "uidmapping" | "gidmapping"))
            && key.len() + value.len() <= 4096
    });
    passed.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests;
