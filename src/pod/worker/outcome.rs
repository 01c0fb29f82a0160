//! Results of actions, and how they change the record.

use std::time::Duration;

use super::Worker;
use crate::clock::now;
use crate::ids::ContainerId;
use crate::model::UnixNanos;
use crate::pod::backoff::{self, later};
use crate::pod::hook::Moment;
use crate::pod::observe::doom;
use crate::pod::plan::{Job, Unwind, wanted};
use crate::pod::reason::Failure;
use crate::pod::record::{Life, Trouble, Unit};
use crate::pod::view::EventType;

/// Delays between attempts of steps of the pod as a whole: its network may be ready in a moment,
/// and its config map may be created at any time.
const POD_RETRY: backoff::Policy = backoff::Policy {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(10),
    reset: Duration::from_secs(600),
};

/// Delays between attempts to start a container that cannot be created.
const START_RETRY: backoff::Policy = backoff::Policy {
    first: Duration::from_secs(10),
    longest: Duration::from_secs(10),
    reset: Duration::from_secs(600),
};

/// First delay between attempts of teardown steps.
const UNWIND_FIRST: Duration = Duration::from_secs(1);
const UNWIND_LONGEST: Duration = Duration::from_secs(60);

/// The result of an action.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// Success.
    Done,
    /// These containers have to be restarted before the pod can be resized.
    Restart(Vec<ContainerId>),
    /// Cancelled.
    Cancelled,
    /// Failure, with the error.
    Failed { reason: Failure, message: String },
    /// It panicked; the details are in the log.
    Panicked,
}

impl Outcome {
    pub(super) fn failed(reason: Failure, message: String) -> Self {
        Self::Failed { reason, message }
    }
}

/// A container was not started.
fn note_start(
    unit: &mut Unit,
    reason: Failure,
    message: &str,
    at: UnixNanos,
    pull: &backoff::Policy,
) {
    let before = unit.trouble.take();
    // A container that was created but failed to start has ended: the usual restart delay applies,
    // and earlier trouble is irrelevant.
    if reason != Failure::Run {
        let policy = if reason == Failure::Pull { pull } else { &START_RETRY };
        let trouble = Trouble::again(before.as_ref(), reason, message.to_owned(), at, policy);
        unit.trouble = Some(trouble);
    }
}

/// Records that containers end, with their hooks, and restart at once; this is not a crash.
fn note_restart(life: &mut Life, containers: &[ContainerId]) {
    let grace = life.grace();
    for (name, unit) in &mut life.units {
        let current = unit.current.as_mut().filter(|current| containers.contains(&current.id));
        let Some(current) = current.filter(|current| current.is_live()) else { continue };
        doom(current, format!("Container {name} resize requires restart"), grace, now());
        current.doom.iter_mut().for_each(|doom| doom.for_resize = true);
        unit.again = Some(current.id.clone());
    }
}

/// Records that the pod and its running containers have the resources of the spec.
fn note_resources(life: &mut Life) {
    let given = life.given.clone();
    life.resources = Some(Box::new(given.spec().resources.clone().unwrap_or_default()));
    for wanted in wanted(given.spec()) {
        let current = life.units.get_mut(wanted.name).and_then(|unit| unit.current.as_mut());
        if let Some(current) = current.filter(|current| current.is_live()) {
            current.resources = Some(Box::new(wanted.resources()));
        }
    }
}

impl Worker {
    /// Merges results into the record.
    pub(super) fn note(&mut self, life: &mut Life, results: &[(Job, Outcome)]) {
        for (job, outcome) in results {
            match outcome {
                Outcome::Done => self.note_success(life, job),
                Outcome::Restart(containers) => note_restart(life, containers),
                Outcome::Cancelled => {}
                Outcome::Failed { reason, message } => {
                    self.note_failure(life, job, *reason, message)
                }
                Outcome::Panicked => {
                    self.note_failure(life, job, Failure::Internal, "a bug; see the agent's log");
                }
            }
        }
    }

    fn note_success(&mut self, life: &mut Life, job: &Job) {
        self.unwinds.remove(job);
        match job {
            Job::Prepare => {
                self.prepared = self.preparing;
                life.trouble = None;
                if self.prepared == Some(self.pod.generation()) {
                    note_resources(life);
                }
            }
            Job::Sandbox => life.trouble = None,
            Job::Start(name) => life.unit(name).trouble = None,
            Job::PostStart(id) => {
                for unit in life.units.values_mut() {
                    if let Some(current) = unit.current.as_mut().filter(|c| c.id == *id) {
                        current.post_start_due = false;
                    }
                }
            }
            Job::PreStop(id) => drop(self.pre_stopped.insert(id.clone())),
            Job::StopSandbox(id) => drop(self.stopped.insert(id.clone())),
            Job::Settle => life.settled = true,
            Job::Kill(_) | Job::Remove(_) | Job::RemoveSandbox(_) | Job::Finish => {}
        }
    }

    fn note_failure(&mut self, life: &mut Life, job: &Job, reason: Failure, message: &str) {
        let at = now();
        let pull = self.room.policy.pull;
        match job {
            Job::Prepare | Job::Sandbox => {
                let before = life.trouble.take();
                let text = message.to_owned();
                life.trouble = Some(Trouble::again(before.as_ref(), reason, text, at, &POD_RETRY));
            }
            Job::Start(name) => {
                note_start(life.unit(name), reason, message, at, &pull);
            }
            Job::PostStart(id) => {
                let grace = life.grace();
                for unit in life.units.values_mut() {
                    if let Some(current) = unit.current.as_mut().filter(|c| c.id == *id) {
                        // The error may quote the application's output.
                        doom(current, Moment::PostStart.reason().to_owned(), grace, at);
                    }
                }
            }
            Job::PreStop(id) => drop(self.pre_stopped.insert(id.clone())),
            _ => {
                let tries = self.unwinds.get(job).map_or(0, |(tries, _)| tries + 1);
                let pause = UNWIND_FIRST * 2_u32.saturating_pow(tries.min(16));
                let next_try = later(at, pause.min(UNWIND_LONGEST));
                let unwind = Unwind { message: message.to_owned(), next_try };
                self.unwinds.insert(job.clone(), (tries, unwind));
                tracing::warn!(pod = %life.given.key(), ?job, error = message,
                    "pod operation failed, will retry");
                self.room.event(
                    life,
                    None,
                    EventType::Warning,
                    Failure::Teardown.as_str(),
                    message,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_was_made_and_did_not_start_has_no_other_trouble() {
        let (mut unit, pull) = (Unit::default(), backoff::Policy::default());
        note_start(&mut unit, Failure::Pull, "no", 1, &pull);
        note_start(&mut unit, Failure::Pull, "no", 2, &pull);
        let trouble = unit.trouble.clone().expect("trouble");
        assert_eq!((trouble.since, trouble.failed), (1, 2));
        assert_eq!(trouble.backoff.pause, pull.first * 2);
        note_start(&mut unit, Failure::Create, "no", 3, &pull);
        let trouble = unit.trouble.clone().expect("trouble");
        assert_eq!((trouble.since, trouble.backoff.pause), (1, START_RETRY.first));
        note_start(&mut unit, Failure::Run, "no", 4, &pull);
        assert_eq!(unit.trouble, None);
    }
}
