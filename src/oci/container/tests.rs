use serde_json::{Value, json};

use super::super::fixture::Fixture;
use super::super::{pause_spec, spec_json};
use super::*;
use crate::backend::CgroupVersion;
use crate::model::resources::Resources;
use crate::model::security::{NamespaceMode, SecurityProfile, UserNamespace};

fn spec_of(f: &Fixture) -> Value {
    spec_json(&container_spec(&f.input()).unwrap())
}

fn pretty(f: &Fixture) -> String {
    serde_json::to_string_pretty(&spec_of(f)).unwrap()
}

fn refused(f: &Fixture) -> String {
    match container_spec(&f.input()) {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plain_container() {
    insta::assert_snapshot!(pretty(&Fixture::new()));
}

#[test]
fn a_privileged_container() {
    let mut f = Fixture::new().privileged();
    f.config.security.masked_paths = vec!["/proc/kcore".to_owned()];
    f.config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    f.devices = vec![(
        DeviceNode {
            path: "/dev/fuse".to_owned(),
            kind: 'c',
            major: 10,
            minor: 229,
            mode: 0o666,
            ..DeviceNode::default()
        },
        "rwm".to_owned(),
    )];
    insta::assert_snapshot!(pretty(&f));
}

#[test]
fn a_container_in_the_hosts_namespaces_on_v1() {
    let mut f = Fixture::new().host_modes();
    f.facts.cgroup = CgroupVersion::V1;
    f.config.security.readonly_rootfs = true;
    f.config.security.no_new_privs = true;
    f.config.tty = true;
    f.config.resources = Resources {
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        memory_limit: 64 << 20,
        oom_score_adj: -900,
        ..Resources::default()
    };
    insta::assert_snapshot!(pretty(&f));
}

/// Whatever makes the cgroups of the other handlers.
#[test]
fn the_handler_says_who_makes_cgroups() {
    let mut f = Fixture::new();
    for (systemd, parent, ours, pauses) in [
        (false, "/a/pod1", format!("/a/pod1/{}", f.id), format!("/a/pod1/{}", f.pod_id)),
        (
            true,
            "/a.slice",
            format!("a.slice:cri-containerd:{}", f.id),
            format!("a.slice:cri-containerd:{}", f.pod_id),
        ),
    ] {
        f.handler.systemd_cgroup = systemd;
        f.pod.cgroup_parent = parent.to_owned();
        let pause = spec_json(&pause_spec(&f.pause_input()).unwrap());
        assert_eq!(spec_of(&f)["linux"]["cgroupsPath"], ours);
        assert_eq!(pause["linux"]["cgroupsPath"], pauses);
    }
}

#[test]
fn nothing_of_the_crates_own_defaults_is_left() {
    let text = spec_of(&Fixture::new()).to_string();
    for foreign in ["youki", "RLIMIT", "maskedPaths", "readonlyPaths", "\"hooks\"", "hostname\":"] {
        assert!(!text.contains(foreign), "{foreign}");
    }
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let first = spec_of(&Fixture::new()).to_string();
    for _ in 0..20 {
        assert_eq!(spec_of(&Fixture::new()).to_string(), first);
    }
}

#[test]
fn hidden_paths_are_exactly_the_callers() {
    let mut f = Fixture::new();
    f.config.security.masked_paths = vec!["/proc/kcore".to_owned(), "/sys/firmware".to_owned()];
    f.config.security.readonly_paths = vec!["/proc/sys".to_owned()];
    let spec = spec_of(&f);
    assert_eq!(spec["linux"]["maskedPaths"], json!(["/proc/kcore", "/sys/firmware"]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!(["/proc/sys"]));
    f.config.security.readonly_paths.push("proc/bus".to_owned());
    assert_eq!(refused(&f), "linux.security_context.readonly_paths[1]");
}

#[test]
fn a_privileged_container_needs_a_privileged_pod() {
    let mut f = Fixture::new().privileged();
    f.pod.security.privileged = false;
    assert_eq!(refused(&f), "linux.security_context.privileged");
}

#[test]
fn a_user_namespace_is_the_pods_with_its_ids() {
    let mut f = Fixture::new().user_namespace();
    let linux = &spec_of(&f)["linux"];
    let line = |host| json!([{"containerID": 0, "hostID": host, "size": 65536}]);
    assert_eq!(linux["uidMappings"], line(200_000));
    assert_eq!(linux["gidMappings"], line(300_000));
    // The cgroup is below the pod's, as for any container.
    assert_eq!(linux["cgroupsPath"], spec_of(&Fixture::new())["linux"]["cgroupsPath"]);
    f.user.uid = 65536;
    assert_eq!(refused(&f), "linux.security_context");
    let mut f = Fixture::new();
    f.config.security.namespaces.userns =
        Some(UserNamespace { mode: NamespaceMode::Pod, ..UserNamespace::default() });
    assert_eq!(refused(&f), "linux.security_context.namespace_options.userns_options");
    f.config.security.namespaces.userns =
        Some(UserNamespace { mode: NamespaceMode::Node, ..UserNamespace::default() });
    assert!(spec_of(&f)["linux"].get("uidMappings").is_none());
}

#[test]
fn the_default_filter_follows_the_capabilities_of_the_container() {
    let mut f = Fixture::new();
    f.config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    let text = |f: &Fixture| spec_of(f)["linux"]["seccomp"].to_string();
    assert!(text(&f).contains("\"chroot\""), "CAP_SYS_CHROOT is among the defaults");
    f.config.security.capabilities.drop = vec!["ALL".to_owned()];
    assert!(!text(&f).contains("\"chroot\""));
}

#[test]
fn one_containers_secrets_do_not_reach_the_next() {
    let mut first = Fixture::new();
    first.config.envs.push(("SECRET".to_owned(), "s3cret".to_owned()));
    assert!(spec_of(&first).to_string().contains("s3cret"));
    assert!(!spec_of(&Fixture::new()).to_string().contains("s3cret"));
}
