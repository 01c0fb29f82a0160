//! The cgroups of pods and QoS classes, and their limits.
//!
//! ```text
//! kubepods ─┬─ pod<uid>                guaranteed
//!           ├─ burstable ── pod<uid>
//!           └─ besteffort ── pod<uid>
//! ```

use k8s_openapi::api::core::v1::PodSpec;

use super::amount::{CPU, HUGEPAGES, MEMORY, page_size, page_unit};
use super::node::NodeFacts;
use super::resources::{MIN_SHARES, PERIOD, Qos, qos, quota, shares};
use super::sums::limits_all;
use super::{Totals, pod_limits, pod_requests, runtime_handler};
use crate::model::resources::{CgroupDriver, CgroupLimits, HugepageLimit};
use crate::pod::Given;

/// Which component creates the cgroups of a pod: that of its runtime handler.
pub fn driver(spec: &PodSpec, node: &NodeFacts) -> CgroupDriver {
    node.cgroup_drivers.get(runtime_handler(spec)).copied().unwrap_or_default()
}

/// All drivers of this node's handlers.
pub fn drivers(node: &NodeFacts) -> Vec<CgroupDriver> {
    let mut drivers = vec![node.cgroup_drivers.get("").copied().unwrap_or_default()];
    for driver in node.cgroup_drivers.values() {
        if !drivers.contains(driver) {
            drivers.push(*driver);
        }
    }
    drivers
}

/// The cgroup of all pods.
pub fn root(driver: CgroupDriver, node: &NodeFacts) -> String {
    path(driver, node, &[])
}

/// The cgroup of a QoS class; guaranteed pods have none.
pub fn of_class(class: Qos, driver: CgroupDriver, node: &NodeFacts) -> String {
    match class.folder() {
        Some(folder) => path(driver, node, &[folder]),
        None => root(driver, node),
    }
}

/// The cgroup of a pod, as in `cgroup_parent` of its sandbox: `/kubepods/burstable/pod<uid>`, or
/// with systemd the path of slices
/// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice`.
pub fn of_pod(given: &Given, node: &NodeFacts) -> String {
    let pod = format!("pod{}", given.uid());
    let driver = driver(given.spec(), node);
    match qos(given.spec()).folder() {
        Some(folder) => path(driver, node, &[folder, &pod]),
        None => path(driver, node, &[&pod]),
    }
}

fn path(driver: CgroupDriver, node: &NodeFacts, below: &[&str]) -> String {
    let parts = node.cgroup_root.split('/').filter(|part| !part.is_empty());
    let parts = parts.chain(below.iter().copied());
    let mut path = String::new();
    let mut slice = String::new();
    for part in parts {
        path.push('/');
        if driver == CgroupDriver::Cgroupfs {
            path.push_str(part);
            continue;
        }
        // A dash in a slice's name denotes a nested slice.
        if !slice.is_empty() {
            slice.push('-');
        }
        slice.push_str(&part.replace('-', "_"));
        path.push_str(&slice);
        path.push_str(".slice");
    }
    path
}

/// Limits of the cgroup of all pods: the node's allocatable resources.
pub fn root_limits(node: &NodeFacts) -> CgroupLimits {
    CgroupLimits {
        cpu_shares: shares(node.allocatable.milli_cpu),
        memory: Some(node.capacity.memory).filter(|&memory| memory > 0),
        ..CgroupLimits::default()
    }
}

/// Limits of the cgroup of a QoS class, from its pods: the CPU weight of burstable is the sum of
/// their requests, that of best-effort is minimal, and nothing else is limited.
pub fn class_limits<'a>(class: Qos, pods: impl Iterator<Item = &'a PodSpec>) -> CgroupLimits {
    let asked = match class {
        Qos::BestEffort => 0,
        Qos::Burstable | Qos::Guaranteed => pods
            .filter(|spec| qos(spec) == class)
            .map(|spec| pod_requests(spec).get(CPU).copied().unwrap_or_default())
            .fold(0, i64::saturating_add),
    };
    CgroupLimits { cpu_shares: shares(asked), ..CgroupLimits::default() }
}

/// Limits of a pod's own cgroup. A limit is set only if every container has one, or the pod as a
/// whole.
pub fn pod_resources(given: &Given, node: &NodeFacts) -> CgroupLimits {
    let spec = given.spec();
    let (requests, limits) = (pod_requests(spec), pod_limits(spec));
    let of = |list: &Totals, name: &str| list.get(name).copied().unwrap_or_default();
    let (may_cpu, may_memory) = (limits_all(spec, CPU), limits_all(spec, MEMORY));
    let class = qos(spec);
    let limit = |declared: bool, name: &str| {
        let holds = class != Qos::BestEffort && declared;
        Some(of(&limits, name)).filter(|&limit| holds && limit > 0)
    };
    let cpu_shares = if class == Qos::BestEffort { MIN_SHARES } else { shares(of(&requests, CPU)) };
    CgroupLimits {
        cpu_shares,
        cpu_quota: limit(may_cpu, CPU).map(quota),
        cpu_period: PERIOD,
        memory: limit(may_memory, MEMORY),
        pids: node.pids_limit.filter(|&pids| pids > 0),
        hugepages: hugepages(&requests, node),
    }
}

/// Limits for each huge page size; zero for sizes that are not requested.
pub(super) fn hugepages(amounts: &Totals, node: &NodeFacts) -> Vec<HugepageLimit> {
    let mut sizes: std::collections::BTreeMap<u64, i64> =
        node.capacity.hugepages.keys().map(|&size| (size, 0)).collect();
    let asked = amounts.iter().filter(|(name, _)| name.starts_with(HUGEPAGES));
    sizes.extend(asked.filter_map(|(name, amount)| Some((page_size(name)?, *amount))));
    sizes
        .into_iter()
        .map(|(size, amount)| HugepageLimit {
            page_size: page_unit(size),
            limit: u64::try_from(amount).unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
