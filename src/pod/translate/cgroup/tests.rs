use serde_json::{Value, json};

use super::super::fixture::{given, node, spec};
use super::*;
use CgroupDriver::{Cgroupfs, Systemd};

fn with(requests: Value, limits: Value) -> Value {
    json!({"containers": [{"name": "a", "resources": {"requests": requests, "limits": limits}}]})
}

fn guaranteed() -> Value {
    let both = json!({"cpu": "1500m", "memory": "1Gi"});
    with(both.clone(), both)
}

#[test]
fn places() {
    let plain = node();
    let nested = NodeFacts { cgroup_root: "/podbay/my-pods/".to_owned(), ..node() };
    let slices = NodeFacts { cgroup_drivers: [(String::new(), Systemd)].into(), ..node() };
    let deep = NodeFacts { cgroup_drivers: slices.cgroup_drivers.clone(), ..nested.clone() };
    let burstable = with(json!({"cpu": "1"}), json!({}));
    for (fields, node, expected) in [
        (guaranteed(), &plain, "/kubepods/podu-1"),
        (burstable.clone(), &plain, "/kubepods/burstable/podu-1"),
        (json!({}), &plain, "/kubepods/besteffort/podu-1"),
        (json!({}), &nested, "/podbay/my-pods/besteffort/podu-1"),
        (guaranteed(), &slices, "/kubepods.slice/kubepods-podu_1.slice"),
        (
            burstable,
            &slices,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice",
        ),
        (guaranteed(), &deep, "/podbay.slice/podbay-my_pods.slice/podbay-my_pods-podu_1.slice"),
    ] {
        assert_eq!(of_pod(&given(fields), node), expected);
    }
    assert_eq!(root(Systemd, &plain), "/kubepods.slice");
    assert_eq!(of_class(Qos::BestEffort, Cgroupfs, &plain), "/kubepods/besteffort");
    assert_eq!(of_class(Qos::Guaranteed, Cgroupfs, &plain), "/kubepods");
}

#[test]
fn the_runtime_handler_decides_who_makes_cgroups() {
    let drivers = [("", Cgroupfs), ("crun", Systemd)];
    let drivers = drivers.map(|(name, driver)| (name.to_owned(), driver));
    let node = NodeFacts { cgroup_drivers: drivers.into(), ..node() };
    let crun = given(json!({"runtimeClassName": "crun"}));
    let slices = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podu_1.slice";
    assert_eq!(of_pod(&crun, &node), slices);
    assert_eq!(of_pod(&given(json!({})), &node), "/kubepods/besteffort/podu-1");
}

#[test]
fn figures_of_pods() {
    let all = pod_resources(&given(guaranteed()), &node());
    assert_eq!((all.cpu_shares, all.cpu_weight()), (1536, 59));
    assert_eq!((all.cpu_quota, all.cpu_period), (Some(150_000), 100_000));
    assert_eq!((all.memory, all.pids), (Some(1 << 30), Some(1024)));
    let pages: Vec<_> = all.hugepages.iter().map(|it| (&*it.page_size, it.limit)).collect();
    assert_eq!(pages, [("2MB", 0), ("1GB", 0)]);

    let none = pod_resources(&given(json!({})), &node());
    assert_eq!((none.cpu_shares, none.cpu_weight()), (2, 1));
    assert_eq!((none.cpu_quota, none.memory, none.pids), (None, None, Some(1024)));
}

#[test]
fn a_limit_holds_when_nobody_is_without() {
    let mut fields = with(json!({"cpu": "1"}), json!({"cpu": "2", "memory": "1Gi"}));
    let pod = pod_resources(&given(fields.clone()), &node());
    assert_eq!((pod.cpu_shares, pod.cpu_quota, pod.memory), (1024, Some(200_000), Some(1 << 30)));

    let free = json!({"name": "i", "resources": {"limits": {"memory": "2Gi"}}});
    fields["initContainers"] = json!([free]);
    let pod = pod_resources(&given(fields.clone()), &node());
    assert_eq!((pod.cpu_quota, pod.memory), (None, Some(2 << 30)));

    fields["resources"] = json!({"limits": {"cpu": "3"}});
    assert_eq!(pod_resources(&given(fields), &node()).cpu_quota, Some(300_000));
}

#[test]
fn figures_of_classes() {
    let pods = [
        spec(with(json!({"cpu": "500m"}), json!({}))),
        spec(with(json!({"cpu": "1500m"}), json!({}))),
        spec(guaranteed()),
        spec(json!({})),
    ];
    let burstable = class_limits(Qos::Burstable, pods.iter());
    assert_eq!((burstable.cpu_shares, burstable.memory), (2048, None));
    assert_eq!(class_limits(Qos::BestEffort, pods.iter()).cpu_shares, 2);
    let root = root_limits(&node());
    assert_eq!((root.cpu_shares, root.memory, root.cpu_quota), (3584, Some(8 << 30), None));
}

#[test]
fn huge_pages_are_as_asked() {
    let asked = json!({"hugepages-2Mi": "6Mi", "cpu": "1"});
    let pod = pod_resources(&given(with(asked.clone(), asked)), &node());
    assert_eq!(pod.hugepages[0].limit, 6 << 20);
}
