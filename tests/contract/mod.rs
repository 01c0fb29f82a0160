//! The contract of each backend trait as code: its doc comments, checked. One suite runs on the
//! fakes and on the real adapters, so that the fakes cannot diverge.

// Each test program uses its part of the suite.
#![allow(dead_code)]

pub mod host;
pub mod images;
pub mod network;
pub mod runtime;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podbay::backend::{Error, ErrorKind, RuntimeHandler};
use podbay::model::image::ChainId;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a process of the suite does.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// Ends at once with this code.
    Exit(u32),
    /// Writes this line to stdout, another to stderr when told so, and ends with 0.
    Echo(&'static str),
    /// Copies stdin to stdout until its end, then ends with 0.
    Cat,
    /// Runs until SIGTERM, which ends it with 143.
    UntilTerm,
    /// Runs until SIGKILL.
    UntilKill,
}

/// What a backend needs to run the suite.
pub trait Env: Send + Sync {
    /// The handler that runs containers.
    fn handler(&self) -> RuntimeHandler;
    /// An unpacked chain with what [`Run`] needs in it.
    fn chain(&self) -> ChainId;
    /// The OCI spec of a container that does this.
    fn spec(&self, id: &str, run: Run) -> serde_json::Value;
    /// The OCI process of an exec that does this.
    fn process(&self, run: Run) -> serde_json::Value;
    /// A folder for FIFOs.
    fn folder(&self) -> &Path;
}

/// A path that nobody uses, below `folder`.
pub fn new_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}-{:08x}", rand::random::<u32>()))
}

/// The kind of a failure that must be.
#[track_caller]
pub fn kind<T>(result: Result<T, Error>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.kind,
    }
}

/// Waits for something that must come soon.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: too late"))
}
