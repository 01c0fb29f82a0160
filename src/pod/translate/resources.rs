//! Resources of a container: QoS class, CPU weight and quota, limits, OOM score.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde::{Deserialize, Serialize};

use super::amount::{CPU, HUGEPAGES, MEMORY, Totals, totals};
use super::node::NodeFacts;
use super::sums::{Overhead, limited, limits, of_containers, requested, requests};
use super::{ContainerKind, cgroup, is_sidecar};
use crate::model::resources::Resources;
use crate::pod::{Given, wishes};

/// Minimum and maximum CPU shares in the kernel.
pub(super) const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// Period of CPU quotas, in microseconds.
pub(super) const PERIOD: i64 = 100_000;
/// Minimum CPU quota in the kernel, in microseconds.
const MIN_QUOTA: i64 = 1000;

const GUARANTEED_SCORE: i64 = -997;
const BEST_EFFORT_SCORE: i64 = 1000;
/// OOM scores of burstable containers, between those of guaranteed and best-effort ones.
const BURSTABLE_SCORES: (i64, i64) = (3, 999);

/// Minimum priority of a critical pod.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
const NODE_CRITICAL: &str = "system-node-critical";
const CLUSTER_CRITICAL: &str = "system-cluster-critical";

/// QoS class of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Qos {
    /// Every container has equal CPU and memory requests and limits.
    Guaranteed,
    /// Some requests or limits are set.
    Burstable,
    /// None are set.
    BestEffort,
}

impl Qos {
    /// The value of `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// Name of the cgroup of this class, if it has one.
    pub(super) fn folder(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

/// QoS class: from CPU and memory only, of app and init containers, or of the pod as a whole.
pub fn qos(spec: &PodSpec) -> Qos {
    let (requests, limits, mut guaranteed) = match &spec.resources {
        Some(own) if own.requests.is_some() || own.limits.is_some() => {
            let limits = counted(totals(own.limits.as_ref()));
            let complete = limits.is_empty() || limits.len() == 2;
            (counted(totals(own.requests.as_ref())), limits, complete)
        }
        _ => {
            let mut containers =
                spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let complete = containers.all(|container| counted(limited(container)).len() == 2);
            (plain_sum(spec, requested), plain_sum(spec, limited), complete)
        }
    };
    if requests.is_empty() && limits.is_empty() {
        return Qos::BestEffort;
    }
    guaranteed &= requests == limits;
    if guaranteed { Qos::Guaranteed } else { Qos::Burstable }
}

/// CPU and memory, if greater than 0.
fn counted(mut amounts: Totals) -> Totals {
    amounts.retain(|name, amount| (name == CPU || name == MEMORY) && *amount > 0);
    amounts
}

fn plain_sum(spec: &PodSpec, of: impl Fn(&Container) -> Totals) -> Totals {
    let mut sum = Totals::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        super::amount::add(&mut sum, &counted(of(container)));
    }
    sum
}

/// CPU shares for thousandths of a CPU.
pub(super) fn shares(milli_cpu: i64) -> u64 {
    let milli = u64::try_from(milli_cpu).unwrap_or_default();
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota per [`PERIOD`] for thousandths of a CPU; 0 is no quota.
pub(super) fn quota(milli_cpu: i64) -> i64 {
    match milli_cpu {
        ..=0 => 0,
        milli => (milli.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA),
    }
}

/// Resources of a container, as a kubelet sends them.
pub fn container_resources(
    given: &Given,
    kind: ContainerKind,
    container: &Container,
    node: &NodeFacts,
) -> Resources {
    let spec = given.spec();
    let (asked, mut allowed) = (requested(container), limited(container));
    let own = spec.resources.as_ref().and_then(|own| own.limits.as_ref());
    for (name, limit) in totals(own) {
        // The pod's limit applies to each container without its own.
        let wanted = name == CPU || name == MEMORY || name.starts_with(HUGEPAGES);
        if wanted && allowed.get(&name).is_none_or(|&limit| limit == 0) {
            allowed.insert(name, limit);
        }
    }
    let mut resources = figures(asked.get(CPU).copied(), &allowed, node);
    resources.oom_score_adj = oom_score_adj(given, kind, container, node);
    resources.hugepage_limits = cgroup::hugepages(&allowed, node);
    if node.cgroup_v2 && !wishes::ends_as_a_whole(&given.pod, &container.name) {
        resources.unified.insert("memory.oom.group".to_owned(), "0".to_owned());
    }
    no_swap(&mut resources, node);
    resources
}

/// The sum of the containers' resources, without the pod's overhead.
pub(super) fn sandbox_resources(spec: &PodSpec, node: &NodeFacts) -> Resources {
    let asked = requests(spec, Overhead::Without).get(CPU).copied();
    figures(asked, &limits(spec, Overhead::Without), node)
}

/// The pod's overhead.
pub(super) fn overhead(spec: &PodSpec, node: &NodeFacts) -> Option<Resources> {
    let overhead = totals(Some(spec.overhead.as_ref()?));
    Some(figures(overhead.get(CPU).copied(), &overhead, node))
}

fn figures(milli_cpu: Option<i64>, limits: &Totals, node: &NodeFacts) -> Resources {
    let limit = |name: &str| limits.get(name).copied().unwrap_or_default();
    let weight = shares(milli_cpu.unwrap_or_else(|| limit(CPU)));
    let mut resources = Resources {
        cpu_period: PERIOD,
        cpu_quota: quota(limit(CPU)),
        cpu_shares: i64::try_from(weight).unwrap_or(i64::MAX),
        memory_limit: limit(MEMORY),
        ..Resources::default()
    };
    if node.cgroup_v2 {
        // On OOM all processes of the container are killed together.
        resources.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    resources
}

/// Disables swap: memory plus swap is limited to memory; on cgroup v2 this is possible without a
/// memory limit.
fn no_swap(resources: &mut Resources, node: &NodeFacts) {
    if !node.swap_accounting {
        return;
    }
    if node.cgroup_v2 {
        resources.unified.insert("memory.swap.max".to_owned(), "0".to_owned());
    } else {
        resources.memory_swap_limit = resources.memory_limit;
    }
}

/// Whether the pod is critical: static, or with a very high priority.
pub fn is_critical(given: &Given) -> bool {
    given.source.is_static() || priority(given.spec()) >= CRITICAL_PRIORITY
}

/// Priority of a pod, by default 0; the two system priority classes are known by name.
pub fn priority(spec: &PodSpec) -> i32 {
    match (spec.priority, spec.priority_class_name.as_deref()) {
        (Some(priority), _) => priority,
        (None, Some(NODE_CRITICAL)) => CRITICAL_PRIORITY + 1000,
        (None, Some(CLUSTER_CRITICAL)) => CRITICAL_PRIORITY,
        (None, _) => 0,
    }
}

/// Order in which the kernel kills on memory shortage, -997 (last) to 1000 (first).
pub fn oom_score_adj(
    given: &Given,
    kind: ContainerKind,
    container: &Container,
    node: &NodeFacts,
) -> i64 {
    let spec = given.spec();
    let class_name = spec.priority_class_name.as_deref();
    if is_critical(given) && class_name == Some(NODE_CRITICAL) {
        return GUARANTEED_SCORE;
    }
    match qos(spec) {
        Qos::Guaranteed => return GUARANTEED_SCORE,
        Qos::BestEffort => return BEST_EFFORT_SCORE,
        Qos::Burstable => {}
    }
    let memory = |container| requested(container).get(MEMORY).copied().unwrap_or_default();
    let more = left_per_container(spec);
    let score = |memory: i64| {
        let all = node.capacity.memory.max(1);
        let part = i128::from(memory.saturating_add(more)) * 1000 / i128::from(all);
        1000 - i64::try_from(part).unwrap_or(i64::MAX).min(1000)
    };
    let mut adjustment = score(memory(container));
    if kind == ContainerKind::Init && is_sidecar(container) {
        // A sidecar should survive the app containers that it serves.
        let least = spec.containers.iter().map(memory).min().unwrap_or_default();
        adjustment = adjustment.min(score(least));
    }
    adjustment.clamp(BURSTABLE_SCORES.0, BURSTABLE_SCORES.1)
}

/// The pod-level request beyond the containers' requests, divided evenly.
fn left_per_container(spec: &PodSpec) -> i64 {
    let own = totals(spec.resources.as_ref().and_then(|own| own.requests.as_ref()));
    let Some(&own) = own.get(MEMORY).filter(|&&own| own > 0) else { return 0 };
    let count = spec.containers.len() + spec.init_containers.iter().flatten().count();
    let asked = of_containers(spec, requested).get(MEMORY).copied().unwrap_or_default();
    (own - asked) / i64::try_from(count.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
