use serde_json::{Value, json};

use super::super::fixture::{given, node, sandbox, spec};
use super::*;
use crate::pod::Source;

fn config(fields: Value) -> PodConfig {
    sandbox(&given(fields), &node())
}

#[test]
fn names_and_places() {
    let config = config(json!({}));
    let name = PodMetadata {
        name: "web".to_owned(),
        namespace: "ns".to_owned(),
        uid: "u-1".to_owned(),
        attempt: 0,
    };
    assert_eq!(config.metadata, name);
    assert_eq!(config.log_directory.unwrap().to_str(), Some("/var/log/pods/ns_web_u-1"));
    assert_eq!(config.cgroup_parent, "/kubepods/besteffort/podu-1");
    for (label, value) in [
        ("app", "web"),
        (POD_NAME_LABEL, "web"),
        (POD_NAMESPACE_LABEL, "ns"),
        (POD_UID_LABEL, "u-1"),
    ] {
        assert_eq!(config.labels.get(label).map(String::as_str), Some(value));
    }
    assert!(config.annotations.contains_key("note"));
}

#[test]
fn names_that_would_lead_elsewhere_are_refused() {
    for (field, bad) in [("uid", "../../etc"), ("uid", ""), ("name", ".."), ("namespace", "a/b")] {
        let given = given(json!({}));
        let mut pod = serde_json::to_value(&*given.pod).unwrap();
        pod["metadata"][field] = json!(bad);
        let pod = std::sync::Arc::new(serde_json::from_value(pod).unwrap());
        let given = Given { pod, objects: given.objects, source: Source::Api };
        let error = pod_config(&given, PodContext::default(), &node()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("metadata.{field}:")), "{error}");
        assert_eq!(error.reason().as_str(), "FailedCreatePodSandBox");
    }
}

#[test]
fn namespaces_by_what_is_shared() {
    use NamespaceMode::{Container, Node, Pod};
    for (fields, network, pid, ipc) in [
        (json!({}), Pod, Container, Pod),
        (json!({"hostNetwork": true}), Node, Container, Pod),
        (json!({"hostPID": true, "shareProcessNamespace": false}), Pod, Node, Pod),
        (json!({"hostIPC": true}), Pod, Container, Node),
        (json!({"shareProcessNamespace": true}), Pod, Pod, Pod),
    ] {
        let namespaces = config(fields.clone()).security.namespaces;
        assert_eq!((namespaces.network, namespaces.pid), (network, pid), "{fields}");
        assert_eq!((namespaces.ipc, namespaces.userns), (ipc, None), "{fields}");
    }
    assert_eq!(config(json!({"hostNetwork": true})).hostname, "");
    assert_eq!(config(json!({})).hostname, "web");
}

#[test]
fn users_of_its_own() {
    let fields = json!({"hostUsers": false});
    let userns = config(fields.clone()).security.namespaces.userns.unwrap();
    let line = IdMapping { host_id: 131_072, container_id: 0, length: 65_536 };
    assert_eq!(
        (userns.mode, userns.uids, userns.gids),
        (NamespaceMode::Pod, vec![line], vec![line])
    );
    let without = pod_config(&given(fields), PodContext::default(), &node());
    assert!(matches!(without, Err(Error::Sandbox(_))));
    assert_eq!(config(json!({"hostUsers": true})).security.namespaces.userns, None);

    let mut taken = BTreeSet::new();
    assert_eq!(free_user_ids(&taken), Some(65_536));
    taken.extend([65_536, 196_608]);
    assert_eq!(free_user_ids(&taken), Some(131_072));
    taken.extend((1..=65_535).map(|range| range * USER_IDS));
    assert_eq!(free_user_ids(&taken), None);
}

#[test]
fn ports_of_apps_and_sidecars() {
    let port = |number: i32, more: Value| {
        let mut port = json!({"containerPort": number});
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        port
    };
    let config = config(json!({
        "containers": [{"name": "a", "ports": [
            port(80, json!({"hostPort": 8080, "hostIP": "127.0.0.1", "name": "http"})),
            port(81, json!({"name": "http"})),
            port(53, json!({"protocol": "UDP"})),
        ]}],
        "initContainers": [
            {"name": "s", "restartPolicy": "Always", "ports": [port(9, json!({"protocol": "SCTP"}))]},
            {"name": "i", "ports": [port(1, json!({}))]},
        ],
    }));
    let ports: Vec<_> = config
        .port_mappings
        .iter()
        .map(|it| (it.protocol.as_str(), it.container_port, it.host_port, it.host_ip))
        .collect();
    let local = "127.0.0.1".parse().ok();
    let expected = [("tcp", 80, 8080, local), ("udp", 53, 0, None), ("sctp", 9, 0, None)];
    assert_eq!(ports, expected);

    for bad in [
        port(70_000, json!({})),
        port(1, json!({"hostIP": "x"})),
        port(1, json!({"protocol": "ICMP"})),
    ] {
        let given = given(json!({"containers": [{"name": "a", "ports": [bad]}]}));
        let refused = pod_config(&given, PodContext::default(), &node());
        assert!(matches!(refused, Err(Error::Sandbox(_))));
    }
}

#[test]
fn ports_of_the_host() {
    let spec = spec(json!({"containers": [{"name": "a", "ports": [
        {"containerPort": 80, "hostPort": 80},
        {"containerPort": 81},
        {"containerPort": 82, "hostPort": 82, "hostIP": "0.0.0.0", "protocol": "UDP"},
        {"containerPort": 83, "hostPort": 83, "hostIP": "10.0.0.1"},
    ]}]}));
    let ports: Vec<_> = host_ports(&spec).collect();
    let expected = [
        (String::new(), "tcp", 80),
        (String::new(), "udp", 82),
        ("10.0.0.1".to_owned(), "tcp", 83),
    ];
    assert_eq!(ports, expected);
}

#[test]
fn security_of_a_sandbox() {
    let security = config(json!({
        "securityContext": {
            "runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 5, "supplementalGroups": [6],
            "seccompProfile": {"type": "Unconfined"},
            "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "0"}],
        },
    }))
    .security;
    assert_eq!((security.run_as_user, security.run_as_group), (Some(1000), Some(1001)));
    assert_eq!(security.supplemental_groups, [5, 6]);
    assert!(!security.privileged);
    let group_alone = config(json!({"securityContext": {"runAsGroup": 7}})).security;
    assert_eq!((group_alone.run_as_user, group_alone.run_as_group), (None, None));
    let privileged = json!({"name": "i", "securityContext": {"privileged": true}});
    assert!(config(json!({"initContainers": [privileged]})).security.privileged);
}

#[test]
fn hosts_files() {
    let hosts = config(json!({
        "hostname": "h", "subdomain": "s",
        "hostAliases": [{"ip": "10.9.9.9", "hostnames": ["one", "two.example"]}],
    }))
    .hosts
    .unwrap();
    assert_eq!((&*hosts.hostname, &*hosts.domain), ("h", "s.ns.svc.cluster.local"));
    assert_eq!(hosts.aliases[0].ip.to_string(), "10.9.9.9");
    assert_eq!(hosts.aliases[0].hostnames, ["one", "two.example"]);
    for bad in [
        json!({"ip": "x", "hostnames": []}),
        json!({"ip": "10.0.0.1", "hostnames": ["a\n6.6.6.6 bank"]}),
        json!({"ip": "10.0.0.1", "hostnames": ["a b"]}),
        json!({"ip": "10.0.0.1", "hostnames": [""]}),
    ] {
        let given = given(json!({"hostAliases": [bad]}));
        let refused = pod_config(&given, PodContext::default(), &node());
        assert!(matches!(refused, Err(Error::Sandbox(_))));
    }
}
