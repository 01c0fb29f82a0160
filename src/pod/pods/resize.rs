//! Resizing running pods: at once, or when there is room. And what their class weighs then.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Pods;
use super::entrance::Coming;
use crate::pod::face::Error;
use crate::pod::object::Given;
use crate::pod::record::Life;
use crate::pod::renew::{Pending, is_resized, with_resources_of};
use crate::pod::translate::{Qos, cgroup, pod_requests};
use crate::telemetry::error_chain;

impl Pods {
    /// Splits a requested change into what applies now and what has to wait.
    pub(super) fn resized(
        &self,
        life: &Life,
        mut given: Given,
        next: Pod,
        coming: &Coming,
    ) -> (Given, Option<Pending>) {
        given.pod = Arc::new(next);
        if !is_resized(life.given.spec(), given.spec()) {
            return (given, None);
        }
        let asked = self.lacks(&given, coming);
        if asked.is_some() {
            given.pod = Arc::new(with_resources_of(&given.pod, &life.given.pod));
        }
        (given, asked)
    }

    /// Why a running pod cannot be resized now, in the kubelet's terms.
    fn lacks(&self, given: &Given, coming: &Coming) -> Option<Pending> {
        let told = |reason: &str, message: String| Pending {
            pod: given.pod.clone(),
            reason: reason.to_owned(),
            message,
        };
        let all = self.room.node().allocatable.clone();
        let requests = pod_requests(given.spec());
        for (name, capacity) in [("memory", all.memory), ("cpu", all.milli_cpu)] {
            let requested = requests.get(name).copied().unwrap_or_default();
            if requested > capacity {
                let message = format!(
                    "Node didn't have enough capacity: {name}, requested: {requested}, \
                     capacity: {capacity}"
                );
                return Some(told("Infeasible", message));
            }
        }
        let reasons = self.against(given, coming);
        let short = reasons.into_iter().find(|reason| reason.is_shortage());
        short.map(|short| told("Deferred", short.message))
    }

    /// Resizes waiting pods whenever resources become free.
    pub(super) fn mind_resizes(self: &Arc<Self>) {
        let pods = Arc::downgrade(self);
        let freed = self.room.freed.clone();
        drop(self.room.deps.tasks.spawn_until_drain("resizes", async move {
            loop {
                let Some(pods) = pods.upgrade() else { return };
                pods.retry_resizes().await;
                drop(pods);
                freed.notified().await;
            }
        }));
    }

    /// Lowers the CPU weight of the burstable class whenever a pod has ended; it rises when a pod is
    /// prepared. Best-effort pods weigh nothing, guaranteed ones have no class.
    pub(super) fn mind_weights(&self) {
        let (weak, lighter) = (Arc::downgrade(&self.room), self.room.lighter.clone());
        drop(self.room.deps.tasks.spawn_until_drain("weights", async move {
            loop {
                lighter.notified().await;
                let Some(room) = weak.upgrade() else { return };
                for driver in cgroup::drivers(&room.node()) {
                    if let Err(error) = room.weigh(Qos::Burstable, driver).await {
                        tracing::warn!(error, "cannot lower the CPU weight of burstable pods");
                    }
                }
            }
        }));
    }

    async fn retry_resizes(&self) {
        let _changing = self.changing.lock().await;
        for entry in self.room.all() {
            let life = entry.life();
            let Some(asked) = life.asked.as_ref().filter(|_| !life.is_ending()) else { continue };
            let wished = Given { pod: asked.pod.clone(), ..life.given.clone() };
            let still = self.lacks(&wished, &Coming::default());
            if still.as_ref() == Some(&**asked) {
                continue;
            }
            let given = if still.is_some() { life.given.clone() } else { wished };
            let given = self.change(&entry, |life| life.give(given, still)).await;
            match given {
                Ok(_) => {
                    entry.regenerate();
                    entry.changed.notify_one();
                }
                Err(Error::NotFound(_)) => {}
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(pod = %entry.key, error, "cannot resize pod yet");
                }
            }
        }
    }
}
