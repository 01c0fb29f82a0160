//! The one error of the seams.

use std::error::Error as StdError;
use std::fmt;

/// What a caller can do about a failure. The edge turns this into a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing named does not exist.
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// The request itself is wrong.
    InvalidArgument,
    /// The thing is in a state that forbids this.
    FailedPrecondition,
    /// The peer (containerd, a registry) is away; a later try may work.
    Unavailable,
    /// It took longer than it may.
    DeadlineExceeded,
    /// A limit or a full disk.
    ResourceExhausted,
    /// The peer does not know this call.
    Unsupported,
    /// Anything else.
    Other,
}

/// A failure at a seam: what was tried, of which kind, and why.
///
/// `Display` says what was tried; the cause is its `source` and is never repeated.
#[derive(Debug)]
pub struct Error {
    /// What can be done about it.
    pub kind: ErrorKind,
    /// What was tried, e.g. `create task 1a2b…`.
    pub tried: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result of a seam.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure without a deeper cause.
    pub fn new(kind: ErrorKind, tried: impl Into<String>) -> Self {
        Self { kind, tried: tried.into(), source: None }
    }

    /// With the error that caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An I/O failure; the kind follows from the I/O error.
    pub fn io(tried: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            std::io::ErrorKind::TimedOut => ErrorKind::DeadlineExceeded,
            std::io::ErrorKind::StorageFull => ErrorKind::ResourceExhausted,
            _ => ErrorKind::Other,
        };
        Self::new(kind, tried).because(source)
    }

    /// Whether the thing named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// Whether the thing named exists already.
    pub fn is_already_exists(&self) -> bool {
        self.kind == ErrorKind::AlreadyExists
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tried)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Lets a teardown treat "already gone" as done.
pub trait GoneIsFine {
    /// `Ok` when the thing was not there.
    fn gone_is_fine(self) -> Result<()>;
}

impl<T> GoneIsFine for Result<T> {
    fn gone_is_fine(self) -> Result<()> {
        match self {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
