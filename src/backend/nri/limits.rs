//! Conversion of limits between NRI messages, CRI resources and OCI specs.

use serde_json::Value;

use super::owners::{Conflict, Owners};
use super::proto::{
    Field, HugepageLimit, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources,
    OptionalBool, OptionalInt64, OptionalUInt64,
};
use crate::model::resources::{self, Resources};

/// Helpers for optional values: NRI distinguishes 0 from unset.
pub(super) fn int64(value: i64) -> OptionalInt64 {
    OptionalInt64 { value }
}

fn uint64(value: u64) -> OptionalUInt64 {
    OptionalUInt64 { value }
}

/// Converts CRI limits, in which 0 means unset.
pub(super) fn from_cri(limits: &Resources) -> LinuxResources {
    let signed = |value: i64| (value != 0).then(|| int64(value));
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|&v| v != 0).map(uint64);
    let pages = limits.hugepage_limits.iter();
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: signed(limits.memory_limit),
            swap: signed(limits.memory_swap_limit),
            ..LinuxMemory::default()
        }),
        cpu: Some(LinuxCpu {
            shares: unsigned(limits.cpu_shares),
            quota: signed(limits.cpu_quota),
            period: unsigned(limits.cpu_period),
            cpus: limits.cpuset_cpus.clone(),
            mems: limits.cpuset_mems.clone(),
            ..LinuxCpu::default()
        }),
        hugepage_limits: pages
            .map(|page| HugepageLimit { page_size: page.page_size.clone(), limit: page.limit })
            .collect(),
        unified: limits.unified.clone(),
        ..LinuxResources::default()
    }
}

/// Converts limits to CRI for an update; [`not_changeable`] names those that CRI does not have.
pub(super) fn to_cri(limits: &LinuxResources) -> Resources {
    let memory = limits.memory.unwrap_or_default();
    let cpu = limits.cpu.clone().unwrap_or_default();
    let signed = |value: Option<OptionalInt64>| value.map_or(0, |value| value.value);
    let unsigned = |value: Option<OptionalUInt64>| {
        value.map_or(0, |value| i64::try_from(value.value).unwrap_or(i64::MAX))
    };
    let pages = limits.hugepage_limits.iter();
    Resources {
        cpu_period: unsigned(cpu.period),
        cpu_quota: signed(cpu.quota),
        cpu_shares: unsigned(cpu.shares),
        memory_limit: signed(memory.limit),
        memory_swap_limit: signed(memory.swap),
        oom_score_adj: 0,
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepage_limits: pages
            .map(|page| resources::HugepageLimit {
                page_size: page.page_size.clone(),
                limit: page.limit,
            })
            .collect(),
        unified: limits.unified.clone(),
    }
}

/// Names of the limits set that cannot be changed in an existing container, because CRI does not
/// have them.
pub(super) fn not_changeable(limits: &LinuxResources) -> Vec<&'static str> {
    let memory = limits.memory.unwrap_or_default();
    let cpu = limits.cpu.clone().unwrap_or_default();
    let all = [
        ("memory.reservation", memory.reservation.is_some()),
        ("memory.kernel", memory.kernel.is_some()),
        ("memory.kernel_tcp", memory.kernel_tcp.is_some()),
        ("memory.swappiness", memory.swappiness.is_some()),
        ("memory.disable_oom_killer", memory.disable_oom_killer.is_some()),
        ("memory.use_hierarchy", memory.use_hierarchy.is_some()),
        ("cpu.realtime_runtime", cpu.realtime_runtime.is_some()),
        ("cpu.realtime_period", cpu.realtime_period.is_some()),
        ("pids", limits.pids.is_some()),
        ("devices", !limits.devices.is_empty()),
        ("blockio_class", limits.blockio_class.is_some()),
        ("rdt_class", limits.rdt_class.is_some()),
    ];
    all.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
}

/// Converts `linux.resources` of an OCI spec; `None` when it has none.
pub(super) fn from_oci(limits: &Value) -> Option<LinuxResources> {
    limits.as_object()?;
    let signed = |value: &Value| value.as_i64().map(int64);
    let unsigned = |value: &Value| value.as_u64().map(uint64);
    let boolean = |value: &Value| value.as_bool().map(|value| OptionalBool { value });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (memory, cpu) = (&limits["memory"], &limits["cpu"]);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    Some(LinuxResources {
        memory: memory.is_object().then(|| LinuxMemory {
            limit: signed(&memory["limit"]),
            reservation: signed(&memory["reservation"]),
            swap: signed(&memory["swap"]),
            kernel: signed(&memory["kernel"]),
            kernel_tcp: signed(&memory["kernelTCP"]),
            swappiness: unsigned(&memory["swappiness"]),
            disable_oom_killer: boolean(&memory["disableOOMKiller"]),
            use_hierarchy: boolean(&memory["useHierarchy"]),
        }),
        cpu: cpu.is_object().then(|| LinuxCpu {
            shares: unsigned(&cpu["shares"]),
            quota: signed(&cpu["quota"]),
            period: unsigned(&cpu["period"]),
            realtime_runtime: signed(&cpu["realtimeRuntime"]),
            realtime_period: unsigned(&cpu["realtimePeriod"]),
            cpus: text(&cpu["cpus"]),
            mems: text(&cpu["mems"]),
        }),
        hugepage_limits: list(&limits["hugepageLimits"])
            .iter()
            .map(|page| HugepageLimit {
                page_size: text(&page["pageSize"]),
                limit: page["limit"].as_u64().unwrap_or_default(),
            })
            .collect(),
        unified: super::show::texts(&limits["unified"]),
        devices: list(&limits["devices"])
            .iter()
            .map(|rule| LinuxDeviceCgroup {
                allow: rule["allow"].as_bool().unwrap_or_default(),
                r#type: text(&rule["type"]),
                major: signed(&rule["major"]),
                minor: signed(&rule["minor"]),
                access: text(&rule["access"]),
            })
            .collect(),
        pids: limits["pids"]["limit"].as_i64().map(|limit| LinuxPids { limit }),
        ..LinuxResources::default()
    })
}

/// Makes `plugin` the owner of every limit that is set.
pub(super) fn claim_limits(
    owners: &mut Owners,
    id: &str,
    limits: &LinuxResources,
    plugin: &str,
) -> Result<(), Conflict> {
    let memory = limits.memory.unwrap_or_default();
    let cpu = limits.cpu.clone().unwrap_or_default();
    for (field, set) in [
        (Field::MemLimit, memory.limit.is_some()),
        (Field::MemReservation, memory.reservation.is_some()),
        (Field::MemSwapLimit, memory.swap.is_some()),
        (Field::MemKernelLimit, memory.kernel.is_some()),
        (Field::MemTcpLimit, memory.kernel_tcp.is_some()),
        (Field::MemSwappiness, memory.swappiness.is_some()),
        (Field::MemDisableOomKiller, memory.disable_oom_killer.is_some()),
        (Field::MemUseHierarchy, memory.use_hierarchy.is_some()),
        (Field::CpuShares, cpu.shares.is_some()),
        (Field::CpuQuota, cpu.quota.is_some()),
        (Field::CpuPeriod, cpu.period.is_some()),
        (Field::CpuRealtimeRuntime, cpu.realtime_runtime.is_some()),
        (Field::CpuRealtimePeriod, cpu.realtime_period.is_some()),
        (Field::CpuSetCpUs, !cpu.cpus.is_empty()),
        (Field::CpuSetMems, !cpu.mems.is_empty()),
        (Field::PidsLimit, limits.pids.is_some()),
        (Field::BlockioClass, limits.blockio_class.is_some()),
        (Field::RdtClass, limits.rdt_class.is_some()),
    ] {
        if set {
            owners.claim(id, field, plugin)?;
        }
    }
    for page in &limits.hugepage_limits {
        owners.claim_key(id, Field::HugepageLimits, &page.page_size, plugin)?;
    }
    for file in limits.unified.keys() {
        owners.claim_key(id, Field::CgroupsUnified, file, plugin)?;
    }
    Ok(())
}

/// Overrides existing limits with all that are set.
pub(super) fn overlay(into: &mut LinuxResources, wanted: LinuxResources) {
    if let Some(memory) = wanted.memory {
        let old = into.memory.get_or_insert_default();
        *old = LinuxMemory {
            limit: memory.limit.or(old.limit),
            reservation: memory.reservation.or(old.reservation),
            swap: memory.swap.or(old.swap),
            kernel: memory.kernel.or(old.kernel),
            kernel_tcp: memory.kernel_tcp.or(old.kernel_tcp),
            swappiness: memory.swappiness.or(old.swappiness),
            disable_oom_killer: memory.disable_oom_killer.or(old.disable_oom_killer),
            use_hierarchy: memory.use_hierarchy.or(old.use_hierarchy),
        };
    }
    if let Some(cpu) = wanted.cpu {
        let old = into.cpu.get_or_insert_default();
        let text = |new: String, old: &str| if new.is_empty() { old.to_owned() } else { new };
        *old = LinuxCpu {
            shares: cpu.shares.or(old.shares),
            quota: cpu.quota.or(old.quota),
            period: cpu.period.or(old.period),
            realtime_runtime: cpu.realtime_runtime.or(old.realtime_runtime),
            realtime_period: cpu.realtime_period.or(old.realtime_period),
            cpus: text(cpu.cpus, &old.cpus),
            mems: text(cpu.mems, &old.mems),
        };
    }
    for page in wanted.hugepage_limits {
        into.hugepage_limits.retain(|old| old.page_size != page.page_size);
        into.hugepage_limits.push(page);
    }
    into.unified.extend(wanted.unified);
    into.devices.extend(wanted.devices);
    into.pids = wanted.pids.or(into.pids.take());
    into.blockio_class = wanted.blockio_class.or(into.blockio_class.take());
    into.rdt_class = wanted.rdt_class.or(into.rdt_class.take());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn every_limit() -> Resources {
        Resources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit: 64 << 20,
            memory_swap_limit: 96 << 20,
            oom_score_adj: 0,
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepage_limits: vec![resources::HugepageLimit {
                page_size: "2MB".to_owned(),
                limit: 4 << 20,
            }],
            unified: [("memory.high".to_owned(), "50000000".to_owned())].into(),
        }
    }

    #[test]
    fn limits_of_a_client_come_back_as_they_were() {
        for limits in [every_limit(), Resources::default()] {
            assert_eq!(to_cri(&from_cri(&limits)), limits);
        }
    }

    #[test]
    fn what_a_client_has_not_set_is_not_set() {
        let none = from_cri(&Resources::default());
        assert_eq!(none.memory, Some(LinuxMemory::default()));
        assert_eq!(none.cpu, Some(LinuxCpu::default()));
    }

    #[test]
    fn what_an_update_cannot_change_is_named() {
        assert!(not_changeable(&from_cri(&every_limit())).is_empty());
        let limits = LinuxResources {
            pids: Some(LinuxPids { limit: 5 }),
            memory: Some(LinuxMemory { reservation: Some(int64(0)), ..LinuxMemory::default() }),
            ..from_cri(&every_limit())
        };
        assert_eq!(not_changeable(&limits), ["memory.reservation", "pids"]);
    }

    #[test]
    fn limits_of_a_spec() {
        let limits = from_oci(&json!({
            "memory": {"limit": 5, "swap": 6, "swappiness": 7, "disableOOMKiller": true},
            "cpu": {"shares": 2, "quota": -1, "period": 3, "cpus": "0"},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
            "unified": {"a.b": "c"},
            "pids": {"limit": 11},
            "devices": [{"allow": false, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}],
        }));
        let limits = limits.unwrap();
        let memory = limits.memory.unwrap();
        assert_eq!((memory.limit, memory.swap), (Some(int64(5)), Some(int64(6))));
        assert_eq!(memory.swappiness, Some(uint64(7)));
        assert_eq!(memory.disable_oom_killer, Some(OptionalBool { value: true }));
        assert_eq!(memory.reservation, None);
        let cpu = limits.cpu.unwrap();
        assert_eq!((cpu.quota, cpu.cpus.as_str()), (Some(int64(-1)), "0"));
        assert_eq!(limits.hugepage_limits[0].limit, 9);
        assert_eq!(limits.unified["a.b"], "c");
        assert_eq!(limits.pids, Some(LinuxPids { limit: 11 }));
        assert_eq!(limits.devices[0].major, None);
        assert_eq!(limits.devices[1].minor, Some(int64(3)));
        assert_eq!(from_oci(&Value::Null), None);
    }
}
