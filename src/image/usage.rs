//! Disk use of images.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::error::Step;
use super::{Error, Inner};
use crate::backend;
use crate::model::UnixNanos;
use crate::telemetry::error_chain;

/// How long a result is cached: a kubelet asks often, and computing it is expensive.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// Disk use of one file system (CRI `FilesystemUsage`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    /// Directory on the file system in question.
    pub mountpoint: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Time of the measurement.
    pub at: UnixNanos,
}

/// The last measurement. Callers during the next one wait for it.
#[derive(Default)]
pub(super) struct Usage(tokio::sync::Mutex<Last>);

#[derive(Default)]
struct Last {
    /// The result, with its time and its generation of the index.
    result: Option<(Instant, u64, Vec<FsInfo>)>,
    /// Snapshotters that could not be measured, each logged once.
    missing: BTreeSet<String>,
}

impl Inner {
    /// Disk use of the default snapshotter together with the content store, which share a file
    /// system, then of each other snapshotter that can be measured.
    pub(super) async fn fs_info(&self) -> Result<Vec<FsInfo>, Error> {
        let mut last = self.usage.0.lock().await;
        // Read before measuring, so that a change meanwhile leaves the result stale.
        let generation = self.index.generation();
        if let Some((at, of, sums)) = &last.result
            && at.elapsed() < GOOD_FOR
            && *of == generation
        {
            return Ok(sums.clone());
        }
        let daemon = self.runtime.probe().await.step("asking for the snapshotters")?;
        let default = self.options.snapshotter.as_str();
        let others: BTreeSet<&str> = self.options.handlers.values().map(String::as_str).collect();
        let others = others.into_iter().filter(|name| *name != default);
        let mut sums = vec![self.measure(&daemon, default).await?];
        for name in others {
            match self.measure(&daemon, name).await {
                Ok(sum) => {
                    last.missing.remove(name);
                    sums.push(sum);
                }
                Err(error) if last.missing.insert(name.to_owned()) => {
                    let error = error_chain(&error);
                    tracing::warn!(snapshotter = name, error, "its disk use is not reported");
                }
                Err(_told) => {}
            }
        }
        let content = self.store.content_usage().await.step("measuring disk use")?;
        sums[0].bytes = sums[0].bytes.saturating_add(content.bytes);
        sums[0].inodes = sums[0].inodes.saturating_add(content.inodes);
        last.result = Some((Instant::now(), generation, sums.clone()));
        Ok(sums)
    }

    /// The directory of the default snapshotter, without measuring its use.
    pub(super) async fn folder(&self) -> Result<PathBuf, Error> {
        self.folder_of(&self.options.snapshotter).await
    }

    /// The directory of a snapshotter.
    pub(super) async fn folder_of(&self, snapshotter: &str) -> Result<PathBuf, Error> {
        let daemon = self.runtime.probe().await.step("asking for the snapshotters")?;
        root(&daemon, snapshotter)
    }

    async fn measure(
        &self,
        daemon: &backend::RuntimeInfo,
        snapshotter: &str,
    ) -> Result<FsInfo, Error> {
        let mountpoint = root(daemon, snapshotter)?;
        let usage = self.store.snapshots_usage(snapshotter).await.step("measuring disk use")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = UnixNanos::try_from(now.as_nanos()).unwrap_or(UnixNanos::MAX);
        Ok(FsInfo { mountpoint, bytes: usage.bytes, inodes: usage.inodes, at })
    }
}

/// The directory of a snapshotter.
fn root(daemon: &backend::RuntimeInfo, snapshotter: &str) -> Result<PathBuf, Error> {
    let found = daemon.snapshotters.iter().find(|info| info.name == snapshotter);
    let found = found.map(|info| info.root.clone()).ok_or_else(|| {
        let tried = format!("find snapshotter {snapshotter:?}");
        backend::Error::new(backend::ErrorKind::NotFound, tried)
    });
    found.step("asking for the snapshotters")
}
