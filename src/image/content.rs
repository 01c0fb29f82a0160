//! Walks from an image's target down to its configuration, both for pulls and for stored images.

use async_trait::async_trait;
use bytes::Bytes;

use super::Error;
use super::error::Step;
use super::manifest::{self, Config, Document, MAX_INDEX_DEPTH, Manifest};
use super::platform::Platform;
use crate::backend;
use crate::model::StringMap;
use crate::model::image::{ChainId, Descriptor, Digest, Image};
use crate::telemetry::error_chain;

/// A source of documents.
#[async_trait]
pub(super) trait Documents: Send + Sync {
    /// An index, manifest or configuration.
    async fn document(&self, kind: Kind, descriptor: &Descriptor) -> Result<Bytes, Error>;
}

/// The kinds of small blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Index,
    Manifest,
    Config,
}

impl Kind {
    /// The ingest name that all clients of containerd use, so that concurrent writers notice each
    /// other.
    pub fn ingest(self, digest: &Digest) -> String {
        match self {
            Self::Index => format!("index-{digest}"),
            Self::Manifest => format!("manifest-{digest}"),
            Self::Config => format!("config-{digest}"),
        }
    }

    fn of(descriptor: &Descriptor) -> Self {
        if manifest::is_index(&descriptor.media_type) { Self::Index } else { Self::Manifest }
    }
}

/// A document of an image, with the GC labels for what it points at.
pub(super) struct Piece {
    pub kind: Kind,
    pub descriptor: Descriptor,
    pub bytes: Bytes,
    pub labels: StringMap,
}

/// An image's documents, read and checked.
pub(super) struct Tree {
    /// Index (if any), manifest, configuration.
    pub pieces: Vec<Piece>,
    pub manifest: Manifest,
    pub config: Config,
    /// Chain ids, lowest first.
    pub chains: Vec<ChainId>,
}

impl Tree {
    /// The part of the image that does not depend on its names.
    pub fn image(&self, target: &Descriptor) -> Image {
        let documents: u64 = self.pieces.iter().map(|piece| piece.descriptor.size).sum();
        let layers: u64 = self.manifest.layers.iter().map(|layer| layer.size).sum();
        Image {
            id: self.manifest.config.digest.clone(),
            target: target.clone(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: documents + layers,
            pinned: false,
            chain_id: self.chains.last().cloned(),
            config: self.config.image.clone(),
        }
    }
}

/// Reads an image's documents from its target down. `name` is used in errors.
pub(super) async fn walk(
    documents: &dyn Documents,
    target: &Descriptor,
    platform: &Platform,
    snapshotter: &str,
    name: &str,
) -> Result<Tree, Error> {
    let mut pieces = Vec::new();
    let mut descriptor = target.clone();
    while pieces.len() <= MAX_INDEX_DEPTH {
        let kind = Kind::of(&descriptor);
        let bytes = read(documents, kind, &descriptor).await?;
        let document = manifest::parse(&descriptor.media_type, &bytes);
        match document.map_err(|problem| Error::bad(descriptor.digest.to_string(), problem.0))? {
            Document::Index(entries) => {
                let entry = manifest::choose(&entries, platform);
                let entry = entry.ok_or_else(|| no_platform(name, platform))?;
                let labels = manifest::index_labels(entry);
                let next = entry.descriptor.clone();
                pieces.push(Piece { kind, descriptor, bytes, labels });
                descriptor = next;
            }
            Document::Manifest(found) => {
                let labels = manifest::manifest_labels(&found);
                pieces.push(Piece { kind, descriptor, bytes, labels });
                let bytes = read(documents, Kind::Config, &found.config).await?;
                return finish(pieces, found, bytes, platform, snapshotter)?
                    .ok_or_else(|| no_platform(name, platform));
            }
        }
    }
    Err(Error::bad(target.digest.to_string(), "its indexes are nested too deep"))
}

async fn read(
    documents: &dyn Documents,
    kind: Kind,
    descriptor: &Descriptor,
) -> Result<Bytes, Error> {
    let bytes = documents.document(kind, descriptor).await?;
    manifest::verify(descriptor, &bytes)
        .map_err(|problem| Error::bad(descriptor.digest.to_string(), problem.0))?;
    Ok(bytes)
}

/// Completes the tree; `None` when the configuration is for another platform.
fn finish(
    mut pieces: Vec<Piece>,
    manifest: Manifest,
    bytes: Bytes,
    platform: &Platform,
    snapshotter: &str,
) -> Result<Option<Tree>, Error> {
    let descriptor = manifest.config.clone();
    let config = manifest::parse_config(&manifest, &bytes)
        .map_err(|problem| Error::bad(descriptor.digest.to_string(), problem.0))?;
    if config.platform.as_ref().is_some_and(|made_for| platform.rank(made_for).is_none()) {
        return Ok(None);
    }
    let chains = manifest::chain_ids(&config.diff_ids);
    let labels = manifest::config_labels(snapshotter, chains.last());
    pieces.push(Piece { kind: Kind::Config, descriptor, bytes, labels });
    Ok(Some(Tree { pieces, manifest, config, chains }))
}

fn no_platform(name: &str, platform: &Platform) -> Error {
    Error::NoPlatform { reference: name.to_owned(), platform: platform.to_string() }
}

/// Documents from the content store.
pub(super) struct Stored<'a>(pub &'a dyn backend::Images);

#[async_trait]
impl Documents for Stored<'_> {
    async fn document(&self, kind: Kind, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let max = match kind {
            Kind::Config => manifest::MAX_CONFIG,
            Kind::Index | Kind::Manifest => manifest::MAX_MANIFEST,
        };
        self.0.read_blob(&descriptor.digest, max).await.step("reading an image's documents")
    }
}

/// An image that is stored and usable: unpacked, or with all layers stored. `None` otherwise, for
/// any reason: partly removed, for another platform, not an image, unreadable. Only when the store
/// cannot be asked now is that an error.
pub(super) async fn stored_image(
    store: &dyn backend::Images,
    target: &Descriptor,
    platform: &Platform,
    snapshotter: &str,
) -> Result<Option<Image>, Error> {
    let documents = Stored(store);
    let tree = match walk(&documents, target, platform, snapshotter, target.digest.as_str()).await {
        Ok(tree) => tree,
        Err(Error::Backend { source, step }) if may_pass(&source) => {
            return Err(Error::Backend { step, source });
        }
        Err(Error::Backend { source, .. }) if !is_missing(&source) => {
            let error = error_chain(&source);
            tracing::warn!(target = %target.digest, error, "stored image cannot be read");
            return Ok(None);
        }
        Err(error) => {
            tracing::debug!(target = %target.digest, %error, "stored image is not usable");
            return Ok(None);
        }
    };
    if let Some(top) = tree.chains.last()
        && !store.has_chain(snapshotter, top, None).await.step("looking for a snapshot")?
    {
        for layer in &tree.manifest.layers {
            if store.blob(&layer.digest, None).await.step("looking for a layer")?.is_none() {
                return Ok(None);
            }
        }
    }
    Ok(Some(tree.image(target)))
}

/// Whether the same call may succeed a moment later. Anything else would fail for ever, and hide all
/// other images.
fn may_pass(error: &backend::Error) -> bool {
    use backend::ErrorKind::{DeadlineExceeded, ResourceExhausted, Unavailable};
    matches!(error.kind, Unavailable | DeadlineExceeded | ResourceExhausted)
}

fn is_missing(error: &backend::Error) -> bool {
    use backend::ErrorKind::{InvalidArgument, NotFound};
    matches!(error.kind, NotFound | InvalidArgument)
}
