//! The node as controllers see it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Pods;
use crate::pod::admit::Pressure;
use crate::pod::translate::Amounts;

/// Most images that are shown, the largest first, as a kubelet has it.
const MAX_IMAGES: usize = 50;

impl Pods {
    pub(super) async fn node_object(&self) -> Node {
        let facts = self.room.node();
        let host = self.room.deps.host.facts().clone();
        let mut images = self.room.deps.images.list(None).await.unwrap_or_default();
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let images = images.into_iter().take(MAX_IMAGES).map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        });
        let addresses = facts
            .ips
            .iter()
            .map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.to_string() });
        let hostname = NodeAddress { type_: "Hostname".to_owned(), address: facts.name.clone() };
        let ready = readiness(self.is_shutting_down());
        let conditions = shortages(self.pressure()).into_iter().chain([ready]).collect();
        let info = NodeSystemInfo {
            architecture: facts.arch.clone(),
            operating_system: facts.os.clone(),
            boot_id: host.boot_id.clone(),
            kernel_version: format!("{}.{}", host.kernel.0, host.kernel.1),
            kubelet_version: format!("podbay {}", env!("CARGO_PKG_VERSION")),
            container_runtime_version: "containerd".to_owned(),
            ..NodeSystemInfo::default()
        };
        Node {
            metadata: ObjectMeta {
                name: Some(facts.name.clone()),
                labels: Some(facts.labels.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                unschedulable: self.is_shutting_down().then_some(true),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                addresses: Some(addresses.chain([hostname]).collect()),
                capacity: Some(quantities(&facts.capacity)),
                allocatable: Some(quantities(&facts.allocatable)),
                conditions: Some(conditions),
                images: Some(images.collect()),
                node_info: Some(info),
                ..NodeStatus::default()
            }),
        }
    }
}

/// A node that shuts down takes no pods.
fn readiness(shutting_down: bool) -> NodeCondition {
    let (status, reason, message) = match shutting_down {
        true => ("False", "AgentNotReady", "node is shutting down"),
        false => ("True", "AgentReady", "podbay runs pods"),
    };
    NodeCondition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..NodeCondition::default()
    }
}

/// What the node may be short of, in the kubelet's words.
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
    [
        ("cpu", cpu),
        ("memory", amounts.memory.to_string()),
        ("ephemeral-storage", amounts.ephemeral_storage.to_string()),
        ("pods", amounts.pods.to_string()),
    ]
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .into()
}
