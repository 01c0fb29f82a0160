//! Errors of the store.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

/// An error of the store. Cheap to clone, since one failed commit fails many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another process has locked the store.
    #[error("the state store {} is in use by another podbay{}", path.display(), holder(*.pid))]
    Locked {
        /// The store's file.
        path: PathBuf,
        /// PID of the holder, if it is known.
        pid: Option<u32>,
    },
    /// A newer podbay wrote the store; it is left untouched.
    #[error(
        "the state store {} has schema {found}, this podbay knows up to {known}: \
         run the newer version, or move the file away to start with an empty store",
        path.display()
    )]
    NewerSchema {
        /// The store's file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The highest schema version that this program supports.
        known: u32,
    },
    /// A newer podbay wrote the store in another file format; it is left untouched.
    #[error(
        "the state store {} has file format {found}, this podbay knows up to {known}: \
         run the newer version, or move the file away to start with an empty store",
        path.display()
    )]
    NewerFormat {
        /// The store's file.
        path: PathBuf,
        /// Its file format.
        found: u8,
        /// The highest file format that this program supports.
        known: u8,
    },
    /// The disk or a quota is full. Nothing was changed.
    #[error("{tried}: no space left")]
    Full {
        /// What was tried.
        tried: String,
        /// Why.
        #[source]
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// I/O on the store's file failed.
    #[error("{tried}")]
    Io {
        /// What was tried.
        tried: String,
        /// Why.
        #[source]
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The file is damaged.
    #[error("the state store is damaged: {problem}")]
    Corrupt {
        /// Description of the damage.
        problem: String,
    },
    /// A record cannot be stored, or a row cannot be read.
    #[error("{table} row {key:?}: {problem}")]
    Row {
        /// Table.
        table: &'static str,
        /// Key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// Too many writes are queued.
    #[error("the state store has too many writes waiting")]
    Busy,
    /// The store was closed.
    #[error("the state store is closed")]
    Closed,
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

impl Error {
    /// Converts an I/O error.
    pub(super) fn io(tried: impl Into<String>, source: std::io::Error) -> Self {
        let (tried, kind) = (tried.into(), source.kind());
        match kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full { tried, source: Arc::new(source) }
            }
            _ => Self::Io { tried, source: Arc::new(source) },
        }
    }

    /// Converts a database error; distinguishes a damaged file from a failing disk.
    pub(super) fn from_redb(tried: impl Into<String>, source: redb::Error) -> Self {
        match source {
            // redb reports "not a database" and a truncated file as I/O errors.
            redb::Error::Io(error)
                if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                Self::Corrupt { problem: error.to_string() }
            }
            redb::Error::Io(error) => Self::io(tried, error),
            redb::Error::Corrupted(problem) => Self::Corrupt { problem },
            error @ (redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableIsMultimap(_)) => Self::Corrupt { problem: error.to_string() },
            other => Self::Io { tried: tried.into(), source: Arc::new(other) },
        }
    }
}
