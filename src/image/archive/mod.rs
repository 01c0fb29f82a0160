//! Image archives: `load` reads one, `save` writes one.
//!
//! ```text
//! upload -> (gunzip) -> entries -> blobs into the store, under a lease; small documents in memory
//!        -> OCI layout or docker archive -> images: documents checked, layers unpacked
//!        -> all names at once -> lease ends
//! ```
//!
//! An archive is not trusted: names of entries never reach a file system, the store computes digest
//! and size of each blob, documents pass the same checks as in a pull, and memory use is bounded.
//! Layers are streamed. Everything that a load makes is held only by its lease until the names are
//! set, so a failed load leaves nothing.
//!
//! An archive must be complete: a missing blob is not taken from the store, because knowing a
//! digest must not be enough to get at a blob.

mod contents;
mod docker;
mod entries;
mod header;
mod input;
mod layout;
mod load;
mod save;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::{Error, Images};
use crate::model::image::Digest;

/// Maximum number of entries: far more than complete images need.
const MAX_ENTRIES: usize = 20_000;
/// Maximum number of images in an archive.
const MAX_IMAGES: usize = 256;
/// Maximum number of names of one image.
const MAX_NAMES: usize = 256;

/// The file that marks an archive as an OCI image layout.
const LAYOUT: &str = "oci-layout";
/// The image list of an OCI image layout.
const INDEX: &str = "index.json";
/// The image list of a docker archive.
const MANIFEST: &str = "manifest.json";
/// Directory of the blobs in an OCI image layout.
const BLOBS: &str = "blobs/sha256/";

/// Why an upload failed.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// An incoming archive.
pub type Upload = BoxStream<'static, Result<Bytes, Broken>>;

/// Options of a load.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Names to use instead of those in the archive, which must then have exactly one image.
    pub names: Vec<String>,
    /// Runtime handler to unpack the images for; empty for the default one.
    pub handler: String,
}

/// A loaded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// Its names, normalised.
    pub names: Vec<String>,
    /// Digest of the index or manifest.
    pub target: Digest,
}

/// An outgoing archive.
pub struct Saved {
    /// Size in bytes.
    pub total: u64,
    /// Its bytes. After an error the stream ends.
    pub bytes: BoxStream<'static, Result<Bytes, Error>>,
}

impl Images {
    /// Loads all images of an archive: a tar with an OCI image layout or a docker archive,
    /// optionally compressed with gzip. If the caller drops this future its upload ends early; the
    /// task continues and cleans up.
    ///
    /// # Errors
    /// [`Error::BadArchive`] for a complete but invalid archive, [`Error::BrokenOff`],
    /// [`Error::NoPlatform`], or a failure of the store. Then nothing of it is left.
    pub async fn load(&self, from: Upload, options: LoadOptions) -> Result<Vec<Loaded>, Error> {
        let inner = Arc::clone(&self.inner);
        let work =
            self.inner.tasks.spawn("load images", async move { inner.load(from, options).await });
        work.join().await.unwrap_or(Err(Error::Abandoned))
    }

    /// Writes images as an OCI image layout that is also a docker archive. The images are kept
    /// until the stream ends or is dropped. A name selects its image; an id, the image with all its
    /// tags.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Incomplete`], or a failure of the store.
    pub async fn save(&self, images: Vec<String>) -> Result<Saved, Error> {
        let inner = Arc::clone(&self.inner);
        // In an owned task, so that a caller that leaves does not leave the lease behind.
        let work = self.inner.tasks.spawn("plan a save", async move { inner.save(&images).await });
        work.join().await.unwrap_or(Err(Error::Abandoned))
    }
}
