//! Which families this host provides; determined once, because descriptors must never change.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::cgroup::Tree;
use super::families::{self, DESCRIPTORS, Descriptor};
use crate::backend::CgroupVersion;

/// What a family needs besides a cgroup and `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    CpuTime,
    Memory,
    NumaPages,
    HugePages,
    /// v2 has no such counter.
    MostHugePages,
    Pressure,
}

fn needs(family: &Descriptor) -> &'static [Need] {
    use Need::{CpuTime, HugePages, Memory, MostHugePages, NumaPages, Pressure};
    let most_huge_pages = families::HUGETLB_MAX_USAGE.0.name;
    let rows: [(&str, &[Need]); 12] = [
        ("container_cpu_usage_", &[CpuTime]),
        ("container_cpu_user_", &[CpuTime]),
        ("container_cpu_system_", &[CpuTime]),
        ("container_memory_numa_", &[NumaPages]),
        ("container_memory_", &[Memory]),
        ("container_oom_", &[Memory]),
        ("container_spec_memory_", &[Memory]),
        (most_huge_pages, &[MostHugePages]),
        ("container_hugetlb_", &[HugePages]),
        // Pressure is read together with the files of its resource.
        ("container_pressure_cpu_", &[CpuTime, Pressure]),
        ("container_pressure_memory_", &[Memory, Pressure]),
        ("container_pressure_io_", &[Pressure]),
    ];
    let row = rows.into_iter().find(|(prefix, _)| family.name.starts_with(prefix));
    row.map_or(&[][..], |(_, needs)| needs)
}

/// The families that have a sample for every running container on this host, or for every pod with
/// its own network.
pub(in crate::stats) fn given(tree: &Tree) -> Vec<Descriptor> {
    let met = met(tree);
    let given = |family: &&Descriptor| needs(family).iter().all(|need| met.contains(need));
    DESCRIPTORS.iter().filter(given).copied().collect()
}

fn met(tree: &Tree) -> BTreeSet<Need> {
    let mut met = BTreeSet::new();
    let mut add = |need, there: bool| {
        if there {
            met.insert(need);
        }
    };
    match tree.version {
        CgroupVersion::V1 => {
            let there = |path: &str| tree.root.join(path).exists();
            add(Need::CpuTime, there("cpuacct/cpuacct.usage"));
            add(Need::Memory, there("memory/memory.usage_in_bytes"));
            add(Need::NumaPages, there("memory/memory.numa_stat"));
            let pages = has_pages(&tree.root.join("hugetlb"));
            add(Need::HugePages, pages);
            add(Need::MostHugePages, pages);
            // Its files are only in the v2 hierarchy.
            add(Need::Pressure, there("unified/cgroup.procs") && tells_pressure(&tree.proc));
        }
        CgroupVersion::V2 => {
            let listed = std::fs::read_to_string(tree.root.join("cgroup.controllers"));
            let listed = listed.unwrap_or_default();
            let controls = |name: &str| listed.split_ascii_whitespace().any(|it| it == name);
            // Available without a controller.
            add(Need::CpuTime, true);
            add(Need::Memory, controls("memory"));
            let counted = tree.root.join("memory.numa_stat").exists();
            add(Need::NumaPages, controls("memory") && counted);
            add(Need::HugePages, controls("hugetlb"));
            add(Need::Pressure, tells_pressure(&tree.proc));
        }
    }
    met
}

/// Whether there are huge pages: the kernel may support them while the machine has none.
fn has_pages(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name()).any(|name| {
        name.to_str().is_some_and(|name| name.starts_with("hugetlb.") && !name.contains(".rsvd."))
    })
}

/// Whether pressure can be read: if it is disabled, only reading fails.
fn tells_pressure(proc: &Path) -> bool {
    let tells = |name: &str| std::fs::read(proc.join("pressure").join(name)).is_ok();
    ["cpu", "memory", "io"].into_iter().all(tells)
}
