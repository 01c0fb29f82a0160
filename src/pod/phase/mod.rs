//! The status of a pod in Kubernetes' terms. Pure.

mod conditions;
mod containers;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observe::Observed;
use super::plan::{Job, Role, Wanted, wanted};
use super::record::{Life, State};
use crate::board::EndReason;
use crate::model::UnixNanos;

/// Facts about the node and its settings that a status needs.
#[derive(Debug, Clone, Default)]
pub struct Viewpoint {
    /// Addresses of the node, the first is `hostIP`.
    pub ips: Vec<IpAddr>,
    /// Delays between restarts.
    pub restart: super::backoff::Policy,
}

/// A pod's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; not every app was started yet.
    Pending,
    /// Every app was started at least once.
    Running,
    /// All apps ended successfully and will not be restarted.
    Succeeded,
    /// All apps ended, not all of them successfully, or the pod was rejected or evicted.
    Failed,
}

impl Phase {
    /// Whether a pod in this phase has ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// The name of the phase in Kubernetes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// The phase.
pub fn phase(life: &Life, seen: &Observed) -> Phase {
    // A pod has not ended while something still runs or may start in a moment.
    let starts = seen.busy.keys().any(|job| matches!(job, Job::Start(_)));
    let over = !starts && seen.live().next().is_none();
    if let Some(verdict) = &life.verdict
        && over
    {
        return if verdict.succeeded { Phase::Succeeded } else { Phase::Failed };
    }
    let wanted = wanted(life.given.spec());
    let apps: Vec<_> = wanted.iter().filter(|wanted| wanted.role == Role::App).collect();
    let ended = |w: &&&Wanted<'_>| life.units.get(w.name).is_some_and(|u| u.ended().is_some());
    let all_ended = apps.iter().all(|app| ended(&app));
    if life.deletion.is_some() && all_ended && over {
        let good = apps.iter().all(|app| {
            let unit = life.units.get(app.name);
            unit.and_then(|unit| unit.ended()).is_some_and(|end| end.code == 0)
        });
        return if good { Phase::Succeeded } else { Phase::Failed };
    }
    if is_cleared(life, seen) {
        return Phase::Failed;
    }
    let never_ran = |app: &&Wanted<'_>| {
        let first = life.units.get(app.name).filter(|unit| unit.last.is_none());
        let end = first.and_then(|unit| unit.ended());
        end.is_some_and(|end| end.reason == EndReason::StartError && !app.restarts(end.code))
    };
    // About to fail: it goes from Pending to Failed directly.
    if apps.iter().all(never_ran) {
        return Phase::Pending;
    }
    let begun = apps.iter().any(|app| life.units.get(app.name).is_some_and(has_run));
    if !begun && !initialized(life, seen) {
        return Phase::Pending;
    }
    let all_begun = apps.iter().all(|app| life.units.get(app.name).is_some_and(has_run));
    if all_begun { Phase::Running } else { Phase::Pending }
}

/// Whether nothing runs of a deleted pod and nothing will: whatever has not ended never ran. As in a
/// kubelet, a static pod keeps its phase.
fn is_cleared(life: &Life, seen: &Observed) -> bool {
    let begins = |job: &Job| matches!(job, Job::Start(_) | Job::Prepare | Job::Sandbox);
    life.deletion.is_some()
        && !life.given.source.is_static()
        && seen.live().next().is_none()
        && !seen.busy.keys().any(begins)
}

/// Whether one of its containers was ever started, including its postStart hook.
fn has_run(unit: &super::record::Unit) -> bool {
    let by_current = unit.current.as_ref().is_some_and(|current| match &current.state {
        State::Running { .. } => !current.post_start_due,
        State::Ended(_) | State::Unknown => true,
        State::Created => false,
    });
    by_current || unit.last.is_some()
}

/// Whether all init containers succeeded and all sidecars are up.
pub(crate) fn initialized(life: &Life, seen: &Observed) -> bool {
    waiting_inits(life, seen).is_empty()
}

/// Init containers that are not done yet, in order.
fn waiting_inits<'a>(life: &'a Life, seen: &Observed) -> Vec<&'a str> {
    let home = seen.home().map(|home| &home.id);
    let wanted = wanted(life.given.spec());
    let begun = home.is_some_and(|home| super::plan::apps_begun(life, &wanted, home));
    let inits = wanted.iter().filter(|wanted| wanted.role.is_init());
    inits
        .filter(|init| {
            let current = life.units.get(init.name).and_then(|unit| unit.current.as_ref());
            let done = current.is_some_and(|current| match (&current.state, init.role) {
                (_, Role::Init) if begun => true,
                (State::Ended(end), Role::Init) => {
                    end.code == 0 && home.is_none_or(|home| current.sandbox == *home)
                }
                (_, Role::Sidecar) => begun || current.is_up(),
                _ => false,
            });
            !done
        })
        .map(|init| init.name)
        .collect()
}

/// The whole status; the times of condition changes are stored in `life`.
pub fn status(life: &mut Life, seen: &Observed, now: UnixNanos, node: &Viewpoint) -> PodStatus {
    if life.rejected {
        return rejected(life);
    }
    let phase = phase(life, seen);
    let conditions = conditions::conditions(life, seen, phase, now);
    let mut containers = containers::statuses(life, seen, now, &node.restart);
    if phase.is_final() {
        containers.end();
    }
    let host_network = life.given.spec().host_network == Some(true);
    // An ended pod keeps its last address.
    let ips = if host_network { &node.ips } else { &life.ips };
    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    let own = life.given.spec().resources.as_ref();
    PodStatus {
        allocated_resources: own.and_then(|own| own.requests.clone()),
        resources: own.and_then(|_| life.resources.as_deref().cloned()),
        conditions: Some(conditions),
        host_ip: node.ips.first().map(ToString::to_string),
        host_ips: some(node.ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: some(ips.into_iter().map(|ip| PodIP { ip }).collect()),
        init_container_statuses: some(containers.init),
        container_statuses: some(containers.apps),
        ephemeral_container_statuses: some(containers.ephemeral),
        ..of_pod(life, phase)
    }
}

/// The status of a rejected pod, which has no container statuses.
fn rejected(life: &Life) -> PodStatus {
    of_pod(life, Phase::Failed)
}

/// The part of the status that every pod has. Why it ends is told when it has ended.
fn of_pod(life: &Life, phase: Phase) -> PodStatus {
    let text = |part: fn(&super::record::Verdict) -> &String| {
        let verdict = life.verdict.as_ref().filter(|_| phase.is_final());
        verdict.map(part).filter(|text| !text.is_empty()).cloned()
    };
    PodStatus {
        phase: Some(phase.as_str().to_owned()),
        reason: text(|verdict| &verdict.reason),
        message: text(|verdict| &verdict.message),
        start_time: life.started.and_then(time),
        observed_generation: Some(life.generation),
        qos_class: Some(super::translate::qos(life.given.spec()).as_str().to_owned()),
        ..PodStatus::default()
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

/// A moment as Kubernetes writes it, in whole seconds.
pub fn time(at: UnixNanos) -> Option<Time> {
    let seconds = at.div_euclid(1_000_000_000);
    k8s_openapi::jiff::Timestamp::from_second(seconds).ok().map(Time)
}
