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
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> StringMap {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn reserved_labels_reach_no_record() {
        let hostile = map(&[
            ("containerd.io/restart.loguri", "binary:///bin/sh"),
            ("containerd.io/gc.root", "x"),
            ("io.cri-containerd.kind", "sandbox"),
            ("io.podbay/owner", "x"),
            ("podbay.owner", "x"),
            ("long", &"x".repeat(4096)),
            ("maintainer", "someone"),
        ]);
        let kept = map(&[("maintainer", "someone")]);
        assert_eq!(record_labels(&hostile, &StringMap::new()), kept);
        assert_eq!(record_labels(&StringMap::new(), &hostile), kept);
    }

    #[test]
    fn identity_is_added_where_the_caller_left_it_out() {
        let pod = PodMetadata {
            name: "web".into(),
            namespace: "test".into(),
            uid: "u-1".into(),
            attempt: 0,
        };
        let mut labels = map(&[("io.kubernetes.pod.name", "callers")]);
        add_identity(&mut labels, &pod, Some("app"));
        let wanted = map(&[
            ("io.kubernetes.container.name", "app"),
            ("io.kubernetes.pod.name", "callers"),
            ("io.kubernetes.pod.namespace", "test"),
            ("io.kubernetes.pod.uid", "u-1"),
        ]);
        assert_eq!(labels, wanted);
        let mut labels = StringMap::new();
        add_identity(&mut labels, &pod, None);
        assert!(!labels.contains_key("io.kubernetes.container.name") && labels.len() == 3);
    }

    #[test]
    fn labels_of_the_caller_win() {
        let labels = record_labels(&map(&[("a", "image"), ("b", "1")]), &map(&[("a", "caller")]));
        assert_eq!(labels, map(&[("a", "caller"), ("b", "1")]));
    }

    #[test]
    fn a_handlers_patterns_stop_at_slashes_and_the_container_wins() {
        let mut f = Fixture::new();
        f.handler.pod_annotations = vec!["com.example/*".to_owned(), "exact".to_owned()];
        f.handler.container_annotations = vec!["com.example/?".to_owned()];
        f.pod.annotations = map(&[
            ("com.example/a", "pod"),
            ("com.example/long", "pod"),
            ("com.example/a/b", "x"),
            ("com.example.evil/a", "x"),
            ("exact", "pod"),
            ("exact-not", "x"),
        ]);
        f.config.annotations =
            map(&[("com.example/a", "own"), ("com.example/cc", "x"), ("exact", "x")]);
        let listed = |got: HashMap<String, String>| -> StringMap {
            got.into_iter().filter(|(key, _)| !key.starts_with(CRI)).collect()
        };
        let container =
            map(&[("com.example/a", "own"), ("com.example/long", "pod"), ("exact", "pod")]);
        assert_eq!(listed(of_container(&f.input())), container);
        let pause = map(&[("com.example/a", "pod"), ("com.example/long", "pod"), ("exact", "pod")]);
        assert_eq!(listed(of_pause(&f.pause_input())), pause);
    }

    #[test]
    fn only_listed_annotations_pass_and_only_by_whole_name() {
        let mut f = Fixture::new();
        f.settings.annotation_allow_list = vec!["io.example/allowed".to_owned()];
        f.pod.annotations = map(&[
            ("io.example/allowed", "pod"),
            ("io.example/allowed-not", "x"),
            ("io.example/allowed/podsandbox-sleep", "x"),
            ("org.systemd.property.ExecStart", "x"),
            ("run.oci.handler", "x"),
            ("io.containerd.x", "x"),
            ("cdi.k8s.io/x", "x"),
        ]);
        f.config.annotations = map(&[("io.example/allowed", "container"), ("module.wasm", "x")]);
        let got = of_container(&f.input());
        let others: Vec<_> = got.iter().filter(|(key, _)| !key.starts_with(CRI)).collect();
        assert_eq!(others, [(&"io.example/allowed".to_owned(), &"container".to_owned())]);
    }

    #[test]
    fn a_listed_annotation_cannot_pose_as_ours() {
        let mut f = Fixture::new();
        f.settings.annotation_allow_list = vec![format!("{CRI}sandbox-id")];
        f.config.annotations = map(&[("io.kubernetes.cri.sandbox-id", "another")]);
        assert_eq!(of_container(&f.input())[&format!("{CRI}sandbox-id")], f.pod_id.as_str());
    }

    #[test]
    fn the_image_is_named_as_its_author_wrote_it() {
        let mut f = Fixture::new();
        let name = |f: &Fixture| of_container(&f.input())[&format!("{CRI}image-name")].clone();
        assert_eq!(name(&f), "docker.io/library/web:1");
        f.config.image.user_specified_image = "web:1".to_owned();
        assert_eq!(name(&f), "web:1");
    }
}
