//! Decides whether a container may be started now.

use super::super::backoff::Backoff;
use super::super::reason::Failure;
use super::super::record::{Life, State, Termination, Unit};
use super::super::wishes::Pace;
use super::{Action, Job, Planner, Role, Wanted};
use crate::ids::PodId;

/// State of a container that should run in a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has to be started.
    Due,
    /// It runs or may run.
    Live,
    /// It has ended and will not be restarted.
    Done {
        /// Its exit code was 0.
        succeeded: bool,
    },
}

/// The state of a container. An init container that ran in another sandbox has to run again. An app
/// that ended for good there does not, and an ephemeral container never runs twice.
pub(super) fn standing(unit: Option<&Unit>, wanted: &Wanted<'_>, home: &PodId) -> Standing {
    let Some(unit) = unit else { return Standing::Due };
    let Some(current) = &unit.current else { return Standing::Due };
    let here = current.sandbox == *home;
    match &current.state {
        State::Created => Standing::Due,
        State::Ended(end) if wanted.role == Role::Ephemeral => {
            Standing::Done { succeeded: end.code == 0 }
        }
        State::Running { .. } | State::Unknown if here || wanted.role == Role::Ephemeral => {
            Standing::Live
        }
        // One that runs in another sandbox is first ended with that.
        State::Running { .. } | State::Unknown => Standing::Due,
        State::Ended(end) if unit.again.as_ref() == Some(&end.id) => Standing::Due,
        State::Ended(_) if !here && wanted.role != Role::App => Standing::Due,
        State::Ended(end) if wanted.restarts(end.code) => Standing::Due,
        State::Ended(end) => Standing::Done { succeeded: end.code == 0 },
    }
}

impl Planner<'_> {
    /// Starts a container unless it has to wait for its back-off.
    pub(super) fn start(&mut self, life: &mut Life, wanted: &Wanted<'_>, home: &PodId) {
        let (name, now) = (wanted.name, self.now);
        let job = Job::Start(name.to_owned());
        if self.seen.is_busy(&job) {
            return self.plan.wait(Some(name), "start the container", "the end of this step");
        }
        let live_elsewhere = self.seen.live().any(|container| container.name == name);
        if live_elsewhere {
            return self.plan.wait(Some(name), "its old container ends", "that end");
        }
        let pace = Pace::of(&life.given.pod, &self.policy.restart);
        let unit = life.unit(name);
        if let Some(trouble) = &unit.trouble
            && trouble.next_try > now
        {
            let (step, unblocks) = match trouble.reason {
                Failure::Pull => ("pull the image", "an image that can be pulled"),
                Failure::Config => {
                    ("make the container's configuration", "the objects that it refers to")
                }
                _ => ("start the container", "the next try"),
            };
            let (at, error) = (trouble.next_try, trouble.message.as_str());
            let turns = trouble.turns_at();
            self.wait_until(Some(name), step, at, error, unblocks);
            match turns {
                Some(turns) if turns > now => self.wake(turns),
                Some(_) => life.unit(name).trouble.iter_mut().for_each(|it| it.backs_off = true),
                None => {}
            }
            return;
        }
        let again = unit.again.is_some();
        let counts = |end: &&Termination| !again && !pace.exempts(end.code);
        if let Some(end) = unit.ended().filter(counts).cloned() {
            let held = unit.backoff.and_then(|b| b.until(end.finished_at, &pace.policy));
            if let Some(until) = held.filter(|until| *until > now) {
                let error = format!("exit code {}: {}", end.code, end.reason.as_str());
                let step = "wait for back-off";
                return self.wait_until(Some(name), step, until, &error, "time");
            }
        }
        let ended = unit.ended().filter(counts).map(|end| end.finished_at);
        if let Some(ended) = ended.filter(|_| unit.trouble.is_none()) {
            unit.backoff = Some(Backoff::next(unit.backoff, ended, now, &pace.policy));
        }
        let created = unit.current.as_ref().filter(|c| c.state == State::Created);
        let stale = created.map(|current| current.id.clone());
        let attempt = created.map_or(unit.made, |current| current.attempt);
        let sandbox = home.clone();
        self.act(Action::Start { name: name.to_owned(), attempt, sandbox, stale });
    }
}
