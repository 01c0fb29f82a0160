//! Conversion between wire types and podbay's own types. Requests are checked; errors name the
//! field.

mod node;
mod pod;
mod request;
mod stats;

#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use prost_types::Timestamp;

use crate::model::UnixNanos;
use crate::pod::{Admission, AdmitReason, Applied, Change, Event, EventType, Revision, Waits};
use crate::proto::podbay::v1;

pub(super) use node::node;
pub(super) use pod::{container_name, pod};
pub(super) use request::{
    admit, after, apply, command, delete, duration, key, logs, selector, terminal_size,
};
pub(super) use stats::{node_stats, pod_stats};

/// Converts a revision.
pub(super) fn revision(revision: Revision) -> v1::Revision {
    v1::Revision { epoch: revision.epoch, number: revision.number }
}

/// Converts a time.
pub(super) fn timestamp(at: UnixNanos) -> Timestamp {
    const SECOND: i64 = 1_000_000_000;
    // Less than a second, so it fits.
    let nanos = i32::try_from(at.rem_euclid(SECOND)).unwrap_or(0);
    Timestamp { seconds: at.div_euclid(SECOND), nanos }
}

fn time(time: &Option<Time>) -> Option<Timestamp> {
    let time = &time.as_ref()?.0;
    // Before 1970 jiff makes both parts negative.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    Some(if nanos < 0 {
        Timestamp { seconds: seconds - 1, nanos: nanos + 1_000_000_000 }
    } else {
        Timestamp { seconds, nanos }
    })
}

/// Converts the result of an Apply.
pub(super) fn applied(applied: &Applied) -> v1::ApplyResponse {
    let change = |change| match change {
        Change::Created => v1::Change::Created,
        Change::Configured => v1::Change::Configured,
        Change::Unchanged => v1::Change::Unchanged,
        Change::Replaced => v1::Change::Replaced,
    };
    let pods = applied
        .pods
        .iter()
        .map(|(view, what)| v1::AppliedPod { pod: Some(pod(view)), change: change(*what).into() });
    let objects = applied.objects.iter().map(|(key, what)| v1::AppliedObject {
        name: Some(v1::ObjectName {
            kind: key.kind.as_str().to_owned(),
            namespace: key.name.namespace.clone(),
            name: key.name.name.clone(),
        }),
        change: change(*what).into(),
    });
    v1::ApplyResponse {
        pods: pods.collect(),
        warnings: applied.warnings.clone(),
        objects: objects.collect(),
    }
}

/// Converts an event.
pub(super) fn event(event: Event) -> v1::Event {
    let kind = match event.kind {
        EventType::Normal => v1::EventType::Normal,
        EventType::Warning => v1::EventType::Warning,
    };
    v1::Event {
        number: event.number,
        namespace: event.pod.namespace,
        name: event.pod.name,
        uid: event.uid,
        container: event.container.unwrap_or_default(),
        r#type: kind.into(),
        reason: event.reason.to_owned(),
        message: event.message,
        first: Some(timestamp(event.first)),
        last: Some(timestamp(event.last)),
        count: event.count,
    }
}

/// Converts one wait.
pub(super) fn wait(waits: Waits) -> v1::Wait {
    v1::Wait {
        container: waits.container.unwrap_or_default(),
        step: waits.step,
        since: Some(timestamp(waits.since)),
        last_error: waits.last_error.unwrap_or_default(),
        next_try: waits.next_try.map(timestamp),
        unblocks: waits.unblocks,
    }
}

/// Converts an admission.
pub(super) fn admission(admission: Admission) -> v1::Admission {
    let reason =
        |it: AdmitReason| v1::AdmitReason { reason: it.reason.to_owned(), message: it.message };
    v1::Admission {
        namespace: admission.pod.namespace,
        name: admission.pod.name,
        admitted: admission.reasons.is_empty(),
        reasons: admission.reasons.into_iter().map(reason).collect(),
    }
}

/// Converts the status of a Kubernetes condition.
fn condition_status(status: &str) -> v1::ConditionStatus {
    match status {
        "True" => v1::ConditionStatus::True,
        "False" => v1::ConditionStatus::False,
        "Unknown" => v1::ConditionStatus::Unknown,
        _ => v1::ConditionStatus::Unspecified,
    }
}

/// A count, which is never negative in a valid object.
fn count<T>(number: i32) -> T
where
    T: TryFrom<i32> + Default,
{
    T::try_from(number).unwrap_or_default()
}
