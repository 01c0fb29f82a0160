//! Each kind of change between two pods.

use super::super::tests::{EXAMPLE, completed};
use k8s_openapi::api::core::v1::EphemeralContainer;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::*;
use crate::pod::Source;

fn example() -> Pod {
    let mut given = completed(EXAMPLE, Source::Api).unwrap_or_else(|error| panic!("{error}"));
    Pod::clone(&given.remove(0).pod)
}

fn after(edit: impl FnOnce(&mut Pod, &mut PodSpec)) -> Difference {
    let old = example();
    let mut new = old.clone();
    let mut spec = new.spec.take().expect("a spec");
    edit(&mut new, &mut spec);
    new.spec = Some(spec);
    change(&old, &new)
}

fn replace(paths: &[&str]) -> Difference {
    Difference::Replace(paths.iter().map(|&path| path.to_owned()).collect())
}

#[test]
fn what_the_server_writes_is_no_change() {
    let none = after(|pod, _| {
        pod.metadata.uid = Some("another".to_owned());
        pod.metadata.resource_version = Some("7".to_owned());
        pod.metadata.creation_timestamp = None;
        let notes = pod.metadata.annotations.get_or_insert_default();
        notes.insert("kubernetes.io/config.seen".to_owned(), "now".to_owned());
    });
    assert_eq!(none, Difference::None);
    assert_eq!(after(|_, spec| spec.host_pid = Some(false)), Difference::None);
    assert_eq!(after(|_, spec| spec.image_pull_secrets = Some(Vec::new())), Difference::None);
}

#[test]
fn these_change_in_place() {
    type Edit = fn(&mut Pod, &mut PodSpec);
    let edits: [(&str, Edit); 8] = [
        ("labels", |pod, _| pod.metadata.labels = None),
        ("annotations", |pod, _| {
            pod.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        }),
        ("image", |_, spec| spec.containers[0].image = Some("web:2".to_owned())),
        ("init image", |_, spec| {
            let init = spec.init_containers.as_mut().expect("init containers");
            init[0].image = Some("setup:2".to_owned());
        }),
        ("resources", |_, spec| {
            let resources = spec.containers[0].resources.as_mut().expect("resources");
            let limits = resources.limits.as_mut().expect("limits");
            limits.insert("cpu".to_owned(), Quantity("3".to_owned()));
        }),
        ("deadline", |_, spec| spec.active_deadline_seconds = Some(60)),
        ("tolerations", |_, spec| {
            spec.tolerations = Some(vec![Toleration::default()]);
        }),
        ("ephemeral containers", |_, spec| {
            spec.ephemeral_containers = Some(vec![Default::default()]);
        }),
    ];
    for (name, edit) in edits {
        assert_eq!(after(edit), Difference::InPlace, "{name}");
    }
}

#[test]
fn these_need_another_pod() {
    type Edit = fn(&mut Pod, &mut PodSpec);
    let edits: [(&[&str], Edit); 7] = [
        (&["spec.containers[0].command"], |_, spec| {
            spec.containers[0].command = Some(vec!["x".to_owned()]);
        }),
        (&["spec.hostNetwork", "spec.restartPolicy"], |_, spec| {
            spec.restart_policy = Some("Never".to_owned());
            spec.host_network = None;
        }),
        (&["spec.containers"], |_, spec| {
            spec.containers.pop();
        }),
        (&["spec.containers[1].image", "spec.containers[1].name"], |_, spec| {
            spec.containers[1].name = "other".to_owned();
            spec.containers[1].image = Some("other:1".to_owned());
        }),
        (&["spec.terminationGracePeriodSeconds"], |_, spec| {
            spec.termination_grace_period_seconds = Some(1);
        }),
        (&["spec.volumes[1].hostPath.path"], |_, spec| {
            let volumes = spec.volumes.as_mut().expect("volumes");
            volumes[1].host_path.as_mut().expect("a path").path = "/other".to_owned();
        }),
        (&["metadata.ownerReferences"], |pod, _| {
            pod.metadata.owner_references = Some(vec![Default::default()]);
        }),
    ];
    for (paths, edit) in edits {
        assert_eq!(after(edit), replace(paths));
    }
}

#[test]
fn a_deadline_only_comes_nearer_and_tolerations_only_grow() {
    let mut old = example();
    let spec = old.spec.as_mut().expect("a spec");
    spec.active_deadline_seconds = Some(60);
    spec.termination_grace_period_seconds = Some(-1);
    let toleration = |key: &str| Toleration { key: Some(key.to_owned()), ..Toleration::default() };
    spec.tolerations = Some(vec![toleration("a")]);
    let changed = |edit: fn(&mut PodSpec)| {
        let mut new = old.clone();
        edit(new.spec.as_mut().expect("a spec"));
        change(&old, &new)
    };
    assert_eq!(changed(|spec| spec.active_deadline_seconds = Some(30)), Difference::InPlace);
    let deadline = replace(&["spec.activeDeadlineSeconds"]);
    assert_eq!(changed(|spec| spec.active_deadline_seconds = Some(90)), deadline);
    assert_eq!(changed(|spec| spec.active_deadline_seconds = None), deadline);
    assert_eq!(
        changed(|spec| spec.termination_grace_period_seconds = Some(1)),
        Difference::InPlace
    );
    let tolerations = changed(|spec| spec.tolerations = Some(vec![Toleration::default()]));
    assert_eq!(tolerations, replace(&["spec.tolerations[0].key"]));
    assert_eq!(changed(|spec| spec.tolerations = None), replace(&["spec.tolerations"]));
}

#[test]
fn no_limit_is_lifted_in_place() {
    let limits_gone = |spec: &mut PodSpec| {
        let resources = spec.containers[0].resources.as_mut().expect("resources");
        resources.limits.as_mut().expect("limits").remove("cpu");
    };
    let changed = after(|_, spec| limits_gone(spec));
    assert_eq!(changed, replace(&["spec.containers[0].resources.limits.cpu"]));
}

#[test]
fn ephemeral_containers_are_only_added() {
    let debugger = |name: &str| EphemeralContainer {
        name: name.to_owned(),
        image: Some("tools:1".to_owned()),
        ..EphemeralContainer::default()
    };
    let mut old = example();
    old.spec.as_mut().expect("a spec").ephemeral_containers = Some(vec![debugger("a")]);
    let with = |list: Option<Vec<EphemeralContainer>>| {
        let mut new = old.clone();
        new.spec.as_mut().expect("a spec").ephemeral_containers = list;
        keep_ephemeral(&old, &mut new);
        change(&old, &new)
    };
    assert_eq!(with(Some(vec![debugger("a"), debugger("b")])), Difference::InPlace);
    for silent in [None, Some(Vec::new())] {
        assert_eq!(with(silent), Difference::None, "nothing is said of them");
    }
    let other = EphemeralContainer { image: Some("tools:2".to_owned()), ..debugger("a") };
    assert_eq!(with(Some(vec![other])), replace(&["spec.ephemeralContainers[0].image"]));
    let first = with(Some(vec![debugger("b"), debugger("a")]));
    assert_eq!(first, replace(&["spec.ephemeralContainers"]));
    let another = with(Some(vec![debugger("b")]));
    assert_eq!(another, replace(&["spec.ephemeralContainers[0].name"]));
}
