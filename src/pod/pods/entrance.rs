//! Who comes in, and who has to end for it.
//!
//! A critical pod that finds no room has others end. Their verdicts and its own row are one write,
//! and the row names them: it begins when they have ended, whichever agent sees that.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Pods;
use crate::board::now;
use crate::pod::admit;
use crate::pod::backoff::later;
use crate::pod::face::AdmitReason;
use crate::pod::object::Given;
use crate::pod::record::{Life, PREEMPTED, Verdict};
use crate::pod::view::EventType;

/// What is said of a pod that ends for a critical one.
const MESSAGE: &str = "Preempted in order to admit critical pod";

/// What is decided already of one manifest, and not yet in the table.
#[derive(Default)]
pub(super) struct Coming {
    given: Vec<Arc<Given>>,
    /// Uids of the pods that end for them.
    ends: BTreeSet<String>,
    user_ids: BTreeSet<u32>,
}

impl Coming {
    /// A pod comes in, these end.
    pub(super) fn add(&mut self, given: Arc<Given>, ends: Vec<String>) {
        self.given.push(given);
        self.ends.extend(ends);
    }

    /// A pod comes in unless it was refused.
    pub(super) fn add_life(&mut self, life: &Life) {
        if life.verdict.is_none() {
            self.add(Arc::new(life.given.clone()), life.preempts.clone());
            self.user_ids.extend(life.user_ids);
        }
    }

    /// The first of the ids of users that each of them has.
    pub(super) fn user_ids(&self) -> impl Iterator<Item = u32> {
        self.user_ids.iter().copied()
    }
}

impl Pods {
    /// The uids of the pods that have to end for this one, mostly none, or everything that is
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

    /// Everything that is against a pod on this node, as it is without preemption.
    pub(super) fn against(&self, given: &Given, coming: &Coming) -> Vec<AdmitReason> {
        let others = [self.running(given, coming), coming.given.clone()].concat();
        let ending = self.is_shutting_down() || self.room.deps.tasks.is_draining();
        admit::admit(given, &others, &self.room.node(), self.pressure(), ending)
    }

    /// The pods that take something. What has ended, or ends for good, and what this one or
    /// another replaces, takes nothing.
    fn running(&self, given: &Given, coming: &Coming) -> Vec<Arc<Given>> {
        let replaced = |other: &Given| {
            let key = other.key();
            key == given.key() || coming.given.iter().any(|new| new.key() == key)
        };
        let lives = self.room.all().into_iter().map(|entry| entry.life());
        lives
            .filter(|life| !life.settled && life.verdict.is_none())
            .filter(|life| !coming.ends.contains(&life.uid) && !replaced(&life.given))
            .map(|life| Arc::new(life.given))
            .collect()
    }

    /// A pod ends for a critical one, with its own grace period.
    pub(super) fn preempted(life: &mut Life) {
        let at = now();
        life.judge(Verdict {
            succeeded: false,
            reason: PREEMPTED.to_owned(),
            message: MESSAGE.to_owned(),
            at,
            deadline: later(at, life.grace()),
            disrupted: true,
        });
    }

    /// Tells of a pod that it ends for a critical one.
    pub(super) fn tell_preempted(&self, life: &Life) {
        tracing::warn!(pod = %life.given.key(), "preempted");
        self.room.event(life, None, EventType::Warning, PREEMPTED, MESSAGE);
    }
}
