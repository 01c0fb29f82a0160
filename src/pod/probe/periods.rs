//! Probe periods shorter than a second.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::Kind;
use crate::pod::FieldError;

/// Annotations `probe.podbay.io/<container>.<kind>.periodMilliseconds` set the period of a probe
/// instead of its `periodSeconds`. `<kind>` is `startup`, `liveness` or `readiness`.
pub const PERIOD_PREFIX: &str = "probe.podbay.io/";

const SUFFIX: &str = ".periodMilliseconds";
/// Shorter periods would overload the node; for longer ones there is `periodSeconds`.
const ALLOWED: std::ops::RangeInclusive<u64> = 10..=3_600_000;

/// Faults in a pod's period annotations: each must name an existing probe, and have a number from
/// 10 to 3600000.
pub fn check_periods(pod: &Pod) -> Vec<FieldError> {
    let annotations = pod.metadata.annotations.iter().flatten();
    let periods = annotations.filter(|(key, _)| key.starts_with(PERIOD_PREFIX));
    let faults = periods.filter_map(|(key, value)| {
        let path = format!("metadata.annotations[{key}]");
        let message = match (named(pod, key), milliseconds(value)) {
            (None, _) => "names no probe of this pod".to_owned(),
            (Some(_), None) => {
                format!(
                    "{value:?} is not a number of milliseconds from {} to {}",
                    ALLOWED.start(),
                    ALLOWED.end()
                )
            }
            (Some(_), Some(_)) => return None,
        };
        Some(FieldError { path, message })
    });
    faults.collect()
}

/// The periods set by annotations for a container; invalid ones are ignored.
pub(super) fn of(pod: &Pod, container: &Container) -> BTreeMap<Kind, Duration> {
    let Some(annotations) = &pod.metadata.annotations else { return BTreeMap::new() };
    let period = |kind: Kind| {
        let key = format!("{PERIOD_PREFIX}{}.{}{SUFFIX}", container.name, kind.as_str());
        Some((kind, milliseconds(annotations.get(&key)?)?))
    };
    Kind::ALL.into_iter().filter_map(period).collect()
}

fn named(pod: &Pod, key: &str) -> Option<()> {
    let middle = key.strip_prefix(PERIOD_PREFIX)?.strip_suffix(SUFFIX)?;
    let (name, kind) = middle.rsplit_once('.')?;
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    super::probe(super::container(pod, name)?, kind).map(drop)
}

fn milliseconds(value: &str) -> Option<Duration> {
    value.parse().ok().filter(|ms| ALLOWED.contains(ms)).map(Duration::from_millis)
}
