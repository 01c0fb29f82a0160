//! Metrics of CPU, memory, huge pages and pressure, and their limits.

use super::super::cgroup::Controller::{Cpu, Cpuacct, Hugetlb, Memory};
use super::super::parse::{self, MemoryStat, UNLIMITED};
use super::families::{self, Family};
use super::{Files, Samples, Usage};

const SECOND: u64 = 1_000_000_000;

/// Size of a page in bytes, as v2 counts the memory of nodes.
const PAGE: u64 = 4096;

/// `USER_HZ`, which is the same on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// Kernel defaults of a cgroup without limits: period in microseconds, and v2 weight.
const DEFAULT_PERIOD: u64 = 100_000;
const DEFAULT_WEIGHT: u64 = 100;

/// Adds all these metrics.
pub(super) fn add(samples: &mut Samples, files: &Files<'_>, usage: &Usage, most_memory: u64) {
    add_cpu(samples, files, usage);
    add_memory(samples, files, usage, most_memory);
    add_huge_pages(samples, files);
    add_pressure(samples, usage);
    add_limits(samples, files);
}

fn add_cpu(samples: &mut Samples, files: &Files<'_>, usage: &Usage) {
    let total = usage.cpu.map(|cpu| cpu.usage / SECOND);
    samples.add_known(&families::CPU_USAGE, ["total"], total);
    let throttling = files.text(Cpu, "cpu.stat").unwrap_or_default();
    let value = |key| parse::value_of(&throttling, key);
    let (user, system, throttled, burst) = if files.is_v1() {
        // Kernels before 4.7 report only ticks.
        let ticks = |key| files.value(Cpuacct, "cpuacct.stat", key).map(|n| n / TICKS_PER_SECOND);
        let time = |name, key| {
            let nanos = files.number(Cpuacct, name);
            nanos.map(|nanos| nanos / SECOND).or_else(|| ticks(key))
        };
        let (user, system) = ("cpuacct.usage_user", "cpuacct.usage_sys");
        let seconds = |key| value(key).map(|time| time / SECOND);
        let more = (seconds("throttled_time"), seconds("burst_time"));
        (time(user, "user"), time(system, "system"), more.0, more.1)
    } else {
        let time = |key| value(key).map(|micros| micros / 1_000_000);
        (time("user_usec"), time("system_usec"), time("throttled_usec"), time("burst_usec"))
    };
    samples.add_known(&families::CPU_USER, [], user);
    samples.add_known(&families::CPU_SYSTEM, [], system);
    // A kernel or cgroup without throttling or bursts has never had any.
    for (family, count) in [
        (&families::CFS_PERIODS, value("nr_periods")),
        (&families::CFS_THROTTLED_PERIODS, value("nr_throttled")),
        (&families::CFS_THROTTLED_TIME, throttled),
        (&families::CFS_BURSTS, value("nr_bursts")),
        (&families::CFS_BURST_TIME, burst),
    ] {
        samples.add(family, [], count.unwrap_or_default());
    }
}

fn add_memory(samples: &mut Samples, files: &Files<'_>, usage: &Usage, most: u64) {
    let Some(memory) = usage.memory else { return };
    let text = files.text(Memory, "memory.stat").unwrap_or_default();
    let events = files.text(Memory, "memory.events").unwrap_or_default();
    let (stat, kernel, failures, kills) = if files.is_v1() {
        let stat = parse::memory_stat_v1(&text);
        let kernel = files.number(Memory, "memory.kmem.usage_in_bytes");
        let failures = files.number(Memory, "memory.failcnt");
        (stat, kernel, failures, files.value(Memory, "memory.oom_control", "oom_kill"))
    } else {
        let stat = parse::memory_stat_v2(&text);
        let value = |key| parse::value_of(&events, key);
        (stat, stat.kernel, value("max"), value("oom_kill"))
    };
    // v2 has it from 5.19 on.
    let told = files.either(Memory, "memory.max_usage_in_bytes", "memory.peak");
    samples.add(&families::MEMORY_USAGE, [], memory.usage);
    samples.add(&families::MEMORY_WORKING_SET, [], memory.working_set);
    samples.add(&families::MEMORY_MAX_USAGE, [], told.unwrap_or(most));
    samples.add(&families::MEMORY_RSS, [], stat.rss);
    samples.add(&families::MEMORY_CACHE, [], stat.cache);
    // Kernel memory that is not accounted does not count for the container.
    samples.add(&families::MEMORY_KERNEL, [], kernel.unwrap_or_default());
    samples.add(&families::MEMORY_MAPPED_FILE, [], stat.mapped_file);
    // A host without swap accounting usually has no swap.
    samples.add(&families::MEMORY_SWAP, [], usage.swap.map_or(0, |swap| swap.usage));
    samples.add(&families::MEMORY_ACTIVE_FILE, [], stat.active_file);
    samples.add(&families::MEMORY_INACTIVE_FILE, [], stat.inactive_file);
    // Kernels before 4.13 do not count OOM kills here.
    samples.add(&families::MEMORY_FAILCNT, [], failures.unwrap_or_default());
    samples.add(&families::OOM_EVENTS, [], kills.unwrap_or_default());
    add_faults(samples, &stat);
    add_numa_pages(samples, files);
}

/// Pages of each node by type. v2 counts bytes, always including child cgroups.
fn add_numa_pages(samples: &mut Samples, files: &Files<'_>) {
    let text = files.text(Memory, "memory.numa_stat").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let unit = if files.is_v1() { 1 } else { PAGE };
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        let name = first.split('=').next().unwrap_or_default();
        let (scope, name) = match (name.strip_prefix("hierarchical_"), files.is_v1()) {
            (Some(name), _) => ("hierarchy", name),
            (None, true) => ("container", name),
            (None, false) => ("hierarchy", name),
        };
        if !matches!(name, "file" | "anon" | "unevictable") {
            continue;
        }
        for (node, count) in words.filter_map(|word| word.strip_prefix('N')?.split_once('=')) {
            let pages = count.parse::<u64>().ok().map(|count| count / unit);
            samples.add_known(&families::NUMA_PAGES, [name, scope, node], pages);
        }
    }
}

/// v2 always includes child cgroups, so both scopes have the same value.
fn add_faults(samples: &mut Samples, stat: &MemoryStat) {
    let family = &families::MEMORY_FAILURES;
    let (faults, major) = (stat.page_faults, stat.major_page_faults);
    let own = stat.own_page_faults.unwrap_or(faults);
    let own_major = stat.own_major_page_faults.unwrap_or(major);
    samples.add(family, ["pgfault", "container"], own);
    samples.add(family, ["pgmajfault", "container"], own_major);
    samples.add(family, ["pgfault", "hierarchy"], faults);
    samples.add(family, ["pgmajfault", "hierarchy"], major);
}

fn add_huge_pages(samples: &mut Samples, files: &Files<'_>) {
    let Some(folder) = files.0.of(Hugetlb) else { return };
    let suffix = if files.is_v1() { ".usage_in_bytes" } else { ".current" };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size =
            name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(suffix));
        // Reservations have files of their own, which are skipped.
        let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
        let file = |what: &str| format!("hugetlb.{size}.{what}");
        let usage = files.either(Hugetlb, &file("usage_in_bytes"), &file("current"));
        samples.add_known(&families::HUGETLB_USAGE, [size], usage);
        let failures = if files.is_v1() {
            let most = files.number(Hugetlb, &file("max_usage_in_bytes"));
            samples.add_known(&families::HUGETLB_MAX_USAGE, [size], most);
            files.number(Hugetlb, &file("failcnt"))
        } else {
            files.value(Hugetlb, &file("events"), "max")
        };
        samples.add_known(&families::HUGETLB_FAILCNT, [size], failures);
    }
}

fn add_pressure(samples: &mut Samples, usage: &Usage) {
    use families::{
        PRESSURE_CPU_STALLED, PRESSURE_CPU_WAITING, PRESSURE_IO_STALLED, PRESSURE_IO_WAITING,
        PRESSURE_MEMORY_STALLED, PRESSURE_MEMORY_WAITING,
    };
    let cpu = usage.cpu.and_then(|cpu| cpu.pressure);
    let memory = usage.memory.and_then(|memory| memory.pressure);
    for (pressure, waiting, stalled) in [
        (cpu, PRESSURE_CPU_WAITING, PRESSURE_CPU_STALLED),
        (memory, PRESSURE_MEMORY_WAITING, PRESSURE_MEMORY_STALLED),
        (usage.io, PRESSURE_IO_WAITING, PRESSURE_IO_STALLED),
    ] {
        samples.add_known(&waiting, [], pressure.map(|pressure| pressure.some.total / SECOND));
        samples.add_known(&stalled, [], pressure.map(|pressure| pressure.full.total / SECOND));
    }
}

fn add_limits(samples: &mut Samples, files: &Files<'_>) {
    let (shares, period, quota) = if files.is_v1() {
        let number = |name| files.number(Cpu, name);
        (number("cpu.shares"), number("cpu.cfs_period_us"), number("cpu.cfs_quota_us"))
    } else {
        let text = files.text(Cpu, "cpu.max").unwrap_or_default();
        let mut words = text.split(|&byte| byte == b' ').map(parse::number);
        let quota = words.next().flatten().filter(|quota| *quota != u64::MAX);
        (files.number(Cpu, "cpu.weight").map(shares_of), words.next().flatten(), quota)
    };
    // Without the controller all cgroups have equal shares, as with the kernel's default.
    let shares = shares.unwrap_or_else(|| shares_of(DEFAULT_WEIGHT));
    samples.add(&families::SPEC_CPU_SHARES, [], shares);
    samples.add(&families::SPEC_CPU_PERIOD, [], period.unwrap_or(DEFAULT_PERIOD));
    // No quota is -1 or `max`, which do not parse; CRI expresses it as 0.
    samples.add(&families::SPEC_CPU_QUOTA, [], quota.unwrap_or_default());
    let mut limit = |family: &Family<0>, v1: &str, v2: &str| {
        let limit = files.either(Memory, v1, v2).filter(|limit| *limit <= UNLIMITED);
        // As in cAdvisor, 0 means no limit.
        samples.add(family, [], limit.unwrap_or_default());
    };
    limit(&families::SPEC_MEMORY_LIMIT, "memory.limit_in_bytes", "memory.max");
    limit(&families::SPEC_MEMORY_SWAP_LIMIT, "memory.memsw.limit_in_bytes", "memory.swap.max");
    limit(&families::SPEC_MEMORY_RESERVATION, "memory.soft_limit_in_bytes", "memory.min");
}

/// The shares (v1) that OCI runtimes before runc 1.3 convert to this weight (v2).
fn shares_of(weight: u64) -> u64 {
    2 + weight.clamp(1, 10_000).saturating_sub(1) * 262_142 / 9_999
}
