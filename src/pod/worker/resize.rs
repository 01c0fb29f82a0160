//! Changes limits of running containers.
//!
//! ```text
//! end containers to restart ─> lower containers' limits ─> the pod's cgroup ─> raise containers'
//! ```
//! So no container may ever use more than its pod, whichever way each limit changes. Before anything
//! is changed, it is checked that no memory limit falls below what is in use.

use k8s_openapi::api::core::v1::Container as Spec;

use super::act::Work;
use super::outcome::Outcome;
use super::shrink::Ask;
use crate::board::{Container, ContainerFilter, ContainerState};
use crate::ids::ContainerId;
use crate::model::resources::Resources;
use crate::model::{Owner, StringMap};
use crate::pod::reason::Failure;
use crate::pod::translate::{CONTAINER_NAME_LABEL, POD_UID_LABEL, container_resources};
use crate::pod::view::EventType;
use crate::telemetry::error_chain;

/// Limits that can be changed while a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Figures {
    shares: i64,
    /// `i64::MAX` for no limit.
    quota: i64,
    /// `i64::MAX` for no limit.
    memory: i64,
}

impl Figures {
    fn of(resources: &Resources) -> Self {
        let limit = |figure: i64| if figure > 0 { figure } else { i64::MAX };
        Self {
            shares: resources.cpu_shares,
            quota: limit(resources.cpu_quota),
            memory: limit(resources.memory_limit),
        }
    }

    fn least(self, other: Self) -> Self {
        Self {
            shares: self.shares.min(other.shares),
            quota: self.quota.min(other.quota),
            memory: self.memory.min(other.memory),
        }
    }

    /// As an update; everything else is kept.
    fn update(self, before: Self, wanted: &Resources) -> Resources {
        let mut update = Resources::default();
        if self.shares != before.shares {
            update.cpu_shares = self.shares;
        }
        if self.quota != before.quota {
            update.cpu_period = wanted.cpu_period;
            update.cpu_quota = if self.quota == i64::MAX { -1 } else { self.quota };
        }
        if self.memory != before.memory {
            update.memory_limit = if self.memory == i64::MAX { -1 } else { self.memory };
            if wanted.memory_swap_limit != 0 {
                update.memory_swap_limit = update.memory_limit;
            }
        }
        update
    }
}

/// A container whose limits have to change.
struct Change {
    id: ContainerId,
    name: String,
    /// PID of its process.
    pid: u32,
    before: Figures,
    wanted: Resources,
    /// Whether its policy requires a restart for this.
    restart: bool,
}

impl Change {
    /// Its memory limit, if that falls.
    fn lowers_memory(&self) -> Option<Ask> {
        let limit = self.wanted.memory_limit;
        let lower = Figures::of(&self.wanted).memory < self.before.memory;
        lower.then(|| Ask { name: self.name.clone(), pid: self.pid, limit })
    }
}

impl Work {
    /// Adjusts the pod's cgroup and its containers to the spec.
    pub(super) async fn resize(&self) -> Result<(), Outcome> {
        let changes = self.changes();
        // The pod's own limits follow when they have ended.
        let restart = changes.iter().filter(|change| change.restart);
        let restart: Vec<_> = restart.map(|change| change.id.clone()).collect();
        if !restart.is_empty() {
            return Err(Outcome::Restart(restart));
        }
        let failed = |message: String| {
            let reason = Failure::Resize;
            self.event(None, EventType::Warning, reason.as_str(), message.clone());
            Outcome::failed(reason, message)
        };
        let asks: Vec<_> = changes.iter().filter_map(Change::lowers_memory).collect();
        self.check_memory(&asks).await.map_err(failed)?;
        let failed = |name: &str, message: String| failed(format!("{name}: {message}"));
        for change in &changes {
            let least = Figures::of(&change.wanted).least(change.before);
            self.set(change, change.before, least).await.map_err(|e| failed(&change.name, e))?;
        }
        if let Err(message) = self.room.make_cgroup(&self.life.given).await {
            let reason = Failure::Cgroup;
            self.event(None, EventType::Warning, reason.as_str(), message.clone());
            return Err(Outcome::failed(reason, message));
        }
        for change in &changes {
            let wanted = Figures::of(&change.wanted);
            let least = wanted.least(change.before);
            self.set(change, least, wanted).await.map_err(|e| failed(&change.name, e))?;
        }
        Ok(())
    }

    async fn set(&self, change: &Change, before: Figures, after: Figures) -> Result<(), String> {
        if before == after {
            return Ok(());
        }
        let update = after.update(before, &change.wanted);
        let updated = self.room.deps.sandboxes.update_container(change.id.as_str(), update).await;
        updated.map_err(|error| error_chain(&error))
    }

    /// The running containers whose limits differ from the spec.
    fn changes(&self) -> Vec<Change> {
        let filter = ContainerFilter {
            labels: StringMap::from([(POD_UID_LABEL.to_owned(), self.life.uid.clone())]),
            owner: Some(Owner::Pod),
            ..ContainerFilter::default()
        };
        let all = self.room.deps.sandboxes.containers(&filter).into_iter();
        all.filter_map(|container| self.change_of(&container)).collect()
    }

    fn change_of(&self, container: &Container) -> Option<Change> {
        let ContainerState::Running { pid, .. } = container.state else { return None };
        let name = container.config.labels.get(CONTAINER_NAME_LABEL)?;
        let spec = self.spec(name)?;
        let node = self.room.node();
        let wanted = container_resources(&self.life.given, self.kind(name), &spec, &node);
        let (before, after) = (Figures::of(&container.resources), Figures::of(&wanted));
        (before != after).then(|| Change {
            id: container.id.clone(),
            name: name.clone(),
            pid,
            before,
            restart: needs_restart(&spec, before, after),
            wanted,
        })
    }
}

/// Whether the policy of a changed limit is to restart the container.
fn needs_restart(spec: &Spec, before: Figures, after: Figures) -> bool {
    let cpu = (before.shares, before.quota) != (after.shares, after.quota);
    let memory = before.memory != after.memory;
    spec.resize_policy.iter().flatten().any(|policy| {
        let changed = match policy.resource_name.as_str() {
            "cpu" => cpu,
            "memory" => memory,
            _ => false,
        };
        changed && policy.restart_policy == "RestartContainer"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_shrink_first_and_grow_later() {
        let before = Figures { shares: 100, quota: 20_000, memory: 64 };
        let wanted = Resources {
            cpu_shares: 200,
            cpu_quota: 10_000,
            cpu_period: 100_000,
            memory_limit: 128,
            memory_swap_limit: 128,
            ..Resources::default()
        };
        let after = Figures::of(&wanted);
        let least = after.least(before);
        let first = least.update(before, &wanted);
        let second = after.update(least, &wanted);
        assert_eq!((first.cpu_shares, first.cpu_quota, first.memory_limit), (0, 10_000, 0));
        assert_eq!((second.cpu_shares, second.cpu_quota, second.memory_limit), (200, 0, 128));
        assert_eq!((first.memory_swap_limit, second.memory_swap_limit), (0, 128));
        let free = Figures::of(&Resources::default());
        assert_eq!(free.update(after, &wanted).cpu_quota, -1);
    }
}
