//! Ends pulls and loads before they fill the disk.
//!
//! The size of a layer is known only once it is unpacked, and a small blob can become very large. So
//! the disk is watched while layers are stored and unpacked.

use std::time::Duration;

use super::error::Step;
use super::{Error, Inner};
use crate::backend::DiskSpace;
use crate::telemetry::error_chain;

/// Delay between two looks at the disk.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

impl Inner {
    /// Completes when the disk of a snapshotter is nearly full; never if its space is not known.
    /// Cancel-safe.
    pub(super) async fn no_room(&self, snapshotter: &str) -> Error {
        let least = self.options.min_free_percent;
        match self.await_shortage(snapshotter, least).await {
            Ok(what) => Error::NoRoom { snapshotter: snapshotter.to_owned(), what, least },
            Err(error) => {
                let error = error_chain(&error);
                tracing::debug!(
                    snapshotter,
                    error,
                    "free space is not known, layers are not limited"
                );
                std::future::pending().await
            }
        }
    }

    async fn await_shortage(&self, snapshotter: &str, least: u32) -> Result<&'static str, Error> {
        if least == 0 {
            return std::future::pending().await;
        }
        let folder = self.folder_of(snapshotter).await?;
        loop {
            let space = self.store.disk_space(&folder).await;
            if let Some(what) = shortage(space.step("looking at the disk")?, least) {
                return Ok(what);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Does work that fills a disk, unless it is nearly full: then the work is dropped. What it has
    /// stored by then goes with its lease.
    pub(super) async fn with_room<T>(
        &self,
        snapshotter: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            done = work => done,
            full = self.no_room(snapshotter) => Err(full),
        }
    }
}

/// What is nearly used up: bytes or inodes.
fn shortage(space: DiskSpace, least: u32) -> Option<&'static str> {
    let lacks = |free: u64, all: u64| u128::from(free) * 100 < u128::from(all) * u128::from(least);
    if lacks(space.free_bytes, space.bytes) {
        return Some("bytes");
    }
    lacks(space.free_inodes, space.inodes).then_some("inodes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_limited_does_not_run_short() {
        let space = |free_bytes, bytes, free_inodes, inodes| {
            shortage(DiskSpace { free_bytes, bytes, free_inodes, inodes }, 2)
        };
        assert_eq!(space(0, 0, 0, 0), None);
        assert_eq!(space(20, 1000, 0, 0), None);
        assert_eq!(space(19, 1000, 0, 0), Some("bytes"));
        assert_eq!(space(20, 1000, 1, 100), Some("inodes"));
        assert_eq!(space(u64::MAX, u64::MAX, u64::MAX, u64::MAX), None);
    }
}
