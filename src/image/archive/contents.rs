//! The contents of an archive: small documents in memory, everything else in the store.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::entries::{Entries, Entry};
use super::{BLOBS, INDEX, LAYOUT, MANIFEST};
use crate::backend::{self, BlobWriter, Lease};
use crate::image::Error;
use crate::image::error::Step;
use crate::image::manifest::MAX_MANIFEST;
use crate::model::StringMap;
use crate::model::image::{Descriptor, Digest};

/// Maximum length of a chain of links.
const MAX_LINKS: usize = 4;

/// Compression of a file, detected from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A file that was put into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub digest: Digest,
    pub size: u64,
    pub packing: Packing,
}

/// All contents of an archive.
#[derive(Default)]
pub(super) struct Contents {
    /// Those of `oci-layout`, `index.json` and `manifest.json` that the archive has.
    pub documents: HashMap<&'static str, Bytes>,
    files: HashMap<String, Kept>,
    links: HashMap<String, String>,
}

impl Contents {
    /// A file by its own name or that of a link to it.
    pub fn file(&self, path: &str) -> Option<&Kept> {
        let mut path = path;
        for _ in 0..=MAX_LINKS {
            if let Some(file) = self.files.get(path) {
                return Some(file);
            }
            path = self.links.get(path)?;
        }
        None
    }

    /// Sizes of all blobs by their digest.
    pub fn sizes(&self) -> HashMap<Digest, u64> {
        self.files.values().map(|file| (file.digest.clone(), file.size)).collect()
    }
}

/// Writes an archive's files into the store.
pub(super) struct Intake<'a> {
    pub store: &'a dyn backend::Images,
    pub lease: &'a Lease,
}

impl Intake<'_> {
    /// Reads an archive to its end.
    pub async fn take(&self, mut entries: Entries) -> Result<Contents, Error> {
        let mut contents = Contents::default();
        let mut seen = HashSet::new();
        while let Some(entry) = entries.next().await? {
            let (Entry::File { path, .. } | Entry::Link { path, .. }) = &entry;
            if !seen.insert(path.clone()) {
                return Err(Error::bad_archive(format!("it has {path:?} twice")));
            }
            let number = seen.len();
            match entry {
                Entry::Link { path, .. } if known(&path).is_some() || path.starts_with(BLOBS) => {
                    return Err(Error::bad_archive(format!("{path:?} is a link")));
                }
                Entry::Link { path, target } => drop(contents.links.insert(path, target)),
                Entry::File { path, .. } if is_legacy(&path) => {}
                Entry::File { path, size } => match known(&path) {
                    Some(name) => {
                        let document = entries.whole(MAX_MANIFEST as u64).await?;
                        contents.documents.insert(name, document);
                    }
                    None => {
                        let kept = self.keep(&mut entries, &path, size, number).await?;
                        contents.files.insert(path, kept);
                    }
                },
            }
        }
        Ok(contents)
    }

    async fn keep(
        &self,
        entries: &mut Entries,
        path: &str,
        size: u64,
        number: usize,
    ) -> Result<Kept, Error> {
        let claimed = match path.strip_prefix(BLOBS) {
            None => None,
            Some(hex) => {
                let digest = Digest::try_from(format!("sha256:{hex}"));
                let bad = |_| Error::bad_archive(format!("{path:?} is not a blob name"));
                Some(digest.map_err(bad)?)
            }
        };
        if let Some(digest) = &claimed
            && self.stored(digest, size).await?
        {
            let first = entries.body().await?.unwrap_or_default();
            return Ok(Kept { digest: digest.clone(), size, packing: Packing::of(&first) });
        }
        // An ingest name unique to this load, so that a slow upload does not block a pull of the
        // blob.
        let ingest = format!("load-{}-{number}", self.lease.0);
        let mut writer = self.open(&ingest, claimed.as_ref(), size).await?;
        let copied = self.copy(entries, &mut *writer, claimed.as_ref()).await;
        let (digest, packing) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                if let Err(error) = writer.abort().await {
                    tracing::warn!(ingest, %error, "cannot remove partial blob of archive");
                }
                return Err(error);
            }
        };
        writer.expect(&digest);
        writer.commit(&StringMap::new()).await.step("storing a blob of an archive")?;
        // If the store already had the blob, it has not put it under the lease.
        if !self.stored(&digest, size).await? {
            return Err(Error::bad_archive(format!("{digest} was not stored")));
        }
        Ok(Kept { digest, size, packing })
    }

    /// Whether the store has a blob, which is then added to the lease.
    async fn stored(&self, digest: &Digest, size: u64) -> Result<bool, Error> {
        let found = self.store.blob(digest, Some(self.lease)).await;
        match found.step("looking for a blob of an archive")? {
            None => Ok(false),
            Some(found) if found.size == size => Ok(true),
            Some(_) => Err(Error::bad_archive(format!("{digest} has the wrong size"))),
        }
    }

    async fn open(
        &self,
        ingest: &str,
        digest: Option<&Digest>,
        size: u64,
    ) -> Result<Box<dyn BlobWriter>, Error> {
        let opened = match digest {
            None => self.store.write_unnamed(self.lease, ingest, size).await,
            Some(digest) => {
                let blob = Descriptor {
                    media_type: String::new(),
                    digest: digest.clone(),
                    size,
                    annotations: StringMap::new(),
                };
                match self.store.write_blob(self.lease, ingest, &blob).await {
                    // Another client stored it just now; the archive's bytes still have to be read
                    // and checked.
                    Err(error) if error.is_already_exists() => {
                        self.store.write_unnamed(self.lease, ingest, size).await
                    }
                    opened => opened,
                }
            }
        };
        opened.step("opening a blob of an archive for writing")
    }

    /// Copies the current file; returns its digest and its first bytes.
    async fn copy(
        &self,
        entries: &mut Entries,
        writer: &mut dyn BlobWriter,
        claimed: Option<&Digest>,
    ) -> Result<(Digest, Packing), Error> {
        if writer.offset() > 0 {
            writer.truncate().await.step("starting a blob of an archive again")?;
        }
        let mut hasher = Sha256::new();
        let mut first = Vec::new();
        while let Some(piece) = entries.body().await? {
            hasher.update(&piece);
            let missing = Packing::LOOK - first.len().min(Packing::LOOK);
            first.extend_from_slice(&piece[..piece.len().min(missing)]);
            writer.write(piece).await.step("writing a blob of an archive")?;
        }
        let real = format!("sha256:{}", hex::encode(hasher.finalize()));
        if let Some(claimed) = claimed
            && claimed.as_str() != real
        {
            return Err(Error::bad_archive(format!("{claimed} has digest {real}")));
        }
        let digest =
            Digest::try_from(real).map_err(|error| Error::bad_archive(error.to_string()))?;
        Ok((digest, Packing::of(&first)))
    }
}

/// The documents that describe an archive's contents.
fn known(path: &str) -> Option<&'static str> {
    [LAYOUT, INDEX, MANIFEST].into_iter().find(|name| *name == path)
}

/// Files that docker wrote for its own long obsolete versions.
fn is_legacy(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path == "repositories" || (name != path && matches!(name, "VERSION" | "json"))
}

impl Packing {
    const LOOK: usize = 4;

    fn of(first: &[u8]) -> Self {
        if first.starts_with(b"\x1f\x8b") {
            Self::Gzip
        } else if first.starts_with(b"\x28\xb5\x2f\xfd") {
            Self::Zstd
        } else {
            Self::Plain
        }
    }
}
