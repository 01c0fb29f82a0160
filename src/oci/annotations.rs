//! Annotations of specs and labels of container records: what the runtime below may see.

use std::collections::HashMap;

use super::{ContainerInput, PauseInput, Settings};
use crate::model::StringMap;
use crate::model::pod::{PodConfig, PodMetadata};

/// Prefix of the annotations that runtimes (Kata, gVisor, the runc shim's grouping) read.
const CRI: &str = "io.kubernetes.cri.";

/// Label prefixes that mean something to containerd, its plugins or podbay. From an image or a
/// pod's author they could make containerd run a program on the host.
const RESERVED_LABELS: [&str; 4] = ["containerd.io/", "io.cri-containerd", "io.podbay", "podbay"];

/// containerd refuses a record with a label whose key and value together are longer.
const MAX_LABEL: usize = 4096;

/// Labels of a container's record in containerd: those of the image, overlaid with those of the
/// caller, without reserved ones and without those too long for containerd. The caller's labels
/// themselves are kept elsewhere, byte for byte.
pub fn record_labels(image_labels: &StringMap, cri_labels: &StringMap) -> StringMap {
    let allowed = |(key, value): &(&String, &String)| {
        !RESERVED_LABELS.iter().any(|reserved| key.starts_with(reserved))
            && key.len() + value.len() <= MAX_LABEL
    };
    image_labels
        .iter()
        .chain(cri_labels)
        .filter(allowed)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Adds the labels by which cAdvisor tells whose a container is, where the caller left them out;
/// `container` is none for a pause container.
pub fn add_identity(labels: &mut StringMap, pod: &PodMetadata, container: Option<&str>) {
    let of_container = container.map(|name| ("container.name", name));
    let of_pod =
        [("pod.name", &*pod.name), ("pod.namespace", &*pod.namespace), ("pod.uid", &*pod.uid)];
    for (key, value) in of_pod.into_iter().chain(of_container) {
        labels.entry(format!("io.kubernetes.{key}")).or_insert_with(|| value.to_owned());
    }
}

/// Annotations of a container's spec.
pub(super) fn of_container(input: &ContainerInput<'_>) -> HashMap<String, String> {
    let (pod, own) = (&input.pod.annotations, &input.config.annotations);
    let mut map = passed(input.settings, &[pod, own]);
    // In the order of containerd: what the container says wins.
    map.extend(matching(&input.handler.pod_annotations, pod));
    map.extend(matching(&input.handler.container_annotations, own));
    of_pod(&mut map, input.pod_id.as_str(), input.pod);
    set(&mut map, "container-type", "container");
    set(&mut map, "container-name", &input.config.metadata.name);
    set(&mut map, "image-name", image_name(input));
    map
}

/// Annotations of pause's spec.
pub(super) fn of_pause(input: &PauseInput<'_>) -> HashMap<String, String> {
    let mut map = passed(input.settings, &[&input.pod.annotations]);
    map.extend(matching(&input.handler.pod_annotations, &input.pod.annotations));
    of_pod(&mut map, input.id.as_str(), input.pod);
    set(&mut map, "container-type", "sandbox");
    if let Some(folder) = &input.pod.log_directory {
        set(&mut map, "sandbox-log-directory", &folder.to_string_lossy());
    }
    set(&mut map, "podsandbox.image-name", input.image_name);
    if let Some(sum) = &input.pod.resources {
        set(&mut map, "sandbox-cpu-period", &sum.cpu_period.to_string());
        set(&mut map, "sandbox-cpu-quota", &sum.cpu_quota.to_string());
        set(&mut map, "sandbox-cpu-shares", &sum.cpu_shares.to_string());
        set(&mut map, "sandbox-memory", &sum.memory_limit.to_string());
    }
    map
}

/// The reference that the pod's author wrote, when the caller says so.
fn image_name<'a>(input: &ContainerInput<'a>) -> &'a str {
    match input.config.image.user_specified_image.as_str() {
        "" => input.image_name,
        written => written,
    }
}

/// Author's annotations on the operator's list; a later map wins. Names are compared whole: a
/// prefix match would let an author reach runtime settings that nobody listed.
fn passed(settings: &Settings, sources: &[&StringMap]) -> HashMap<String, String> {
    sources
        .iter()
        .flat_map(|source| source.iter())
        .filter(|(key, _)| settings.annotation_allow_list.contains(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Annotations that a handler's patterns let through. As in containerd, `*` and `?` stop at a
/// slash, so `example.com/*` opens one name space and nothing below it.
fn matching<'a>(
    patterns: &'a [String],
    annotations: &'a StringMap,
) -> impl Iterator<Item = (String, String)> + 'a {
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let patterns: Vec<_> = patterns.iter().filter_map(|p| glob::Pattern::new(p).ok()).collect();
    annotations
        .iter()
        .filter(move |(key, _)| patterns.iter().any(|p| p.matches_with(key, options)))
        .map(|(key, value)| (key.clone(), value.clone()))
}

fn of_pod(map: &mut HashMap<String, String>, id: &str, pod: &PodConfig) {
    set(map, "sandbox-id", id);
    set(map, "sandbox-name", &pod.metadata.name);
    set(map, "sandbox-namespace", &pod.metadata.namespace);
    set(map, "sandbox-uid", &pod.metadata.uid);
}

fn set(map: &mut HashMap<String, String>, name: &str, value: &str) {
    map.insert(format!("{CRI}{name}"), value.to_owned());
}

#[cfg(test)]
mod tests;
