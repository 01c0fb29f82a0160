//! What can go wrong with images, in the words of whoever asked.

use std::sync::Arc;
use std::time::Duration;

use crate::backend;
use crate::model::image::Digest;

/// A failure of the image room.
///
/// Texts never hold credentials, tokens or the query string of a URL: they end up in pod events
/// and logs. It is cheap to clone because one download answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The name or id is no valid reference.
    #[error("invalid image reference {image:?}: {problem}")]
    InvalidReference {
        /// As given.
        image: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No such runtime handler.
    #[error("image.runtime_handler: no runtime for {0:?} is configured")]
    UnknownHandler(String),
    /// An id prefix that several images have.
    #[error("image id prefix {0:?} is ambiguous")]
    AmbiguousId(String),
    /// The credentials given cannot be read.
    #[error("invalid credentials for {host}: {problem}")]
    InvalidCredentials {
        /// Registry.
        host: String,
        /// What is wrong; never their content.
        problem: &'static str,
    },
    /// The registry answered, and does not have it.
    #[error("{reference} not found in the registry")]
    NotInRegistry {
        /// What was asked for.
        reference: String,
    },
    /// The registry or its token server refused the credentials, or wants some.
    #[error("not authorized to pull {reference}: {problem}")]
    Unauthorized {
        /// What was asked for.
        reference: String,
        /// Which server refused, and how.
        problem: String,
    },
    /// No registry could be reached, or it failed. A kubelet matches the first word.
    #[error("RegistryUnavailable: {tried}")]
    RegistryUnavailable {
        /// Which request failed, and how.
        tried: String,
        /// Why.
        #[source]
        source: Option<Arc<reqwest::Error>>,
    },
    /// The registry refused a request for another reason.
    #[error("{tried} answered status {status}")]
    RegistryRefused {
        /// Which request.
        tried: String,
        /// HTTP status.
        status: u16,
    },
    /// The registry sent something that must not be used.
    #[error("bad content of {what}: {problem}")]
    BadContent {
        /// Which blob or document.
        what: String,
        /// Wrong digest, size, type or shape.
        problem: String,
    },
    /// The image is not made for this host.
    #[error("{reference} has no image for {platform}")]
    NoPlatform {
        /// What was asked for.
        reference: String,
        /// This host's platform.
        platform: String,
    },
    /// Bytes stopped arriving.
    #[error("pull of {reference} made no progress for {}", humantime::format_duration(*.after))]
    NoProgress {
        /// What was pulled.
        reference: String,
        /// The limit.
        after: Duration,
    },
    /// Nobody waits for it any more, or the agent is stopping.
    #[error("pull of {reference} was cancelled")]
    Cancelled {
        /// What was pulled.
        reference: String,
    },
    /// The image is mounted as a volume.
    #[error("image {id} is in use as a volume")]
    InUse {
        /// Which.
        id: Digest,
    },
    /// Blobs of a known image are gone from the store; a new pull repairs it.
    #[error("content of image {id} is missing; pull it again")]
    Incomplete {
        /// Which.
        id: Digest,
    },
    /// No such image.
    #[error("image {0:?} is not found")]
    NotFound(String),
    /// An archive is whole, and must not be used.
    #[error("bad archive: {0}")]
    BadArchive(String),
    /// Names were given for an archive of several images.
    #[error("names can be given to one image only, and the archive has {0}")]
    NamesForMany(usize),
    /// An archive did not come to its end.
    #[error("the archive broke off")]
    BrokenOff {
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Bytes of an archive stopped arriving, or nobody took them.
    #[error("the archive made no progress for {}", humantime::format_duration(*.after))]
    Stalled {
        /// The limit.
        after: Duration,
    },
    /// The agent stops, or the work broke down, which its log tells.
    #[error("the agent has given the work up")]
    Abandoned,
    /// A registry host configuration cannot be used.
    #[error("registry configuration {path}: {problem}")]
    HostConfig {
        /// File.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A step in the store failed.
    #[error("{step}")]
    Backend {
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: Arc<backend::Error>,
    },
}

impl Error {
    pub(super) fn bad(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::BadContent { what: what.into(), problem: problem.into() }
    }

    pub(super) fn bad_archive(problem: impl Into<String>) -> Self {
        Self::BadArchive(problem.into())
    }

    pub(super) fn cancelled(reference: impl Into<String>) -> Self {
        Self::Cancelled { reference: reference.into() }
    }

    pub(super) fn host_config(path: &std::path::Path, problem: impl Into<String>) -> Self {
        Self::HostConfig { path: path.display().to_string(), problem: problem.into() }
    }

    /// Whether it only tells that the work was told to stop.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled { .. })
    }
}

/// Names the step of a failed store call.
pub(super) trait Step<T> {
    /// With the step's name.
    fn step(self, step: &'static str) -> Result<T, Error>;
}

impl<T> Step<T> for backend::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Backend { step, source: Arc::new(source) })
    }
}
