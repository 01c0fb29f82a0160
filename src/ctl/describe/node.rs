//! The node: resources, conditions, pods.

use serde_json::Value;
use time::OffsetDateTime;

use super::super::node::roles;
use super::super::print::table::align;
use super::super::print::{age, items, pairs, text};
use super::{Page, allocated, conditions};

/// The node, with its pods if they are known.
pub fn node(node: &Value, pods: Option<&[Value]>, now: OffsetDateTime) -> String {
    let mut page = Page::default();
    page.field(0, "Name", text(node, "/metadata/name"));
    page.field(0, "Roles", roles(node));
    page.beside("Labels", &pairs(node, "/metadata/labels", "="));
    page.beside("Annotations", &pairs(node, "/metadata/annotations", ": "));
    page.given(0, "CreationTimestamp", &age::long(node, "/metadata/creationTimestamp"));
    page.given(
        0,
        "Age",
        &match age::time_at(node, "/metadata/creationTimestamp") {
            Some(then) => age::ago(then, now),
            None => String::new(),
        },
    );
    let closed = node.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or_default();
    page.field(0, "Unschedulable", closed.to_string());
    conditions(&mut page, node);
    let addresses = items(node, "/status/addresses");
    if !addresses.is_empty() {
        page.line(0, "Addresses:");
        for address in addresses {
            page.field(1, text(address, "/type"), text(address, "/address"));
        }
    }
    page.map(0, "Capacity", node.pointer("/status/capacity"));
    page.map(0, "Allocatable", node.pointer("/status/allocatable"));
    page.line(0, "System Info:");
    let rows = [
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Agent Version", "kubeletVersion"),
    ];
    for (label, key) in rows {
        page.field(1, label, text(node, &format!("/status/nodeInfo/{key}")));
    }
    page.field(0, "Images", items(node, "/status/images").len().to_string());
    if let Some(pods) = pods {
        allocated::all(&mut page, node, pods, now);
    }
    align(&page.0)
}
