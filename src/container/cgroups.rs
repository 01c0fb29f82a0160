//! Cgroups that stay behind. An OCI runtime that is killed while it creates a container leaves an
//! empty one, and it may make that after the container was removed: it outlives its caller.

use std::path::{Path, PathBuf};

use super::Containers;
use crate::locks::{Mutex, MutexGuard};
use crate::telemetry::error_chain;

/// Cgroups to look at again.
#[derive(Debug, Default)]
pub(super) struct OwedCgroups(Mutex<Owed>);

#[derive(Debug)]
struct Owed {
    /// Whether work that was cut may still go on below: so it is at each start.
    unsettled: bool,
    paths: Vec<PathBuf>,
}

impl Default for Owed {
    fn default() -> Self {
        Self { unsettled: true, paths: Vec::new() }
    }
}

impl Containers {
    /// Removes the cgroup of a container that is gone. One with something in it stays for now:
    /// a shim that is lost may hold it.
    pub async fn remove_cgroup(&self, path: &Path) {
        let removed = self.deps.host.remove_cgroup(path).await;
        if let Err(error) = &removed {
            tracing::warn!(?path, error = error_chain(error), "a cgroup stays for now");
        }
        let mut owed = self.owed_cgroups();
        if removed.is_err() || owed.unsettled {
            owed.paths.push(path.to_owned());
        }
    }

    /// Tries again what stayed. While the host is `unsettled` also those are looked at again that
    /// were gone, as somebody may still be making them.
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
