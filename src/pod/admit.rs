//! Admission: whether this node can run a pod, and all reasons against it. Pure.

mod preempt;

pub use preempt::preempt;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration};

use super::face::AdmitReason;
use super::object::Given;
use super::reason::verdict;
use super::translate::{
    Amounts, NodeFacts, Qos, Totals, host_ports, is_critical, page_size, pod_requests, qos,
};

/// Resources that the node is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Disk, or inodes on it.
    pub disk: bool,
    /// Process ids.
    pub pid: bool,
}

/// Sysctls that a pod may set without the operator's permission.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

const OS_LABEL: &str = "kubernetes.io/os";
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// All reasons against a pod, the most significant first; empty means that it may run. `running`
/// are the pods that have not ended, without this one.
pub fn admit(
    given: &Given,
    running: &[Arc<Given>],
    node: &NodeFacts,
    pressure: Pressure,
    shutting_down: bool,
) -> Vec<AdmitReason> {
    let spec = given.spec();
    let mut reasons = Vec::new();
    if shutting_down {
        let message = "Pod was rejected as the node is shutting down.";
        reasons.push(reason("NodeShutdown", message));
    }
    reasons.extend(under_pressure(given, pressure));
    reasons.extend(sysctls(spec, node));
    reasons.extend(operating_system(spec, node));
    reasons.extend(room(spec, running, node));
    reasons.extend(place(spec, node));
    reasons.extend(host_port(spec, running));
    reasons
}

fn reason(reason: &'static str, message: impl Into<String>) -> AdmitReason {
    AdmitReason { reason, message: message.into(), shortage: false }
}

fn shortage(word: &'static str, message: String) -> AdmitReason {
    AdmitReason { shortage: true, ..reason(word, message) }
}

fn predicate(name: &'static str, problem: &str) -> AdmitReason {
    reason(name, format!("Predicate {name} failed: {problem}"))
}

/// Critical pods are always admitted. Memory pressure alone excludes only best-effort pods, because
/// nobody knows how much they use.
fn under_pressure(given: &Given, pressure: Pressure) -> Option<AdmitReason> {
    let Pressure { memory, disk, pid } = pressure;
    let conditions: Vec<&str> =
        [(memory, "MemoryPressure"), (disk, "DiskPressure"), (pid, "PIDPressure")]
            .into_iter()
            .filter_map(|(holds, name)| holds.then_some(name))
            .collect();
    if conditions.is_empty() || is_critical(given) {
        return None;
    }
    let spec = given.spec();
    let modest = qos(spec) != Qos::BestEffort
        || spec.tolerations.iter().flatten().any(tolerates_memory_pressure);
    if memory && !disk && !pid && modest {
        return None;
    }
    let message = format!("The node had condition: [{}]. ", conditions.join(" "));
    Some(reason(verdict::EVICTED, message))
}

fn tolerates_memory_pressure(toleration: &Toleration) -> bool {
    let Toleration { effect, key, operator, value, .. } = toleration;
    let key = key.as_deref().unwrap_or_default();
    let exists = operator.as_deref() == Some("Exists");
    let same_effect = matches!(effect.as_deref(), None | Some("" | "NoSchedule"));
    let same_key = key == MEMORY_TAINT || (key.is_empty() && exists);
    same_effect && same_key && (exists || value.as_deref().unwrap_or_default().is_empty())
}

/// Sysctls must be of a namespace that the pod does not share.
fn sysctls(spec: &PodSpec, node: &NodeFacts) -> Option<AdmitReason> {
    let context = spec.security_context.as_ref();
    let list = context.and_then(|context| context.sysctls.as_ref());
    let host_network = spec.host_network.unwrap_or_default();
    let host_ipc = spec.host_ipc.unwrap_or_default();
    let problem = list.into_iter().flatten().find_map(|sysctl| {
        let name = dotted(&sysctl.name);
        if !SAFE_SYSCTLS.contains(&&*name) && !allowed(&name, &node.allowed_unsafe_sysctls) {
            return Some(format!("{name:?} not allowlisted"));
        }
        let of_network = name.starts_with("net.");
        match (of_network, host_network, host_ipc) {
            (true, true, _) => Some(format!("{name:?} not allowed with host Net enabled")),
            (false, _, true) => Some(format!("{name:?} not allowed with host IPC enabled")),
            _ => None,
        }
    })?;
    Some(reason("SysctlForbidden", format!("forbidden sysctl: {problem}")))
}

fn allowed(name: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| match dotted(pattern).strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == dotted(pattern),
    })
}

/// In a name whose first separator is a slash, slashes and dots are swapped.
fn dotted(name: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    let first = name.find(['.', '/']).map(|at| name.as_bytes()[at]);
    if first == Some(b'/') { name.chars().map(swap).collect() } else { name.to_owned() }
}

fn operating_system(spec: &PodSpec, node: &NodeFacts) -> Option<AdmitReason> {
    let selected = spec.node_selector.as_ref().and_then(|labels| labels.get(OS_LABEL));
    if selected.is_some_and(|os| node.label(OS_LABEL) != Some(os)) {
        let message =
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Some(reason("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != node.os) {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Some(reason("PodOSNotSupported", message));
    }
    None
}

/// Whether the node has enough resources for the pod besides the others.
fn room(spec: &PodSpec, running: &[Arc<Given>], node: &NodeFacts) -> Vec<AdmitReason> {
    let mut reasons = Vec::new();
    let Amounts { pods, .. } = node.allocatable;
    let count = i64::try_from(running.len()).unwrap_or(i64::MAX);
    if count >= pods {
        reasons.push(shortage("OutOfpods", lack("pods", 1, count, pods)));
    }
    let used = used(running);
    for (name, asked) in pod_requests(spec) {
        let Some((word, all)) = has(&name, &node.allocatable) else { continue };
        let used = used.get(&name).copied().unwrap_or_default();
        if asked > 0 && asked > all.saturating_sub(used) {
            reasons.push(shortage(word, lack(&name, asked, used, all)));
        }
    }
    reasons
}

/// Sum of the pods' requests.
fn used(running: &[Arc<Given>]) -> Totals {
    let mut used = Totals::new();
    for other in running {
        for (name, amount) in pod_requests(other.spec()) {
            let sum = used.entry(name).or_default();
            *sum = sum.saturating_add(amount);
        }
    }
    used
}

fn lack(name: &str, asked: i64, used: i64, all: i64) -> String {
    format!(
        "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, \
         capacity: {all}"
    )
}

/// How much of a resource the node has, and the reason if it is not enough. Extended resources
/// (devices) are not known here and not counted.
fn has(resource: &str, node: &Amounts) -> Option<(&'static str, i64)> {
    match resource {
        "cpu" => Some(("OutOfcpu", node.milli_cpu)),
        "memory" => Some(("OutOfmemory", node.memory)),
        "ephemeral-storage" => Some(("OutOfephemeral-storage", node.ephemeral_storage)),
        other => {
            let size = page_size(other)?;
            let all = node.hugepages.get(&size).copied().unwrap_or_default();
            let word = match size {
                0x20_0000 => "OutOfhugepages-2Mi",
                0x4000_0000 => "OutOfhugepages-1Gi",
                _ => "OutOfhugepages",
            };
            Some((word, all))
        }
    }
}

/// Node name, node selector and required node affinity.
fn place(spec: &PodSpec, node: &NodeFacts) -> Vec<AdmitReason> {
    let mut reasons = Vec::new();
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    let mut labels = spec.node_selector.iter().flatten();
    let selected = labels.all(|(key, value)| node.label(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let mut terms = required.into_iter().flat_map(|selector| &selector.node_selector_terms);
    if !selected || (required.is_some() && !terms.any(|term| fits(term, node))) {
        let problem = "node(s) didn't match Pod's node affinity/selector";
        reasons.push(predicate("NodeAffinity", problem));
    }
    if named.is_some_and(|name| name != node.name) {
        let problem = "node(s) didn't match the requested node name";
        reasons.push(predicate("NodeName", problem));
    }
    reasons
}

/// All expressions of a term must match; an empty term never matches.
fn fits(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let NodeSelectorTerm { match_expressions, match_fields } = term;
    let mut expressions = match_expressions.iter().flatten().peekable();
    let mut fields = match_fields.iter().flatten().peekable();
    if expressions.peek().is_none() && fields.peek().is_none() {
        return false;
    }
    let field = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
    expressions.all(|it| holds(it, node.label(&it.key)))
        && fields.all(|it| holds(it, field(&it.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let numbers = || {
        let bound = values.first()?.parse::<i64>().ok()?;
        Some((value?.parse::<i64>().ok()?, bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// A host port can be used by only one pod, by address, protocol and number.
fn host_port(spec: &PodSpec, running: &[Arc<Given>]) -> Option<AdmitReason> {
    let taken: BTreeSet<_> = running.iter().flat_map(|other| host_ports(other.spec())).collect();
    let free = host_ports(spec).all(|(ip, protocol, number)| {
        let same = |port: &&(String, &str, i32)| (port.1, port.2) == (protocol, number);
        let clash = |other: &str| other == ip || other.is_empty() || ip.is_empty();
        !taken.iter().filter(same).any(|port| clash(&port.0))
    });
    let problem = "node(s) didn't have free ports for the requested pod ports";
    (!free).then(|| predicate("NodePorts", problem))
}

#[cfg(test)]
mod tests;
