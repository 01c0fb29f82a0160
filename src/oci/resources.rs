//! Converts CRI resources to OCI's, for new specs and for updates of running containers.
//!
//! OCI resources are expressed in terms of cgroup v1. The OCI runtime converts them for v2
//! (weights, swap without memory), so the values here are the same on both kinds of hosts.

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};
use serde_json::{Map, Value};

use super::{Error, Settings, blank};
use crate::backend::{CgroupVersion, HostFacts};
use crate::model::resources::Resources;

const FIELD: &str = "linux.resources";

/// The OCI form of `resources`; unset values stay unset.
pub(super) fn oci(
    resources: &Resources,
    facts: &HostFacts,
    settings: &Settings,
) -> Result<LinuxResources, Error> {
    let mut out = blank::<LinuxResources>("{}");
    out.set_cpu(cpu(resources)?).set_memory(memory(resources, facts)?);
    out.set_hugepage_limits(hugepages(resources, facts, settings)?);
    if !resources.unified.is_empty() {
        check_unified(resources, facts)?;
        let pairs = resources.unified.iter();
        out.set_unified(Some(pairs.map(|(k, v)| (k.clone(), v.clone())).collect()));
    }
    Ok(out)
}

/// The OCI `LinuxResources` of `resources` as JSON.
pub fn linux_resources(
    resources: &Resources,
    facts: &HostFacts,
    settings: &Settings,
) -> Result<Value, Error> {
    let typed = oci(resources, facts, settings)?;
    Ok(serde_json::to_value(typed).expect("resources have string keys only"))
}

/// Writes `resources` into a stored container spec; values not set are kept. Returns all limits now
/// in force, with which to update a live task. They contain no device rules: an update must not
/// take devices away from a running process.
pub fn apply_to_spec(
    spec: &mut Value,
    resources: &Resources,
    facts: &HostFacts,
    settings: &Settings,
) -> Result<Value, Error> {
    let mut patch = linux_resources(resources, facts, settings)?;
    let limit = spec.pointer("/linux/resources/memory/limit").and_then(Value::as_i64);
    if resources.memory_limit == 0 {
        check_swap(limit.unwrap_or(0), resources.memory_swap_limit)?;
    }
    let stored = spec
        .get_mut("linux")
        .and_then(Value::as_object_mut)
        .ok_or(Error::StoredSpec("linux section"))?
        .entry("resources")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .ok_or(Error::StoredSpec("resources"))?;
    if let Some(sizes) = patch.as_object_mut().and_then(|patch| patch.remove("hugepageLimits")) {
        merge_hugepages(stored, sizes);
    }
    merge(stored, patch);
    let mut in_force = stored.clone();
    in_force.remove("devices");
    Ok(Value::Object(in_force))
}

/// Merges objects recursively and replaces everything else.
fn merge(into: &mut Map<String, Value>, patch: Value) {
    let Value::Object(patch) = patch else { return };
    for (key, value) in patch {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), value @ Value::Object(_)) => merge(old, value),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Each page size has one limit: a new one replaces the old.
fn merge_hugepages(stored: &mut Map<String, Value>, sizes: Value) {
    let Value::Array(sizes) = sizes else { return };
    let list = stored.entry("hugepageLimits").or_insert_with(|| Value::Array(Vec::new()));
    if let Some(list) = list.as_array_mut() {
        list.retain(|old| !sizes.iter().any(|new| new["pageSize"] == old["pageSize"]));
        list.extend(sizes);
    }
}

fn cpu(resources: &Resources) -> Result<Option<LinuxCpu>, Error> {
    let positive = |name: &str, value: i64| {
        u64::try_from(value)
            .map(|value| (value != 0).then_some(value))
            .map_err(|_| Error::invalid(format!("{FIELD}.{name}"), format!("{value} is negative")))
    };
    let list = |name: &str, text: &str| {
        let known = text.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-');
        if known {
            Ok((!text.is_empty()).then(|| text.to_owned()))
        } else {
            let problem = format!("{text:?} is not a list such as \"0-3,5\"");
            Err(Error::invalid(format!("{FIELD}.{name}"), problem))
        }
    };
    if resources.cpu_quota < -1 {
        let problem = format!("{} is less than -1 (no limit)", resources.cpu_quota);
        return Err(Error::invalid(format!("{FIELD}.cpu_quota"), problem));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_period(positive("cpu_period", resources.cpu_period)?)
        .set_quota((resources.cpu_quota != 0).then_some(resources.cpu_quota))
        .set_shares(positive("cpu_shares", resources.cpu_shares)?)
        .set_cpus(list("cpuset_cpus", &resources.cpuset_cpus)?)
        .set_mems(list("cpuset_mems", &resources.cpuset_mems)?);
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

/// A memory limit without a swap limit means no swap: memory and swap together are limited to the
/// memory limit. On a host without swap accounting no swap limit can be set.
fn memory(resources: &Resources, facts: &HostFacts) -> Result<Option<LinuxMemory>, Error> {
    let (limit, swap) = (resources.memory_limit, resources.memory_swap_limit);
    for (name, value) in [("memory_limit_in_bytes", limit), ("memory_swap_limit_in_bytes", swap)] {
        if value < -1 {
            let problem = format!("{value} is less than -1 (no limit)");
            return Err(Error::invalid(format!("{FIELD}.{name}"), problem));
        }
    }
    check_swap(limit, swap)?;
    let swap = if swap == 0 { limit } else { swap };
    let mut memory = LinuxMemory::default();
    memory
        .set_limit((limit != 0).then_some(limit))
        .set_swap((swap != 0 && facts.swap_accounting).then_some(swap));
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

fn check_swap(limit: i64, swap: i64) -> Result<(), Error> {
    if limit > 0 && swap > 0 && swap < limit {
        return Err(Error::invalid(
            format!("{FIELD}.memory_swap_limit_in_bytes"),
            format!(
                "{swap} counts memory and swap, so it cannot be below the memory limit {limit}"
            ),
        ));
    }
    Ok(())
}

fn hugepages(
    resources: &Resources,
    facts: &HostFacts,
    settings: &Settings,
) -> Result<Option<Vec<LinuxHugepageLimit>>, Error> {
    let asked = &resources.hugepage_limits;
    if asked.is_empty() {
        return Ok(None);
    }
    let field = |index: usize, name: &str| format!("{FIELD}.hugepage_limits[{index}].{name}");
    let mut limits = Vec::with_capacity(asked.len());
    for (index, limit) in asked.iter().enumerate() {
        if !is_page_size(&limit.page_size) {
            let problem = format!("{:?} is not a page size such as \"2MB\"", limit.page_size);
            return Err(Error::invalid(field(index, "page_size"), problem));
        }
        let bytes = i64::try_from(limit.limit)
            .map_err(|_| Error::invalid(field(index, "limit"), "is too large"))?;
        let mut out = LinuxHugepageLimit::default();
        out.set_page_size(limit.page_size.clone()).set_limit(bytes);
        limits.push(out);
    }
    if facts.controllers.iter().any(|name| name == "hugetlb") {
        Ok(Some(limits))
    } else if settings.tolerate_missing_hugetlb {
        Ok(None)
    } else {
        Err(Error::invalid(
            format!("{FIELD}.hugepage_limits"),
            "this host has no hugetlb cgroup controller",
        ))
    }
}

fn is_page_size(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let unit = &text[digits.len()..];
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && ["B", "KB", "MB", "GB"].contains(&unit)
}

/// Names of cgroup v2 files become part of paths in the runtime, so they must be plain file names.
fn check_unified(resources: &Resources, facts: &HostFacts) -> Result<(), Error> {
    if facts.cgroup != CgroupVersion::V2 {
        return Err(Error::invalid(
            format!("{FIELD}.unified"),
            "needs cgroup v2, and this host has v1",
        ));
    }
    for (name, value) in &resources.unified {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.' || b == b'-';
        let dotted = name.contains('.') && !name.contains("..") && !name.starts_with('.');
        if !dotted || !name.bytes().all(plain) || value.contains('\0') {
            return Err(Error::invalid(
                format!("{FIELD}.unified[{name:?}]"),
                "is not a cgroup file such as \"memory.high\", or its value contains a NUL",
            ));
        }
    }
    Ok(())
}

/// The OOM score that can be set in fact: without CAP_SYS_RESOURCE the kernel refuses one lower
/// than the agent's own.
pub(super) fn oom_score(wanted: i64, facts: &HostFacts) -> Result<i32, Error> {
    if !(-1000..=1000).contains(&wanted) {
        return Err(Error::invalid(
            format!("{FIELD}.oom_score_adj"),
            format!("{wanted} is not between -1000 and 1000"),
        ));
    }
    let possible =
        if facts.may_lower_oom_score() { wanted } else { wanted.max(facts.oom_score_adj) };
    Ok(possible.clamp(-1000, 1000) as i32)
}

#[cfg(test)]
mod tests;
