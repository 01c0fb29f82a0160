//! `describe`: everything about a pod or the node in readable form, laid out as in kubectl.

mod allocated;
mod ask;
mod container;
mod node;
mod volume;

use std::fmt::Write as _;

use serde_json::Value;
use time::OffsetDateTime;

pub use self::ask::{DescribeArgs, describe};
pub use self::node::node;
use super::events;
use super::print::table::align;
use super::print::{age, has, items, number, pairs, plain, safe, text};
use crate::proto::podbay::v1::Event;

/// Text with tabs, which are converted to aligned columns at the end.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    /// A line, indented by two spaces per level.
    fn line(&mut self, level: usize, text: impl AsRef<str>) {
        let _ = writeln!(self.0, "{}{}", "  ".repeat(level), text.as_ref());
    }

    /// `name:` and a value; a multi-line value is indented.
    fn field(&mut self, level: usize, name: &str, value: impl AsRef<str>) {
        let value = safe(value.as_ref()).replace('\t', " ");
        let value = value.trim_end().replace('\n', &format!("\n{}\t", "  ".repeat(level)));
        self.line(level, format!("{name}:\t{value}"));
    }

    /// Like `field`, unless the value is empty.
    fn given(&mut self, level: usize, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(level, name, value);
        }
    }

    /// `name:` with lines beside it, `<none>` without any.
    fn beside(&mut self, name: &str, lines: &[String]) {
        match lines {
            [] => self.field(0, name, "<none>"),
            lines => self.field(0, name, lines.join("\n")),
        }
    }

    /// `name:` with lines below it; omitted without any.
    fn below(&mut self, level: usize, name: &str, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        self.line(level, format!("{name}:"));
        for line in lines.iter().flat_map(|line| line.lines()) {
            self.line(level + 1, safe(line));
        }
    }

    /// A map's keys and values below a name; omitted if empty.
    fn map(&mut self, level: usize, name: &str, map: Option<&Value>) {
        let entries = map.and_then(Value::as_object).filter(|map| !map.is_empty());
        if let Some(entries) = entries {
            self.line(level, format!("{name}:"));
            entries.iter().for_each(|(key, value)| self.field(level + 1, key, plain(value)));
        }
    }
}

/// A pod and its events.
pub fn pod(pod: &Value, happened: &[Event], now: OffsetDateTime) -> String {
    let mut page = Page::default();
    head(&mut page, pod, now);
    let init = items(pod, "/spec/initContainers");
    if !init.is_empty() {
        let statuses = items(pod, "/status/initContainerStatuses");
        container::all(&mut page, "Init Containers", init, statuses, pod);
    }
    let apps = items(pod, "/spec/containers");
    let statuses = items(pod, "/status/containerStatuses");
    container::all(&mut page, "Containers", apps, statuses, pod);
    let ephemeral = items(pod, "/spec/ephemeralContainers");
    if !ephemeral.is_empty() {
        let statuses = items(pod, "/status/ephemeralContainerStatuses");
        container::all(&mut page, "Ephemeral Containers", ephemeral, statuses, pod);
    }
    let gates = items(pod, "/spec/readinessGates").iter();
    let gates: Vec<_> = gates.map(|gate| text(gate, "/conditionType").to_owned()).collect();
    page.below(0, "Readiness Gates", &gates);
    conditions(&mut page, pod);
    volume::all(&mut page, items(pod, "/spec/volumes"));
    page.given(0, "QoS Class", text(pod, "/status/qosClass"));
    page.beside("Node-Selectors", &pairs(pod, "/spec/nodeSelector", "="));
    let tolerations = items(pod, "/spec/tolerations");
    page.beside("Tolerations", &tolerations.iter().map(toleration).collect::<Vec<_>>());
    all_events(&mut page, happened, now);
    align(&page.0)
}

fn head(page: &mut Page, pod: &Value, now: OffsetDateTime) {
    page.field(0, "Name", text(pod, "/metadata/name"));
    page.field(0, "Namespace", text(pod, "/metadata/namespace"));
    page.given(0, "UID", text(pod, "/metadata/uid"));
    if has(pod, "/spec/priority") {
        page.field(0, "Priority", number(pod, "/spec/priority").to_string());
    }
    page.given(0, "Priority Class Name", text(pod, "/spec/priorityClassName"));
    page.given(0, "Runtime Class Name", text(pod, "/spec/runtimeClassName"));
    page.given(0, "Service Account", text(pod, "/spec/serviceAccountName"));
    match (text(pod, "/spec/nodeName"), text(pod, "/status/hostIP")) {
        ("", _) => page.field(0, "Node", "<none>"),
        (node, ip) => page.field(0, "Node", format!("{node}/{ip}")),
    }
    page.given(0, "Start Time", &age::long(pod, "/status/startTime"));
    page.beside("Labels", &pairs(pod, "/metadata/labels", "="));
    page.beside("Annotations", &pairs(pod, "/metadata/annotations", ": "));
    if has(pod, "/metadata/deletionTimestamp") {
        let lasts = age::since(pod, "/metadata/deletionTimestamp", now);
        page.field(0, "Status", format!("Terminating (lasts {lasts})"));
        let grace = number(pod, "/metadata/deletionGracePeriodSeconds");
        page.field(0, "Termination Grace Period", format!("{grace}s"));
    } else {
        page.field(0, "Status", text(pod, "/status/phase"));
    }
    page.given(0, "Reason", text(pod, "/status/reason"));
    page.given(0, "Message", text(pod, "/status/message"));
    page.field(0, "IP", text(pod, "/status/podIP"));
    match items(pod, "/status/podIPs") {
        [] => page.field(0, "IPs", "<none>"),
        ips => {
            page.line(0, "IPs:");
            ips.iter().for_each(|ip| page.field(1, "IP", text(ip, "/ip")));
        }
    }
    if has(pod, "/spec/resources") {
        page.line(0, "Resources:");
        page.map(1, "Limits", pod.pointer("/spec/resources/limits"));
        page.map(1, "Requests", pod.pointer("/spec/resources/requests"));
    }
}

fn conditions(page: &mut Page, object: &Value) {
    let conditions = items(object, "/status/conditions");
    if conditions.is_empty() {
        return;
    }
    page.line(0, "Conditions:");
    page.line(1, "Type\tStatus\tReason\tMessage");
    page.line(1, "----\t------\t------\t-------");
    for found in conditions {
        let cell = |pointer| safe(text(found, pointer)).replace(['\n', '\t'], " ");
        let cells = ["/type", "/status", "/reason", "/message"].map(cell);
        page.line(1, cells.join("\t"));
    }
}

fn toleration(toleration: &Value) -> String {
    let part = |pointer| text(toleration, pointer);
    let mut line = part("/key").to_owned();
    if !part("/value").is_empty() {
        line = format!("{line}={}", part("/value"));
    }
    if !part("/effect").is_empty() {
        line = format!("{line}:{}", part("/effect"));
    }
    if part("/operator") == "Exists" && part("/value").is_empty() {
        line = if line.is_empty() { "op=Exists".to_owned() } else { format!("{line} op=Exists") };
    }
    match toleration.get("tolerationSeconds").and_then(Value::as_i64) {
        Some(seconds) => format!("{line} for {seconds}s"),
        None => line,
    }
}

fn all_events(page: &mut Page, happened: &[Event], now: OffsetDateTime) {
    if happened.is_empty() {
        return page.field(0, "Events", "<none>");
    }
    page.line(0, "Events:");
    page.line(1, "Type\tReason\tAge\tFrom\tMessage");
    page.line(1, "----\t------\t----\t----\t-------");
    for event in happened {
        let message = safe(event.message.trim()).replace(['\n', '\t'], " ");
        let from = if event.container.is_empty() { "podbay" } else { &event.container };
        let cells = [events::kind(event), &event.reason, &events::age(event, now), from, &message];
        page.line(1, cells.join("\t"));
    }
}

#[cfg(test)]
mod tests;
