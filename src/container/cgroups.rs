//! Cgroups left behind. An OCI runtime that is killed while it creates a container leaves an empty
//! cgroup. A runtime outlives its caller, so the cgroup may even appear after the container was
//! removed.

use std::path::{Path, PathBuf};

use super::Containers;
use crate::locks::{Mutex, MutexGuard};
use crate::telemetry::error_chain;

/// Cgroups whose removal must be tried again.
#[derive(Debug, Default)]
pub(super) struct OwedCgroups(Mutex<Owed>);

#[derive(Debug)]
struct Owed {
    /// Whether interrupted work may still be running below the agent. True at every start.
    unsettled: bool,
    paths: Vec<PathBuf>,
}

impl Default for Owed {
    fn default() -> Self {
        Self { unsettled: true, paths: Vec::new() }
    }
}

impl Containers {
    /// Removes the cgroup of a removed container. A cgroup that is not empty is kept for a later
    /// try: a lost shim may be in it.
    pub async fn remove_cgroup(&self, path: &Path) {
        let removed = self.deps.host.remove_cgroup(path).await;
        if let Err(error) = &removed {
            tracing::warn!(?path, error = error_chain(error), "cannot remove cgroup yet");
        }
        let mut owed = self.owed_cgroups();
        if removed.is_err() || owed.unsettled {
            owed.paths.push(path.to_owned());
        }
    }

    /// Tries again to remove leftover cgroups. While the host is `unsettled`, cgroups that were
    /// already gone are checked again too, since an interrupted runtime may still create them.
    pub async fn settle_cgroups(&self, unsettled: bool) {
        let paths = {
            let mut owed = self.owed_cgroups();
            owed.unsettled = unsettled;
            std::mem::take(&mut owed.paths)
        };
        for path in paths {
            let removed = self.deps.host.remove_cgroup(&path).await;
            if removed.is_err() || unsettled {
                self.owed_cgroups().paths.push(path);
            }
        }
    }

    fn owed_cgroups(&self) -> MutexGuard<'_, Owed> {
        self.owed_cgroups.0.lock()
    }
}
