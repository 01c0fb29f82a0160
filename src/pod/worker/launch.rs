//! What follows from a decision besides actions: probes and events.

use super::Worker;
use crate::pod::observe::Observed;
use crate::pod::plan::wanted;
use crate::pod::probe::{Known, ProbeTarget};
use crate::pod::record::{Life, State};
use crate::pod::view::EventType;

impl Worker {
    /// Has exactly those containers probed that run and are to be probed.
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

    /// Tells what has become different.
    pub(super) fn tell(&self, before: &Life, life: &Life) {
        for (name, unit) in &life.units {
            let old = before.units.get(name);
            let backing_off = unit.backoff.filter(|_| unit.ended().is_some());
            let ended_now = old.is_none_or(|old| old.ended() != unit.ended());
            if let (Some(_), true, false) = (backing_off, ended_now, life.is_ending()) {
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    life.given.key()
                );
                self.room.event(life, Some(name), (EventType::Warning, "BackOff", message));
            }
        }
        if let (None, Some(verdict)) = (&before.verdict, &life.verdict)
            && !verdict.reason.is_empty()
        {
            let event =
                (EventType::Warning, verdict_reason(&verdict.reason), verdict.message.clone());
            self.room.event(life, None, event);
        }
    }
}

/// Events have fixed words.
fn verdict_reason(reason: &str) -> &'static str {
    match reason {
        "DeadlineExceeded" => "DeadlineExceeded",
        "Evicted" => "Evicted",
        "Terminated" => "Terminated",
        _ => "Failed",
    }
}
