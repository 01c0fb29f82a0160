//! Consequences of a decision besides actions: probes and events.

use super::Worker;
use crate::pod::observe::Observed;
use crate::pod::plan::wanted;
use crate::pod::probe::{Known, ProbeTarget};
use crate::pod::reason::verdict;
use crate::pod::record::{Life, State, Unit};
use crate::pod::view::EventType;
use crate::pod::wishes::Pace;

impl Worker {
    /// Sets the probed containers to those that run and have to be probed.
    pub(super) fn probe(&self, life: &Life, seen: &Observed) {
        let pod_ip = seen.home().and_then(|home| self.room.ips(home).first().copied());
        let mut targets = Vec::new();
        for wanted in wanted(life.given.spec()).iter().filter(|w| w.role.is_lasting()) {
            let container = &*wanted.container;
            let probes =
                [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
            let current = life.units.get(wanted.name).and_then(|unit| unit.current.as_ref());
            let Some(current) = current else { continue };
            let State::Running { started_at } = current.state else { continue };
            if current.post_start_due || probes.iter().all(|probe| probe.is_none()) {
                continue;
            }
            targets.push(ProbeTarget {
                pod: life.given.pod.clone(),
                container: wanted.name.to_owned(),
                container_id: current.id.clone(),
                pod_ip: pod_ip.map(|ip| ip.to_string()),
                started_at,
                known: Known { started: current.started, ready: current.ready },
                terminating: life.is_ending(),
            });
        }
        self.room.deps.prober.sync(&life.uid, targets);
    }

    /// Reports events for what has changed.
    pub(super) fn tell(&self, before: &Life, life: &Life) {
        for (name, unit) in &life.units {
            let old = before.units.get(name);
            let ended_now = old.is_none_or(|old| old.ended() != unit.ended());
            // A delay set just now is for the next exit; the current one is over.
            let held = old.is_some_and(|old| old.backoff == unit.backoff);
            if ended_now && held && !life.is_ending() && self.waits(life, name, unit) {
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    full_name(life)
                );
                self.room.event(life, Some(name), EventType::Warning, "BackOff", message);
            }
            let backs_off = |unit: &Unit| unit.trouble.as_ref().is_some_and(|it| it.backs_off);
            if backs_off(unit) && !old.is_some_and(backs_off) {
                self.tell_pull_back_off(life, name);
            }
        }
        if let (None, Some(verdict)) = (&before.verdict, &life.verdict)
            && !verdict.reason.is_empty()
        {
            let reason = verdict_reason(&verdict.reason);
            let kind = match reason {
                verdict::DEADLINE_EXCEEDED => EventType::Normal,
                _ => EventType::Warning,
            };
            self.room.event(life, None, kind, reason, &verdict.message);
        }
    }

    /// Whether an ended container will be restarted, but not at once.
    fn waits(&self, life: &Life, name: &str, unit: &Unit) -> bool {
        let Some(end) = unit.ended() else { return false };
        let all = wanted(life.given.spec());
        let restarts = all.iter().any(|it| it.name == name && it.restarts(end.code));
        let pace = Pace::of(&life.given.pod, &self.room.policy.restart);
        let until = unit.backoff.and_then(|backoff| backoff.until(end.finished_at, &pace.policy));
        restarts && unit.again.is_none() && !pace.exempts(end.code) && until.is_some()
    }

    fn tell_pull_back_off(&self, life: &Life, name: &str) {
        let all = wanted(life.given.spec());
        let Some(wanted) = all.iter().find(|wanted| wanted.name == name) else { return };
        let message = format!("Back-off pulling image {:?}", wanted.image());
        self.room.event(life, Some(name), EventType::Normal, "BackOff", message);
        let message = "Error: ImagePullBackOff";
        self.room.event(life, Some(name), EventType::Warning, "Failed", message);
    }
}

/// Name, namespace and uid, in the kubelet's format for messages.
fn full_name(life: &Life) -> String {
    let key = life.given.key();
    format!("{}_{}({})", key.name, key.namespace, life.uid)
}

/// Reasons of events are from a fixed set.
fn verdict_reason(reason: &str) -> &'static str {
    let own = [verdict::DEADLINE_EXCEEDED, verdict::EVICTED, verdict::TERMINATED];
    own.into_iter().find(|known| *known == reason).unwrap_or("Failed")
}
