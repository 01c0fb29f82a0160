use serde_json::json;

use super::*;

const NODE: Allocatable =
    Allocatable { milli_cpu: 3500, memory: 8 << 30, ephemeral_storage: 100 << 30 };

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "web", "namespace": "prod", "uid": "1-2",
            "labels": { "b": "2", "a": "say \"hi\"\n" },
            "annotations": { "x/y": "z'] é" },
        },
        "spec": {
            "containers": [
                { "name": "app", "resources": {
                    "limits": { "cpu": "1200m", "memory": "100Mi", "hugepages-2Mi": "4Mi" },
                    "requests": { "cpu": "1m" },
                } },
                { "name": "free" },
            ],
            "initContainers": [{ "name": "init", "resources": { "limits": { "memory": "1" } } }],
        },
    }))
    .unwrap()
}

fn field(path: &str) -> Result<String, String> {
    let file = json!({ "path": "f", "fieldRef": { "fieldPath": path } });
    value(&pod(), &serde_json::from_value(file).unwrap(), &NODE)
}

fn resource(container: &str, resource: &str, divisor: Option<&str>) -> Result<String, String> {
    let file = json!({ "path": "f", "resourceFieldRef": {
        "containerName": container, "resource": resource, "divisor": divisor,
    } });
    value(&pod(), &serde_json::from_value(file).unwrap(), &NODE)
}

#[test]
fn fields_are_as_kubernetes_writes_them() {
    let table = [
        ("metadata.name", "web"),
        ("metadata.namespace", "prod"),
        ("metadata.uid", "1-2"),
        ("metadata.labels", "a=\"say \\\"hi\\\"\\n\"\nb=\"2\""),
        ("metadata.annotations", "x/y=\"z'] é\""),
        ("metadata.labels['b']", "2"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['x/y']", "z'] é"),
    ];
    for (path, wanted) in table {
        assert_eq!(field(path).unwrap(), wanted, "{path}");
    }
    for bad in ["spec.nodeName", "status.podIP", "metadata.name['x']", "metadata", ""] {
        assert_eq!(field(bad).unwrap_err(), format!("unsupported fieldPath: {bad}"));
    }
}

#[test]
fn resources_are_rounded_up_in_units_of_the_divisor() {
    let table = [
        ("app", "limits.cpu", None, "2"),
        ("app", "limits.cpu", Some("1m"), "1200"),
        ("app", "limits.cpu", Some("0"), "2"),
        ("app", "requests.cpu", None, "1"),
        ("app", "requests.memory", None, "0"),
        ("app", "limits.memory", None, "104857600"),
        ("app", "limits.memory", Some("1Mi"), "100"),
        ("app", "limits.memory", Some("3M"), "35"),
        ("app", "limits.hugepages-2Mi", Some("1Mi"), "4"),
        ("free", "limits.cpu", Some("1m"), "3500"),
        ("free", "limits.memory", Some("1Gi"), "8"),
        ("free", "limits.ephemeral-storage", Some("1Gi"), "100"),
        ("free", "limits.hugepages-2Mi", None, "0"),
        ("init", "limits.memory", None, "1"),
    ];
    for (container, name, divisor, wanted) in table {
        assert_eq!(resource(container, name, divisor).unwrap(), wanted, "{container} {name}");
    }
    assert_eq!(resource("none", "limits.cpu", None).unwrap_err(), "container none not found");
    for bad in ["cpu", "limits.nonsense", "use.cpu"] {
        assert!(resource("free", bad, None).unwrap_err().contains(bad), "{bad}");
    }
    assert!(resource("app", "limits.cpu", Some("much")).unwrap_err().contains("much"));
}

#[test]
fn limits_of_the_pod_come_before_those_of_the_node() {
    let mut pod = pod();
    let limits = json!({ "limits": { "memory": "1Gi" } });
    pod.spec.as_mut().unwrap().resources = serde_json::from_value(limits).unwrap();
    let of = |container: &str| {
        let file = json!({ "path": "f", "resourceFieldRef": {
            "containerName": container, "resource": "limits.memory", "divisor": "1Mi",
        } });
        value(&pod, &serde_json::from_value(file).unwrap(), &NODE).unwrap()
    };
    assert_eq!((of("free").as_str(), of("app").as_str()), ("1024", "100"));
}

#[test]
fn text_is_quoted_as_go_does() {
    assert_eq!(quoted("\u{0}\u{7}\u{1b}\u{85}\t\\"), r#""\x00\a\x1b\u0085\t\\""#);
    assert_eq!(quoted("ü \u{a0}"), "\"ü \\u00a0\"");
}
