//! Requests that must be refused, with the start of the message.

use proptest::prelude::*;
use prost::Message as _;

use super::*;

type PodCase = (fn(&mut v1::PodSandboxConfig), &'static str);
type ContainerCase = (fn(&mut v1::ContainerConfig), &'static str);

fn metadata(config: &mut v1::PodSandboxConfig) -> &mut v1::PodSandboxMetadata {
    config.metadata.as_mut().unwrap()
}

fn linux(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn port(container_port: i32, host_port: i32) -> v1::PortMapping {
    v1::PortMapping { container_port, host_port, ..Default::default() }
}

fn number(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn namespaces(network: v1::NamespaceMode, ipc: v1::NamespaceMode) -> Option<v1::NamespaceOption> {
    Some(v1::NamespaceOption { network: network.into(), ipc: ipc.into(), ..Default::default() })
}

fn profile(kind: i32, reference: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind, localhost_ref: reference.into() })
}

const NODE: v1::NamespaceMode = v1::NamespaceMode::Node;
const SHARED: v1::NamespaceMode = v1::NamespaceMode::Pod;

#[rustfmt::skip]
const PODS: &[PodCase] = &[
    (|c| c.metadata = None, "config.metadata: is required"),
    (|c| metadata(c).name.clear(), "config.metadata.name: must not be empty"),
    (|c| metadata(c).uid = "../../etc".into(), "config.metadata.uid: must not contain / "),
    (|c| metadata(c).namespace = "..".into(), "config.metadata.namespace: must not be . or .."),
    (|c| metadata(c).name = "a;K8S_POD_UID=b".into(), "config.metadata.name: must not contain / "),
    (|c| metadata(c).name = "a\nb".into(), "config.metadata.name: must not contain white space"),
    (|c| metadata(c).name = "a".repeat(254), "config.metadata.name: must not be longer"),
    (|c| c.windows = Some(Default::default()), "config.windows: is not supported on Linux"),
    (|c| c.hostname = "a\nb".into(), "config.hostname: must not contain NUL, line breaks"),
    (|c| c.hostname = "a/b".into(), "config.hostname: must not contain NUL, line breaks"),
    (|c| c.hostname = "a\0".into(), "config.hostname: must not contain NUL, line breaks"),
    (|c| c.hostname = format!("{}.b", "a".repeat(63)), "config.hostname: must not be longer"),
    (|c| c.log_directory = "logs".into(), "config.log_directory: must be an absolute path"),
    (|c| c.log_directory = "/var/../etc".into(), "config.log_directory: must not contain .."),
    (|c| c.dns_config = Some(v1::DnsConfig { searches: vec!["a\nnameserver 1.1.1.1".into()], ..Default::default() }),
        "config.dns_config.searches[0]: must not contain white space"),
    (|c| c.dns_config = Some(v1::DnsConfig { servers: vec!["1.1.1.1".into(), String::new()], ..Default::default() }),
        "config.dns_config.servers[1]: must not be empty"),
    (|c| c.port_mappings = vec![port(80, 0), port(80, 65536)], "config.port_mappings[1].host_port: 65536 is not"),
    (|c| c.port_mappings = vec![port(-1, 0)], "config.port_mappings[0].container_port: -1 is not within"),
    (|c| c.port_mappings = vec![v1::PortMapping { protocol: 7, ..port(1, 1) }], "config.port_mappings[0].protocol: unknown value 7"),
    (|c| c.port_mappings = vec![v1::PortMapping { host_ip: "host".into(), ..port(1, 1) }], "config.port_mappings[0].host_ip: is not an IP"),
    (|c| linux(c).cgroup_parent = "/a/../../b".into(), "config.linux.cgroup_parent: must not contain .."),
    (|c| linux(c).cgroup_parent = "/a\nb".into(), "config.linux.cgroup_parent: must not contain control"),
    (|c| linux(c).overhead = Some(v1::LinuxContainerResources { cpu_shares: -1, ..Default::default() }),
        "config.linux.overhead.cpu_shares: must not be negative"),
    (|c| pod_context(c).run_as_user = number(-1), "config.linux.security_context.run_as_user: -1 is not within 0 and 2147483647"),
    (|c| pod_context(c).run_as_user = number(1 << 31), "config.linux.security_context.run_as_user: 2147483648"),
    (|c| pod_context(c).run_as_user = number(1 << 32), "config.linux.security_context.run_as_user: 4294967296"),
    (|c| pod_context(c).run_as_user = number(i64::MAX), "config.linux.security_context.run_as_user: 9223372036854775807"),
    (|c| pod_context(c).run_as_group = number(5), "config.linux.security_context.run_as_group: needs run_as_user"),
    (|c| pod_context(c).supplemental_groups = vec![1, -5], "config.linux.security_context.supplemental_groups[1]: -5"),
    (|c| pod_context(c).supplemental_groups_policy = 2, "config.linux.security_context.supplemental_groups_policy: unknown value 2"),
    (|c| pod_context(c).namespace_options = namespaces(v1::NamespaceMode::Container, SHARED), "config.linux.security_context.namespace_options.network: must be POD or NODE"),
    (|c| pod_context(c).namespace_options = Some(v1::NamespaceOption { pid: 3, ..Default::default() }), "config.linux.security_context.namespace_options.pid: a pod cannot"),
    (|c| pod_context(c).namespace_options = Some(v1::NamespaceOption { pid: 4, ..Default::default() }), "config.linux.security_context.namespace_options.pid: unknown value 4"),
    (|c| pod_context(c).seccomp = profile(2, ""), "config.linux.security_context.seccomp.localhost_ref: must not be empty"),
    (|c| pod_context(c).seccomp = profile(3, ""), "config.linux.security_context.seccomp.profile_type: unknown value 3"),
    (|c| pod_context(c).selinux_options = Some(v1::SeLinuxOption { level: "s0\n".into(), ..Default::default() }),
        "config.linux.security_context.selinux_options.level: must not contain control"),
];

#[test]
fn bad_user_namespaces_are_refused_by_field() {
    let good = v1::IdMapping { host_id: 65536, container_id: 0, length: 65536 };
    let far = v1::IdMapping { host_id: u32::MAX - 65535, ..good };
    let some = |change: fn(&mut v1::IdMapping)| {
        let mut mapping = good;
        change(&mut mapping);
        vec![mapping]
    };
    let (pod, one) = (SHARED as i32, vec![good]);
    for (mode, uids, gids, wanted) in [
        (1, vec![], vec![], "mode: must be POD or NODE"),
        (3, vec![], vec![], "mode: must be POD or NODE"),
        (4, vec![], vec![], "mode: unknown value 4"),
        (pod, vec![], vec![], "uids: must be exactly one mapping"),
        (pod, vec![good, good], one.clone(), "uids: must be exactly one mapping"),
        (pod, one.clone(), vec![], "gids: must be exactly one mapping"),
        (pod, one.clone(), vec![good, good], "gids: must be exactly one mapping"),
        (pod, some(|m| m.length = 0), one.clone(), "uids.length: must not be 0"),
        (pod, some(|m| m.container_id = 1), one.clone(), "uids.container_id: must be 0"),
        (pod, one.clone(), some(|m| m.container_id = 1), "gids.container_id: must be 0"),
        (pod, some(|m| m.host_id = 0), one.clone(), "uids.host_id: must not be 0"),
        (pod, vec![far], one.clone(), "uids.length: goes beyond"),
        (pod, one.clone(), some(|m| m.length = 1000), "gids: must be as long as uids"),
        (NODE as i32, one.clone(), vec![], "uids: must be empty with mode NODE"),
        (NODE as i32, vec![], one.clone(), "gids: must be empty with mode NODE"),
    ] {
        let options = v1::NamespaceOption {
            userns_options: Some(v1::UserNamespace { mode, uids, gids }),
            ..Default::default()
        };
        let place = "config.linux.security_context.namespace_options.userns_options";
        let wanted = format!("{place}.{wanted}");
        let (mut pod, mut container) = (super::pod(), super::container());
        pod_context(&mut pod).namespace_options = Some(options.clone());
        context(&mut container).namespace_options = Some(options);
        for refused in [
            pod_config(Some(pod)).map(drop).expect_err(&wanted).to_string(),
            container_config(Some(container)).map(drop).expect_err(&wanted).to_string(),
        ] {
            assert!(refused.starts_with(&wanted), "{refused}\nwanted {wanted}");
        }
    }
}

#[test]
fn a_user_namespace_passes_as_it_is() {
    let line = |host_id| v1::IdMapping { host_id, container_id: 0, length: 65536 };
    let asked = v1::UserNamespace {
        mode: SHARED.into(),
        uids: vec![line(65536)],
        gids: vec![line(u32::MAX - 65536)],
    };
    let mut config = pod();
    pod_context(&mut config).namespace_options =
        Some(v1::NamespaceOption { userns_options: Some(asked), ..Default::default() });
    let ids = pod_config(Some(config)).unwrap().id_mappings().unwrap();
    assert_eq!(ids.root(), (65536, u32::MAX - 65536));
    assert_eq!(ids.on_host(65535, 0), Some((131_071, u32::MAX - 65536)));
    assert_eq!(ids.on_host(65536, 0), None);
}

fn env(key: &str, value: &[u8]) -> Vec<v1::KeyValue> {
    vec![v1::KeyValue { key: key.into(), value: value.into() }]
}

fn mount(change: fn(&mut v1::Mount)) -> Vec<v1::Mount> {
    let mut mount =
        v1::Mount { container_path: "/a".into(), host_path: "/b".into(), ..Default::default() };
    change(&mut mount);
    vec![mount]
}

fn of_image(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: image.into(), ..Default::default() })
}

fn image_mount(change: fn(&mut v1::Mount)) -> Vec<v1::Mount> {
    let mut mount = v1::Mount {
        container_path: "/a".into(),
        readonly: true,
        image: of_image("app"),
        ..Default::default()
    };
    change(&mut mount);
    vec![mount]
}

fn device(host_path: &str, permissions: &str) -> Vec<v1::Device> {
    vec![v1::Device {
        host_path: host_path.into(),
        permissions: permissions.into(),
        ..Default::default()
    }]
}

fn limits(change: fn(&mut v1::LinuxContainerResources)) -> Option<v1::LinuxContainerConfig> {
    let mut limits = v1::LinuxContainerResources::default();
    change(&mut limits);
    Some(v1::LinuxContainerConfig { resources: Some(limits), ..Default::default() })
}

#[rustfmt::skip]
#[allow(deprecated)]
const CONTAINERS: &[ContainerCase] = &[
    (|c| c.metadata = None, "config.metadata: is required"),
    (|c| c.metadata.as_mut().unwrap().name = "../x".into(), "config.metadata.name: must not contain / "),
    (|c| c.image = None, "config.image: is required"),
    (|c| c.image.as_mut().unwrap().image.clear(), "config.image.image: must not be empty"),
    (|c| c.windows = Some(Default::default()), "config.windows: is not supported"),
    (|c| c.command = vec!["a\0b".into()], "config.command[0]: must not contain NUL"),
    (|c| c.args = vec!["a".into(), "\0".into()], "config.args[1]: must not contain NUL"),
    (|c| c.working_dir = "work".into(), "config.working_dir: must be an absolute path"),
    (|c| c.envs = env("", b"x"), "config.envs[0].key: must not be empty"),
    (|c| c.envs = env("A=B", b"x"), "config.envs[0].key: must not contain ="),
    (|c| c.envs = env("A\0", b"x"), "config.envs[0].key: must not contain NUL"),
    (|c| c.envs = env("A", b"a\0"), "config.envs[0].value: must not contain NUL"),
    (|c| c.envs = env("HOME", b"/\nroot:x:0:0"), "config.envs[0].value: of \"HOME\" must be one line"),
    (|c| c.mounts = mount(|m| m.container_path.clear()), "config.mounts[0].container_path: must not be empty"),
    (|c| c.mounts = mount(|m| m.host_path.clear()), "config.mounts[0].host_path: must not be empty"),
    (|c| c.mounts = mount(|m| m.host_path = "b".into()), "config.mounts[0].host_path: must be an absolute"),
    (|c| c.mounts = mount(|m| m.propagation = 3), "config.mounts[0].propagation: unknown value 3"),
    (|c| c.mounts = mount(|m| m.recursive_read_only = true), "config.mounts[0].recursive_read_only: needs readonly"),
    (|c| c.mounts = mount(|m| { m.recursive_read_only = true; m.readonly = true; m.propagation = 1 }),
        "config.mounts[0].recursive_read_only: needs the propagation"),
    (|c| c.mounts = mount(|m| m.image_sub_path = "x".into()), "config.mounts[0].image_sub_path: needs an image"),
    (|c| c.mounts = mount(|m| m.image = of_image("app")), "config.mounts[0].host_path: must be empty beside an image"),
    (|c| c.mounts = image_mount(|m| m.readonly = false), "config.mounts[0].readonly: an image can only be mounted read-only"),
    (|c| c.mounts = image_mount(|m| m.propagation = 1), "config.mounts[0].propagation: must be PROPAGATION_PRIVATE"),
    (|c| c.mounts = image_mount(|m| m.image = of_image("a\nb")), "config.mounts[0].image.image: must not contain control"),
    (|c| c.mounts = mount(|m| m.mount_options = vec!["noexec".into()]), "config.mounts[0].mount_options: mount options are not"),
    (|c| c.mounts = mount(|m| m.uid_mappings = vec![Default::default()]), "config.mounts[0].uidMappings: must be set if and only if"),
    (|c| c.mounts = mount(|m| m.gid_mappings = vec![Default::default()]), "config.mounts[0].uidMappings: must be set if and only if"),
    (|c| c.mounts = mount(|m| { m.uid_mappings = vec![Default::default()]; m.gid_mappings = m.uid_mappings.clone() }),
        "config.mounts[0].uidMappings[0].length: must not be 0"),
    (|c| c.mounts = mount(|m| { m.uid_mappings = vec![v1::IdMapping { host_id: u32::MAX, length: 1, ..Default::default() }]; m.gid_mappings = m.uid_mappings.clone() }),
        "config.mounts[0].uidMappings[0].length: goes beyond"),
    (|c| c.devices = device("dev/fuse", "rwm"), "config.devices[0].host_path: must be an absolute path"),
    (|c| c.devices = device("/dev/../x", "rwm"), "config.devices[0].host_path: must not contain .."),
    (|c| c.devices = device("/dev/fuse", "rwx"), "config.devices[0].permissions: must be made of r, w and m"),
    (|c| c.cdi_devices = vec![Default::default()], "config.CDI_devices[0].name: must not be empty"),
    (|c| c.log_path = "/etc/passwd".into(), "config.log_path: must be relative"),
    (|c| c.log_path = "a/../../b".into(), "config.log_path: must not contain .."),
    (|c| c.log_path = "a/".into(), "config.log_path: must name a file"),
    (|c| c.stop_signal = 66, "config.stop_signal: unknown value 66"),
    (|c| c.linux = limits(|l| l.cpu_quota = -2), "config.linux.resources.cpu_quota: must be -1"),
    (|c| c.linux = limits(|l| l.memory_limit_in_bytes = -2), "config.linux.resources.memory_limit_in_bytes: must be"),
    (|c| c.linux = limits(|l| l.oom_score_adj = 1001), "config.linux.resources.oom_score_adj: must be within"),
    (|c| c.linux = limits(|l| l.cpuset_cpus = "0\n1".into()), "config.linux.resources.cpuset_cpus: must be a list"),
    (|c| c.linux = limits(|l| l.hugepage_limits = vec![v1::HugepageLimit { page_size: "../2MB".into(), limit: 1 }]),
        "config.linux.resources.hugepage_limits[0].page_size: must be a page size"),
    (|c| c.linux = limits(|l| { l.unified.insert("../cgroup.procs".into(), "1".into()); }),
        "config.linux.resources.unified[\"../cgroup.procs\"]: is not the name"),
    (|c| context(c).run_as_user = number(4_294_967_295), "config.linux.security_context.run_as_user: 4294967295"),
    (|c| context(c).run_as_group = number(1), "config.linux.security_context.run_as_group: needs run_as_user or run_as_username"),
    (|c| context(c).run_as_username = "4294967296".into(), "config.linux.security_context.run_as_username: must be a user name"),
    (|c| context(c).run_as_username = "a\nb".into(), "config.linux.security_context.run_as_username: must not contain control"),
    (|c| context(c).capabilities = Some(v1::Capability { add_capabilities: vec!["TO FLY".into()], ..Default::default() }),
        "config.linux.security_context.capabilities.add_capabilities[0]: \"TO FLY\" cannot be"),
    (|c| context(c).namespace_options = Some(v1::NamespaceOption { pid: 3, ..Default::default() }),
        "config.linux.security_context.namespace_options.target_id: must not be empty"),
    (|c| context(c).namespace_options = Some(v1::NamespaceOption { target_id: "x".into(), ..Default::default() }),
        "config.linux.security_context.namespace_options.target_id: is allowed with"),
    (|c| context(c).masked_paths = vec!["proc".into()], "config.linux.security_context.masked_paths[0]: must be an absolute"),
    (|c| context(c).seccomp = profile(2, "../x"), "config.linux.security_context.seccomp.localhost_ref: must be an absolute"),
    (|c| context(c).seccomp = profile(2, "/p/../x"), "config.linux.security_context.seccomp.localhost_ref: must not contain .."),
    (|c| context(c).seccomp = profile(2, "localhost/"), "config.linux.security_context.seccomp.localhost_ref: must not be empty"),
    (|c| context(c).seccomp = profile(1, "/p"), "config.linux.security_context.seccomp.localhost_ref: is allowed with"),
    (|c| context(c).apparmor = profile(2, "../x"), "config.linux.security_context.apparmor.localhost_ref: must not contain .."),
    (|c| context(c).apparmor = profile(0, "x"), "config.linux.security_context.apparmor.localhost_ref: is allowed with"),
    (|c| context(c).seccomp_profile_path = "nope".into(), "config.linux.security_context.seccomp_profile_path: unknown profile"),
    (|c| context(c).seccomp_profile_path = "localhost/".into(), "config.linux.security_context.seccomp_profile_path: must not be empty"),
    (|c| context(c).apparmor_profile = "localhost/".into(), "config.linux.security_context.apparmor_profile: must not be empty"),
];

#[test]
fn bad_pods_are_refused_by_field() {
    assert_eq!(pod_config(None).unwrap_err().to_string(), "config: is required");
    for (change, wanted) in PODS {
        let mut config = pod();
        change(&mut config);
        let refused = pod_config(Some(config)).expect_err(wanted).to_string();
        assert!(refused.starts_with(wanted), "{refused}\nwanted {wanted}");
    }
}

#[test]
fn bad_containers_are_refused_by_field() {
    assert_eq!(container_config(None).unwrap_err().to_string(), "config: is required");
    for (change, wanted) in CONTAINERS {
        let mut config = container();
        change(&mut config);
        let refused = container_config(Some(config)).expect_err(wanted).to_string();
        assert!(refused.starts_with(wanted), "{refused}\nwanted {wanted}");
    }
}

/// Other runtimes accept these too; some of them request nothing.
#[test]
fn what_is_odd_but_harmless_is_not_refused() {
    let mut config = pod();
    (metadata(&mut config).uid, metadata(&mut config).namespace) = Default::default();
    config.hostname = "-a_b..c d".into();
    config.port_mappings = vec![port(80, -1), port(81, 0), port(99_999, -7)];
    let passed = pod_config(Some(config)).unwrap();
    assert_eq!((passed.hostname.as_str(), passed.metadata.uid.as_str()), ("-a_b..c d", ""));
    let ports: Vec<_> = passed.port_mappings.iter().map(|port| port.container_port).collect();
    assert_eq!(ports, [81], "nobody asked for the others");

    let mut config = container();
    config.envs = env("A", b"a\xffb");
    config.devices = device("/dev/fuse", "");
    let capabilities = v1::Capability {
        add_capabilities: vec!["fly".into(), "CAP_KILL".into()],
        drop_capabilities: vec!["SWIM".into()],
        add_ambient_capabilities: vec!["KILL".into()],
    };
    context(&mut config).capabilities = Some(capabilities);
    let passed = container_config(Some(config)).unwrap();
    assert_eq!(passed.envs, [("A".to_owned(), "a\u{fffd}b".to_owned())]);
    assert_eq!(passed.devices[0].permissions, "");
    let capabilities = passed.security.capabilities;
    assert_eq!(capabilities.add, ["CAP_FLY", "CAP_KILL"]);
    assert_eq!(capabilities.drop, ["CAP_SWIM"]);
}

#[test]
fn the_nodes_own_user_namespace_is_fine() {
    let mut config = pod();
    let node = v1::UserNamespace { mode: NODE.into(), ..Default::default() };
    let options = v1::NamespaceOption { userns_options: Some(node), ..Default::default() };
    pod_context(&mut config).namespace_options = Some(options);
    let userns = pod_config(Some(config)).unwrap().security.namespaces.userns.unwrap();
    assert_eq!(userns.mode, NamespaceMode::Node);
}

prop_compose! {
    fn any_container()(
        texts in prop::array::uniform8(any::<String>()),
        bytes in any::<Vec<u8>>(),
        numbers in prop::array::uniform6(any::<i64>()),
        kinds in prop::array::uniform5(-1..5_i32),
        signal in any::<i32>(),
    ) -> v1::ContainerConfig {
        let mut config = container();
        let [name, log, key, path, host, user, reference, capability] = texts;
        let [uid, gid, group, quota, shares, memory] = numbers;
        config.metadata.as_mut().unwrap().name = name;
        config.log_path = log;
        config.envs = vec![v1::KeyValue { key, value: bytes }];
        config.mounts = vec![v1::Mount {
            container_path: path, host_path: host, propagation: kinds[0], ..Default::default()
        }];
        config.stop_signal = signal;
        config.linux = limits(|_| {});
        let limits = config.linux.as_mut().unwrap().resources.as_mut().unwrap();
        (limits.cpu_quota, limits.cpu_shares, limits.memory_limit_in_bytes) = (quota, shares, memory);
        let security = context(&mut config);
        security.run_as_user = number(uid);
        security.run_as_group = number(gid);
        security.run_as_username = user;
        security.supplemental_groups = vec![group];
        security.seccomp = profile(kinds[1], &reference);
        security.namespace_options = Some(v1::NamespaceOption {
            network: kinds[2], pid: kinds[3], ipc: kinds[4], ..Default::default()
        });
        security.capabilities = Some(v1::Capability {
            add_capabilities: vec![capability], ..Default::default()
        });
        config
    }
}

proptest! {
    #[test]
    fn no_container_panics_and_no_id_wraps(config in any_container()) {
        if let Ok(good) = container_config(Some(config.clone())) {
            let wanted = context(&mut config.clone()).run_as_user.unwrap().value;
            prop_assert_eq!(good.security.run_as_user.map(i64::from), Some(wanted));
        }
    }

    #[test]
    fn ids_pass_unchanged_or_not_at_all(value in any::<i64>()) {
        let mut config = pod();
        pod_context(&mut config).run_as_user = number(value);
        let passed = pod_config(Some(config)).ok().and_then(|good| good.security.run_as_user);
        let fits = (0..=i64::from(i32::MAX)).contains(&value);
        prop_assert_eq!(passed.map(i64::from), fits.then_some(value));
    }

    #[test]
    fn no_bytes_off_the_wire_panic(bytes in any::<Vec<u8>>()) {
        if let Ok(config) = v1::PodSandboxConfig::decode(&bytes[..]) {
            let _ = pod_config(Some(config));
        }
        if let Ok(config) = v1::ContainerConfig::decode(&bytes[..]) {
            let _ = container_config(Some(config));
        }
        if let Ok(filter) = v1::ContainerFilter::decode(&bytes[..]) {
            let _ = container_filter(Some(filter));
        }
    }

    #[test]
    fn no_text_puts_a_line_or_a_climb_where_it_must_not(text in ".*") {
        let mut config = pod();
        metadata(&mut config).name = text.clone();
        config.hostname = text.clone();
        config.log_directory = format!("/{text}");
        config.dns_config = Some(v1::DnsConfig { searches: vec![text.clone()], ..Default::default() });
        if pod_config(Some(config)).is_ok() {
            prop_assert!(!text.contains(['\n', '\r', '\0', ' ', '/', ';']) && text != "..");
        }
    }
}
