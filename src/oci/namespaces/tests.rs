use super::super::fixture::Fixture;
use super::*;

fn listed(list: &[LinuxNamespace]) -> Vec<String> {
    list.iter()
        .map(|ns| match ns.path() {
            Some(path) => format!("{}={}", ns.typ(), path.display()),
            None => ns.typ().to_string(),
        })
        .collect()
}

#[test]
fn a_container_joins_its_pod() {
    let f = Fixture::new();
    assert_eq!(
        listed(&of_container(&f.input()).unwrap()),
        [
            "mnt",
            "net=/run/netns/cni-1",
            "uts=/proc/4242/ns/uts",
            "ipc=/proc/4242/ns/ipc",
            "pid=/proc/4242/ns/pid",
            "cgroup",
        ]
    );
}

#[test]
fn pid_modes() {
    use NamespaceMode::{Container, Node, Pod, Target};
    for (pod_mode, mode, expected) in [
        (Pod, Pod, Some("pid=/proc/4242/ns/pid")),
        (Container, Pod, Some("pid=/proc/4242/ns/pid")),
        (Pod, Container, Some("pid")),
        (Pod, Target, Some("pid=/proc/77/ns/pid")),
        (Node, Node, None),
        (Node, Pod, None),
        (Node, Container, Some("pid")),
        (Pod, Node, Some("pid=/proc/4242/ns/pid")),
    ] {
        let mut f = Fixture::new();
        f.pod.security.namespaces.pid = pod_mode;
        f.config.security.namespaces.pid = mode;
        f.namespaces.target_pid = Some(77);
        let list = listed(&of_container(&f.input()).unwrap());
        let pid = list.iter().find(|ns| ns.starts_with("pid")).map(String::as_str);
        assert_eq!(pid, expected, "pod {pod_mode:?}, container {mode:?}");
    }
}

#[test]
fn a_target_that_does_not_run_is_refused() {
    let mut f = Fixture::new();
    f.config.security.namespaces.pid = NamespaceMode::Target;
    let error = of_container(&f.input()).unwrap_err();
    assert!(matches!(error, Error::Invalid { field, .. } if field.ends_with("target_id")));
}

#[test]
fn host_modes_name_nothing() {
    let f = Fixture::new().host_modes();
    assert_eq!(listed(&of_container(&f.input()).unwrap()), ["mnt", "cgroup"]);
    assert_eq!(listed(&of_pause(&f.pod, None, None)), ["mnt"]);
}

#[test]
fn pause_always_has_a_pid_namespace_of_its_own_except_on_the_host() {
    for mode in [NamespaceMode::Pod, NamespaceMode::Container] {
        let mut f = Fixture::new();
        f.pod.security.namespaces.pid = mode;
        assert_eq!(
            listed(&of_pause(&f.pod, Some(Path::new("/run/netns/cni-1")), None)),
            ["mnt", "pid", "ipc", "net=/run/netns/cni-1", "uts"]
        );
    }
}

#[test]
fn the_cgroup_tree_is_hidden_on_v2_only_and_not_from_the_privileged() {
    let mut f = Fixture::new();
    f.facts.cgroup = CgroupVersion::V1;
    assert!(!listed(&of_container(&f.input()).unwrap()).contains(&"cgroup".to_owned()));
    let f = Fixture::new().privileged();
    assert!(!listed(&of_container(&f.input()).unwrap()).contains(&"cgroup".to_owned()));
}

fn line(host_id: u32) -> IdMapping {
    IdMapping { host_id, container_id: 0, length: 65536 }
}

#[test]
fn pause_and_containers_join_the_pods_user_namespace() {
    let f = Fixture::new().user_namespace();
    let pin = Path::new("/pod/userns");
    assert_eq!(listed(&of_container(&f.input()).unwrap())[1], "user=/pod/userns");
    assert_eq!(
        listed(&of_pause(&f.pod, None, Some(pin))),
        ["mnt", "user=/pod/userns", "pid", "ipc"]
    );
}

#[test]
fn a_pods_user_namespace_needs_the_handler_and_own_namespaces() {
    let mut f = Fixture::new().user_namespace();
    assert_eq!(check_pod_userns(&f.pod, &f.features), Ok(()));
    f.features.user_namespaces = false;
    let refused = check_pod_userns(&f.pod, &f.features);
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    for name in ["pid", "ipc"] {
        let mut f = Fixture::new().user_namespace();
        let modes = &mut f.pod.security.namespaces;
        *(if name == "pid" { &mut modes.pid } else { &mut modes.ipc }) = NamespaceMode::Node;
        let refused = check_pod_userns(&f.pod, &f.features);
        assert!(
            matches!(&refused, Err(Error::Invalid { field, .. }) if field.ends_with(name)),
            "{refused:?}"
        );
    }
}

#[test]
fn a_container_has_the_user_namespace_of_its_pod() {
    let mut f = Fixture::new().user_namespace();
    let check = |f: &Fixture| check_container_userns(&f.pod, &f.config.security.namespaces);
    assert_eq!(check(&f), Ok(()));
    let same = f.config.security.namespaces.userns.clone().unwrap();
    for other in [
        None,
        Some(UserNamespace { mode: NamespaceMode::Node, ..UserNamespace::default() }),
        Some(UserNamespace { uids: vec![line(1)], ..same.clone() }),
        Some(UserNamespace { gids: vec![line(1)], ..same.clone() }),
        Some(UserNamespace { uids: vec![line(1), line(2)], ..same.clone() }),
        Some(UserNamespace { gids: Vec::new(), ..same.clone() }),
    ] {
        f.config.security.namespaces.userns = other;
        assert!(check(&f).is_err(), "{:?}", f.config.security.namespaces.userns);
    }
    // No options mean the node's namespace.
    f.pod.security.namespaces.userns = None;
    f.config.security.namespaces.userns =
        Some(UserNamespace { mode: NamespaceMode::Node, ..UserNamespace::default() });
    assert_eq!(check(&f), Ok(()));
    f.config.security.namespaces.userns = Some(same);
    assert!(check(&f).is_err(), "a container cannot have what its pod has not");
}

#[test]
fn users_must_be_in_the_namespace() {
    let f = Fixture::new().user_namespace();
    assert_eq!(check_ids(&f.pod, 65535, 65535, &[0, 65535]), Ok(()));
    for (uid, gid, group) in [(65536, 0, 0), (0, 65536, 0), (0, 0, 65536)] {
        assert!(check_ids(&f.pod, uid, gid, &[group]).is_err(), "{uid} {gid} {group}");
    }
    assert_eq!(check_ids(&Fixture::new().pod, 65536, 1 << 20, &[1 << 20]), Ok(()));
}
