//! The node as a Kubernetes object.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::Pods;
use crate::backend::NetworkReadiness;
use crate::clock::now;
use crate::model::{StringMap, UnixNanos};
use crate::pod::admit::Pressure;
use crate::pod::phase::time;
use crate::pod::record::Since;
use crate::pod::translate::{Amounts, NodeFacts};
use crate::store::{self, Batch, Record};
use crate::telemetry::error_chain;

/// Maximum number of listed images, largest first, the same as in a kubelet.
const MAX_IMAGES: usize = 50;

/// How long to wait for containerd and the network.
const PATIENCE: Duration = Duration::from_secs(2);

/// Labels of every node.
const COMMON_LABELS: [&str; 3] =
    ["kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os"];

/// The stored facts about the node: a row of the store.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Known {
    /// When it was first seen.
    created: UnixNanos,
    /// Its conditions with the times of their last changes.
    conditions: BTreeMap<String, Since>,
    /// Version of containerd, as last reported.
    containerd: String,
}

impl Record for Known {
    const TABLE: &'static str = "node";
    const VERSION: u16 = 1;

    fn key(&self) -> &'static str {
        "node"
    }
}

impl Pods {
    /// Loads the facts stored by an earlier agent.
    pub(super) fn remember_node(&self) -> Result<(), store::Error> {
        let loaded = self.room.deps.store.load::<Known>()?;
        let before = loaded.records.into_iter().next().unwrap_or_default();
        *self.known.lock() = before;
        Ok(())
    }

    pub(super) async fn node_object(&self) -> Node {
        let facts = self.room.node();
        let (runtime, network) = self.below().await;
        let mut images = self.room.deps.images.list(None).await.unwrap_or_default();
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let images = images.into_iter().take(MAX_IMAGES).map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        });
        let store = self.room.deps.sandboxes.store_trouble();
        let ready =
            readiness(self.is_shutting_down(), runtime.as_ref().err(), store.as_ref(), &network);
        let conditions: Vec<_> = shortages(self.pressure()).into_iter().chain([ready]).collect();
        let known = self.know(runtime.ok(), &conditions).await;
        let stamped = conditions.into_iter().map(|condition| stamp(condition, &known));
        Node {
            metadata: ObjectMeta {
                name: Some(facts.name.clone()),
                labels: Some(labels(&facts)),
                creation_timestamp: time(known.created),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                unschedulable: self.is_shutting_down().then_some(true),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                addresses: Some(addresses(&facts)),
                capacity: Some(quantities(&facts.capacity)),
                allocatable: Some(quantities(&facts.allocatable)),
                conditions: Some(stamped.collect()),
                images: Some(images.collect()),
                node_info: Some(self.node_info(&facts, &known)),
                ..NodeStatus::default()
            }),
        }
    }

    /// The version of containerd or its error, and the readiness of the network.
    async fn below(&self) -> (Result<String, String>, NetworkReadiness) {
        let sandboxes = &self.room.deps.sandboxes;
        let late = || format!("no answer within {PATIENCE:?}");
        let (runtime, network) = tokio::join!(
            timeout(PATIENCE, sandboxes.runtime()),
            timeout(PATIENCE, sandboxes.network_readiness()),
        );
        let runtime = match runtime {
            Ok(Ok(found)) => Ok(found.version),
            Ok(Err(error)) => Err(error_chain(&error)),
            Err(_) => Err(late()),
        };
        (runtime, network.unwrap_or_else(|_| NetworkReadiness::NotReady(late())))
    }

    /// Stores what has changed.
    async fn know(&self, containerd: Option<String>, conditions: &[NodeCondition]) -> Known {
        let (known, is_new) = {
            let mut known = self.known.lock();
            let before = known.clone();
            let at = now();
            if known.created == 0 {
                known.created = at;
            }
            known.containerd = containerd.unwrap_or_else(|| known.containerd.clone());
            for condition in conditions {
                let status = condition.status == "True";
                let since = known.conditions.entry(condition.type_.clone());
                let since = since.or_insert(Since { status, at });
                if since.status != status {
                    *since = Since { status, at };
                }
            }
            (known.clone(), *known != before)
        };
        if is_new && let Err(error) = self.keep_node(&known).await {
            // It is retried at the next change; until then this agent keeps it in memory.
            tracing::debug!(error = error_chain(&error), "cannot store node state");
        }
        known
    }

    async fn keep_node(&self, known: &Known) -> Result<(), store::Error> {
        self.room.deps.store.write(Batch::new().put(known)?).await.map(drop)
    }

    fn node_info(&self, facts: &NodeFacts, known: &Known) -> NodeSystemInfo {
        let version = known.containerd.trim_start_matches('v');
        NodeSystemInfo {
            architecture: facts.arch.clone(),
            operating_system: facts.os.clone(),
            boot_id: self.room.deps.host.facts().boot_id.clone(),
            kernel_version: facts.system.kernel.clone(),
            os_image: facts.system.os_image.clone(),
            machine_id: facts.system.machine_id.clone(),
            system_uuid: facts.system.system_uuid.clone(),
            kubelet_version: format!("podbay {}", env!("CARGO_PKG_VERSION")),
            container_runtime_version: format!("containerd://{version}"),
            ..NodeSystemInfo::default()
        }
    }
}

fn labels(facts: &NodeFacts) -> StringMap {
    let own = |key: &&str| Some(((*key).to_owned(), facts.label(key)?.to_owned()));
    let mut labels: StringMap = COMMON_LABELS.iter().filter_map(own).collect();
    labels.extend(facts.labels.clone());
    labels
}

fn addresses(facts: &NodeFacts) -> Vec<NodeAddress> {
    let address = |type_: &str, address| NodeAddress { type_: type_.to_owned(), address };
    let ips = facts.ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    ips.chain([address("Hostname", facts.name.clone())]).collect()
}

fn stamp(condition: NodeCondition, known: &Known) -> NodeCondition {
    let since = known.conditions.get(&condition.type_).and_then(|since| time(since.at));
    NodeCondition { last_heartbeat_time: time(now()), last_transition_time: since, ..condition }
}

/// A node is not ready while it shuts down, while containerd or the network is not ready, or while
/// nothing can be stored.
fn readiness(
    shutting_down: bool,
    runtime: Option<&String>,
    store: Option<&String>,
    network: &NetworkReadiness,
) -> NodeCondition {
    let fault = match (shutting_down, runtime, store, network) {
        (true, ..) => Some("node is shutting down".to_owned()),
        (_, Some(why), ..) => Some(format!("container runtime is down: {why}")),
        (_, _, Some(why), _) => Some(format!("state store cannot be written: {why}")),
        (_, _, _, NetworkReadiness::NotReady(why)) => Some(format!(
            "container runtime network not ready: NetworkReady=false \
             reason:NetworkPluginNotReady message:{why}"
        )),
        (_, _, _, NetworkReadiness::Ready) => None,
    };
    let (status, reason) = match fault {
        Some(_) => ("False", "AgentNotReady"),
        None => ("True", "AgentReady"),
    };
    NodeCondition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(fault.unwrap_or_else(|| "podbay runs pods".to_owned())),
        ..NodeCondition::default()
    }
}

/// The pressure conditions, in the kubelet's terms.
fn shortages(pressure: Pressure) -> [NodeCondition; 3] {
    let one = |kind: &str, holds: bool, [short, well]: [&str; 2], what: &str| NodeCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(if holds { short } else { well }.to_owned()),
        message: Some(format!(
            "kubelet has {} {what}",
            if holds { "insufficient" } else { "sufficient" }
        )),
        ..NodeCondition::default()
    };
    let memory = ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"];
    let pids = ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"];
    let mut disk = one(
        "DiskPressure",
        pressure.disk,
        ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"],
        "",
    );
    let has = if pressure.disk { "has" } else { "has no" };
    disk.message = Some(format!("kubelet {has} disk pressure"));
    [
        one("MemoryPressure", pressure.memory, memory, "memory available"),
        disk,
        one("PIDPressure", pressure.pid, pids, "PID available"),
    ]
}

fn quantities(amounts: &Amounts) -> BTreeMap<String, Quantity> {
    let cpu = match amounts.milli_cpu % 1000 {
        0 => (amounts.milli_cpu / 1000).to_string(),
        _ => format!("{}m", amounts.milli_cpu),
    };
    let plain = [
        ("cpu", cpu),
        ("memory", amounts.memory.to_string()),
        ("ephemeral-storage", amounts.ephemeral_storage.to_string()),
        ("pods", amounts.pods.to_string()),
    ];
    let huge = amounts.hugepages.iter();
    let huge =
        huge.map(|(size, bytes)| (format!("hugepages-{}", binary(*size)), binary_of(*bytes)));
    let plain = plain.map(|(name, amount)| (name.to_owned(), amount));
    plain.into_iter().chain(huge).map(|(name, amount)| (name, Quantity(amount))).collect()
}

fn binary_of(bytes: i64) -> String {
    u64::try_from(bytes).map_or_else(|_| bytes.to_string(), binary)
}

/// Formats bytes in the largest unit that divides them: `2Mi`.
fn binary(bytes: u64) -> String {
    let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let unit = units.into_iter().find(|(size, _)| bytes > 0 && bytes.is_multiple_of(*size));
    unit.map_or_else(|| bytes.to_string(), |(size, name)| format!("{}{name}", bytes / size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::stored;

    #[test]
    fn the_stored_node_keeps_its_meaning() {
        let Known { created, conditions, containerd } = stored::now();
        assert!(conditions["Ready"].status && conditions["Ready"].at > created);
        assert_eq!(containerd, "v2.1.4");
        let old: Known = stored::old();
        assert_eq!((old.created, old.conditions.len()), (created, 0));
    }

    #[test]
    fn a_node_tells_all_that_it_has() {
        let amounts = Amounts {
            milli_cpu: 1500,
            memory: 1024,
            hugepages: BTreeMap::from([(2 << 20, 64 << 20), (1 << 30, 0)]),
            ..Amounts::default()
        };
        let told = quantities(&amounts);
        let of = |name: &str| told[name].0.as_str();
        assert_eq!((of("cpu"), of("memory"), of("pods")), ("1500m", "1024", "0"));
        assert_eq!((of("hugepages-2Mi"), of("hugepages-1Gi")), ("64Mi", "0"));
    }

    #[test]
    fn a_node_has_the_labels_that_every_node_has() {
        let facts = NodeFacts {
            name: "n".to_owned(),
            arch: "amd64".to_owned(),
            labels: StringMap::from([
                ("disk".to_owned(), "ssd".to_owned()),
                ("kubernetes.io/hostname".to_owned(), "other".to_owned()),
            ]),
            ..NodeFacts::default()
        };
        let told = labels(&facts);
        let told: Vec<_> = told.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let expected = [
            "disk=ssd",
            "kubernetes.io/arch=amd64",
            "kubernetes.io/hostname=other",
            "kubernetes.io/os=linux",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_node_is_ready_when_what_is_below_is() {
        let (down, full) = ("no socket".to_owned(), "no space left".to_owned());
        let ready = NetworkReadiness::Ready;
        let unready = NetworkReadiness::NotReady("no CNI".to_owned());
        let table = [
            (readiness(false, None, None, &ready), "True", "podbay runs pods"),
            (readiness(true, None, None, &ready), "False", "node is shutting down"),
            (readiness(false, Some(&down), None, &unready), "False", "container runtime is down"),
            (readiness(false, None, Some(&full), &unready), "False", "state store cannot be"),
            (readiness(false, None, None, &unready), "False", "container runtime network not"),
        ];
        for (told, status, message) in table {
            assert_eq!(told.status, status);
            assert!(told.message.expect("a message").starts_with(message));
        }
    }
}
