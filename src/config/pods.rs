//! `[pods]`: whole pods.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::reader::Reader;

/// `[pods]`: whole pods, whose life podbay runs itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pods {
    /// Folder of static pods' manifests; `None` for none.
    pub manifests: Option<PathBuf>,
    /// Address of static pods' manifests; `None` for none.
    pub manifests_url: Option<Url>,
    /// How often folder and address are looked at anyway.
    pub manifests_interval: Duration,
    /// Name of the node; empty for the host's name.
    pub node_name: String,
    /// Labels of the node, `key=value` each.
    pub node_labels: Vec<String>,
    /// Addresses of a cluster's DNS; none means that pods get the node's own.
    pub cluster_dns: Vec<String>,
    /// Domain of the cluster; may be empty.
    pub cluster_domain: String,
    /// Folder of the pods' logs.
    pub log_root: PathBuf,
    /// Cgroup that holds all pods. A kubelet on the same host needs another one: it ends what it
    /// finds in its own and does not know.
    pub cgroup_root: String,
    /// Most pods of the node.
    pub max_pods: u32,
    /// Most processes of one pod; 0 is no limit.
    pub pids_limit: u32,
    /// Thousandths of a CPU that pods do not get.
    pub reserved_cpu: u32,
    /// Bytes of memory that pods do not get.
    pub reserved_memory: usize,
    /// Folder of the seccomp profiles that pods name.
    pub seccomp_root: PathBuf,
    /// Containers that name no seccomp profile get the runtime's, and not none.
    pub seccomp_default: bool,
    /// Sysctls that pods may set besides the safe ones; a `*` at the end stands for the rest.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// The pause after the first restart of a container; each one after it is twice as long.
    pub backoff_first: Duration,
    /// The longest pause between restarts.
    pub backoff_longest: Duration,
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
    };
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
    let problem = "must be more than nothing, and no more than backoff_longest";
    reader.check(pauses, &["pods", "backoff_first"], problem);
    pods
}
