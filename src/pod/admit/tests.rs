use serde_json::{Value, json};

use super::super::object::Source;
use super::super::translate::fixture::{given, given_named, node};
use super::*;

fn reasons_of(
    fields: Value,
    running: &[Value],
    node: &NodeFacts,
    pressure: Pressure,
) -> Vec<AdmitReason> {
    let running: Vec<_> =
        running.iter().map(|fields| Arc::new(given_named("other", fields.clone()))).collect();
    admit(&given(fields), &running, node, pressure, false)
}

fn refused(fields: Value, running: &[Value], node: &NodeFacts) -> Vec<&'static str> {
    let reasons = reasons_of(fields, running, node, Pressure::default());
    reasons.into_iter().map(|reason| reason.reason).collect()
}

fn asks(requests: Value) -> Value {
    json!({"containers": [{"name": "a", "resources": {"requests": requests}}]})
}

#[test]
fn a_plain_pod_comes_in() {
    assert_eq!(refused(json!({}), &[], &node()), [""; 0]);
}

#[test]
fn there_must_be_room() {
    // Allocatable: 3500m, 7 GiB, 100 GiB, 110 pods, no huge pages.
    let others = [asks(json!({"cpu": "2", "memory": "6Gi", "ephemeral-storage": "50Gi"}))];
    for (requests, expected) in [
        (json!({"cpu": "1500m", "memory": "1Gi", "ephemeral-storage": "50Gi"}), vec![]),
        (json!({"cpu": "1501m"}), vec!["OutOfcpu"]),
        (json!({"memory": "1025Mi"}), vec!["OutOfmemory"]),
        (json!({"ephemeral-storage": "51Gi"}), vec!["OutOfephemeral-storage"]),
        (json!({"cpu": "9", "memory": "9Gi"}), vec!["OutOfcpu", "OutOfmemory"]),
        (json!({"hugepages-2Mi": "2Mi", "memory": "1"}), vec!["OutOfhugepages-2Mi"]),
        (json!({"example.com/gpu": "1"}), vec![]),
        (json!({"cpu": "0"}), vec![]),
    ] {
        assert_eq!(refused(asks(requests.clone()), &others, &node()), expected, "{requests}");
    }
    let messages = reasons_of(asks(json!({"cpu": "2"})), &others, &node(), Pressure::default());
    assert_eq!(
        messages[0].message,
        "Node didn't have enough resource: cpu, requested: 2000, used: 2000, capacity: 3500"
    );
}

#[test]
fn init_containers_sidecars_and_overhead_count() {
    let part = |name: &str, cpu: &str, more: Value| {
        let mut part = json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        part.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        part
    };
    let pod = |init: &str, overhead: &str| {
        json!({
            "containers": [part("a", "1", json!({})), part("b", "1", json!({}))],
            "initContainers": [
                part("s", "500m", json!({"restartPolicy": "Always"})), part("i", init, json!({})),
            ],
            "overhead": {"cpu": overhead},
        })
    };
    assert_eq!(refused(pod("2", "1"), &[], &node()), [""; 0]);
    assert_eq!(refused(pod("2", "1001m"), &[], &node()), ["OutOfcpu"]);
    assert_eq!(refused(pod("3", "0"), &[], &node()), [""; 0]);
    assert_eq!(refused(pod("3001m", "0"), &[], &node()), ["OutOfcpu"]);
}

#[test]
fn so_many_pods_and_no_more() {
    let mut small = node();
    small.allocatable.pods = 2;
    assert_eq!(refused(json!({}), &[json!({})], &small), [""; 0]);
    assert_eq!(refused(json!({}), &[json!({}), json!({})], &small), ["OutOfpods"]);
}

#[test]
fn a_port_of_the_host_belongs_to_one() {
    let with = |port: Value| json!({"containers": [{"name": "a", "ports": [port]}]});
    let port = |number: i32, ip: &str, protocol: &str| {
        with(json!({
            "containerPort": 80, "hostPort": number, "hostIP": ip, "protocol": protocol,
        }))
    };
    let taken = [port(80, "", "TCP"), port(90, "10.0.0.1", "TCP")];
    for (fields, clashes) in [
        (port(80, "", "TCP"), true),
        (port(80, "10.0.0.1", "TCP"), true),
        (port(80, "0.0.0.0", "TCP"), true),
        (port(80, "", "UDP"), false),
        (port(81, "", "TCP"), false),
        (port(90, "10.0.0.2", "TCP"), false),
        (port(90, "10.0.0.1", "TCP"), true),
        (port(90, "", "TCP"), true),
        (port(0, "", "TCP"), false),
    ] {
        let expected: &[_] = if clashes { &["NodePorts"] } else { &[] };
        assert_eq!(refused(fields.clone(), &taken, &node()), expected, "{fields}");
    }
    let message = &reasons_of(port(80, "", "TCP"), &taken, &node(), Pressure::default())[0].message;
    let end = "node(s) didn't have free ports for the requested pod ports";
    assert_eq!(*message, format!("Predicate NodePorts failed: {end}"));
}

#[test]
fn it_must_be_the_right_node() {
    let mut here = node();
    here.labels =
        [("zone".to_owned(), "b".to_owned()), ("cores".to_owned(), "4".to_owned())].into();
    let term = |key: &str, operator: &str, values: Value| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
    let affinity = |terms: Value| {
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
        }}})
    };
    for (fields, fits) in [
        (json!({"nodeSelector": {"zone": "b"}}), true),
        (json!({"nodeSelector": {"zone": "a"}}), false),
        (json!({"nodeSelector": {"kubernetes.io/hostname": "node-1"}}), true),
        (json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}), false),
        (affinity(term("zone", "In", json!(["a", "b"]))), true),
        (affinity(term("zone", "NotIn", json!(["a", "b"]))), false),
        (affinity(term("none", "NotIn", json!(["a"]))), true),
        (affinity(term("zone", "Exists", json!(null))), true),
        (affinity(term("zone", "DoesNotExist", json!(null))), false),
        (affinity(term("cores", "Gt", json!(["3"]))), true),
        (affinity(term("cores", "Gt", json!(["4"]))), false),
        (affinity(term("cores", "Lt", json!(["5"]))), true),
        (affinity(term("zone", "Lt", json!(["5"]))), false),
        (affinity(json!([{}])), false),
        (affinity(json!([])), false),
        (
            affinity(json!([{}, {"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["node-1"]},
            ]}])),
            true,
        ),
        (
            affinity(json!([{
                "matchExpressions": [{"key": "zone", "operator": "Exists"}],
                "matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": ["node-2"]},
                ],
            }])),
            false,
        ),
    ] {
        let expected: &[_] = if fits { &[] } else { &["NodeAffinity"] };
        assert_eq!(refused(fields.clone(), &[], &here), expected, "{fields}");
    }
    assert_eq!(refused(json!({"nodeName": "node-1"}), &[], &here), [""; 0]);
    assert_eq!(refused(json!({"nodeName": "node-2"}), &[], &here), ["NodeName"]);
}

#[test]
fn it_must_be_the_right_system() {
    assert_eq!(refused(json!({"os": {"name": "linux"}}), &[], &node()), [""; 0]);
    assert_eq!(refused(json!({"os": {"name": "windows"}}), &[], &node()), ["PodOSNotSupported"]);
    let selected = json!({"nodeSelector": {"kubernetes.io/os": "windows"}});
    let expected = ["PodOSSelectorNodeLabelDoesNotMatch", "NodeAffinity"];
    assert_eq!(refused(selected, &[], &node()), expected);
}

#[test]
fn sysctls_are_safe_or_allowed() {
    let mut node = node();
    node.allowed_unsafe_sysctls = vec!["kernel.msg*".to_owned(), "net.core.somaxconn".to_owned()];
    let with = |name: &str, more: Value| {
        let mut fields = json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    for (fields, problem) in [
        (with("net.ipv4.tcp_syncookies", json!({})), None),
        (with("net/ipv4/tcp_syncookies", json!({})), None),
        (with("kernel.msgmax", json!({})), None),
        (with("net.core.somaxconn", json!({})), None),
        (with("kernel.sem", json!({})), Some(r#""kernel.sem" not allowlisted"#)),
        (with("net.core.somaxconn2", json!({})), Some(r#""net.core.somaxconn2" not allowlisted"#)),
        (
            with("net.ipv4.tcp_syncookies", json!({"hostNetwork": true})),
            Some(r#""net.ipv4.tcp_syncookies" not allowed with host Net enabled"#),
        ),
        (
            with("kernel.shm_rmid_forced", json!({"hostIPC": true})),
            Some(r#""kernel.shm_rmid_forced" not allowed with host IPC enabled"#),
        ),
        (with("kernel.shm_rmid_forced", json!({"hostNetwork": true})), None),
    ] {
        let got = reasons_of(fields.clone(), &[], &node, Pressure::default());
        let message = problem.map(|problem| format!("forbidden sysctl: {problem}"));
        let expected = message.map(|message| reason("SysctlForbidden", message));
        assert_eq!(got, Vec::from_iter(expected), "{fields}");
    }
}

#[test]
fn under_pressure_only_some_come_in() {
    let (memory, disk) = (
        Pressure { memory: true, ..Pressure::default() },
        Pressure { disk: true, ..Pressure::default() },
    );
    let burstable = || asks(json!({"cpu": "1m"}));
    let tolerant = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists"}]});
    let critical = || json!({"priority": 2_000_000_000});
    for (fields, pressure, conditions) in [
        (json!({}), memory, Some("MemoryPressure")),
        (burstable(), memory, None),
        (tolerant(MEMORY_TAINT), memory, None),
        (tolerant("node.kubernetes.io/disk-pressure"), memory, Some("MemoryPressure")),
        (critical(), memory, None),
        (json!({}), disk, Some("DiskPressure")),
        (burstable(), disk, Some("DiskPressure")),
        (tolerant("node.kubernetes.io/disk-pressure"), disk, Some("DiskPressure")),
        (critical(), disk, None),
        (burstable(), Pressure { pid: true, ..memory }, Some("MemoryPressure PIDPressure")),
    ] {
        let got = reasons_of(fields.clone(), &[], &node(), pressure);
        let message = conditions.map(|list| format!("The node had condition: [{list}]. "));
        let expected = message.map(|message| reason("Evicted", message));
        assert_eq!(got, Vec::from_iter(expected), "{fields}");
    }
    let fixed = Given { source: Source::File, ..given(json!({})) };
    assert_eq!(admit(&fixed, &[], &node(), disk, false), []);
}

#[test]
fn a_node_that_shuts_down_takes_nobody_and_all_reasons_are_told() {
    let fields = json!({
        "priority": 2_000_000_000, "nodeSelector": {"zone": "a"},
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "9"}}}],
    });
    let reasons = admit(&given(fields), &[], &node(), Pressure::default(), true);
    let names: Vec<_> = reasons.iter().map(|reason| reason.reason).collect();
    assert_eq!(names, ["NodeShutdown", "OutOfcpu", "NodeAffinity"]);
    assert_eq!(reasons[0].message, "Pod was rejected as the node is shutting down.");
}
