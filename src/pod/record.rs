//! The stored record of a pod: its row in the store.
//!
//! ```text
//! life ──verdict──> ending ──all ended──> settled (Succeeded or Failed, shown until deleted)
//!   └───deletion──> ending ──all ended──> finished: the row goes
//! ```
//! Neither a verdict nor a deletion is ever undone, except by [`Life::begin_again`].

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Serialize};

use super::backoff::{self, Backoff, between, later};
use super::object::Given;
use super::reason::Failure;
use super::renew::Pending;
use crate::board::EndReason;
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;
use crate::store::Record;

/// Default grace period in seconds.
const DEFAULT_GRACE: i64 = 30;

/// Minimum grace period of a pod.
const SHORTEST_GRACE: Duration = Duration::from_secs(1);

/// How long a failed pull is shown as an error: a kubelet checks a pod again after that time.
const LONGEST_ERROR: Duration = Duration::from_secs(10);

/// The record of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// Its uid: the key of the row.
    pub uid: String,
    /// The pod as requested.
    pub given: Given,
    /// Uid of the predecessor with the same name, which has to be gone before this one starts.
    #[serde(default)]
    pub follows: Option<String>,
    /// Uids of the pods preempted for it, which have to end before it starts.
    #[serde(default)]
    pub preempts: Vec<String>,
    /// First host id of its user namespace.
    #[serde(default)]
    pub user_ids: Option<u32>,
    /// When it was accepted (`status.startTime`).
    #[serde(default)]
    pub started: Option<UnixNanos>,
    /// Number of the spec's version (`metadata.generation`).
    #[serde(default = "first_generation")]
    pub generation: i64,
    /// Requested resources for which the node has no room yet.
    #[serde(default)]
    pub asked: Option<Box<Pending>>,
    /// Its own resources (`spec.resources`) in force; unknown until its cgroup was made, and in
    /// records of earlier versions until that is done again.
    #[serde(default)]
    pub resources: Option<Box<ResourceRequirements>>,
    /// Number of sandboxes made for it.
    #[serde(default)]
    pub sandboxes: u32,
    /// Why there is no sandbox, or why volumes are missing.
    #[serde(default)]
    pub trouble: Option<Trouble>,
    /// Its last addresses; the first is the pod IP.
    #[serde(default)]
    pub ips: Vec<std::net::IpAddr>,
    /// How it ends, once decided.
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// Its deletion, once requested.
    #[serde(default)]
    pub deletion: Option<Deletion>,
    /// Whether the node rejected it: then it failed at once and nothing was made for it.
    #[serde(default)]
    pub rejected: bool,
    /// Boot id of the host, if its shutdown ended the pod.
    #[serde(default)]
    pub ended_with: Option<String>,
    /// Set after a verdict, once nothing runs and volumes and cgroup are removed.
    #[serde(default)]
    pub settled: bool,
    /// Its containers by name.
    #[serde(default)]
    pub units: BTreeMap<String, Unit>,
    /// Conditions with the times of their last changes, by type.
    #[serde(default)]
    pub conditions: BTreeMap<String, Since>,
}

impl Record for Life {
    const TABLE: &'static str = "pods";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        &self.uid
    }
}

/// A container in the spec, across all its restarts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unit {
    /// Its newest container.
    pub current: Option<Instance>,
    /// Number of containers made.
    pub made: u32,
    /// How the previous one ended.
    pub last: Option<Termination>,
    /// The previous one, while it is kept for its log.
    pub previous: Option<ContainerId>,
    /// State of the delays between restarts.
    pub backoff: Option<Backoff>,
    /// Why it cannot be started.
    pub trouble: Option<Trouble>,
    /// The container for which a caller requested a restart.
    pub again: Option<ContainerId>,
}

impl Unit {
    /// Number of restarts. A container that was not started yet does not count: its creation may
    /// still be undone, and the number never falls.
    pub fn restarts(&self) -> u32 {
        let unstarted = self.current.as_ref().filter(|current| current.state == State::Created);
        unstarted.map_or(self.made, |current| current.attempt).saturating_sub(1)
    }

    /// How its newest container ended.
    pub fn ended(&self) -> Option<&Termination> {
        match &self.current.as_ref()?.state {
            State::Ended(end) => Some(end),
            _ => None,
        }
    }
}

/// A container that was created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Id.
    pub id: ContainerId,
    /// The sandbox that it is in.
    pub sandbox: PodId,
    /// Number of earlier containers.
    pub attempt: u32,
    /// Image as in the spec.
    pub image: String,
    /// Name of the image on this node, its tag if it has one; empty while unknown.
    #[serde(default)]
    pub image_name: String,
    /// Resolved image.
    pub image_id: String,
    /// Name of its stop signal, once known.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// User and groups of its first process, once known.
    #[serde(default)]
    pub user: Option<User>,
    /// Resources in force; unknown in records of earlier versions until the pod is prepared again.
    #[serde(default)]
    pub resources: Option<Box<ResourceRequirements>>,
    /// State.
    pub state: State,
    /// Whether its postStart hook has to be run.
    #[serde(default)]
    pub post_start_due: bool,
    /// Whether its startup probe succeeded, or it runs without one.
    #[serde(default)]
    pub started: bool,
    /// Whether it is ready.
    #[serde(default)]
    pub ready: bool,
    /// Why it is to be ended while the pod continues.
    #[serde(default)]
    pub doom: Option<Doom>,
}

/// User and groups of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Instance {
    /// Whether its process runs or may run.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Unknown)
    }

    /// Its image as a status names it.
    pub fn shown_image(&self) -> &str {
        if self.image_name.is_empty() { &self.image } else { &self.image_name }
    }

    /// Whether it has started, including its postStart hook, so that others may continue.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Running { .. }) && self.started && !self.post_start_due
    }
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Created, not started.
    Created,
    /// Its process runs.
    Running {
        /// Start time.
        started_at: UnixNanos,
    },
    /// It ended.
    Ended(Termination),
    /// Its shim does not answer.
    Unknown,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    /// Id of the container.
    pub id: ContainerId,
    /// Start time, if it was started.
    pub started_at: Option<UnixNanos>,
    /// When it ended.
    pub finished_at: UnixNanos,
    /// Exit code.
    pub code: i32,
    /// Why.
    pub reason: EndReason,
    /// Its termination message, or the error.
    pub message: String,
}

/// Why a running container is to be ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doom {
    /// Human-readable reason.
    pub message: String,
    /// When its grace period began: with the decision, or when another agent took over.
    pub since: UnixNanos,
    /// Grace period.
    pub grace: Duration,
    /// Whether it is restarted for a resize, which waits for its end.
    #[serde(default)]
    pub for_resize: bool,
}

/// A failed operation that is retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What failed.
    pub reason: Failure,
    /// Error of the last attempt.
    pub message: String,
    /// When the first attempt failed.
    pub since: UnixNanos,
    /// When the last attempt failed.
    pub failed: UnixNanos,
    /// Time of the next attempt.
    pub next_try: UnixNanos,
    /// State of the delays between attempts.
    pub backoff: Backoff,
    /// Whether the event of the back-off was reported; used only for pulls ([`Trouble::turns_at`]).
    #[serde(default)]
    pub backs_off: bool,
}

impl Trouble {
    /// Records another failure.
    pub fn again(
        before: Option<&Self>,
        reason: Failure,
        message: String,
        now: UnixNanos,
        policy: &backoff::Policy,
    ) -> Self {
        let same = before.filter(|before| before.reason == reason);
        let backoff = Backoff::next(same.map(|same| same.backoff), now, now, policy);
        Self {
            reason,
            message,
            since: before.map_or(now, |before| before.since),
            failed: now,
            next_try: later(now, backoff.pause),
            backoff,
            backs_off: false,
        }
    }

    /// When a failed pull is shown as a back-off instead of an error.
    pub fn turns_at(&self) -> Option<UnixNanos> {
        let shown = (self.backoff.pause / 2).min(LONGEST_ERROR);
        (self.reason == Failure::Pull).then(|| later(self.failed, shown))
    }
}

/// The decision that a pod ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it succeeded.
    pub succeeded: bool,
    /// Reason in Kubernetes' terms; empty when its containers ended by themselves.
    pub reason: String,
    /// Human-readable message.
    pub message: String,
    /// When its grace period began: with the decision, or when another agent took over.
    pub at: UnixNanos,
    /// Until when running containers may run.
    pub deadline: UnixNanos,
    /// Whether the node ended it (condition `DisruptionTarget`).
    #[serde(default)]
    pub disrupted: bool,
}

/// A deletion in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// Time of the request.
    pub since: UnixNanos,
    /// Grace period in force; it can only be shortened.
    pub grace: Duration,
    /// Until when running containers may run.
    pub deadline: UnixNanos,
    /// Whether the pod is no longer shown.
    pub hidden: bool,
}

/// A condition's status and the time of its last change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// Whether it is `True`.
    pub status: bool,
    /// Time of the last change.
    pub at: UnixNanos,
}

fn first_generation() -> i64 {
    1
}

impl Life {
    /// A new pod.
    pub fn new(given: Given) -> Self {
        Self {
            uid: given.uid().to_owned(),
            given,
            follows: None,
            preempts: Vec::new(),
            user_ids: None,
            started: None,
            generation: first_generation(),
            asked: None,
            resources: None,
            sandboxes: 0,
            trouble: None,
            ips: Vec::new(),
            verdict: None,
            deletion: None,
            rejected: false,
            ended_with: None,
            settled: false,
            units: BTreeMap::new(),
            conditions: BTreeMap::new(),
        }
    }

    /// The grace period in its spec.
    pub fn grace(&self) -> Duration {
        let seconds = self.given.spec().termination_grace_period_seconds;
        let seconds = u64::try_from(seconds.unwrap_or(DEFAULT_GRACE)).unwrap_or(1);
        Duration::from_secs(seconds).max(SHORTEST_GRACE)
    }

    /// Whether it is ending for good.
    pub fn is_ending(&self) -> bool {
        self.verdict.is_some() || self.deletion.is_some()
    }

    /// Until when its containers may run: the earliest deadline.
    pub fn deadline(&self) -> Option<UnixNanos> {
        let deletion = self.deletion.as_ref().map(|deletion| deletion.deadline);
        let verdict = self.verdict.as_ref().map(|verdict| verdict.deadline);
        deletion.into_iter().chain(verdict).min()
    }

    /// Starts the deletion, or shortens its grace period; a longer one has no effect.
    pub fn delete(&mut self, grace: Option<Duration>, hide: bool, now: UnixNanos) {
        let grace = grace.unwrap_or_else(|| self.grace()).max(SHORTEST_GRACE);
        let deadline = later(now, grace);
        match &mut self.deletion {
            Some(deletion) => {
                if deadline < deletion.deadline {
                    deletion.deadline = deadline;
                    deletion.grace = deletion.grace.min(grace);
                }
                deletion.hidden |= hide;
            }
            None => self.deletion = Some(Deletion { since: now, grace, deadline, hidden: hide }),
        }
    }

    /// Sets the verdict; the first one counts.
    pub fn judge(&mut self, verdict: Verdict) {
        self.verdict.get_or_insert(verdict);
    }

    /// Decides that the pod ends because its containers have ended.
    pub fn conclude(&mut self, succeeded: bool, now: UnixNanos) {
        let (reason, message) = (String::new(), String::new());
        let deadline = later(now, self.grace());
        self.judge(Verdict { succeeded, reason, message, at: now, deadline, disrupted: false });
    }

    /// The part needed after the loss of the store; the rest is observed.
    pub fn keepsake(&self) -> Self {
        Self {
            sandboxes: 0,
            trouble: None,
            ips: Vec::new(),
            units: BTreeMap::new(),
            conditions: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// Whether it is a static pod that ended with a shutdown of the host. This is the only verdict
    /// that is undone, because its file still requests the pod.
    pub fn is_static_ended_with_host(&self) -> bool {
        self.ended_with.is_some() && self.given.source.is_static() && self.deletion.is_none()
    }

    /// Undoes the verdict, after the shutdown is over or was cancelled.
    pub fn begin_again(&mut self) {
        self.ended_with = None;
        self.verdict = None;
        self.settled = false;
        self.conditions.remove("DisruptionTarget");
    }

    /// Called when another agent takes over in this boot of the host: whatever is ending gets its
    /// whole grace period again, unless the host ends.
    pub fn taken_over(&mut self, now: UnixNanos, boot: &str) {
        if self.is_static_ended_with_host() && self.ended_with.as_deref() != Some(boot) {
            self.begin_again();
        }
        if let Some(deletion) = &mut self.deletion {
            deletion.deadline = later(now, deletion.grace);
        }
        let ends = !self.settled && self.ended_with.is_none();
        if let Some(verdict) = self.verdict.as_mut().filter(|_| ends) {
            let grace = between(verdict.at, verdict.deadline);
            (verdict.at, verdict.deadline) = (now, later(now, grace));
        }
        let currents = self.units.values_mut().filter_map(|unit| unit.current.as_mut());
        currents.filter_map(|current| current.doom.as_mut()).for_each(|doom| doom.since = now);
        // Earlier agents let a pod be replaced by one with its own uid.
        self.follows.take_if(|follows| *follows == self.uid);
    }

    /// A container by name, created if missing.
    pub fn unit(&mut self, name: &str) -> &mut Unit {
        self.units.entry(name.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests;
