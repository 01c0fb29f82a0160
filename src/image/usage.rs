//! How much of the disk images take.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::error::Step;
use super::{Error, Inner};
use crate::backend;
use crate::model::UnixNanos;

/// How long a sum is good for: a kubelet asks often, and the walk is costly for the store.
const GOOD_FOR: Duration = Duration::from_secs(10);

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
    pub at: UnixNanos,
}

/// The last sum. Who asks while it is made waits for it.
#[derive(Default)]
pub(super) struct Usage(tokio::sync::Mutex<Option<(Instant, Vec<FsInfo>)>>);

impl Inner {
    /// Disk use of the default snapshotter and the content store, which share a file system.
    pub(super) async fn fs_info(&self) -> Result<Vec<FsInfo>, Error> {
        let mut last = self.usage.0.lock().await;
        if let Some((at, sums)) = last.as_ref()
            && at.elapsed() < GOOD_FOR
        {
            return Ok(sums.clone());
        }
        let snapshotter = &self.options.snapshotter;
        let daemon = self.runtime.probe().await.step("asking for the snapshotters")?;
        let found = daemon.snapshotters.into_iter().find(|info| info.name == *snapshotter);
        let mountpoint = found.map(|info| info.root).ok_or_else(|| {
            let tried = format!("find snapshotter {snapshotter:?}");
            backend::Error::new(backend::ErrorKind::NotFound, tried)
        });
        let mountpoint = mountpoint.step("asking for the snapshotters")?;
        let (snapshots, content) =
            tokio::try_join!(self.store.snapshots_usage(snapshotter), self.store.content_usage())
                .step("measuring disk use")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sums = vec![FsInfo {
            mountpoint,
            bytes: snapshots.bytes.saturating_add(content.bytes),
            inodes: snapshots.inodes.saturating_add(content.inodes),
            at: UnixNanos::try_from(now.as_nanos()).unwrap_or(UnixNanos::MAX),
        }];
        *last = Some((Instant::now(), sums.clone()));
        Ok(sums)
    }
}
