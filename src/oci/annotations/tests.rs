use super::*;
use crate::oci::fixture::Fixture;

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
    let pod =
        PodMetadata { name: "web".into(), namespace: "test".into(), uid: "u-1".into(), attempt: 0 };
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
fn annotations_for_the_snapshotter_reach_it() {
    let given = map(&[
        ("containerd.io/snapshot/nydus-proxy-mode", "true"),
        ("containerd.io/snapshot/uidmapping", "0:0:4294967295"),
        ("containerd.io/snapshot/gidmapping", "0:0:4294967295"),
        ("containerd.io/snapshot.ref", "x"),
        ("containerd.io/gc.root", "x"),
        ("com.example/snapshot", "x"),
    ]);
    let wanted = map(&[("containerd.io/snapshot/nydus-proxy-mode", "true")]);
    assert_eq!(snapshot_labels(&given), wanted);
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
    let container = map(&[("com.example/a", "own"), ("com.example/long", "pod"), ("exact", "pod")]);
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
