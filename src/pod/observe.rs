//! The observed state of a pod, and merging it into the stored record. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::plan::{Job, Unwind, Wanted, wanted};
use super::record::{Doom, Instance, Life, State, Termination, Unit, User};
use crate::board::EndReason;
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;

/// Message for ending a container whose shim does not answer.
pub const UNKNOWN: &str = "Container state is unknown";

/// Everything observed about a pod.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Its sandboxes, newest first.
    pub sandboxes: Vec<SeenSandbox>,
    /// The containers of all of them.
    pub containers: Vec<SeenContainer>,
    /// Probe results, by container name.
    pub probes: BTreeMap<String, Probed>,
    /// Actions in progress, with their deadlines.
    pub busy: BTreeMap<Job, Option<UnixNanos>>,
    /// Whether the node's preparations for the pod are done.
    pub prepared: bool,
    /// Containers whose preStop hook was run.
    pub pre_stopped: BTreeSet<ContainerId>,
    /// Whether its runtime handler supports recursive read-only mounts.
    pub recursive_read_only: bool,
    /// Whether the pod that this one replaces still exists.
    pub predecessor: bool,
    /// Whether a pod that is preempted for this one has not ended yet.
    pub preempting: bool,
    /// Failed teardown steps, by job.
    pub unwinds: BTreeMap<Job, Unwind>,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenSandbox {
    /// Id.
    pub id: PodId,
    /// Number of earlier sandboxes.
    pub attempt: u32,
    /// Whether containers can run in it.
    pub ready: bool,
    /// Whether it was completely stopped.
    pub stopped: bool,
    /// Whether it uses the host network.
    pub host_network: bool,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenContainer {
    /// Id.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox: PodId,
    /// Its name in the spec.
    pub name: String,
    /// Number of earlier containers.
    pub attempt: u32,
    /// Creation time.
    pub created_at: UnixNanos,
    /// Image as requested.
    pub image: String,
    /// Name of the image on this node.
    pub image_name: String,
    /// Resolved image.
    pub image_id: String,
    /// Name of its stop signal.
    pub stop_signal: String,
    /// User and groups of its first process.
    pub user: Option<User>,
    /// State.
    pub state: State,
}

/// Probe results of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Probed {
    /// Id of the container.
    pub id: ContainerId,
    /// Whether the startup probe has succeeded, or there is none.
    pub started: bool,
    /// Whether the readiness probe succeeds, or there is none.
    pub ready: bool,
    /// Failure of a liveness or startup probe: message, and its own grace period.
    pub failed: Option<(String, Option<Duration>)>,
}

impl Observed {
    /// The sandbox that containers run in: the newest one, if it is ready.
    pub fn home(&self) -> Option<&SeenSandbox> {
        let usable = |s: &&SeenSandbox| s.ready && (s.host_network || !s.ips.is_empty());
        self.sandboxes.iter().max_by_key(|sandbox| sandbox.attempt).filter(usable)
    }

    /// Whether this job is in progress.
    pub fn is_busy(&self, job: &Job) -> bool {
        self.busy.contains_key(job)
    }

    /// Containers whose process runs or may run.
    pub fn live(&self) -> impl Iterator<Item = &SeenContainer> {
        let live = |c: &&SeenContainer| matches!(c.state, State::Running { .. } | State::Unknown);
        self.containers.iter().filter(live)
    }
}

/// Merges the observed state into the record.
pub fn fold(life: &mut Life, seen: &Observed, now: UnixNanos) {
    let attempts = seen.sandboxes.iter().map(|sandbox| sandbox.attempt + 1);
    life.sandboxes = attempts.max().unwrap_or(0).max(life.sandboxes);
    if let Some(home) = seen.home() {
        life.ips = home.ips.clone();
    }
    for name in wanted(life.given.spec()).iter().map(|w| w.name.to_owned()).collect::<Vec<_>>() {
        fold_unit(life, &name, seen, now);
    }
}

fn fold_unit(life: &mut Life, name: &str, seen: &Observed, now: UnixNanos) {
    let newest = seen.containers.iter().filter(|container| container.name == name);
    let newest = newest.max_by_key(|container| (container.attempt, container.created_at));
    let given = life.given.pod.clone();
    let all = given.spec.as_ref().map(wanted).unwrap_or_default();
    let spec = all.iter().find(|wanted| wanted.name == name);
    let has_startup = spec.is_some_and(|w| w.container.startup_probe.is_some());
    let has_readiness = spec.is_some_and(|w| w.container.readiness_probe.is_some());
    let unit = life.unit(name);
    match newest {
        Some(found) => take(unit, found, spec),
        None => lost(unit, now),
    }
    let previous = unit.previous.clone();
    if previous.is_some_and(|id| !seen.containers.iter().any(|container| container.id == id)) {
        unit.previous = None;
    }
    let Some(current) = &mut unit.current else { return };
    let running = matches!(current.state, State::Running { .. });
    let probed = seen.probes.get(name).filter(|probed| probed.id == current.id);
    match probed {
        Some(probed) if running => {
            current.started = probed.started;
            current.ready = probed.started && probed.ready;
        }
        // Nothing was observed yet, as after a restart of the agent: keep the recorded state.
        None if running => {
            current.started |= !has_startup;
            current.ready = current.started && (current.ready || !has_readiness);
        }
        _ => (current.started, current.ready) = (false, false),
    }
    current.ready &= !current.post_start_due;
}

/// Dooms containers whose liveness or startup probe failed.
pub fn doom_failed(life: &mut Life, seen: &Observed, now: UnixNanos) {
    let grace = life.grace();
    for (name, probed) in &seen.probes {
        let Some((message, of_probe)) = &probed.failed else { continue };
        let current = life.units.get_mut(name).and_then(|unit| unit.current.as_mut());
        if let Some(current) = current.filter(|current| current.id == probed.id) {
            let grace = of_probe.unwrap_or(grace);
            doom(current, message.clone(), grace, now);
        }
    }
}

/// Marks a running container to be ended; the first reason counts.
pub fn doom(current: &mut Instance, message: String, grace: Duration, now: UnixNanos) {
    if current.is_live() {
        current.doom.get_or_insert(Doom { message, since: now, grace, for_resize: false });
    }
}

fn take(unit: &mut Unit, found: &SeenContainer, spec: Option<&Wanted<'_>>) {
    if let Some(current) = &mut unit.current {
        if current.id == found.id {
            // It was to be ended only because its state was unknown.
            if matches!(found.state, State::Running { .. }) && current.state == State::Unknown {
                current.doom.take_if(|doom| doom.message == UNKNOWN);
            }
            current.state = found.state.clone();
            current.user.clone_from(&found.user);
            // Records of earlier versions do not have them.
            current.image_name.clone_from(&found.image_name);
            current.stop_signal.get_or_insert_with(|| found.stop_signal.clone());
            return;
        }
        match &current.state {
            // It was never started, so it does not count and has no log to keep.
            State::Created => unit.made = current.attempt,
            State::Ended(end) => unit.last = Some(end.clone()),
            State::Running { .. } | State::Unknown => {}
        }
        if current.state != State::Created {
            unit.previous = Some(current.id.clone());
        }
        unit.again = None;
    }
    unit.made = unit.made.max(found.attempt + 1);
    unit.current = Some(Instance {
        id: found.id.clone(),
        sandbox: found.sandbox.clone(),
        attempt: found.attempt,
        image: found.image.clone(),
        image_name: found.image_name.clone(),
        image_id: found.image_id.clone(),
        stop_signal: Some(found.stop_signal.clone()),
        user: found.user.clone(),
        resources: spec.map(|wanted| Box::new(wanted.resources())),
        state: found.state.clone(),
        post_start_due: spec.is_some_and(|wanted| wanted.post_start().is_some()),
        started: false,
        ready: false,
        doom: None,
    });
}

/// Handles a container that has disappeared: an ended one is unchanged, one that was never started
/// does not count, and any other has ended with an unknown result.
fn lost(unit: &mut Unit, now: UnixNanos) {
    let Some(current) = &mut unit.current else { return };
    let started_at = match &current.state {
        State::Ended(_) => return,
        State::Created => {
            unit.made = current.attempt;
            unit.current = None;
            return;
        }
        State::Running { started_at } => Some(*started_at),
        State::Unknown => None,
    };
    current.state = State::Ended(Termination {
        id: current.id.clone(),
        started_at,
        finished_at: now,
        code: 137,
        reason: EndReason::ContainerStatusUnknown,
        message: "The container could not be located when the pod was looked at".to_owned(),
    });
}
