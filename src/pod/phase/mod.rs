//! The status of a pod, as Kubernetes words it. Pure.

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
use crate::model::UnixNanos;

/// What a status needs to know of the node and its settings.
#[derive(Debug, Clone, Default)]
pub struct Viewpoint {
    /// Addresses of the node, the first is `hostIP`.
    pub ips: Vec<IpAddr>,
    /// Pauses between restarts.
    pub restart: super::backoff::Policy,
}

/// A pod's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; not every app has been started yet.
    Pending,
    /// Every app was started once.
    Running,
    /// All apps have ended with success and stay so.
    Succeeded,
    /// All apps have ended, not all with success, or the pod was refused or taken away.
    Failed,
}

impl Phase {
    /// Kubernetes' word.
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
    // What still runs is on its way out; a pod of which something runs, or may in a moment, has
    // not ended.
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
    let begun = apps.iter().any(|app| life.units.get(app.name).is_some_and(has_run));
    if !begun && !initialized(life, seen) {
        return Phase::Pending;
    }
    let all_begun = apps.iter().all(|app| life.units.get(app.name).is_some_and(has_run));
    if all_begun { Phase::Running } else { Phase::Pending }
}

/// Whether a container of it was ever started, with its postStart hook done.
fn has_run(unit: &super::record::Unit) -> bool {
    let by_current = unit.current.as_ref().is_some_and(|current| match &current.state {
        State::Running { .. } => !current.post_start_due,
        State::Ended(_) | State::Unknown => true,
        State::Created => false,
    });
    by_current || unit.last.is_some()
}

/// Whether all init containers have succeeded and all sidecars are up.
pub(crate) fn initialized(life: &Life, seen: &Observed) -> bool {
    waiting_inits(life, seen).is_empty()
}

/// Init containers that have not done their part, in their order.
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

/// The whole status; the times at which conditions changed are kept in `life`.
pub fn status(life: &mut Life, seen: &Observed, now: UnixNanos, node: &Viewpoint) -> PodStatus {
    if life.rejected {
        return rejected(life);
    }
    let phase = phase(life, seen);
    let conditions = conditions::conditions(life, seen, phase, now);
    let containers = containers::statuses(life, seen, now, &node.restart);
    let host_network = life.given.spec().host_network == Some(true);
    // A pod that has ended keeps the address that it had.
    let ips = if host_network { &node.ips } else { &life.ips };
    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    PodStatus {
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

/// A pod that the node did not take has no containers to tell of, and was never looked at.
fn rejected(life: &Life) -> PodStatus {
    of_pod(life, Phase::Failed)
}

/// What is told of every pod.
fn of_pod(life: &Life, phase: Phase) -> PodStatus {
    let text = |part: fn(&super::record::Verdict) -> &String| {
        life.verdict.as_ref().map(part).filter(|text| !text.is_empty()).cloned()
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
