//! Facts about the node that pods need, determined once at start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use crate::backend::{CgroupVersion, Host};
use crate::config::Config;
use crate::model::pod::DnsConfig;
use crate::model::resources::CgroupDriver;
use crate::pod::translate::{Amounts, NodeFacts, SystemFacts};

/// Addresses that use the default route; nothing is sent to them.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Combines the settings with what the host reports.
pub(super) fn facts(
    config: &Config,
    host: &dyn Host,
    cgroup_drivers: BTreeMap<String, CgroupDriver>,
) -> NodeFacts {
    let (pods, facts) = (&config.pods, host.facts());
    let capacity = Amounts {
        milli_cpu: cpus() * 1000,
        memory: memory(),
        ephemeral_storage: disk(&config.root),
        pods: i64::from(pods.max_pods),
        hugepages: hugepages(),
    };
    let reserved = i64::try_from(pods.reserved_memory).unwrap_or(i64::MAX);
    let allocatable = Amounts {
        milli_cpu: (capacity.milli_cpu - i64::from(pods.reserved_cpu)).max(0),
        memory: (capacity.memory - reserved).max(0),
        // Minus what eviction keeps free.
        ephemeral_storage: capacity.ephemeral_storage / 10 * 9,
        ..capacity.clone()
    };
    let label = |text: &String| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    NodeFacts {
        name: match pods.node_name.as_str() {
            "" => facts.hostname.clone(),
            given => given.to_owned(),
        },
        ips: addresses(),
        capacity,
        allocatable,
        cluster_dns: pods.cluster_dns.clone(),
        cluster_domain: pods.cluster_domain.clone(),
        resolv_conf: resolv_conf(&read("/etc/resolv.conf")),
        cgroup_root: pods.cgroup_root.clone(),
        cgroup_drivers,
        cgroup_v2: facts.cgroup == CgroupVersion::V2,
        swap_accounting: facts.swap_accounting,
        pids_limit: Some(i64::from(pods.pids_limit)).filter(|limit| *limit > 0),
        allowed_unsafe_sysctls: pods.allowed_unsafe_sysctls.clone(),
        labels: pods.node_labels.iter().filter_map(label).collect(),
        os: "linux".to_owned(),
        arch: facts.arch.clone(),
        system: system(),
        log_root: pods.log_root.clone(),
        seccomp_root: pods.seccomp_root.clone(),
        seccomp_default: pods.seccomp_default,
        masked_paths: thermal_throttles(),
    }
}

/// Logs an error if this agent is in a container whose cgroup namespace hides the cgroups of pods.
pub(super) fn check_cgroup_namespace() {
    if is_above_namespace(&read("/proc/1/cgroup")) {
        tracing::error!(
            "this agent is in a cgroup namespace of its own, so usage and out-of-memory kills of \
             pods are not seen: start its container with `--cgroupns host`"
        );
    }
}

/// Whether a process with this `/proc/PID/cgroup` is outside the reader's cgroup namespace.
fn is_above_namespace(membership: &str) -> bool {
    let mut paths = membership.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| path.split('/').any(|part| part == ".."))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn system() -> SystemFacts {
    let line = |path: &str| read(path).trim().to_owned();
    let release = match read("/etc/os-release") {
        none if none.is_empty() => read("/usr/lib/os-release"),
        found => found,
    };
    SystemFacts {
        kernel: line("/proc/sys/kernel/osrelease"),
        os_image: os_image(&release),
        machine_id: line("/etc/machine-id"),
        system_uuid: line("/sys/class/dmi/id/product_uuid"),
    }
}

/// The operating system's name from os-release.
fn os_image(release: &str) -> String {
    let of = |key: &str| {
        let mut values = release.lines().filter_map(|line| line.strip_prefix(key));
        let value = values.next()?.trim().trim_matches(['"', '\'']).to_owned();
        Some(value).filter(|value| !value.is_empty())
    };
    of("PRETTY_NAME=").or_else(|| of("NAME=")).unwrap_or_default()
}

fn cpus() -> i64 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    i64::try_from(cpus).unwrap_or(i64::MAX)
}

fn memory() -> i64 {
    let table = read("/proc/meminfo");
    let total = table.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().strip_suffix("kB")?.trim().parse::<i64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn disk(root: &Path) -> i64 {
    let Ok(stat) = rustix::fs::statvfs(root) else { return 0 };
    i64::try_from(stat.f_blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX)
}

/// Bytes of huge pages by page size.
fn hugepages() -> BTreeMap<u64, i64> {
    let folder = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let sizes = folder.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        let bytes = kib.saturating_mul(1024);
        let pages: u64 = count.trim().parse().ok()?;
        Some((bytes, i64::try_from(pages.saturating_mul(bytes)).unwrap_or(i64::MAX)))
    });
    sizes.collect()
}

/// The addresses from which this host reaches the default route; a localhost address if there are
/// none.
fn addresses() -> Vec<IpAddr> {
    let from = |to: &IpAddr| {
        let any: SocketAddr = match to {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect((*to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    let found: Vec<_> = ANYWHERE.iter().filter_map(from).collect();
    if found.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { found }
}

fn resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            // Only the last such line counts.
            Some("search") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

/// Directories with the throttling counters of each CPU, which reveal the load of other pods.
fn thermal_throttles() -> Vec<String> {
    let cpus = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let folders = cpus.map(|cpu| cpu.path().join("thermal_throttle"));
    let there = folders.filter(|folder| folder.is_dir());
    let mut paths: Vec<_> = there.map(|folder| folder.display().to_string()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let text =
            "# c\nnameserver 10.0.0.1\nsearch old\nnameserver ::1\nsearch a b\noptions ndots:2\n";
        let dns = resolv_conf(text);
        assert_eq!(dns.servers, ["10.0.0.1", "::1"]);
        assert_eq!(dns.searches, ["a", "b"]);
        assert_eq!(dns.options, ["ndots:2"]);
        assert_eq!(resolv_conf("nameserver"), DnsConfig::default());
    }

    #[test]
    fn reads_os_release() {
        let text = "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(os_image(text), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(os_image("ID=x\nNAME='Plain'\n"), "Plain");
        assert_eq!(os_image(""), "");
    }

    /// As Docker makes a namespace on hosts with cgroup v2.
    #[test]
    fn a_cgroup_namespace_shows_in_paths_that_lead_upwards() {
        for (membership, outside) in [
            ("0::/../../init.scope\n", true),
            ("0::/..\n", true),
            ("4:memory:/../a\n0::/\n", true),
            ("0::/init.scope\n", false),
            ("0::/\n", false),
            ("0::/a..b/c\n", false),
            ("", false),
        ] {
            assert_eq!(is_above_namespace(membership), outside, "{membership:?}");
        }
    }

    #[test]
    fn a_host_has_something() {
        assert!(cpus() > 0 && memory() > 0 && disk(Path::new("/")) > 0);
        assert!(!addresses().is_empty());
    }
}
