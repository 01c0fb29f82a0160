//! Decides what to do next for a pod: all of the policy and nothing else. Pure.
//!
//! ```text
//! prepare ─> sandbox ─> init containers, one after the other ─> app containers, all at once
//!                       sidecars: the next one goes on when it is up
//!                  └──> ephemeral containers, at any time, once each
//! end:  apps and init containers ─> sidecars in reverse order ─> sandbox ─> settle or finish
//! ```
//! [`plan`] compares the record with the observed state, records its decisions, and returns the
//! actions to start now, the time of the next look, and what the pod waits for. It is called after
//! every change, so nothing depends on having seen an earlier one.

mod end;
mod restart;
mod run;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::BTreeSet;
use std::time::Duration;

use super::backoff;
use super::observe::{Observed, doom_failed};
use super::reason::verdict;
use super::record::{Life, Verdict};
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;

use super::backoff::later;
pub(crate) use run::apps_begun;
pub use wanted::{Restart, Role, Wanted, wanted};

/// Settings of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Delays between restarts of a container.
    pub restart: backoff::Policy,
    /// Delays between pulls of an image.
    pub pull: backoff::Policy,
}

/// A job; the same job never runs twice at the same time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    /// Make the pod's cgroup and volumes.
    Prepare,
    /// Make a sandbox.
    Sandbox,
    /// Stop a sandbox.
    StopSandbox(PodId),
    /// Remove an ended sandbox.
    RemoveSandbox(PodId),
    /// Make and start a container.
    Start(String),
    /// Run a postStart hook.
    PostStart(ContainerId),
    /// Run a preStop hook before the kill.
    PreStop(ContainerId),
    /// End a container.
    Kill(ContainerId),
    /// Remove a dead container.
    Remove(ContainerId),
    /// Remove volumes and cgroup; dead containers are kept for their logs.
    Settle,
    /// Remove everything.
    Finish,
}

/// An action to start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make cgroup and volumes.
    Prepare,
    /// Make a sandbox.
    RunSandbox {
        /// Number of earlier sandboxes.
        attempt: u32,
    },
    /// Stop a sandbox with everything in it.
    StopSandbox {
        /// Its id.
        id: PodId,
    },
    /// Remove a stopped sandbox without containers.
    RemoveSandbox {
        /// Its id.
        id: PodId,
    },
    /// Pull the image, make and start a container.
    Start {
        /// Its name in the spec.
        name: String,
        /// Number of earlier containers.
        attempt: u32,
        /// The sandbox to run in.
        sandbox: PodId,
        /// A container with the same name and attempt that was never started, to be replaced.
        stale: Option<ContainerId>,
    },
    /// Run the postStart hook.
    PostStart {
        /// Its name in the spec.
        name: String,
        /// Its id.
        id: ContainerId,
    },
    /// Run the preStop hook, before the stop signal is due.
    PreStop {
        /// Its name in the spec.
        name: String,
        /// Its id.
        id: ContainerId,
        /// Time limit.
        deadline: UnixNanos,
    },
    /// Run the preStop hook, send the stop signal, kill at the deadline.
    Kill {
        /// Its name in the spec.
        name: String,
        /// Its id.
        id: ContainerId,
        /// Time limit; at least two seconds after the stop signal are always granted.
        deadline: UnixNanos,
        /// Whether the hook has to be run.
        pre_stop: bool,
        /// Human-readable reason.
        why: String,
    },
    /// Remove a dead container with its log.
    Remove {
        /// Its id.
        id: ContainerId,
    },
    /// See [`Job::Settle`].
    Settle,
    /// See [`Job::Finish`].
    Finish,
}

impl Action {
    /// The job, which must not run twice at the same time.
    pub fn job(&self) -> Job {
        match self {
            Self::Prepare => Job::Prepare,
            Self::RunSandbox { .. } => Job::Sandbox,
            Self::StopSandbox { id } => Job::StopSandbox(id.clone()),
            Self::RemoveSandbox { id } => Job::RemoveSandbox(id.clone()),
            Self::Start { name, .. } => Job::Start(name.clone()),
            Self::PostStart { id, .. } => Job::PostStart(id.clone()),
            Self::PreStop { id, .. } => Job::PreStop(id.clone()),
            Self::Kill { id, .. } => Job::Kill(id.clone()),
            Self::Remove { id } => Job::Remove(id.clone()),
            Self::Settle => Job::Settle,
            Self::Finish => Job::Finish,
        }
    }

    /// Its time limit, if it has one that may be shortened.
    pub fn deadline(&self) -> Option<UnixNanos> {
        match self {
            Self::Kill { deadline, .. } => Some(*deadline),
            _ => None,
        }
    }
}

/// A failed teardown step, and the time of its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwind {
    /// Error of the last attempt.
    pub message: String,
    /// Time of the next attempt.
    pub next_try: UnixNanos,
}

/// What the pod or a container is waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The container; `None` for the pod as a whole.
    pub container: Option<String>,
    /// The step.
    pub step: String,
    /// Error of the last attempt.
    pub last_error: Option<String>,
    /// Time of the next attempt.
    pub next_try: Option<UnixNanos>,
    /// What would end the waiting.
    pub unblocks: String,
}

/// The decisions for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Actions to start now, concurrently.
    pub actions: Vec<Action>,
    /// Jobs in progress that have become pointless.
    pub cancel: BTreeSet<Job>,
    /// Time of the next look if nothing changes before.
    pub wake_at: Option<UnixNanos>,
    /// What the pod is waiting for.
    pub waits: Vec<Wait>,
}

impl Plan {
    fn wait(&mut self, container: Option<&str>, step: impl Into<String>, unblocks: &str) {
        self.waits.push(Wait {
            container: container.map(str::to_owned),
            step: step.into(),
            last_error: None,
            next_try: None,
            unblocks: unblocks.to_owned(),
        });
    }
}

/// The planner: observed state, time, settings, and the plan so far.
struct Planner<'a> {
    seen: &'a Observed,
    now: UnixNanos,
    policy: &'a Policy,
    plan: Plan,
}

/// Decides what to do for a pod. Decisions that must persist are written into `life`, which has to
/// be stored before any action.
pub fn plan(life: &mut Life, seen: &Observed, now: UnixNanos, policy: &Policy) -> Plan {
    let mut planner = Planner { seen, now, policy, plan: Plan::default() };
    if seen.predecessor {
        planner.plan.wait(None, "the pod that it replaces ends", "the end of the old pod");
        return planner.plan;
    }
    if seen.preempting && !life.is_ending() {
        planner.plan.wait(None, "the pods that it preempts end", "their end");
        return planner.plan;
    }
    life.preempts.clear();
    if !life.is_ending() {
        life.started.get_or_insert(now);
        planner.check_active_deadline(life);
    }
    if !life.is_ending() {
        doom_failed(life, seen, now);
        planner.live(life);
        if life.is_ending() {
            // It was just decided to end the pod: discard what was planned for running it.
            planner.plan = Plan::default();
        }
    }
    if life.is_ending() {
        planner.end(life);
    }
    planner.plan
}

impl Planner<'_> {
    /// Requests another look at this time. A time in the past is ignored, because this plan already
    /// takes it into account.
    fn wake(&mut self, at: UnixNanos) {
        if at > self.now {
            self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |before| before.min(at)));
        }
    }

    fn wait_until(
        &mut self,
        container: Option<&str>,
        step: impl Into<String>,
        at: UnixNanos,
        error: &str,
        unblocks: &str,
    ) {
        self.plan.wait(container, step, unblocks);
        if let Some(wait) = self.plan.waits.last_mut() {
            wait.next_try = Some(at);
            wait.last_error = Some(error.to_owned()).filter(|error| !error.is_empty());
        }
        self.wake(at);
    }

    fn act(&mut self, action: Action) {
        let busy_until = self.seen.busy.get(&action.job());
        let sooner = match (busy_until, action.deadline()) {
            (None, _) => true,
            (Some(Some(known)), Some(deadline)) => deadline < *known,
            (Some(_), _) => false,
        };
        if !sooner {
            return;
        }
        let seen = self.seen;
        if let Some(failed) = seen.unwinds.get(&action.job())
            && failed.next_try > self.now
        {
            let (at, error) = (failed.next_try, failed.message.as_str());
            self.wait_until(None, step_name(&action), at, error, "the next try");
            return;
        }
        self.plan.actions.push(action);
    }

    /// Fails a pod that has exceeded its active deadline.
    fn check_active_deadline(&mut self, life: &mut Life) {
        let seconds = life.given.spec().active_deadline_seconds;
        let Some(seconds) = seconds.and_then(|s| u64::try_from(s).ok()) else { return };
        let end = later(life.started.unwrap_or(self.now), Duration::from_secs(seconds));
        if self.now < end {
            return self.wake(end);
        }
        let grace = life.grace();
        life.judge(Verdict {
            succeeded: false,
            reason: verdict::DEADLINE_EXCEEDED.to_owned(),
            message: "Pod was active on the node longer than the specified deadline".to_owned(),
            at: self.now,
            deadline: later(self.now, grace),
            disrupted: false,
        });
    }
}

fn step_name(action: &Action) -> &'static str {
    match action {
        Action::Prepare => "prepare cgroup and volumes",
        Action::RunSandbox { .. } => "make the pod sandbox",
        Action::StopSandbox { .. } => "stop the pod sandbox",
        Action::RemoveSandbox { .. } => "remove an old sandbox",
        Action::Start { .. } => "start the container",
        Action::PostStart { .. } => "run the postStart hook",
        Action::PreStop { .. } => "run the preStop hook",
        Action::Kill { .. } => "end the container",
        Action::Remove { .. } => "remove a dead container",
        Action::Settle => "take volumes and cgroup away",
        Action::Finish => "take away what the pod had",
    }
}
