//! Conditions of a pod.

use k8s_openapi::api::core::v1::PodCondition;

use super::super::manifest::gates;
use super::super::observe::Observed;
use super::super::plan::wanted;
use super::super::reason::{Failure, verdict};
use super::super::record::{Life, Since};
use super::{Phase, time, waiting_inits};
use crate::model::UnixNanos;

/// The kubelet's message in the condition of a preempted pod, which is more specific than its
/// status.
const PREEMPTION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

struct Draft {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

fn yes(kind: &'static str) -> Draft {
    Draft { kind, status: true, reason: "", message: String::new() }
}

fn no(kind: &'static str, reason: &'static str, message: String) -> Draft {
    Draft { kind, status: false, reason, message }
}

/// All conditions, in the order in which a kubelet shows them.
pub(super) fn conditions(
    life: &mut Life,
    seen: &Observed,
    phase: Phase,
    now: UnixNanos,
) -> Vec<PodCondition> {
    let containers = containers_ready(life, phase);
    let mut drafts = Vec::new();
    let ended = life.verdict.as_ref().filter(|_| phase.is_final());
    if let Some(verdict) = ended.filter(|verdict| verdict.disrupted) {
        drafts.push(Draft {
            kind: "DisruptionTarget",
            status: true,
            reason: "TerminationByKubelet",
            message: match verdict.reason.as_str() {
                verdict::PREEMPTED => PREEMPTION.to_owned(),
                _ => verdict.message.clone(),
            },
        });
    }
    if let Some(asked) = &life.asked {
        let reason = if asked.reason == "Infeasible" { "Infeasible" } else { "Deferred" };
        let message = asked.message.clone();
        drafts.push(Draft { reason, message, ..yes("PodResizePending") });
    } else {
        life.conditions.remove("PodResizePending");
    }
    let resize = life.trouble.as_ref().filter(|trouble| trouble.reason == Failure::Resize);
    if let Some(trouble) = resize {
        let message = trouble.message.clone();
        drafts.push(Draft { reason: "Error", message, ..yes("PodResizeInProgress") });
    } else if is_resizing(life) {
        drafts.push(yes("PodResizeInProgress"));
    } else {
        life.conditions.remove("PodResizeInProgress");
    }
    drafts.extend([
        match seen.home() {
            Some(_) => yes("PodReadyToStartContainers"),
            None => no("PodReadyToStartContainers", "", String::new()),
        },
        initialized(life, seen, phase),
        ready(life, &containers),
        containers,
        yes("PodScheduled"),
    ]);
    let mut all: Vec<_> = drafts.into_iter().map(|draft| keep(life, draft, now)).collect();
    all.extend_from_slice(gates(&life.given.pod));
    all
}

/// Whether the pod or a running container has other resources than those that it was given. A pod
/// in which nothing runs is not resized, as in a kubelet.
fn is_resizing(life: &Life) -> bool {
    let spec = life.given.spec();
    let of_pod = spec.resources.clone().unwrap_or_default();
    let is_pod_resized = life.resources.as_deref().is_some_and(|actual| *actual != of_pod);
    wanted(spec).iter().any(|wanted| {
        let current = life.units.get(wanted.name).and_then(|unit| unit.current.as_ref());
        let Some(current) = current.filter(|current| current.is_live()) else { return false };
        let is_resized = current.resources.as_deref().is_some_and(|it| *it != wanted.resources());
        is_pod_resized || is_resized
    })
}

fn keep(life: &mut Life, draft: Draft, now: UnixNanos) -> PodCondition {
    let since = life
        .conditions
        .entry(draft.kind.to_owned())
        .or_insert_with(|| Since { status: draft.status, at: now });
    if since.status != draft.status {
        *since = Since { status: draft.status, at: now };
    }
    PodCondition {
        type_: draft.kind.to_owned(),
        status: if draft.status { "True" } else { "False" }.to_owned(),
        reason: Some(draft.reason.to_owned()).filter(|reason| !reason.is_empty()),
        message: Some(draft.message).filter(|message| !message.is_empty()),
        last_transition_time: time(since.at),
        observed_generation: Some(life.generation),
        ..PodCondition::default()
    }
}

fn initialized(life: &Life, seen: &Observed, phase: Phase) -> Draft {
    const KIND: &str = "Initialized";
    let waiting = waiting_inits(life, seen);
    match phase {
        Phase::Succeeded => Draft { reason: "PodCompleted", ..yes(KIND) },
        _ if waiting.is_empty() => yes(KIND),
        _ => {
            let message = format!("containers with incomplete status: [{}]", waiting.join(" "));
            no(KIND, "ContainersNotInitialized", message)
        }
    }
}

fn containers_ready(life: &Life, phase: Phase) -> Draft {
    const KIND: &str = "ContainersReady";
    match phase {
        Phase::Succeeded => return no(KIND, "PodCompleted", String::new()),
        Phase::Failed => return no(KIND, "PodFailed", String::new()),
        Phase::Pending | Phase::Running => {}
    }
    let wanted = wanted(life.given.spec());
    let unready: Vec<&str> = wanted
        .iter()
        .filter(|wanted| wanted.role.is_lasting())
        .map(|wanted| wanted.name)
        .filter(|name| {
            let current = life.units.get(*name).and_then(|unit| unit.current.as_ref());
            !current.is_some_and(|current| current.ready)
        })
        .collect();
    if unready.is_empty() {
        return yes(KIND);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    no(KIND, "ContainersNotReady", message)
}

/// Ready: all containers and all readiness gates are. Gates are conditions set by clients; their
/// values come from the status in the manifest.
fn ready(life: &Life, containers: &Draft) -> Draft {
    const KIND: &str = "Ready";
    if !containers.status {
        return no(KIND, containers.reason, containers.message.clone());
    }
    let given = gates(&life.given.pod);
    let wanted = life.given.spec().readiness_gates.iter().flatten();
    let faults: Vec<String> = wanted
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            let found = given.iter().find(|condition| condition.type_ == *kind);
            match found {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {kind:?} does not exist."
                )),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if faults.is_empty() {
        return yes(KIND);
    }
    no(KIND, "ReadinessGatesNotReady", faults.join(", "))
}
