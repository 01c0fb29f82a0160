//! Compares an existing pod with the requested one.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements, Toleration};
use serde_json::Value;

use crate::pod::translate::qos;

/// The kind of difference between two pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// They are the same.
    None,
    /// Can be changed while the pod runs.
    InPlace,
    /// These fields cannot be changed in a running pod, which has to be recreated.
    Replace(Vec<String>),
}

/// Compares two pods, both with defaults. Fields set by the server are ignored (uid, times,
/// versions, and the status except the conditions of readiness gates).
///
/// Can be changed in place: labels and annotations, conditions of readiness gates, images,
/// resources of containers and of the pod, added tolerations and ephemeral containers, a deadline
/// that is set or shortened, and a negative grace period that becomes 1.
pub fn change(old: &Pod, new: &Pod) -> Difference {
    let mut paths = Vec::new();
    let (old_meta, new_meta) = (&old.metadata, &new.metadata);
    let nothing = PodSpec::default();
    let old_spec = old.spec.as_ref().unwrap_or(&nothing);
    let new_spec = new.spec.as_ref().unwrap_or(&nothing);
    let allowed = with_allowed(old_spec, new_spec);
    if old_meta.owner_references != new_meta.owner_references {
        paths.push("metadata.ownerReferences".to_owned());
    }
    let new_value = value(new_spec);
    differences(&value(&allowed), &new_value, "spec", &mut paths);
    if !paths.is_empty() {
        return Difference::Replace(paths);
    }
    differences(&value(old_spec), &new_value, "spec", &mut paths);
    // The pod's cgroup is that of its QoS class, and limits can never be removed.
    let resized = |path: &String| path.contains(".resources");
    if paths.iter().any(resized) && (qos(old_spec) != qos(new_spec) || lifts(old_spec, new_spec)) {
        return Difference::Replace(paths.into_iter().filter(resized).collect());
    }
    let same = paths.is_empty()
        && filled(&old_meta.labels) == filled(&new_meta.labels)
        && notes(old) == notes(new)
        && super::gates(old) == super::gates(new);
    if same { Difference::None } else { Difference::InPlace }
}

/// Copies the old pod's ephemeral containers to a new one that has none: whoever applies a manifest
/// again does not intend to remove containers added since.
pub fn keep_ephemeral(old: &Pod, new: &mut Pod) {
    let old = old.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref());
    if let Some(spec) = &mut new.spec
        && filled(&spec.ephemeral_containers).is_none()
    {
        spec.ephemeral_containers = old.cloned();
    }
}

/// The old spec with all changes from the new one that are possible in place.
fn with_allowed(old: &PodSpec, new: &PodSpec) -> PodSpec {
    let mut allowed = old.clone();
    let old_init = allowed.init_containers.iter_mut().flatten();
    for (old, new) in old_init.zip(new.init_containers.iter().flatten()) {
        of_container(old, new);
    }
    for (old, new) in allowed.containers.iter_mut().zip(&new.containers) {
        of_container(old, new);
    }
    of_resources(&mut allowed.resources, &new.resources);
    if deadline_comes_nearer(old.active_deadline_seconds, new.active_deadline_seconds) {
        allowed.active_deadline_seconds = new.active_deadline_seconds;
    }
    let grace = (old.termination_grace_period_seconds, new.termination_grace_period_seconds);
    if matches!(grace, (Some(..0), Some(1))) {
        allowed.termination_grace_period_seconds = Some(1);
    }
    if only_added(filled(&old.tolerations), filled(&new.tolerations)) {
        allowed.tolerations.clone_from(&new.tolerations);
    }
    let debug = (filled(&old.ephemeral_containers), filled(&new.ephemeral_containers));
    if let (before, Some(after)) = debug
        && before.is_none_or(|before| after.starts_with(before))
    {
        allowed.ephemeral_containers.clone_from(&new.ephemeral_containers);
    }
    allowed
}

/// Whether a CPU or memory limit was removed.
fn lifts(old: &PodSpec, new: &PodSpec) -> bool {
    let lists = |spec: &PodSpec| {
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let own = all.map(|container| container.resources.clone());
        own.chain([spec.resources.clone()]).collect::<Vec<_>>()
    };
    let has = |list: &Option<ResourceRequirements>, name: &str| {
        let limits = list.as_ref().and_then(|list| list.limits.as_ref());
        limits.is_some_and(|limits| limits.contains_key(name))
    };
    lists(old).iter().zip(&lists(new)).any(|(old, new)| {
        ["cpu", "memory"].into_iter().any(|name| has(old, name) && !has(new, name))
    })
}

fn of_container(old: &mut Container, new: &Container) {
    if old.name == new.name {
        old.image.clone_from(&new.image);
        of_resources(&mut old.resources, &new.resources);
    }
}

fn of_resources(old: &mut Option<ResourceRequirements>, new: &Option<ResourceRequirements>) {
    // Amounts are equal even if written differently; both are in canonical form by now.
    if let (Some(old), Some(new)) = (old, new) {
        old.limits.clone_from(&new.limits);
        old.requests.clone_from(&new.requests);
    }
}

fn deadline_comes_nearer(old: Option<i64>, new: Option<i64>) -> bool {
    match (old, new) {
        (None, Some(_)) => true,
        (Some(old), Some(new)) => new <= old,
        _ => false,
    }
}

/// Whether all old tolerations still exist.
fn only_added(old: Option<&Vec<Toleration>>, new: Option<&Vec<Toleration>>) -> bool {
    let (old, new) = (old.into_iter().flatten(), new.map_or(&[][..], Vec::as_slice));
    old.into_iter().all(|toleration| new.contains(toleration))
}

fn notes(pod: &Pod) -> Option<std::collections::BTreeMap<String, String>> {
    let mut notes = pod.metadata.annotations.clone().unwrap_or_default();
    // Records when it was read, not what is wanted.
    notes.remove("kubernetes.io/config.seen");
    Some(notes).filter(|notes| !notes.is_empty())
}

/// `None` and empty are equivalent.
fn filled<T: Emptiness>(field: &Option<T>) -> Option<&T> {
    field.as_ref().filter(|field| !field.nothing())
}

trait Emptiness {
    fn nothing(&self) -> bool;
}

impl<T> Emptiness for Vec<T> {
    fn nothing(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Emptiness for std::collections::BTreeMap<K, V> {
    fn nothing(&self) -> bool {
        self.is_empty()
    }
}

fn value(spec: &PodSpec) -> Value {
    // All map keys are text, so this cannot fail.
    serde_json::to_value(spec).unwrap_or_default()
}

/// Paths of the innermost values that differ; lists of different lengths differ as a whole.
fn differences(old: &Value, new: &Value, path: &str, paths: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let (old, new) = (old.get(key), new.get(key));
                let (old, new) = (old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null));
                differences(old, new, &format!("{path}.{key}"), paths);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                differences(old, new, &format!("{path}[{at}]"), paths);
            }
        }
        (old, new) if nothing(old) && nothing(new) => {}
        (old, new) if old != new => paths.push(path.to_owned()),
        _ => {}
    }
}

/// Whether Kubernetes treats this value as a missing field.
fn nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
    }
}

#[cfg(test)]
mod tests;
