//! Tables of requests that must be refused with the field's name, and conversions of valid ones.

mod outwards;
mod refused;

use super::*;
use crate::model::security::{NamespaceMode, SecurityProfile, SupplementalGroupsPolicy};
use crate::proto::runtime::v1;

/// A minimal valid pod.
fn pod() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 2,
        }),
        ..Default::default()
    }
}

/// A minimal valid container.
fn container() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 1 }),
        image: Some(v1::ImageSpec { image: "busybox".into(), ..Default::default() }),
        ..Default::default()
    }
}

fn context(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

fn pod_context(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxSandboxSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

#[test]
fn a_small_pod_has_the_defaults_of_the_wire() {
    let config = pod_config(Some(pod())).unwrap();
    assert_eq!(config.metadata.attempt, 2);
    assert_eq!(config.security.namespaces.network, NamespaceMode::Pod);
    assert_eq!(config.log_directory, None);
    assert_eq!(config.dns, None);
    assert!(!config.host_network());
}

#[test]
fn a_whole_pod_arrives_whole() {
    let mut wire = pod();
    wire.hostname = "web-0.example.com".into();
    wire.log_directory = "/var/log/pods/x".into();
    wire.dns_config = Some(v1::DnsConfig { servers: vec!["1.1.1.1".into()], ..Default::default() });
    wire.labels.insert("a".into(), "b".into());
    wire.port_mappings.push(v1::PortMapping {
        protocol: v1::Protocol::Udp.into(),
        container_port: 53,
        host_port: 65535,
        host_ip: "::1".into(),
    });
    let linux = wire.linux.get_or_insert_default();
    linux.cgroup_parent = "/kubepods/pod1".into();
    linux.sysctls.insert("net.ipv4.ip_local_port_range".into(), "1024 65000".into());
    linux.sysctls.insert("kernel.shmmax".into(), "1".into());
    pod_context(&mut wire).run_as_user = Some(v1::Int64Value { value: i32::MAX.into() });
    let config = pod_config(Some(wire)).unwrap();
    assert_eq!(config.log_directory.as_deref(), Some("/var/log/pods/x".as_ref()));
    assert_eq!(config.port_mappings[0].host_ip, Some("::1".parse().unwrap()));
    assert_eq!(config.port_mappings[0].host_port, 65535);
    assert_eq!(config.security.run_as_user, Some(i32::MAX as u32));
    assert_eq!(config.sysctls.len(), 2);
}

#[test]
fn a_whole_container_arrives_whole() {
    let mut wire = container();
    wire.command = vec!["sh".into()];
    wire.envs = vec![v1::KeyValue { key: "A".into(), value: "ü=\n".into() }];
    wire.mounts = vec![v1::Mount {
        container_path: "data".into(),
        host_path: "/srv".into(),
        readonly: true,
        recursive_read_only: true,
        ..Default::default()
    }];
    wire.devices = vec![v1::Device {
        host_path: "/dev/fuse".into(),
        permissions: "rw".into(),
        ..Default::default()
    }];
    wire.log_path = "app/0.log".into();
    wire.stop_signal = v1::Signal::Sigrtminplus3.into();
    context(&mut wire).supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
    context(&mut wire).capabilities = Some(v1::Capability {
        add_capabilities: vec!["net_admin".into(), "CAP_SYS_TIME".into()],
        drop_capabilities: vec!["all".into()],
        ..Default::default()
    });
    let config = container_config(Some(wire)).unwrap();
    assert_eq!(config.envs, [("A".to_owned(), "ü=\n".to_owned())]);
    assert_eq!(config.mounts[0].container_path, "/data");
    assert!(config.mounts[0].recursive_read_only);
    assert_eq!(config.devices[0].container_path, "/dev/fuse");
    assert_eq!(config.stop_signal.unwrap().name(), "SIGRTMIN+3");
    assert_eq!(config.security.supplemental_groups_policy, SupplementalGroupsPolicy::Strict);
    assert_eq!(config.security.capabilities.add, ["CAP_NET_ADMIN", "CAP_SYS_TIME"]);
    assert_eq!(config.security.capabilities.drop, ["ALL"]);
}

#[test]
#[allow(deprecated)]
fn profiles_of_both_forms_mean_the_same() {
    use v1::security_profile::ProfileType;
    let local = |path: &str| Some(SecurityProfile::Localhost(path.to_owned()));
    let typed = |kind: ProfileType, path: &str| {
        Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: path.into() })
    };
    let cases = [
        (None, "", None),
        (None, "runtime/default", Some(SecurityProfile::RuntimeDefault)),
        (None, "docker/default", Some(SecurityProfile::RuntimeDefault)),
        (None, "unconfined", Some(SecurityProfile::Unconfined)),
        (None, "localhost//p.json", local("/p.json")),
        (
            typed(ProfileType::RuntimeDefault, ""),
            "unconfined",
            Some(SecurityProfile::RuntimeDefault),
        ),
        (typed(ProfileType::Unconfined, ""), "", Some(SecurityProfile::Unconfined)),
        (typed(ProfileType::Localhost, "/p.json"), "", local("/p.json")),
        (typed(ProfileType::Localhost, "localhost//p.json"), "", local("/p.json")),
    ];
    for (seccomp, path, wanted) in cases {
        let mut wire = container();
        context(&mut wire).seccomp = seccomp.clone();
        context(&mut wire).seccomp_profile_path = path.into();
        let found = container_config(Some(wire)).unwrap().security.seccomp;
        assert_eq!(found, wanted, "{seccomp:?} {path}");
        let mut wire = pod();
        pod_context(&mut wire).seccomp = seccomp;
        pod_context(&mut wire).seccomp_profile_path = path.into();
        assert_eq!(pod_config(Some(wire)).unwrap().security.seccomp, wanted);
    }
    let mut wire = container();
    context(&mut wire).apparmor_profile = "localhost/k8s-nginx".into();
    let found = container_config(Some(wire)).unwrap().security.apparmor;
    assert_eq!(found, local("k8s-nginx"));
}

#[test]
fn times_are_bounded() {
    use std::time::Duration;
    assert_eq!(stop_grace(30), Duration::from_secs(30));
    assert!(stop_grace(i64::MAX) < Duration::from_secs(1 << 32));
    assert_eq!(exec_timeout(2), Some(Duration::from_secs(2)));
    for none in [0, -1, i64::MIN] {
        assert_eq!((stop_grace(none), exec_timeout(none)), (Duration::ZERO, None));
    }
    assert_eq!(exec_command(Vec::new()).unwrap_err().to_string(), "cmd: must not be empty");
    assert!(exec_command(vec!["a\0".into()]).unwrap_err().to_string().starts_with("cmd[0]: "));
}

#[test]
fn filters_select_what_they_name() {
    let filter = v1::PodSandboxFilter {
        id: "abc".into(),
        state: Some(v1::PodSandboxStateValue {
            state: v1::PodSandboxState::SandboxNotready.into(),
        }),
        ..Default::default()
    };
    let found = sandbox_filter(Some(filter)).unwrap();
    assert_eq!((found.id.as_deref(), found.ready), (Some("abc"), Some(false)));
    let all = container_filter(Some(v1::ContainerFilter::default())).unwrap();
    assert!(all.id.is_none() && all.pod.is_none() && all.state.is_none());
    let unknown = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue { state: 9 }),
        ..Default::default()
    };
    let refused = container_filter(Some(unknown)).unwrap_err();
    assert_eq!(refused.to_string(), "filter.state.state: unknown value 9");
}

#[test]
fn pod_address_ranges_are_those_of_the_request() {
    let request = |cidr: &str| v1::UpdateRuntimeConfigRequest {
        runtime_config: Some(v1::RuntimeConfig {
            network_config: Some(v1::NetworkConfig { pod_cidr: cidr.into() }),
        }),
    };
    assert_eq!(pod_cidr(v1::UpdateRuntimeConfigRequest::default()), None);
    assert_eq!(pod_cidr(request("")), None);
    let both = "10.1.0.0/16,fd00::/64";
    assert_eq!(pod_cidr(request(both)), Some(both.to_owned()));
}

#[test]
fn empty_credentials_are_none() {
    assert!(credentials(None).unwrap().is_none());
    assert!(credentials(Some(v1::AuthConfig::default())).unwrap().is_none());
    let some = v1::AuthConfig { username: "u".into(), ..Default::default() };
    assert_eq!(credentials(Some(some)).unwrap().unwrap().username, "u");
    let split = v1::AuthConfig { registry_token: "a\r\nX: y".into(), ..Default::default() };
    let refused = credentials(Some(split)).map(|_| ()).unwrap_err().to_string();
    assert_eq!(refused, "auth.registry_token: must not contain control characters");
}
