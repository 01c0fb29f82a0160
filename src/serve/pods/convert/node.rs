//! Conversion of the node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{condition_status, time};
use crate::pod::NodeView;
use crate::proto::podbay::v1;

/// Converts the node.
pub(in crate::serve::pods) fn node(view: &NodeView) -> v1::Node {
    let node = &view.node;
    let none = k8s::NodeStatus::default();
    let status = node.status.as_ref().unwrap_or(&none);
    let addresses = status.addresses.iter().flatten().map(|address| v1::NodeAddress {
        r#type: address.type_.clone(),
        address: address.address.clone(),
    });
    let conditions = status.conditions.iter().flatten().map(|condition| v1::Condition {
        r#type: condition.type_.clone(),
        status: condition_status(&condition.status).into(),
        reason: condition.reason.clone().unwrap_or_default(),
        message: condition.message.clone().unwrap_or_default(),
        last_transition: time(&condition.last_transition_time),
    });
    let images = status.images.iter().flatten().map(|image| v1::NodeImage {
        names: image.names.clone().unwrap_or_default(),
        size_bytes: image.size_bytes.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
    });
    v1::Node {
        name: node.metadata.name.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        addresses: addresses.collect(),
        conditions: conditions.collect(),
        capacity: quantities(&status.capacity),
        allocatable: quantities(&status.allocatable),
        images: images.collect(),
        versions: status.node_info.as_ref().map(versions),
        unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default(),
        // All map keys are text, so this cannot fail.
        object: serde_json::to_string(node).unwrap_or_default(),
    }
}

fn quantities(given: &Option<BTreeMap<String, Quantity>>) -> BTreeMap<String, String> {
    let given = given.iter().flatten();
    given.map(|(name, quantity)| (name.clone(), quantity.0.clone())).collect()
}

fn versions(info: &k8s::NodeSystemInfo) -> v1::NodeVersions {
    v1::NodeVersions {
        agent: info.kubelet_version.clone(),
        runtime: info.container_runtime_version.clone(),
        kernel: info.kernel_version.clone(),
        os_image: info.os_image.clone(),
        operating_system: info.operating_system.clone(),
        architecture: info.architecture.clone(),
    }
}
