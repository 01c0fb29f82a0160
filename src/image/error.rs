//! Errors of the image room, in terms of the caller's request.

use std::sync::Arc;
use std::time::Duration;

use crate::backend;
use crate::model::image::Digest;

/// An error of the image room.
///
/// Messages never contain credentials, tokens or the query string of a URL, since they end up in
/// pod events and logs. Cheap to clone, because one download answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The name or id is not a valid reference.
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
    /// The id prefix matches several images.
    #[error("image id prefix {0:?} is ambiguous")]
    AmbiguousId(String),
    /// The given credentials cannot be decoded.
    #[error("invalid credentials for {host}: {problem}")]
    InvalidCredentials {
        /// Registry.
        host: String,
        /// What is wrong, without their content.
        problem: &'static str,
    },
    /// The registry answered that it does not have the image.
    #[error("{reference} not found in the registry")]
    NotInRegistry {
        /// The requested image.
        reference: String,
    },
    /// The registry or its token server refused the credentials, or requires some.
    #[error("not authorized to pull {reference}: {problem}")]
    Unauthorized {
        /// The requested image.
        reference: String,
        /// The server that refused, and its answer.
        problem: String,
    },
    /// No registry could be reached, or it failed. The kubelet matches the first word of this
    /// error.
    #[error("RegistryUnavailable: {tried}")]
    RegistryUnavailable {
        /// The failed request and its result.
        tried: String,
        /// Why.
        #[source]
        source: Option<Arc<reqwest::Error>>,
    },
    /// The registry refused a request for another reason.
    #[error("{tried} answered status {status}")]
    RegistryRefused {
        /// The refused request.
        tried: String,
        /// HTTP status.
        status: u16,
    },
    /// The registry sent invalid content.
    #[error("bad content of {what}: {problem}")]
    BadContent {
        /// The blob or document.
        what: String,
        /// Wrong digest, size, type or shape.
        problem: String,
    },
    /// The image has no variant for this host's platform.
    #[error("{reference} has no image for {platform}")]
    NoPlatform {
        /// The requested image.
        reference: String,
        /// This host's platform.
        platform: String,
    },
    /// No data arrived within the limit.
    #[error("pull of {reference} made no progress for {}", humantime::format_duration(*.after))]
    NoProgress {
        /// The image.
        reference: String,
        /// The limit.
        after: Duration,
    },
    /// Nobody waits for the pull any more, or the agent is shutting down.
    #[error("pull of {reference} was cancelled")]
    Cancelled {
        /// The image.
        reference: String,
    },
    /// The disk of the snapshots is nearly full. A layer may be much larger than its blob.
    #[error(
        "less than {least}% of the {what} on the disk of snapshotter {snapshotter:?} are free \
         (images.min_free_percent)"
    )]
    NoRoom {
        /// The snapshotter.
        snapshotter: String,
        /// What is nearly used up: bytes or inodes.
        what: &'static str,
        /// The required percentage.
        least: u32,
    },
    /// The image is mounted as a volume.
    #[error("image {id} is in use as a volume")]
    InUse {
        /// Id of the image.
        id: Digest,
    },
    /// Blobs of a known image are missing from the store; another pull repairs it.
    #[error("content of image {id} is missing; pull it again")]
    Incomplete {
        /// Id of the image.
        id: Digest,
    },
    /// No such image.
    #[error("image {0:?} is not found")]
    NotFound(String),
    /// An archive is complete but invalid.
    #[error("bad archive: {0}")]
    BadArchive(String),
    /// Names were given for an archive with several images.
    #[error("names can be given to one image only, and the archive has {0}")]
    NamesForMany(usize),
    /// An archive ended early.
    #[error("the archive ended unexpectedly")]
    BrokenOff {
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// No bytes of an archive arrived, or nobody read them, within the limit.
    #[error("the archive made no progress for {}", humantime::format_duration(*.after))]
    Stalled {
        /// The limit.
        after: Duration,
    },
    /// The agent is shutting down, or the task panicked; the details are in the agent's log.
    #[error("the agent stopped the operation")]
    Abandoned,
    /// A registry host configuration is invalid.
    #[error("registry configuration {path}: {problem}")]
    HostConfig {
        /// File.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A call to the store failed.
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

    /// Whether it only reports a cancellation.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled { .. })
    }
}

/// Adds the name of the failed step to a backend error.
pub(super) trait Step<T> {
    /// Adds the step's name.
    fn step(self, step: &'static str) -> Result<T, Error>;
}

impl<T> Step<T> for backend::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Backend { step, source: Arc::new(source) })
    }
}
