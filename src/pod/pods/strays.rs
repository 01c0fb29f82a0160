//! Remains of unknown pods that could not be rebuilt after the loss of the store. They are left
//! alone for a while, so that somebody can examine them, and then removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Pods;
use crate::board::{Sandbox, SandboxFilter};
use crate::ids::PodId;
use crate::lifecycle::Backoff;
use crate::model::Owner;
use crate::model::resources::CgroupDriver;
use crate::pod::translate::cgroup;
use crate::telemetry::error_chain;

/// First delay between attempts to remove them.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// An unknown pod.
#[derive(Default)]
pub(super) struct Stray {
    pub(super) uid: String,
    sandboxes: Vec<PodId>,
    cgroup: PathBuf,
    logs: Option<PathBuf>,
    /// Whether it was a static pod, which may still be requested.
    is_static: bool,
}

impl Stray {
    fn new(sandbox: &Sandbox) -> Self {
        let config = &sandbox.config;
        let source = config.annotations.get("kubernetes.io/config.source");
        Self {
            uid: config.metadata.uid.clone(),
            sandboxes: Vec::new(),
            cgroup: config.cgroup_parent.clone().into(),
            logs: config.log_directory.clone(),
            is_static: source.is_some_and(|source| source != "api"),
        }
    }
}

impl Pods {
    /// Pods with sandboxes that are not known, and those that were lost.
    pub(super) fn strays(&self, known: &BTreeSet<String>, lost: Vec<String>) -> Vec<Stray> {
        let filter = SandboxFilter { owner: Some(Owner::Pod), ..SandboxFilter::default() };
        let mut strays = BTreeMap::<String, Stray>::new();
        for sandbox in self.room.deps.sandboxes.list(&filter) {
            let uid = sandbox.config.metadata.uid.clone();
            if !known.contains(&uid) {
                let stray = strays.entry(uid).or_insert_with(|| Stray::new(&sandbox));
                stray.sandboxes.push(sandbox.id.clone());
            }
        }
        for uid in lost {
            strays.entry(uid.clone()).or_insert_with(|| Stray { uid, ..Stray::default() });
        }
        for stray in strays.values() {
            let (uid, sandboxes) = (&stray.uid, stray.sandboxes.len());
            let left_alone = self.stray_patience;
            tracing::warn!(uid, sandboxes, ?left_alone, "unknown pod will be removed later");
        }
        strays.into_values().collect()
    }

    /// Removes them later, until none is left. A static one waits until the requested static pods
    /// are known: if it is requested again, the new pod takes over what runs.
    pub(super) fn remove_strays(self: &Arc<Self>, mut strays: Vec<Stray>) {
        if strays.is_empty() {
            return;
        }
        let pods = Arc::downgrade(self);
        let patience = self.stray_patience;
        drop(self.room.deps.tasks.spawn_until_drain("pods nobody knows", async move {
            tokio::time::sleep(patience).await;
            let mut pauses = Backoff::new(FIRST, LONGEST);
            loop {
                let Some(pods) = pods.upgrade() else { return };
                let mut left = Vec::new();
                for stray in strays {
                    if !pods.is_settled(&stray).await {
                        left.push(stray);
                    }
                }
                drop(pods);
                if left.is_empty() {
                    return;
                }
                strays = left;
                tokio::time::sleep(pauses.next()).await;
            }
        }));
    }

    /// Whether nothing is left to do about it. A hanging removal does not block other pods.
    async fn is_settled(&self, stray: &Stray) -> bool {
        match self.verdict(stray).await {
            Some(true) => return true,
            Some(false) => return false,
            None => {}
        }
        let removed = self.remove_stray(stray).await;
        self.removing.lock().remove(&stray.uid);
        // The same static pod may be wanted again.
        self.gone.notify_one();
        match removed {
            Ok(()) => {
                self.unread.lock().remove(&stray.uid);
                true
            }
            Err(error) => {
                tracing::warn!(uid = stray.uid, error, "cannot remove unknown pod yet");
                false
            }
        }
    }

    /// Whether it is settled because the pod is known, or has to wait; `None`: it has to be removed
    /// now, and nobody can start it meanwhile.
    async fn verdict(&self, stray: &Stray) -> Option<bool> {
        let _changing = self.changing.lock().await;
        let wanted = self.statics.lock().as_ref().map(|wanted| {
            let mut wanted = wanted.values();
            wanted.any(|given| given.uid() == stray.uid)
        });
        if self.room.has(&stray.uid) || (stray.is_static && wanted == Some(true)) {
            self.unread.lock().remove(&stray.uid);
            return Some(true);
        }
        if stray.is_static && wanted.is_none() {
            return Some(false);
        }
        self.removing.lock().insert(stray.uid.clone());
        None
    }

    /// Whether the remains of a pod with this uid are being removed.
    pub(super) fn is_being_removed(&self, uid: &str) -> bool {
        self.removing.lock().contains(uid)
    }

    async fn remove_stray(&self, stray: &Stray) -> Result<(), String> {
        let deps = &self.room.deps;
        for id in &stray.sandboxes {
            deps.sandboxes.remove(id.as_str()).await.map_err(|error| error_chain(&error))?;
        }
        deps.volumes.teardown(&stray.uid).await.map_err(|error| error_chain(&error))?;
        let node = self.room.node();
        let is_slice = stray.cgroup.extension().is_some_and(|kind| kind == "slice");
        let driver = if is_slice { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs };
        if is_below(&stray.cgroup, Path::new(&cgroup::root(driver, &node))) {
            let gone = deps.host.destroy_cgroup(driver, &stray.cgroup).await;
            gone.map_err(|error| error_chain(&error))?;
        }
        if let Some(logs) = stray.logs.as_ref().filter(|logs| is_below(logs, &node.log_root)) {
            deps.host.remove_tree(logs).await.map_err(|error| error_chain(&error))?;
        }
        Ok(())
    }
}

fn is_below(path: &Path, root: &Path) -> bool {
    let plain = |path: &Path| !path.components().any(|c| c == std::path::Component::ParentDir);
    path != root && path.starts_with(root) && plain(path)
}
