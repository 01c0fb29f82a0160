//! The observed history of a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
    PodCondition,
};

use super::row::Row;

/// The states that a node has told, one after the other.
#[derive(Default)]
pub struct Watched {
    phases: Vec<String>,
    turns: BTreeMap<String, Vec<String>>,
    last: Pod,
}

/// Empty as long as the node has said nothing.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn conditions(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    pod.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

/// The value of a condition.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a str> {
    conditions(pod).find(|it| it.type_ == kind).map(|it| it.status.as_str())
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        let lists = [&status.init_container_statuses, &status.container_statuses];
        lists.into_iter().flatten().flatten()
    })
}

/// A container, init or app.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    containers(pod).find(|it| it.name == name)
}

/// Why a container waits.
pub fn waits(container: &ContainerStatus) -> Option<&ContainerStateWaiting> {
    container.state.as_ref()?.waiting.as_ref()
}

/// How a container ended last.
fn end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let states = [container.state.as_ref(), container.last_state.as_ref()];
    states.into_iter().flatten().find_map(|state: &ContainerState| state.terminated.as_ref())
}

impl Watched {
    pub fn see(&mut self, pod: Pod) {
        let phase = phase(&pod).to_owned();
        if self.phases.last() != Some(&phase) {
            self.phases.push(phase);
        }
        for condition in conditions(&pod) {
            let seen = self.turns.entry(condition.type_.clone()).or_default();
            if seen.last() != Some(&condition.status) {
                seen.push(condition.status.clone());
            }
        }
        self.last = pod;
    }

    pub fn last(&self) -> &Pod {
        &self.last
    }

    /// What a reader of a failure wants to know.
    pub fn summary(&self) -> String {
        let status = serde_json::to_string_pretty(&self.last.status).unwrap_or_default();
        format!("{:?} {status}", self.phases)
    }

    /// What is not as the row says.
    pub fn faults(&self, row: &Row) -> Vec<String> {
        let mut faults = Vec::new();
        if self.phases != row.phases {
            faults.push(format!("phases: {:?}, not {:?}", self.phases, row.phases));
        }
        let reason = self.last.status.as_ref().and_then(|status| status.reason.as_ref());
        if row.reason.is_some() && row.reason.as_ref() != reason {
            faults.push(format!("reason: {reason:?}"));
        }
        for (name, turns) in &row.turns {
            if self.turns.get(name) != Some(turns) {
                faults.push(format!("{name} turns {:?}, not {turns:?}", self.turns.get(name)));
            }
        }
        for (name, wanted) in &row.conditions {
            let found = condition(&self.last, name);
            if found != Some(wanted) {
                faults.push(format!("{name} is {found:?}, not {wanted}"));
            }
        }
        self.containers(row, &mut faults);
        faults
    }

    fn containers(&self, row: &Row, faults: &mut Vec<String>) {
        let mut check = |what: &str, name: &str, found: Option<String>, wanted: &str| {
            if found.as_deref() != Some(wanted) {
                faults.push(format!("{what} of {name}: {found:?}, not {wanted:?}"));
            }
        };
        let named = |name: &str| container(&self.last, name);
        for (name, wanted) in &row.restarts {
            let found = named(name).map(|it| it.restart_count.to_string());
            check("restarts", name, found, &wanted.to_string());
        }
        for (name, wanted) in &row.codes {
            let found = named(name).and_then(end).map(|it| it.exit_code.to_string());
            check("exit code", name, found, &wanted.to_string());
        }
        for (name, wanted) in &row.reasons {
            let ended = named(name).and_then(end).map(|it| it.reason.clone());
            let waits = || named(name).and_then(waits).map(|it| it.reason.clone());
            check("reason", name, ended.or_else(waits).flatten(), wanted);
        }
        for (name, wanted) in &row.messages {
            let told = [
                named(name).and_then(waits).and_then(|it| it.message.clone()),
                named(name).and_then(end).and_then(|it| it.message.clone()),
            ];
            if !told.iter().flatten().any(|message| message.contains(wanted)) {
                faults.push(format!("message of {name}: {told:?}, not {wanted:?}"));
            }
        }
    }
}
