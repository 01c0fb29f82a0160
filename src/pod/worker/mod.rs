//! The task of one pod: observe, decide, store, act, wait.
//!
//! ```text
//!   board, probes, results ──fold──> Life ──plan──> store ──> shown ──> actions ─┐
//!         ▲                                                                      │
//!         └───────────────── a change, a result, or the time to look again ◄─────┘
//! ```
//! Each action is a task of its own, so a hanging one blocks only itself. Operations that must not
//! be interrupted half-way (on sandboxes and containers) continue in the other rooms even if the
//! action that waits for them is dropped.

mod act;
mod images;
mod keepsake;
mod kill;
mod launch;
mod look;
mod outcome;
mod resize;
mod shrink;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::backoff::between;
use super::observe::{Observed, fold};
use super::phase;
use super::plan::{Action, Job, Plan, Unwind, plan};
use super::record::Life;
use super::room::{Entry, Room};
use crate::clock::now;
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;
use crate::store::Batch;
use crate::telemetry::error_chain;
use outcome::Outcome;

/// Delay before retrying a failed write to the store.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// One pod's task.
pub(super) struct Worker {
    room: Arc<Room>,
    pod: Arc<Entry>,
    actions: JoinSet<Outcome>,
    jobs: HashMap<tokio::task::Id, Job>,
    busy: BTreeMap<Job, Busy>,
    results: Vec<(Job, Outcome)>,
    /// The generation for which the node's preparations were made, and are being made.
    prepared: Option<u64>,
    preparing: Option<u64>,
    stopped: BTreeSet<PodId>,
    pre_stopped: BTreeSet<ContainerId>,
    unwinds: BTreeMap<Job, (u32, Unwind)>,
    /// The copy stored in the pod's directory, if known.
    kept: Option<Life>,
}

/// An action in progress.
struct Busy {
    /// The generation of the pod when it began.
    generation: u64,
    deadline: Option<UnixNanos>,
    cancel: CancellationToken,
    task: AbortHandle,
}

/// What to do after a look at a pod.
enum Next {
    /// Look again at this time, or when something changes.
    Wait(Option<UnixNanos>),
    /// The pod is gone.
    Gone,
}

impl Worker {
    pub(super) fn new(room: Arc<Room>, pod: Arc<Entry>) -> Self {
        Self {
            room,
            pod,
            actions: JoinSet::new(),
            jobs: HashMap::new(),
            busy: BTreeMap::new(),
            results: Vec::new(),
            prepared: None,
            preparing: None,
            stopped: BTreeSet::new(),
            pre_stopped: BTreeSet::new(),
            unwinds: BTreeMap::new(),
            kept: None,
        }
    }

    /// Publishes the current state of the pod, before anything is done.
    pub(super) async fn present(&self) {
        let mut life = Life::clone(&self.pod.life());
        let seen = self.look(&life).await;
        fold(&mut life, &seen, now());
        let status = phase::status(&mut life, &seen, now(), &self.room.viewpoint());
        self.room.show(&self.pod, &life, status);
    }

    /// Runs the pod's lifecycle; returns when the pod is gone.
    pub(super) async fn run(mut self) {
        loop {
            // Boxed, so that a pod's task needs no memory for a step while it waits.
            let wake_at = match Box::pin(self.step()).await {
                Next::Wait(wake_at) => wake_at,
                Next::Gone => return,
            };
            let pause = wake_at.map(|at| between(now(), at));
            let pod = self.pod.clone();
            // Cancel-safe: notifications and results are kept until they are taken; a timer is
            // created anew.
            tokio::select! {
                () = pod.changed.notified() => {}
                Some(ended) = self.actions.join_next_with_id() => self.take(ended),
                () = sleep(pause) => {}
            }
            while let Some(ended) = self.actions.try_join_next_with_id() {
                self.take(ended);
            }
        }
    }

    fn take(&mut self, ended: Result<(tokio::task::Id, Outcome), tokio::task::JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => (error.id(), error.is_panic().then_some(Outcome::Panicked)),
        };
        let Some(job) = self.jobs.remove(&id) else { return };
        if self.busy.get(&job).is_some_and(|busy| busy.task.id() == id) {
            let busy = self.busy.remove(&job);
            let newest = self.pod.generation();
            let outdated = busy.is_some_and(|it| it.generation != newest);
            if matches!(job, Job::Start(_)) && outdated {
                self.outdated_start();
            }
            // What failed for an earlier specification is retried at once for the current one.
            let failed = matches!(outcome, Some(Outcome::Failed { .. }));
            if outdated && failed && matches!(job, Job::Start(_) | Job::Prepare) {
                return;
            }
            // An aborted action has no result; its effects will be observed.
            if let Some(outcome) = outcome {
                self.results.push((job, outcome));
            }
        }
    }

    /// A container that was just started may have limits from an older spec, and a resize in
    /// progress may have missed it: resize once more.
    fn outdated_start(&mut self) {
        self.prepared = None;
        self.preparing = None;
    }

    /// Looks at the pod once.
    async fn step(&mut self) -> Next {
        let pod = self.pod.clone();
        let turn = pod.turn.lock().await;
        // They belong together only while this holds the turn.
        let (before, generation) = (pod.life(), pod.generation());
        let mut life = Life::clone(&before);
        let results = std::mem::take(&mut self.results);
        let gone = results.iter().any(|(job, o)| *job == Job::Finish && matches!(o, Outcome::Done));
        if gone {
            drop(turn);
            return self.leave().await;
        }
        self.note(&mut life, &results);
        let mut seen = self.look(&life).await;
        let at = now();
        fold(&mut life, &seen, at);
        let plan = plan(&mut life, &seen, at, &self.room.policy);
        // What is about to start is shown as in progress.
        seen.busy.extend(plan.actions.iter().map(|action| (action.job(), action.deadline())));
        let status = phase::status(&mut life, &seen, at, &self.room.viewpoint());
        let life = Arc::new(life);
        if life != before {
            if let Err(error) = self.room.save(&life).await {
                tracing::warn!(pod = %pod.key, error = error_chain(&error), "cannot store pod yet");
                // Results are not observed anywhere else, so keep them for the next look.
                self.results = results;
                return Next::Wait(Some(at + STORE_RETRY.as_nanos() as i64));
            }
            pod.set(life.clone());
            if life.settled && !before.settled {
                self.room.settled(&pod.uid);
            }
        }
        self.tell(&before, &life);
        self.room.show(&pod, &life, status);
        pod.set_waits(&plan.waits, at);
        self.probe(&life, &seen);
        drop(turn);
        // The copy is stored before the teardown removes its directory; nothing else waits for it.
        if life.is_ending() {
            self.keep(&life).await;
        }
        let next = self.launch(&life, generation, &seen, plan);
        self.keep(&life).await;
        next
    }

    fn launch(&mut self, life: &Arc<Life>, generation: u64, seen: &Observed, plan: Plan) -> Next {
        for job in &plan.cancel {
            if let Some(busy) = self.busy.get(job) {
                busy.cancel.cancel();
            }
        }
        for action in plan.actions {
            self.begin(life, generation, seen, action);
        }
        Next::Wait(plan.wake_at)
    }

    fn begin(&mut self, life: &Arc<Life>, generation: u64, seen: &Observed, action: Action) {
        let job = action.job();
        if job == Job::Prepare {
            self.preparing = Some(generation);
        }
        let deadline = action.deadline();
        let cancel = CancellationToken::new();
        let work = act::Work {
            room: self.room.clone(),
            life: life.clone(),
            home: seen.home().cloned(),
            sandboxes: seen.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect(),
            cancel: cancel.clone(),
        };
        let task = self.actions.spawn(work.run(action));
        self.jobs.insert(task.id(), job.clone());
        let busy = Busy { generation, deadline, cancel, task };
        if let Some(old) = self.busy.insert(job, busy) {
            old.task.abort();
        }
    }

    /// The pod is gone: deletes its row and then unpublishes it.
    async fn leave(&mut self) -> Next {
        let batch = Batch::new().delete::<Life>(&self.pod.uid);
        if let Err(error) = self.room.deps.store.write(batch).await {
            tracing::warn!(pod = %self.pod.key, error = error_chain(&error),
                "cannot delete pod from the store");
            self.results.push((Job::Finish, Outcome::Done));
            return Next::Wait(Some(now() + STORE_RETRY.as_nanos() as i64));
        }
        self.room.deps.prober.sync(&self.pod.uid, Vec::new());
        self.room.forget(&self.pod);
        Next::Gone
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
