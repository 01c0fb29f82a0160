//! Admission with preemption.
//!
//! A critical pod without enough resources preempts others. Their verdicts and its own row are
//! written atomically, and the row names them: it starts when they have ended, even if that is seen
//! by a later agent.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Pods;
use crate::clock::now;
use crate::pod::admit;
use crate::pod::backoff::later;
use crate::pod::face::AdmitReason;
use crate::pod::object::Given;
use crate::pod::reason::verdict;
use crate::pod::record::{Life, Verdict};
use crate::pod::view::EventType;

/// Message of a pod that is preempted.
const MESSAGE: &str = "Preempted in order to admit critical pod";

/// Decisions about one manifest that are not in the table yet.
#[derive(Default)]
pub(super) struct Coming {
    given: Vec<Arc<Given>>,
    /// Uids of the pods preempted for them.
    ends: BTreeSet<String>,
    user_ids: BTreeSet<u32>,
}

impl Coming {
    /// Adds an admitted pod and the pods preempted for it.
    pub(super) fn add(&mut self, given: Arc<Given>, ends: Vec<String>) {
        self.given.push(given);
        self.ends.extend(ends);
    }

    /// Adds a pod unless it was rejected.
    pub(super) fn add_life(&mut self, life: &Life) {
        if life.verdict.is_none() {
            self.add(Arc::new(life.given.clone()), life.preempts.clone());
            self.user_ids.extend(life.user_ids);
        }
    }

    /// First host id of the user namespace of each of them.
    pub(super) fn user_ids(&self) -> impl Iterator<Item = u32> {
        self.user_ids.iter().copied()
    }
}

impl Pods {
    /// The uids of the pods that have to be preempted for this one, usually none; or all reasons
    /// against it.
    pub(super) fn entrance(
        &self,
        given: &Given,
        coming: &Coming,
    ) -> Result<Vec<String>, Vec<AdmitReason>> {
        let reasons = self.against(given, coming);
        if reasons.is_empty() {
            return Ok(Vec::new());
        }
        if !reasons.iter().all(AdmitReason::is_shortage) {
            return Err(reasons);
        }
        let running = self.running(given, coming);
        match admit::preempt(given, &running, &coming.given, &self.room.node()) {
            none if none.is_empty() => Err(reasons),
            ends => Ok(ends.iter().map(|given| given.uid().to_owned()).collect()),
        }
    }

    /// All reasons against a pod on this node, without preemption.
    pub(super) fn against(&self, given: &Given, coming: &Coming) -> Vec<AdmitReason> {
        let others = [self.running(given, coming), coming.given.clone()].concat();
        let ending = self.is_shutting_down() || self.room.deps.tasks.is_draining();
        admit::admit(given, &others, &self.room.node(), self.pressure(), ending)
    }

    /// The pods that use resources. Ended pods, those ending for good, and those that this or
    /// another pod replaces do not count.
    fn running(&self, given: &Given, coming: &Coming) -> Vec<Arc<Given>> {
        let replaced = |other: &Given| {
            let key = other.key();
            key == given.key() || coming.given.iter().any(|new| new.key() == key)
        };
        let lives = self.room.all().into_iter().map(|entry| entry.life());
        lives
            .filter(|life| !life.settled && life.verdict.is_none())
            .filter(|life| !coming.ends.contains(&life.uid) && !replaced(&life.given))
            .map(|life| Arc::new(life.given.clone()))
            .collect()
    }

    /// Ends a pod for a critical one, with its own grace period.
    pub(super) fn preempted(life: &mut Life) {
        let at = now();
        life.judge(Verdict {
            succeeded: false,
            reason: verdict::PREEMPTED.to_owned(),
            message: MESSAGE.to_owned(),
            at,
            deadline: later(at, life.grace()),
            disrupted: true,
        });
    }

    /// Reports the event of a preempted pod.
    pub(super) fn tell_preempted(&self, life: &Life) {
        tracing::warn!(pod = %life.given.key(), "pod preempted");
        self.room.event(life, None, EventType::Warning, verdict::PREEMPTED, MESSAGE);
    }
}
