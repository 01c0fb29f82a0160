//! Images as archives: `load` takes one in, `save` makes one.
//!
//! ```text
//! upload -> (gunzip) -> entries -> blobs into the store, under a lease; small documents in memory
//!        -> OCI layout or docker archive -> images: documents checked, layers unpacked
//!        -> all names at once -> lease ends
//! ```
//!
//! Nothing of an archive is believed: names of entries never reach a file system, each blob has the
//! digest and size that the store itself found, documents pass the checks of a pull, and what has
//! to be in memory is bounded. Layers stream through. All that a load makes hangs on its lease
//! until the names are put, so one that fails leaves nothing.
//!
//! An archive is a whole: blobs that only the store has are not taken for missing ones, because
//! whoever knows a digest is not meant to get at its bytes that way.

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

/// Most entries of an archive: far more than images with all their layers need.
const MAX_ENTRIES: usize = 20_000;
/// Most images of an archive.
const MAX_IMAGES: usize = 256;
/// Most names of one image.
const MAX_NAMES: usize = 256;

/// The file that says that an archive is an OCI image layout.
const LAYOUT: &str = "oci-layout";
/// Its list of images.
const INDEX: &str = "index.json";
/// The list of images of a docker archive.
const MANIFEST: &str = "manifest.json";
/// Where an OCI image layout has its blobs.
const BLOBS: &str = "blobs/sha256/";

/// Why an upload broke off.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// An archive on its way in.
pub type Upload = BoxStream<'static, Result<Bytes, Broken>>;

/// How an archive is to be taken.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Names in place of those of the archive, which must have one image only.
    pub names: Vec<String>,
    /// Runtime handler that images are unpacked for; empty is the default one.
    pub handler: String,
}

/// An image that was taken from an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// Its names, normalised.
    pub names: Vec<String>,
    /// What they point at.
    pub target: Digest,
}

/// An archive on its way out.
pub struct Saved {
    /// Size in bytes.
    pub total: u64,
    /// Its bytes. An error is the last item.
    pub bytes: BoxStream<'static, Result<Bytes, Error>>,
}

impl Images {
    /// Takes all images of an archive: an OCI image layout or a docker archive as a tar, which may
    /// be compressed with gzip. The work goes on when the caller has gone, whose upload then breaks
    /// off.
    ///
    /// # Errors
    /// [`Error::BadArchive`] for one that is whole but wrong, [`Error::BrokenOff`],
    /// [`Error::NoPlatform`], a failure of the store. Then nothing of it is left.
    pub async fn load(&self, from: Upload, options: LoadOptions) -> Result<Vec<Loaded>, Error> {
        let inner = Arc::clone(&self.inner);
        let work =
            self.inner.tasks.spawn("load images", async move { inner.load(from, options).await });
        work.join().await.unwrap_or(Err(Error::Abandoned))
    }

    /// Writes images as an OCI image layout that is a docker archive as well. They stay until it is
    /// read to its end or dropped. A name goes with its image; with an id, all of the image's tags.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Incomplete`], or when the store cannot be asked.
    pub async fn save(&self, images: Vec<String>) -> Result<Saved, Error> {
        let inner = Arc::clone(&self.inner);
        // Owned: a caller that leaves now must not leave the lease behind.
        let work = self.inner.tasks.spawn("plan a save", async move { inner.save(&images).await });
        work.join().await.unwrap_or(Err(Error::Abandoned))
    }
}
