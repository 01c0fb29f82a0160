//! Images: references, pulls, names, removal, disk use.
//!
//! One pull path serves every containerd: registry -> content store -> unpack, under a lease.

use std::path::PathBuf;

use crate::model::image::Image;

/// Credentials of one pull (CRI `AuthConfig`). Never logged.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    /// The host these are for; empty means the image's registry.
    pub server_address: String,
    /// OAuth refresh token.
    pub identity_token: String,
    /// Bearer token sent as it stands.
    pub registry_token: String,
}

/// Disk use of one file system (CRI `FilesystemUsage`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    /// Folder whose file system is meant.
    pub mountpoint: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// When it was measured.
    pub at: crate::model::UnixNanos,
}

/// A failure of the image room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// placeholder until the room is built
    #[error("store")]
    Backend(#[from] crate::backend::Error),
}

/// The image service.
pub struct Images {}

impl Images {
    /// Pulls an image and returns it. Concurrent pulls of one image share one download; the
    /// work goes on only while somebody waits for it.
    pub async fn pull(
        &self,
        _image: &str,
        _credentials: Option<Credentials>,
    ) -> Result<Image, Error> {
        unreachable!("skeleton")
    }

    /// All images, one for each id, sorted by id. A filter names one image.
    pub async fn list(&self, _filter: Option<&str>) -> Result<Vec<Image>, Error> {
        unreachable!("skeleton")
    }

    /// One image by id, unique id prefix, tag, digest reference or short name.
    pub async fn get(&self, _image: &str) -> Result<Option<Image>, Error> {
        unreachable!("skeleton")
    }

    /// Removes all names of an image's id; unknown is fine.
    pub async fn remove(&self, _image: &str) -> Result<(), Error> {
        unreachable!("skeleton")
    }

    /// Disk use: the default snapshotter's first.
    pub async fn fs_info(&self) -> Result<Vec<FsInfo>, Error> {
        unreachable!("skeleton")
    }
}
