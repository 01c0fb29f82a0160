//! Refuses memory limits below what is in use: the kernel would kill processes.

use std::path::{Path, PathBuf};

use super::act::Work;
use crate::board::SandboxState;
use crate::pod::translate::cgroup::pod_resources;
use crate::telemetry::error_chain;

/// A memory limit to be set.
pub(super) struct Ask {
    /// Name of the container.
    pub(super) name: String,
    /// PID of its process.
    pub(super) pid: u32,
    /// Bytes; 0 for no limit.
    pub(super) limit: i64,
}

impl Work {
    /// Checks that the limits of the pod and of these containers do not fall below what is in use.
    /// What is used until they are set is not known, so this is no guarantee.
    ///
    /// # Errors
    /// The kubelet's message for all faults, or why the use is not known.
    pub(super) async fn check_memory(&self, asks: &[Ask]) -> Result<(), String> {
        let of_pod = self.pod_cgroup().await?;
        let mut faults = Vec::new();
        let limit = pod_resources(&self.life.given, &self.room.node()).memory;
        if let (Some(cgroup), Some(limit)) = (&of_pod, limit) {
            faults.extend(self.memory_fault(cgroup, limit, "pod").await?);
        }
        for ask in asks.iter().filter(|ask| ask.limit > 0) {
            let Some(cgroup) = self.memory_cgroup(ask.pid).await? else { continue };
            let cgroup = of_pod.as_deref().map_or(&*cgroup, |pod| child_of(pod, &cgroup));
            let whose = format!("container {:?}", ask.name);
            faults.extend(self.memory_fault(cgroup, ask.limit, &whose).await?);
        }
        match &faults[..] {
            [] => Ok(()),
            [fault] => Err(format!("cannot decrease memory limits: {fault}")),
            faults => Err(format!("cannot decrease memory limits: [{}]", faults.join(", "))),
        }
    }

    async fn memory_fault(
        &self,
        cgroup: &Path,
        limit: i64,
        whose: &str,
    ) -> Result<Option<String>, String> {
        let memory = self.room.deps.host.memory_use(cgroup).await;
        let Some(memory) = memory.map_err(|error| error_chain(&error))? else { return Ok(None) };
        let wanted = u64::try_from(limit).unwrap_or(u64::MAX);
        let fatal = wanted < memory.limit && memory.used >= wanted;
        Ok(fatal.then(|| {
            let used = memory.used;
            format!("attempting to set {whose} memory limit ({limit}) below current usage ({used})")
        }))
    }

    /// The pod's memory cgroup, which contains that of its pause process; `None` when that does not
    /// run.
    async fn pod_cgroup(&self) -> Result<Option<PathBuf>, String> {
        let Some(home) = &self.home else { return Ok(None) };
        let sandbox = self.room.deps.sandboxes.get(home.id.as_str());
        let Some(SandboxState::Ready { pid }) = sandbox.ok().map(|found| found.state.clone())
        else {
            return Ok(None);
        };
        let pause = self.memory_cgroup(pid).await?;
        Ok(pause.as_deref().and_then(Path::parent).map(Path::to_owned))
    }

    async fn memory_cgroup(&self, pid: u32) -> Result<Option<PathBuf>, String> {
        let found = self.room.deps.host.memory_cgroup(pid).await;
        found.map_err(|error| error_chain(&error))
    }
}

/// The container's cgroup in that of its pod: a process may have moved to one further down.
fn child_of<'a>(pod: &Path, cgroup: &'a Path) -> &'a Path {
    cgroup.ancestors().find(|found| found.parent() == Some(pod)).unwrap_or(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_moved_down_is_counted_with_its_container() {
        let pod = Path::new("/cg/kubepods/pod1");
        for (cgroup, expected) in [
            ("/cg/kubepods/pod1/c1", "/cg/kubepods/pod1/c1"),
            ("/cg/kubepods/pod1/c1/init.scope", "/cg/kubepods/pod1/c1"),
            ("/cg/elsewhere/c1", "/cg/elsewhere/c1"),
        ] {
            assert_eq!(child_of(pod, Path::new(cgroup)), Path::new(expected));
        }
    }
}
