//! Limits, in both directions.

use super::{Result, Within, all, filled, no_nul, refuse};
use crate::model::resources::{HugepageLimit, Resources};
use crate::proto::runtime::v1;

/// Checks limits. Whether the kernel has the controller is checked elsewhere.
pub(super) fn resources_in(limits: v1::LinuxContainerResources) -> Result<Resources> {
    let v1::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes,
    } = limits;
    refuse("cpu_period", cpu_period < 0, "must not be negative")?;
    refuse("cpu_quota", cpu_quota < -1, "must be -1 (no limit), 0 (not set) or more")?;
    refuse("cpu_shares", cpu_shares < 0, "must not be negative")?;
    let below = "must be -1 (no limit), 0 (not set) or more";
    refuse("memory_limit_in_bytes", memory_limit_in_bytes < -1, below)?;
    refuse("memory_swap_limit_in_bytes", memory_swap_limit_in_bytes < -1, below)?;
    let range = -1000..=1000;
    refuse("oom_score_adj", !range.contains(&oom_score_adj), "must be within -1000 and 1000")?;
    number_list("cpuset_cpus", &cpuset_cpus)?;
    number_list("cpuset_mems", &cpuset_mems)?;
    for (file, value) in &unified {
        unified_entry(file, value).within(&format!("unified[{file:?}]"))?;
    }
    Ok(Resources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit: memory_limit_in_bytes,
        memory_swap_limit: memory_swap_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits: all("hugepage_limits", hugepage_limits, hugepage_in)?,
        unified,
    })
}

/// Resource sums of a pod, if given.
pub fn sums(field: &str, limits: Option<v1::LinuxContainerResources>) -> Result<Option<Resources>> {
    limits.map(resources_in).transpose().within(field)
}

fn number_list(field: &str, text: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_digit() || c == ',' || c == '-';
    refuse(field, !text.chars().all(plain), "must be a list of numbers and ranges")
}

/// The page size becomes part of a file name.
fn hugepage_in(limit: v1::HugepageLimit) -> Result<HugepageLimit> {
    let v1::HugepageLimit { page_size, limit } = limit;
    let digits = page_size.trim_start_matches(|c: char| c.is_ascii_digit());
    let known = digits.len() < page_size.len() && matches!(digits, "B" | "KB" | "MB" | "GB" | "TB");
    refuse("page_size", !known, "must be a page size like 2MB or 1GB")?;
    Ok(HugepageLimit { page_size, limit })
}

/// The key is the name of a file in the container's cgroup.
fn unified_entry(file: &str, value: &str) -> Result<()> {
    filled("", file)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let bad = !file.chars().all(plain) || file.starts_with('.');
    refuse("", bad, "is not the name of a cgroup file")?;
    no_nul("", value)
}

/// Limits in force.
pub(super) fn resources_out(limits: &Resources) -> v1::LinuxContainerResources {
    let Resources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit,
        memory_swap_limit,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
    } = limits;
    let hugepage =
        |l: &HugepageLimit| v1::HugepageLimit { page_size: l.page_size.clone(), limit: l.limit };
    v1::LinuxContainerResources {
        cpu_period: *cpu_period,
        cpu_quota: *cpu_quota,
        cpu_shares: *cpu_shares,
        memory_limit_in_bytes: *memory_limit,
        oom_score_adj: *oom_score_adj,
        cpuset_cpus: cpuset_cpus.clone(),
        cpuset_mems: cpuset_mems.clone(),
        hugepage_limits: hugepage_limits.iter().map(hugepage).collect(),
        unified: unified.clone(),
        memory_swap_limit_in_bytes: *memory_swap_limit,
    }
}
