//! Simulates the life of a pod in tests: real policy, simulated runtime, no clock.
//!
//! [`Stage`] observes, merges and plans like a pod's task, and carries out actions like the other
//! rooms: immediately and successfully, unless a test says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use serde_json::{Value, json};

use super::backoff::{Policy as Pauses, later};
use super::object::{Given, Objects, Source};
use super::observe::{Observed, Probed, SeenContainer, SeenSandbox, doom, fold};
use super::phase::{Viewpoint, status};
use super::plan::{Action, Job, Plan, Policy, Unwind, plan};
use super::reason::Failure;
use super::record::{Life, State, Termination, Trouble};
use crate::board::EndReason;
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;

pub(super) const SECOND: i64 = 1_000_000_000;

/// The start time of every simulation.
pub(super) const DAWN: UnixNanos = 1_700_000_000 * SECOND;

/// The result of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Success.
    Well,
    /// Failure with this reason, without any effect.
    Badly(&'static str),
    /// A container was created but not started.
    Halfway,
}

/// A pod, its simulated state, and the time.
pub(super) struct Stage {
    pub(super) life: Life,
    pub(super) now: UnixNanos,
    pub(super) seen: Observed,
    pub(super) plan: Plan,
    pub(super) gone: bool,
    /// Results of future actions, by their text without numbers.
    pub(super) bad: BTreeMap<String, &'static str>,
    /// Actions in progress.
    pub(super) under_way: BTreeMap<Job, Action>,
    made: u32,
}

/// A pod `ns/web` with this spec; `app` is its default container.
pub(super) fn given(mut spec: Value) -> Given {
    let map = spec.as_object_mut().expect("an object");
    map.entry("containers").or_insert_with(|| json!([{"name": "app", "image": "app:1"}]));
    let spec: PodSpec = serde_json::from_value(spec).expect("a pod spec");
    let meta = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u-1"}});
    let pod: Pod = serde_json::from_value(meta).expect("a pod");
    let pod = Pod { spec: Some(spec), ..pod };
    Given { pod: Arc::new(pod), objects: Objects::default(), source: Source::Api }
}

impl Stage {
    pub(super) fn new(spec: Value) -> Self {
        Self {
            life: Life::new(given(spec)),
            now: DAWN,
            seen: Observed::default(),
            plan: Plan::default(),
            gone: false,
            bad: BTreeMap::new(),
            under_way: BTreeMap::new(),
            made: 0,
        }
    }

    /// Observes and decides, without starting actions.
    pub(super) fn look(&mut self) -> Plan {
        fold(&mut self.life, &self.seen, self.now);
        self.plan = plan(&mut self.life, &self.seen, self.now, &Policy::default());
        self.plan.clone()
    }

    /// Observes, decides and acts until nothing is left to do now; returns what was done.
    pub(super) fn play(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..100 {
            let actions = self.look().actions;
            if actions.is_empty() || self.gone {
                return done;
            }
            for action in actions {
                let text = self.text(&action);
                let bad = self.bad.get(text.trim_end_matches(|c: char| c.is_numeric() || c == ' '));
                let ending = bad.map_or(Ending::Well, |reason| Ending::Badly(reason));
                done.push(text);
                self.begin(action.clone());
                self.end(&action.job(), ending);
            }
        }
        panic!("it never comes to rest: {done:?}");
    }

    pub(super) fn begin(&mut self, action: Action) {
        self.seen.busy.insert(action.job(), action.deadline());
        self.under_way.insert(action.job(), action);
    }

    /// Ends an action in progress.
    pub(super) fn end(&mut self, job: &Job, ending: Ending) {
        self.seen.busy.remove(job);
        let Some(action) = self.under_way.remove(job) else { return };
        match ending {
            Ending::Well => self.succeed(action),
            Ending::Badly(reason) => self.fail(action, reason),
            Ending::Halfway => match action {
                Action::Start { name, attempt, sandbox, stale } => {
                    self.drop_container(stale.as_ref());
                    self.make(&name, attempt, sandbox, State::Created);
                }
                action => self.fail(action, "Halfway"),
            },
        }
    }

    fn succeed(&mut self, action: Action) {
        self.seen.unwinds.remove(&action.job());
        match action {
            Action::Prepare => {
                self.seen.prepared = true;
                self.life.trouble = None;
            }
            Action::RunSandbox { attempt } => {
                self.made += 1;
                self.life.trouble = None;
                self.seen.sandboxes.push(SeenSandbox {
                    id: PodId::try_from(format!("{:064x}", self.made)).expect("an id"),
                    attempt,
                    ready: true,
                    stopped: false,
                    host_network: false,
                    ips: vec![[10, 0, 0, u8::try_from(attempt % 250).expect("small")].into()],
                });
            }
            Action::StopSandbox { id } => self.sandbox_stops(&id),
            Action::RemoveSandbox { id } => self.seen.sandboxes.retain(|s| s.id != id),
            Action::Start { name, attempt, sandbox, stale } => {
                self.life.unit(&name).trouble = None;
                self.drop_container(stale.as_ref());
                if self.seen.sandboxes.iter().any(|s| s.id == sandbox && s.ready) {
                    self.make(&name, attempt, sandbox, State::Running { started_at: self.now });
                }
            }
            Action::PostStart { id, .. } => {
                let currents = self.life.units.values_mut().filter_map(|u| u.current.as_mut());
                currents.filter(|c| c.id == id).for_each(|c| c.post_start_due = false);
            }
            Action::PreStop { id, .. } => drop(self.seen.pre_stopped.insert(id)),
            Action::Kill { id, .. } => self.container_ends(&id, 137),
            Action::Remove { id } => self.drop_container(Some(&id)),
            Action::Settle => self.settle(),
            Action::Finish => self.gone = true,
        }
    }

    /// Whether nothing is left to do unless the desired state changes.
    pub(super) fn at_rest(&self) -> bool {
        let Plan { actions, waits, .. } = &self.plan;
        self.life.settled && actions.is_empty() && waits.is_empty()
    }

    fn settle(&mut self) {
        self.life.settled = true;
    }

    fn fail(&mut self, action: Action, reason: &str) {
        let reason = Failure::from(reason.to_owned());
        let pauses = Pauses::default();
        let again = |before: Option<Trouble>, now| {
            Some(Trouble::again(before.as_ref(), reason, "no luck".into(), now, &pauses))
        };
        match &action {
            Action::Prepare | Action::RunSandbox { .. } => {
                self.life.trouble = again(self.life.trouble.take(), self.now);
            }
            Action::Start { name, .. } => {
                let now = self.now;
                let unit = self.life.unit(name);
                unit.trouble = again(unit.trouble.take(), now);
            }
            Action::PostStart { name, .. } => {
                let (now, grace) = (self.now, self.life.grace());
                let current = self.life.unit(name).current.as_mut();
                current.into_iter().for_each(|c| doom(c, "hook failed".into(), grace, now));
            }
            Action::PreStop { id, .. } => drop(self.seen.pre_stopped.insert(id.clone())),
            _ => {
                let next_try = self.now + SECOND;
                let unwind = Unwind { message: "no luck".into(), next_try };
                self.seen.unwinds.insert(action.job(), unwind);
            }
        }
    }

    fn make(&mut self, name: &str, attempt: u32, sandbox: PodId, state: State) {
        self.made += 1;
        let given = self.life.given.clone();
        let all = super::plan::wanted(given.spec());
        let image = all.iter().find(|w| w.name == name).map(|w| w.image().to_owned());
        self.seen.containers.push(SeenContainer {
            id: ContainerId::try_from(format!("{:064x}", self.made)).expect("an id"),
            sandbox,
            name: name.to_owned(),
            attempt,
            created_at: self.now,
            image: image.clone().unwrap_or_default(),
            image_name: format!("registry.test/{}", image.unwrap_or_default()),
            stop_signal: "SIGTERM".to_owned(),
            image_id: "sha256:1".to_owned(),
            user: None,
            state,
        });
    }

    fn drop_container(&mut self, id: Option<&ContainerId>) {
        self.seen.containers.retain(|container| Some(&container.id) != id);
    }

    /// A sandbox stops, with all that runs in it.
    fn sandbox_stops(&mut self, id: &PodId) {
        self.sandbox_dies(id);
        let found = self.seen.sandboxes.iter_mut().filter(|s| s.id == *id);
        found.for_each(|sandbox| sandbox.stopped = true);
        let live: Vec<_> = self.seen.live().filter(|c| c.sandbox == *id).cloned().collect();
        live.iter().for_each(|container| self.container_ends(&container.id, 137));
    }

    /// Makes a sandbox unusable.
    pub(super) fn sandbox_dies(&mut self, id: &PodId) {
        self.seen.sandboxes.iter_mut().filter(|s| s.id == *id).for_each(|s| s.ready = false);
    }

    pub(super) fn container_ends(&mut self, id: &ContainerId, code: i32) {
        let now = self.now;
        for found in self.seen.containers.iter_mut().filter(|found| found.id == *id) {
            let started_at = match found.state {
                State::Running { started_at } => Some(started_at),
                State::Ended(_) => continue,
                State::Created | State::Unknown => None,
            };
            let reason = if code == 0 { EndReason::Completed } else { EndReason::Error };
            let (id, message) = (found.id.clone(), String::new());
            let finished_at = now;
            let end = Termination { id, started_at, finished_at, code, reason, message };
            found.state = State::Ended(end);
        }
    }

    /// The newest container with this name.
    pub(super) fn newest(&self, name: &str) -> SeenContainer {
        let found = self.seen.containers.iter().filter(|container| container.name == name);
        found.max_by_key(|container| container.attempt).expect("a container").clone()
    }

    /// Makes the running container with this name exit.
    pub(super) fn exit(&mut self, name: &str, code: i32) {
        let id = self.newest(name).id;
        self.container_ends(&id, code);
    }

    pub(super) fn after(&mut self, seconds: i64) {
        self.now += seconds * SECOND;
    }

    /// Sets the probe results of the newest container with this name.
    pub(super) fn probe(&mut self, name: &str, started: bool, ready: bool) {
        let id = self.newest(name).id;
        let probed = Probed { id, started, ready, failed: None };
        self.seen.probes.insert(name.to_owned(), probed);
    }

    pub(super) fn probe_fails(&mut self, name: &str, grace: Option<u64>) {
        let (id, grace) = (self.newest(name).id, grace.map(Duration::from_secs));
        let failed = Some((format!("Container {name} failed liveness probe"), grace));
        let probed = Probed { id, started: true, ready: true, failed };
        self.seen.probes.insert(name.to_owned(), probed);
    }

    pub(super) fn delete(&mut self, seconds: Option<u64>) {
        self.life.delete(seconds.map(Duration::from_secs), false, self.now);
    }

    /// Simulates a restart of the agent: in-memory state is lost.
    pub(super) fn agent_restarts(&mut self) {
        let row = serde_json::to_string(&self.life).expect("a row");
        self.life = serde_json::from_str(&row).expect("the row again");
        self.life.taken_over(self.now, "boot-1");
        self.under_way.clear();
        let (sandboxes, containers) = (self.seen.sandboxes.clone(), self.seen.containers.clone());
        self.seen = Observed { sandboxes, containers, ..Observed::default() };
        let settled = self.life.settled;
        self.seen.sandboxes.iter_mut().for_each(|sandbox| sandbox.stopped = settled);
        self.seen.pre_stopped = BTreeSet::new();
    }

    pub(super) fn set_image(&mut self, name: &str, image: &str) {
        let mut pod = Pod::clone(&self.life.given.pod);
        let spec = pod.spec.as_mut().expect("a spec");
        let all = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        all.filter(|c| c.name == name).for_each(|c| c.image = Some(image.to_owned()));
        self.life.given.pod = Arc::new(pod);
    }

    /// Adds an annotation.
    pub(super) fn note(&mut self, key: &str, value: &str) {
        let mut pod = Pod::clone(&self.life.given.pod);
        let notes = pod.metadata.annotations.get_or_insert_default();
        notes.insert(key.to_owned(), value.to_owned());
        self.life.given.pod = Arc::new(pod);
    }

    /// Adds an ephemeral container.
    pub(super) fn debug(&mut self, container: Value) {
        let mut pod = Pod::clone(&self.life.given.pod);
        let spec = pod.spec.as_mut().expect("a spec");
        let container = serde_json::from_value(container).expect("an ephemeral container");
        spec.ephemeral_containers.get_or_insert_default().push(container);
        self.life.given.pod = Arc::new(pod);
    }

    pub(super) fn status(&mut self) -> PodStatus {
        let node = Viewpoint { ips: vec![[192, 0, 2, 1].into()], restart: Pauses::default() };
        status(&mut self.life, &self.seen, self.now, &node)
    }

    /// Whole seconds until the deadline.
    fn seconds(&self, deadline: UnixNanos) -> i64 {
        (deadline - self.now) / SECOND
    }

    fn name_of(&self, id: &ContainerId) -> String {
        let found = self.seen.containers.iter().find(|container| container.id == *id);
        found.map_or_else(|| id.to_string(), |found| format!("{} {}", found.name, found.attempt))
    }

    fn place(&self, id: &PodId) -> u32 {
        let found = self.seen.sandboxes.iter().find(|sandbox| sandbox.id == *id);
        found.expect("a sandbox that is there").attempt
    }

    /// A short text for an action; numbers are attempts, or for kills the seconds left.
    pub(super) fn text(&self, action: &Action) -> String {
        match action {
            Action::Prepare => "prepare".to_owned(),
            Action::RunSandbox { attempt } => format!("sandbox {attempt}"),
            Action::StopSandbox { id } => format!("stop sandbox {}", self.place(id)),
            Action::RemoveSandbox { id } => format!("remove sandbox {}", self.place(id)),
            Action::Start { name, attempt, .. } => format!("start {name} {attempt}"),
            Action::PostStart { name, .. } => format!("postStart {name}"),
            Action::PreStop { name, .. } => format!("preStop {name}"),
            Action::Kill { name, deadline, .. } => {
                format!("kill {name} {}", self.seconds(*deadline))
            }
            Action::Remove { id } => format!("remove {}", self.name_of(id)),
            Action::Settle => "settle".to_owned(),
            Action::Finish => "finish".to_owned(),
        }
    }
}

/// The time this many seconds later.
pub(super) fn seconds_after(at: UnixNanos, seconds: u64) -> UnixNanos {
    later(at, Duration::from_secs(seconds))
}
