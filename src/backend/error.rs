//! The error type of all backend traits.

use std::error::Error as StdError;
use std::fmt;

/// What a caller can do about a failure. `serve` maps it to a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object does not exist.
    NotFound,
    /// The object already exists.
    AlreadyExists,
    /// The request is invalid.
    InvalidArgument,
    /// The state of the object does not allow the operation.
    FailedPrecondition,
    /// The peer (containerd, a registry) cannot be reached; a later attempt may work.
    Unavailable,
    /// A time limit was exceeded.
    DeadlineExceeded,
    /// A limit was reached, or the disk is full.
    ResourceExhausted,
    /// The peer does not support this call.
    Unsupported,
    /// Anything else.
    Other,
}

/// An error of a backend: the attempted operation, its kind, and the cause.
///
/// `Display` gives the operation; the cause is its `source` and is never repeated.
#[derive(Debug)]
pub struct Error {
    /// What can be done about it.
    pub kind: ErrorKind,
    /// The attempted operation, e.g. `create task 1a2b…`.
    pub tried: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result of a seam.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, tried: impl Into<String>) -> Self {
        Self { kind, tried: tried.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An I/O error; the kind is derived from it.
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

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// Whether the object already exists.
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

/// Lets a teardown treat a missing object as success.
pub trait GoneIsFine {
    /// Converts "not found" to `Ok`.
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
