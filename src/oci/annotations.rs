//! Annotations of specs and labels of container records: what containerd and OCI runtimes may see.

use std::collections::HashMap;

use super::{ContainerInput, PauseInput, Settings};
use crate::model::StringMap;
use crate::model::pod::{PodConfig, PodMetadata};

/// Prefix of the annotations read by runtimes (Kata, gVisor, the runc shim's grouping).
const CRI: &str = "io.kubernetes.cri.";

/// Prefix of the annotations read by snapshotters.
const SNAPSHOT: &str = "containerd.io/snapshot/";

/// Label prefixes with a meaning for containerd, its plugins or podbay. If an image or a pod's
/// author could set them, they could make containerd run a program on the host.
const RESERVED_LABELS: [&str; 4] = ["containerd.io/", "io.cri-containerd", "io.podbay", "podbay"];

/// Maximum length of a label, key and value together; containerd refuses a record with a longer
/// one.
const MAX_LABEL: usize = 4096;

/// Labels of a container's record in containerd: the image's, overlaid with the caller's, without
/// reserved labels and those too long for containerd. The caller's labels are stored unchanged
/// elsewhere.
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

/// Labels of the snapshot of a container or pause container, for its snapshotter: the annotations
/// meant for it, without the mappings of a user namespace, which the pod decides.
pub fn snapshot_labels(annotations: &StringMap) -> StringMap {
    let wanted = |key: &str| {
        let name = key.strip_prefix(SNAPSHOT);
        name.is_some_and(|name| !matches!(name, "uidmapping" | "gidmapping"))
    };
    let wanted = annotations.iter().filter(|(key, _)| wanted(key));
    wanted.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Adds the labels by which cAdvisor identifies a container, unless the caller set them;
/// `container` is `None` for a pause container.
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
    // In containerd's order: the container's annotations win over the pod's.
    map.extend(matching(&input.handler.pod_annotations, pod));
    map.extend(matching(&input.handler.container_annotations, own));
    of_pod(&mut map, input.pod_id.as_str(), input.pod);
    set(&mut map, "container-type", "container");
    set(&mut map, "container-name", &input.config.metadata.name);
    set(&mut map, "image-name", image_name(input));
    map
}

/// Annotations of the pause container's spec.
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

/// The image reference as the pod's author wrote it, if the caller passed it on.
fn image_name<'a>(input: &ContainerInput<'a>) -> &'a str {
    match input.config.image.user_specified_image.as_str() {
        "" => input.image_name,
        written => written,
    }
}

/// The author's annotations that are on the operator's allow list; a later map wins. Names are
/// compared whole: with prefix matching an author could reach runtime settings that nobody listed.
fn passed(settings: &Settings, sources: &[&StringMap]) -> HashMap<String, String> {
    sources
        .iter()
        .flat_map(|source| source.iter())
        .filter(|(key, _)| settings.annotation_allow_list.contains(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Annotations that match a handler's patterns. As in containerd, `*` and `?` do not match a slash,
/// so `example.com/*` allows one level and nothing below it.
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
