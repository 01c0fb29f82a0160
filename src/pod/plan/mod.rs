//! What to do next for a pod: all policy, and nothing else. Pure.
//!
//! ```text
//! prepare ─> sandbox ─> init containers, one after the other ─> app containers, all at once
//!                       sidecars: the next one goes on when it is up
//!                  └──> ephemeral containers, at any time, once each
//! end:  apps and init containers ─> sidecars in reverse order ─> sandbox ─> settle or finish
//! ```
//! [`plan`] looks at what is remembered and what is seen, writes down what it decides, and says
//! what to do now, when to look again, and what the pod waits for. It is asked again after every
//! change, so nothing depends on having seen the one before.

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
use super::record::{Life, Verdict};
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;

use super::backoff::later;
pub(crate) use run::apps_begun;
pub use wanted::{Restart, Role, Wanted, wanted};

/// Settings of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Pauses between restarts of a container.
    pub restart: backoff::Policy,
    /// Pauses between pulls of an image.
    pub pull: backoff::Policy,
}

/// A piece of work that is done once at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    /// The node's own work for the pod: cgroup and volumes.
    Prepare,
    /// A sandbox is made.
    Sandbox,
    /// A sandbox is stopped.
    StopSandbox(PodId),
    /// A sandbox that has ended is removed.
    RemoveSandbox(PodId),
    /// A container is made and started.
    Start(String),
    /// A postStart hook runs.
    PostStart(ContainerId),
    /// A preStop hook runs ahead of the kill.
    PreStop(ContainerId),
    /// A container is ended.
    Kill(ContainerId),
    /// A dead container is removed.
    Remove(ContainerId),
    /// The node's own work is undone; the dead containers stay for their logs.
    Settle,
    /// All is undone.
    Finish,
}

/// Something to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make cgroup and volumes.
    Prepare,
    /// Make a sandbox.
    RunSandbox {
        /// How many there were before.
        attempt: u32,
    },
    /// Stop a sandbox with all that runs in it.
    StopSandbox {
        /// Which.
        id: PodId,
    },
    /// Remove a sandbox that was stopped and has no containers.
    RemoveSandbox {
        /// Which.
        id: PodId,
    },
    /// Pull the image, make a container, start it.
    Start {
        /// Its name in the spec.
        name: String,
        /// How many there were before.
        attempt: u32,
        /// Where.
        sandbox: PodId,
        /// One of the same name and attempt that was never started.
        stale: Option<ContainerId>,
    },
    /// Run the postStart hook.
    PostStart {
        /// Its name in the spec.
        name: String,
        /// Which.
        id: ContainerId,
    },
    /// Run the preStop hook, before the time for the stop signal has come.
    PreStop {
        /// Its name in the spec.
        name: String,
        /// Which.
        id: ContainerId,
        /// Until when it may run.
        deadline: UnixNanos,
    },
    /// Run the preStop hook, send the stop signal, kill at the deadline.
    Kill {
        /// Its name in the spec.
        name: String,
        /// Which.
        id: ContainerId,
        /// Until when it may run; two seconds from the stop signal on it always may.
        deadline: UnixNanos,
        /// Whether the hook is still to be run.
        pre_stop: bool,
        /// Why, in words.
        why: String,
    },
    /// Remove a dead container with its log.
    Remove {
        /// Which.
        id: ContainerId,
    },
    /// See [`Job::Settle`].
    Settle,
    /// See [`Job::Finish`].
    Finish,
}

impl Action {
    /// What is not done twice at a time.
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

    /// Until when it runs at most, where it has a limit that can shrink.
    pub fn deadline(&self) -> Option<UnixNanos> {
        match self {
            Self::Kill { deadline, .. } => Some(*deadline),
            _ => None,
        }
    }
}

/// A step of an end that failed, and when it is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwind {
    /// What it ended with.
    pub message: String,
    /// When it is tried again.
    pub next_try: UnixNanos,
}

/// What the pod or a container waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The container; `None` for the pod as a whole.
    pub container: Option<String>,
    /// The step.
    pub step: String,
    /// What the last try ended with.
    pub last_error: Option<String>,
    /// When the next try is made.
    pub next_try: Option<UnixNanos>,
    /// What would let it go on.
    pub unblocks: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Now, all at the same time.
    pub actions: Vec<Action>,
    /// Work under way that makes no sense any more.
    pub cancel: BTreeSet<Job>,
    /// When to look again although nothing has changed.
    pub wake_at: Option<UnixNanos>,
    /// What holds it up.
    pub waits: Vec<Wait>,
    /// Nothing is left to do, ever, unless somebody changes what is wanted.
    pub at_rest: bool,
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

/// The one who plans: what is seen, the moment, the settings, and the plan so far.
struct Planner<'a> {
    seen: &'a Observed,
    now: UnixNanos,
    policy: &'a Policy,
    plan: Plan,
}

/// Decides what to do for a pod; decisions that must last are written into `life`, to be stored
/// before anything is done.
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
            // It ends in this very moment: what was planned for its life is not begun.
            planner.plan = Plan::default();
        }
    }
    if life.is_ending() {
        planner.end(life);
    }
    planner.plan
}

impl Planner<'_> {
    /// Has the pod looked at again then. A moment that has passed is no reason to: what follows
    /// from it is in this very plan.
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

    /// A pod that has been active for too long has failed.
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
            reason: "DeadlineExceeded".to_owned(),
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
