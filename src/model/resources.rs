//! Resource limits of a pod or container (CRI `LinuxContainerResources`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits as in CRI: 0 and "" mean "not set".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds per period; -1 means unlimited.
    pub cpu_quota: i64,
    /// Relative CPU weight, cgroup v1 scale (2 to 262144).
    pub cpu_shares: i64,
    /// Memory limit in bytes.
    pub memory_limit: i64,
    /// Memory plus swap limit in bytes; -1 means unlimited swap.
    pub memory_swap_limit: i64,
    /// OOM score adjustment, -1000 to 1000. Applied even when 0.
    pub oom_score_adj: i64,
    /// CPU list, e.g. `0-3,5`.
    pub cpuset_cpus: String,
    /// NUMA node list.
    pub cpuset_mems: String,
    /// Huge page limits.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Files of cgroup v2 and their contents, written last and unchanged.
    pub unified: BTreeMap<String, String>,
}

/// A limit on one huge page size.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// Page size as the kernel names it in hugetlb files, e.g. `2MB`.
    pub page_size: String,
    /// Limit in bytes.
    pub limit: u64,
}

/// Which component creates cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// The OCI runtime, directly in the cgroup file system.
    #[default]
    Cgroupfs,
    /// systemd, at the OCI runtime's request; parents are slices.
    Systemd,
}

/// Limits of a cgroup that contains other cgroups: of a pod, or of a QoS class.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupLimits {
    /// Relative CPU weight, cgroup v1 scale (2 to 262144).
    pub cpu_shares: u64,
    /// CFS quota in microseconds per period; `None` is no limit.
    pub cpu_quota: Option<i64>,
    /// CFS period in microseconds, used with a quota.
    pub cpu_period: i64,
    /// Memory limit in bytes; `None` for no limit.
    pub memory: Option<i64>,
    /// Maximum number of processes; `None` for no limit.
    pub pids: Option<i64>,
    /// Huge page limits, one for each size.
    pub hugepages: Vec<HugepageLimit>,
}

impl CgroupLimits {
    /// The `cpu.weight` of cgroup v2 (1 to 10000) that corresponds to the shares.
    pub fn cpu_weight(&self) -> u64 {
        1 + (self.cpu_shares.clamp(2, 262_144) - 2) * 9999 / 262_142
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_shares() {
        for (cpu_shares, weight) in
            [(0, 1), (2, 1), (102, 4), (512, 20), (1024, 39), (2048, 79), (262_144, 10_000)]
        {
            let limits = CgroupLimits { cpu_shares, ..CgroupLimits::default() };
            assert_eq!(limits.cpu_weight(), weight, "{cpu_shares}");
        }
    }
}
