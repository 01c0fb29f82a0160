use std::sync::Arc;

use serde_json::{Value, json};

use super::super::fixture::{app, given, node, node_v2, spec};
use super::*;
use crate::pod::Source;

fn container(name: &str, requests: Value, limits: Value) -> Value {
    json!({"name": name, "resources": {"requests": requests, "limits": limits}})
}

fn both() -> Value {
    json!({"cpu": "1", "memory": "1Gi"})
}

#[test]
fn classes_of_service() {
    let init =
        |containers: Value, init: Value| json!({"containers": containers, "initContainers": init});
    let full = container("a", both(), both());
    let cases = [
        (json!({}), Qos::BestEffort),
        (json!({"containers": [full]}), Qos::Guaranteed),
        (json!({"containers": [full, {"name": "b"}]}), Qos::Burstable),
        (init(json!([full]), json!([{"name": "i"}])), Qos::Burstable),
        (init(json!([full]), json!([container("i", both(), both())])), Qos::Guaranteed),
        (init(json!([{"name": "a"}]), json!([container("i", both(), both())])), Qos::Burstable),
        (json!({"containers": [container("a", json!({"cpu": "1"}), json!({}))]}), Qos::Burstable),
        (
            json!({"containers": [container("a", json!({"cpu": "1"}), json!({"cpu": "1"}))]}),
            Qos::Burstable,
        ),
        (
            json!({"containers": [container("a", json!({"cpu": "500m", "memory": "1Gi"}), both())]}),
            Qos::Burstable,
        ),
        (json!({"containers": [container("a", json!({"cpu": "0"}), json!({}))]}), Qos::BestEffort),
        (
            json!({"containers": [container("a", json!({"ephemeral-storage": "1Gi"}), json!({}))]}),
            Qos::BestEffort,
        ),
        (json!({"resources": {"requests": both(), "limits": both()}}), Qos::Guaranteed),
        (json!({"resources": {"limits": {"cpu": "1"}}}), Qos::Burstable),
        (json!({"resources": {"requests": both()}}), Qos::Burstable),
        (
            json!({
                "containers": [container("a", json!({"cpu": "1"}), json!({}))],
                "resources": {"requests": both(), "limits": both()},
            }),
            Qos::Guaranteed,
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(qos(&spec(fields.clone())), expected, "{fields}");
    }
}

#[test]
fn shares_and_quotas() {
    for (milli, expected) in
        [(0, 2), (1, 2), (100, 102), (250, 256), (1000, 1024), (4000, 4096), (1_000_000, 262_144)]
    {
        assert_eq!(shares(milli), expected, "{milli}");
    }
    for (milli, expected) in
        [(0, 0), (1, 1000), (10, 1000), (11, 1100), (500, 50_000), (2500, 250_000)]
    {
        assert_eq!(quota(milli), expected, "{milli}");
    }
}

fn resources(fields: Value, node: &NodeFacts) -> Resources {
    let given = given(fields);
    container_resources(&given, ContainerKind::App, app(&given), node)
}

#[test]
fn limits_of_a_container() {
    let limits = json!({"cpu": "1500m", "memory": "128Mi", "hugepages-2Mi": "8Mi"});
    let fields = json!({"containers": [
        container("a", json!({"cpu": "250m", "memory": "64Mi"}), limits),
    ]});
    let v1 = resources(fields.clone(), &node());
    assert_eq!((v1.cpu_shares, v1.cpu_quota, v1.cpu_period), (256, 150_000, 100_000));
    assert_eq!((v1.memory_limit, v1.memory_swap_limit), (128 << 20, 128 << 20));
    let pages: Vec<_> = v1.hugepage_limits.iter().map(|l| (&*l.page_size, l.limit)).collect();
    assert_eq!(pages, [("2MB", 8 << 20), ("1GB", 0)]);
    assert!(v1.unified.is_empty());

    let v2 = resources(fields.clone(), &node_v2());
    assert_eq!((v2.memory_limit, v2.memory_swap_limit), (128 << 20, 0));
    assert_eq!(v2.unified.get("memory.oom.group").map(String::as_str), Some("1"));
    assert_eq!(v2.unified.get("memory.swap.max").map(String::as_str), Some("0"));

    let uncounted = NodeFacts { swap_accounting: false, ..node_v2() };
    assert_eq!(resources(fields, &uncounted).unified.len(), 1);
}

#[test]
fn a_container_without_limits() {
    let free = resources(json!({}), &node());
    assert_eq!((free.cpu_shares, free.cpu_quota, free.cpu_period), (2, 0, 100_000));
    assert_eq!((free.memory_limit, free.memory_swap_limit, free.oom_score_adj), (0, 0, 1000));
    let limited = json!({"containers": [container("a", json!({}), json!({"cpu": "2"}))]});
    assert_eq!(resources(limited, &node()).cpu_shares, 2048);
}

#[test]
fn the_pods_limits_are_its_containers() {
    let fields = json!({
        "containers": [container("a", json!({"cpu": "100m"}), json!({"memory": "10Mi"}))],
        "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
    });
    let resources = resources(fields, &node());
    assert_eq!((resources.cpu_shares, resources.cpu_quota), (102, 50_000));
    assert_eq!(resources.memory_limit, 10 << 20);
}

#[test]
fn a_sandbox_is_told_sums() {
    let spec = spec(json!({
        "containers": [
            container("a", json!({"cpu": "100m"}), json!({"cpu": "1", "memory": "10Mi"})),
            container("b", json!({"cpu": "400m"}), json!({"cpu": "1", "memory": "20Mi"})),
        ],
        "overhead": {"cpu": "250m", "memory": "5Mi"},
    }));
    let sums = sandbox_resources(&spec, &node());
    assert_eq!((sums.cpu_shares, sums.cpu_quota, sums.memory_limit), (512, 200_000, 30 << 20));
    let overhead = overhead(&spec, &node()).unwrap();
    assert_eq!((overhead.cpu_shares, overhead.memory_limit), (256, 5 << 20));
}

/// The OOM score on a node with 8 GiB.
fn score(fields: Value, kind: ContainerKind, index: usize) -> i64 {
    let given = given(fields);
    let spec = given.spec();
    let container = match kind {
        ContainerKind::Init => &spec.init_containers.as_ref().unwrap()[index],
        _ => &spec.containers[index],
    };
    oom_score_adj(&given, kind, container, &node())
}

fn asks(name: &str, memory: &str) -> Value {
    container(name, json!({"memory": memory}), json!({}))
}

#[test]
fn who_dies_first() {
    let app = ContainerKind::App;
    let one = |container: Value| json!({"containers": [container]});
    for (fields, expected) in [
        (json!({}), 1000),
        (one(container("a", both(), both())), -997),
        (one(asks("a", "4Gi")), 500),
        (one(asks("a", "1Gi")), 875),
        (one(asks("a", "8Gi")), 3),
        (one(asks("a", "80Gi")), 3),
        (one(asks("a", "1Mi")), 999),
        (one(container("a", json!({"cpu": "1"}), json!({}))), 999),
        (json!({"priorityClassName": "system-node-critical"}), -997),
        (json!({"priorityClassName": "system-cluster-critical"}), 1000),
        (json!({"priority": 2_000_001_000, "priorityClassName": "system-node-critical"}), -997),
        // The pod requests 2 GiB more than its two containers: 1 GiB more for each.
        (
            json!({
                "containers": [asks("a", "1Gi"), asks("b", "1Gi")],
                "resources": {"requests": {"memory": "4Gi"}},
            }),
            750,
        ),
    ] {
        assert_eq!(score(fields.clone(), app, 0), expected, "{fields}");
    }
}

#[test]
fn a_sidecar_outlives_the_apps() {
    let mut sidecar = asks("s", "1Gi");
    sidecar["restartPolicy"] = json!("Always");
    let fields = json!({
        "containers": [asks("a", "4Gi"), asks("b", "2Gi")],
        "initContainers": [sidecar, asks("i", "1Gi")],
    });
    assert_eq!(score(fields.clone(), ContainerKind::App, 1), 750);
    assert_eq!(score(fields.clone(), ContainerKind::Init, 0), 750);
    assert_eq!(score(fields, ContainerKind::Init, 1), 875);
}

#[test]
fn critical_pods() {
    let mut given = given(json!({}));
    assert!(!is_critical(&given));
    given.source = Source::File;
    assert!(is_critical(&given));
    given.source = Source::Api;
    let spec = Arc::make_mut(&mut given.pod).spec.as_mut().unwrap();
    spec.priority = Some(1_999_999_999);
    assert!(!is_critical(&given));
    Arc::make_mut(&mut given.pod).spec.as_mut().unwrap().priority = Some(2_000_000_000);
    assert!(is_critical(&given));
}
