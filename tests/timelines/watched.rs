//! What was seen of a pod.

use std::collections::BTreeMap;

use podbay::proto::podbay::v1 as api;
use podbay::proto::podbay::v1::container_state::State;

use super::row::Row;

/// The states that a watch has told, one after the other.
#[derive(Default)]
pub struct Watched {
    phases: Vec<String>,
    turns: BTreeMap<String, Vec<String>>,
    last: api::Pod,
}

/// As Kubernetes writes it.
pub fn phase(pod: &api::Pod) -> &'static str {
    match pod.phase() {
        api::Phase::Unspecified => "",
        api::Phase::Pending => "Pending",
        api::Phase::Running => "Running",
        api::Phase::Succeeded => "Succeeded",
        api::Phase::Failed => "Failed",
        api::Phase::Unknown => "Unknown",
    }
}

fn status(condition: &api::Condition) -> &'static str {
    match condition.status() {
        api::ConditionStatus::True => "True",
        api::ConditionStatus::False => "False",
        api::ConditionStatus::Unknown | api::ConditionStatus::Unspecified => "Unknown",
    }
}

fn state(of: Option<&api::ContainerState>) -> Option<&State> {
    of.and_then(|it| it.state.as_ref())
}

/// Why a container waits.
pub fn waits(container: &api::Container) -> Option<&api::ContainerWaiting> {
    match state(container.state.as_ref()) {
        Some(State::Waiting(waiting)) => Some(waiting),
        _ => None,
    }
}

/// How a container ended last.
fn end(container: &api::Container) -> Option<&api::ContainerTerminated> {
    let states = [container.state.as_ref(), container.last_state.as_ref()];
    states.into_iter().find_map(|it| match state(it) {
        Some(State::Terminated(end)) => Some(end),
        _ => None,
    })
}

impl Watched {
    pub fn see(&mut self, pod: api::Pod) {
        let phase = phase(&pod).to_owned();
        if self.phases.last() != Some(&phase) {
            self.phases.push(phase);
        }
        for condition in &pod.conditions {
            let seen = self.turns.entry(condition.r#type.clone()).or_default();
            let status = status(condition).to_owned();
            if seen.last() != Some(&status) {
                seen.push(status);
            }
        }
        self.last = pod;
    }

    pub fn last(&self) -> &api::Pod {
        &self.last
    }

    /// What a reader of a failure wants to know.
    pub fn summary(&self) -> impl std::fmt::Debug {
        let pod = &self.last;
        (self.phases.clone(), pod.reason.clone(), pod.message.clone(), pod.containers.clone())
    }

    /// What is not as the row says.
    pub fn faults(&self, row: &Row) -> Vec<String> {
        let mut faults = Vec::new();
        if self.phases != row.phases {
            faults.push(format!("phases: {:?}, not {:?}", self.phases, row.phases));
        }
        if row.reason.as_ref().is_some_and(|reason| *reason != self.last.reason) {
            faults.push(format!("reason: {:?}", self.last.reason));
        }
        for (name, turns) in &row.turns {
            if self.turns.get(name) != Some(turns) {
                faults.push(format!("{name} turns {:?}, not {turns:?}", self.turns.get(name)));
            }
        }
        for (name, wanted) in &row.conditions {
            let found = self.last.conditions.iter().find(|it| it.r#type == *name).map(status);
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
        let named = |name: &str| self.last.containers.iter().find(|it| it.name == name);
        for (name, wanted) in &row.restarts {
            let found = named(name).map(|it| it.restarts.to_string());
            check("restarts", name, found, &wanted.to_string());
        }
        for (name, wanted) in &row.codes {
            let found = named(name).and_then(end).map(|it| it.exit_code.to_string());
            check("exit code", name, found, &wanted.to_string());
        }
        for (name, wanted) in &row.reasons {
            let container = named(name);
            let found = container.and_then(end).map(|it| it.reason.clone());
            let found = found.or(container.and_then(waits).map(|it| it.reason.clone()));
            check("reason", name, found, wanted);
        }
        for (name, wanted) in &row.messages {
            let container = named(name);
            let told = [
                container.and_then(waits).map(|it| it.message.clone()),
                container.and_then(end).map(|it| it.message.clone()),
            ];
            if !told.iter().flatten().any(|message| message.contains(wanted)) {
                faults.push(format!("message of {name}: {told:?}, not {wanted:?}"));
            }
        }
    }
}
