//! `[pods]`: whole pods.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::reader::Reader;

/// `[pods]`: whole pods, which podbay manages itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pods {
    /// Directory of static pod manifests; `None` for none.
    pub manifests: Option<PathBuf>,
    /// URL of static pod manifests; `None` for none.
    pub manifests_url: Option<Url>,
    /// Interval of checking directory and URL, besides file system events.
    pub manifests_interval: Duration,
    /// Name of the node; empty for the host name.
    pub node_name: String,
    /// Labels of the node, `key=value` each.
    pub node_labels: Vec<String>,
    /// Addresses of the cluster's DNS servers; without any, pods get the node's.
    pub cluster_dns: Vec<String>,
    /// Domain of the cluster; may be empty.
    pub cluster_domain: String,
    /// Directory of the pods' logs.
    pub log_root: PathBuf,
    /// Cgroup that contains all pods. A kubelet on the same host needs a different one: it kills
    /// unknown pods in its own.
    pub cgroup_root: String,
    /// Maximum number of pods on the node.
    pub max_pods: u32,
    /// Maximum number of processes per pod; 0 means no limit.
    pub pids_limit: u32,
    /// Thousandths of a CPU that are not available to pods.
    pub reserved_cpu: u32,
    /// Bytes of memory that are not available to pods.
    pub reserved_memory: usize,
    /// Directory of the seccomp profiles that pods name.
    pub seccomp_root: PathBuf,
    /// Containers without a seccomp profile get the runtime's default instead of none.
    pub seccomp_default: bool,
    /// Sysctls that pods may set besides the safe ones; a trailing `*` matches any rest.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Delay before the first restart of a container; it doubles with each restart.
    pub backoff_first: Duration,
    /// Maximum delay between restarts.
    pub backoff_longest: Duration,
    /// Size in bytes from which a container's log is rotated.
    pub log_max_size: usize,
    /// Maximum number of log files per container, including the live one.
    pub log_max_files: usize,
    /// Remove unused images when their disk gets full, while there are pods here. Set it to false
    /// on a node where a kubelet manages images.
    pub image_gc: bool,
    /// Disk usage in percent from which images are removed.
    pub image_gc_high: u32,
    /// Disk usage in percent down to which images are removed.
    pub image_gc_low: u32,
    /// Eviction thresholds, e.g. `memory.available<100Mi`.
    pub eviction: Vec<String>,
    /// How long the node counts as under pressure after a threshold was last crossed.
    pub eviction_hold: Duration,
    /// How long pods may take to end before the host shuts down; zero disables ending them.
    pub shutdown_grace: Grace,
    /// The part of that time reserved for critical pods, after the others have ended.
    pub shutdown_grace_critical: Grace,
    /// Instead of both: `PRIORITY=TIME` for each priority band, named by its lowest priority.
    pub shutdown_grace_by_priority: Vec<String>,
}

/// A duration that may be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace(pub Duration);

/// Lowest priority of critical pods.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

impl Pods {
    /// How long pods of each band may take to end before the host shuts down, by the lowest
    /// priority of the band; empty when pods are not ended.
    pub fn shutdown_bands(&self) -> Vec<(i32, Duration)> {
        if !self.shutdown_grace_by_priority.is_empty() {
            return self.shutdown_grace_by_priority.iter().filter_map(|text| band(text)).collect();
        }
        let (Grace(all), Grace(critical)) = (self.shutdown_grace, self.shutdown_grace_critical);
        if all.is_zero() {
            return Vec::new();
        }
        vec![(0, all.saturating_sub(critical)), (CRITICAL_PRIORITY, critical)]
    }
}

/// Parses `PRIORITY=TIME`.
fn band(text: &str) -> Option<(i32, Duration)> {
    let (priority, time) = text.split_once('=')?;
    let time = humantime::parse_duration(time.trim()).ok()?;
    Some((priority.trim().parse().ok()?, time))
}

/// Valid eviction signals.
const SIGNALS: [&str; 6] = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
];

/// The kubelet's default thresholds.
const EVICTION: [&str; 5] = [
    "memory.available<100Mi",
    "nodefs.available<10%",
    "nodefs.inodesFree<5%",
    "imagefs.available<15%",
    "imagefs.inodesFree<5%",
];

/// Whether the text is `SIGNAL<AMOUNT` or `SIGNAL<PERCENT%`.
fn is_threshold(text: &str) -> bool {
    let Some((signal, limit)) = text.split_once('<') else { return false };
    let end = limit.find(|c: char| !c.is_ascii_digit()).unwrap_or(limit.len());
    let (number, unit) = limit.split_at(end);
    let number = number.parse::<u64>().ok();
    let good = match unit {
        "%" => number.is_some_and(|percent| (1..100).contains(&percent)),
        "" => number.is_some(),
        unit => {
            let known = ["k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&unit);
            known && number.is_some_and(|number| number < 1 << 20)
        }
    };
    SIGNALS.contains(&signal) && good
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader) -> Pods {
    let seconds = Duration::from_secs;
    let pods = Pods {
        manifests: reader.get("pods.manifests", None),
        manifests_url: reader.get("pods.manifests_url", None),
        manifests_interval: reader.get("pods.manifests_interval", seconds(20)),
        node_name: reader.get("pods.node_name", String::new()),
        node_labels: reader.get("pods.node_labels", Vec::new()),
        cluster_dns: reader.get("pods.cluster_dns", Vec::new()),
        cluster_domain: reader.get("pods.cluster_domain", String::new()),
        log_root: reader.get("pods.log_root", "/var/log/pods".into()),
        cgroup_root: reader.get("pods.cgroup_root", "kubepods".to_owned()),
        max_pods: reader.get("pods.max_pods", 110),
        pids_limit: reader.get("pods.pids_limit", 0),
        reserved_cpu: reader.get("pods.reserved_cpu", 0),
        reserved_memory: reader.get("pods.reserved_memory", 100 << 20),
        seccomp_root: reader.get("pods.seccomp_root", "/var/lib/podbay/seccomp".into()),
        seccomp_default: reader.get("pods.seccomp_default", true),
        allowed_unsafe_sysctls: reader.get("pods.allowed_unsafe_sysctls", Vec::new()),
        backoff_first: reader.get("pods.backoff_first", seconds(10)),
        backoff_longest: reader.get("pods.backoff_longest", seconds(300)),
        log_max_size: reader.get("pods.log_max_size", 10 << 20),
        log_max_files: reader.get("pods.log_max_files", 5),
        image_gc: reader.get("pods.image_gc", true),
        image_gc_high: reader.get("pods.image_gc_high", 85),
        image_gc_low: reader.get("pods.image_gc_low", 80),
        eviction: reader.get("pods.eviction", EVICTION.map(str::to_owned).into()),
        eviction_hold: reader.get("pods.eviction_hold", seconds(300)),
        shutdown_grace: reader.get("pods.shutdown_grace", Grace(Duration::ZERO)),
        shutdown_grace_critical: reader.get("pods.shutdown_grace_critical", Grace(Duration::ZERO)),
        shutdown_grace_by_priority: reader.get("pods.shutdown_grace_by_priority", Vec::new()),
    };
    check_upkeep(reader, &pods);
    check_shutdown(reader, &pods);
    let labelled = pods.node_labels.iter().all(|label| label.contains('='));
    reader.check(labelled, &["pods", "node_labels"], "must be key=value each");
    let addresses = pods.cluster_dns.iter().all(|ip| ip.parse::<std::net::IpAddr>().is_ok());
    reader.check(addresses, &["pods", "cluster_dns"], "must be IP addresses");
    let plain = |part: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !part.is_empty() && part.bytes().all(good)
    };
    let rooted = pods.cgroup_root.split('/').all(plain);
    let problem = "must be names of letters, digits, '-' and '_', with '/' between";
    reader.check(rooted, &["pods", "cgroup_root"], problem);
    let often = (seconds(1)..=seconds(3600)).contains(&pods.manifests_interval);
    reader.check(often, &["pods", "manifests_interval"], "must be 1 s to 1 h");
    let pauses = pods.backoff_first <= pods.backoff_longest && !pods.backoff_first.is_zero();
    let problem = "must be more than 0, and no more than backoff_longest";
    reader.check(pauses, &["pods", "backoff_first"], problem);
    pods
}

fn check_upkeep(reader: &mut Reader, pods: &Pods) {
    reader.check(pods.log_max_size > 0, &["pods", "log_max_size"], "must be more than 0");
    reader.check(pods.log_max_files >= 2, &["pods", "log_max_files"], "must be at least 2");
    let percents = pods.image_gc_low < pods.image_gc_high && pods.image_gc_high <= 100;
    let problem = "must be more than image_gc_low, and at most 100";
    reader.check(percents, &["pods", "image_gc_high"], problem);
    let thresholds = pods.eviction.iter().all(|text| is_threshold(text));
    let problem = "must be such as \"memory.available<100Mi\" or \"nodefs.available<10%\" each";
    reader.check(thresholds, &["pods", "eviction"], problem);
}

/// Applies the kubelet's rules for the same settings.
fn check_shutdown(reader: &mut Reader, pods: &Pods) {
    let (Grace(all), Grace(critical)) = (pods.shutdown_grace, pods.shutdown_grace_critical);
    let long = |time: Duration| time.is_zero() || time >= Duration::from_secs(1);
    let problem = "must be 0, or at least 1 s";
    reader.check(long(all), &["pods", "shutdown_grace"], problem);
    let problem = "must be 0, or at least 1 s, and no more than shutdown_grace";
    let good = long(critical) && critical <= all;
    reader.check(good, &["pods", "shutdown_grace_critical"], problem);
    let texts = &pods.shutdown_grace_by_priority;
    let bands: Vec<_> = texts.iter().filter_map(|text| band(text)).collect();
    let priorities: BTreeSet<i32> = bands.iter().map(|(priority, _)| *priority).collect();
    let good = priorities.len() == texts.len() && bands.iter().all(|(_, time)| long(*time));
    let key = ["pods", "shutdown_grace_by_priority"];
    reader.check(
        good,
        &key,
        "must be \"PRIORITY=TIME\" each, no priority twice, 0 s or from 1 s on",
    );
    let one = texts.is_empty() || all.is_zero();
    reader.check(one, &key, "must be empty when shutdown_grace is given");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_have_a_signal_and_a_limit() {
        for good in EVICTION.into_iter().chain(["pid.available<1000", "memory.available<1Gi"]) {
            assert!(is_threshold(good), "{good}");
        }
        for bad in [
            "memory.available",
            "memory.available<",
            "memory.available<-1",
            "memory.available<0%",
            "memory.available<100%",
            "memory.available<1Xi",
            "memory<1Mi",
            "memory.available<99999999999999999999",
        ] {
            assert!(!is_threshold(bad), "{bad}");
        }
    }
}
