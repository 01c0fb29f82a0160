//! Rows of pods, as in `kubectl get pods`.

use serde_json::Value;
use time::OffsetDateTime;

use super::table::{Cell, Mood};
use super::{age, has, items, number, text};

/// Columns of a table of pods, or of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodColumns {
    /// Show the namespace before the name.
    pub namespace: bool,
    /// Show IP, node, nominated node and readiness gates.
    pub wide: bool,
    /// Show the kind in the name, `pod/web`.
    pub kind: bool,
}

impl PodColumns {
    /// The header row.
    pub fn header(self) -> Vec<&'static str> {
        let mut header = if self.namespace { vec!["NAMESPACE"] } else { Vec::new() };
        header.extend(["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
        if self.wide {
            header.extend(["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]);
        }
        header
    }

    /// The row of a pod.
    pub fn row(self, pod: &Value, now: OffsetDateTime) -> Vec<Cell> {
        let summary = Summary::of(pod);
        let none = |text: &str| Cell::from(if text.is_empty() { "<none>" } else { text });
        let mut row =
            if self.namespace { vec![text(pod, "/metadata/namespace").into()] } else { vec![] };
        let kind = if self.kind { "pod/" } else { "" };
        row.push(format!("{kind}{}", text(pod, "/metadata/name")).into());
        row.push(format!("{}/{}", summary.ready, summary.containers).into());
        row.push(Cell::new(&summary.status, mood(&summary.status)));
        row.push(summary.restarts(now).into());
        row.push(age::since(pod, "/metadata/creationTimestamp", now).into());
        if self.wide {
            row.push(none(text(pod, "/status/podIP")));
            row.push(none(text(pod, "/spec/nodeName")));
            row.push(none(text(pod, "/status/nominatedNodeName")));
            row.push(none(&gates(pod)));
        }
        row
    }
}

/// Ready and total readiness gates, `1/2`; empty when there are none.
fn gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    let holds = |gate: &&Value| condition(pod, text(gate, "/conditionType"));
    match gates.len() {
        0 => String::new(),
        all => format!("{}/{all}", gates.iter().filter(holds).count()),
    }
}

/// Whether a condition of a pod is true.
pub fn condition(object: &Value, kind: &str) -> bool {
    items(object, "/status/conditions")
        .iter()
        .any(|found| text(found, "/type") == kind && text(found, "/status") == "True")
}

fn mood(status: &str) -> Mood {
    let busy = ["Pending", "ContainerCreating", "PodInitializing", "Terminating", "NotReady"];
    match status {
        "Running" | "Completed" | "Succeeded" => Mood::Good,
        _ if busy.contains(&status) => Mood::Busy,
        _ => match status.strip_prefix("Init:") {
            Some(step) if step.starts_with(|c: char| c.is_ascii_digit()) => Mood::Busy,
            _ => Mood::Bad,
        },
    }
}

/// A pod's state in the STATUS column.
pub fn status_word(pod: &Value) -> String {
    Summary::of(pod).status
}

/// Summary of a pod's containers for its row; follows `printPod` in Kubernetes.
#[derive(Debug, Default)]
struct Summary {
    containers: usize,
    ready: usize,
    status: String,
    restarts: i64,
    last_restart: Option<OffsetDateTime>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let phase = text(pod, "/status/phase");
        let reason = text(pod, "/status/reason");
        let mut summary = Self {
            containers: items(pod, "/spec/containers").len() + sidecars(pod).count(),
            status: if reason.is_empty() { phase } else { reason }.to_owned(),
            ..Self::default()
        };
        let waits = summary.init_containers(pod);
        if !waits || condition(pod, "Initialized") {
            summary.app_containers(pod);
        }
        let ended = ["Succeeded", "Failed"].contains(&phase);
        if has(pod, "/metadata/deletionTimestamp") && !ended {
            summary.status = "Terminating".to_owned();
        }
        summary
    }

    /// Whether an init container has not completed yet.
    fn init_containers(&mut self, pod: &Value) -> bool {
        let all = items(pod, "/spec/initContainers").len();
        for (index, container) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
            self.count_restarts(container);
            let name = text(container, "/name");
            let sidecar = sidecars(pod).any(|sidecar| text(sidecar, "/name") == name);
            let ended = container.pointer("/state/terminated");
            let waiting = text(container, "/state/waiting/reason");
            self.status = match ended {
                Some(end) if number(end, "/exitCode") == 0 => continue,
                _ if sidecar && flag(container, "/started") => {
                    self.ready += usize::from(flag(container, "/ready"));
                    continue;
                }
                Some(end) => format!("Init:{}", end_word(end)),
                None if !["", "PodInitializing"].contains(&waiting) => format!("Init:{waiting}"),
                None => format!("Init:{index}/{all}"),
            };
            return true;
        }
        false
    }

    fn app_containers(&mut self, pod: &Value) {
        // From here on only restarts of sidecars and apps count.
        (self.restarts, self.last_restart) = (0, None);
        for container in items(pod, "/status/initContainerStatuses") {
            let name = text(container, "/name");
            if sidecars(pod).any(|sidecar| text(sidecar, "/name") == name) {
                self.count_restarts(container);
            }
        }
        let mut runs = false;
        for container in items(pod, "/status/containerStatuses").iter().rev() {
            self.count_restarts(container);
            let waiting = text(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if let Some(end) = container.pointer("/state/terminated") {
                self.status = end_word(end);
            } else if flag(container, "/ready") && has(container, "/state/running") {
                runs = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && runs {
            self.status = if condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn count_restarts(&mut self, container: &Value) {
        self.restarts += number(container, "/restartCount");
        let ended = age::time_at(container, "/lastState/terminated/finishedAt");
        self.last_restart = self.last_restart.max(ended);
    }

    fn restarts(&self, now: OffsetDateTime) -> String {
        match self.last_restart {
            Some(last) if self.restarts != 0 => {
                format!("{} ({} ago)", self.restarts, age::ago(last, now))
            }
            _ => self.restarts.to_string(),
        }
    }
}

/// Init containers that keep running beside the others.
fn sidecars(pod: &Value) -> impl Iterator<Item = &Value> {
    let all = items(pod, "/spec/initContainers").iter();
    all.filter(|container| text(container, "/restartPolicy") == "Always")
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// The reason of a termination, else its signal or exit code.
fn end_word(end: &Value) -> String {
    match (text(end, "/reason"), number(end, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(end, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
