use serde_json::json;

use super::super::fixture::{app, given, node};
use super::*;

const LIMITED: &str = r#"{"containers": [
    {"name": "app", "resources": {
        "limits": {"cpu": "1500m", "memory": "100Mi", "hugepages-2Mi": "4Mi"},
        "requests": {"cpu": "250m", "memory": "64Mi"}
    }},
    {"name": "free"}
], "serviceAccountName": "builder"}"#;

#[test]
fn fields() {
    let given = given(serde_json::from_str(LIMITED).unwrap());
    let node = node();
    let ips = ["10.1.0.7".parse().unwrap(), "fd01::7".parse().unwrap()];
    let downward = Downward { given: &given, node: &node, pod_ips: &ips };
    for (path, expected) in [
        ("metadata.name", "web"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "two\nlines \"here\""),
        ("metadata.labels", "app=\"web\"\ntier=\"front\""),
        ("metadata.annotations", "note=\"two\\nlines \\\"here\\\"\""),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "builder"),
        ("status.hostIP", "192.168.1.10"),
        ("status.hostIPs", "192.168.1.10,fd00::10"),
        ("status.podIP", "10.1.0.7"),
        ("status.podIPs", "10.1.0.7,fd01::7"),
    ] {
        assert_eq!(downward.field(path).as_deref(), Ok(expected), "{path}");
    }
    for path in ["", "spec", "status.phase", "spec.labels['a']", "metadata.labels['']"] {
        let refused = downward.field(path).unwrap_err().to_string();
        assert_eq!(refused, format!("fieldRef: unsupported fieldPath: {path}"));
    }
}

#[test]
fn a_pod_in_the_nodes_network_has_its_addresses() {
    let (given, node) = (given(json!({"hostNetwork": true})), node());
    let downward = Downward { given: &given, node: &node, pod_ips: &[] };
    assert_eq!(downward.field("status.podIP").as_deref(), Ok("192.168.1.10"));
}

#[test]
fn resources_in_multiples_of_a_divisor() {
    let given = given(serde_json::from_str(LIMITED).unwrap());
    let node = node();
    let downward = Downward { given: &given, node: &node, pod_ips: &[] };
    let ask = |name: Option<&str>, resource: &str, divisor: &str| {
        let selector = serde_json::from_value(json!({
            "containerName": name, "resource": resource, "divisor": divisor,
        }));
        downward.resource(Some(app(&given)), &selector.unwrap())
    };
    for (name, resource, divisor, expected) in [
        (None, "limits.cpu", "0", "2"),
        (None, "limits.cpu", "1", "2"),
        (None, "limits.cpu", "1m", "1500"),
        (None, "limits.memory", "1Mi", "100"),
        (None, "limits.memory", "1", "104857600"),
        (None, "limits.memory", "3Mi", "34"),
        (None, "limits.hugepages-2Mi", "1Mi", "4"),
        (None, "requests.cpu", "1m", "250"),
        (None, "requests.memory", "1Mi", "64"),
        (None, "requests.ephemeral-storage", "1", "0"),
        (None, "limits.ephemeral-storage", "1Gi", "100"),
        (Some("free"), "limits.cpu", "1m", "3500"),
        (Some("free"), "limits.memory", "1Gi", "7"),
        (Some("free"), "requests.cpu", "1m", "0"),
        (Some("free"), "limits.hugepages-2Mi", "1", "0"),
    ] {
        let got = ask(name, resource, divisor);
        assert_eq!(got.as_deref(), Ok(expected), "{name:?} {resource} by {divisor}");
    }
    assert_eq!(ask(Some("none"), "limits.cpu", "1"), Err(Error::NoContainer("none".into())));
    for resource in ["cpu", "limits.gpu", "uses.cpu", ""] {
        assert!(matches!(ask(None, resource, "1"), Err(Error::Field { .. })), "{resource}");
    }
}

#[test]
fn the_pods_limit_comes_before_the_nodes() {
    let given = given(json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}));
    let node = node();
    let downward = Downward { given: &given, node: &node, pod_ips: &[] };
    let ask = |resource: &str| {
        let selector = serde_json::from_value(json!({"resource": resource})).unwrap();
        downward.resource(Some(app(&given)), &selector).unwrap()
    };
    assert_eq!(ask("limits.cpu"), "2");
    assert_eq!(ask("limits.memory"), (1 << 30).to_string());
}

#[test]
fn quotes_are_gos() {
    for (text, expected) in [
        ("plain ü 語", "\"plain ü 語\""),
        ("a\\b\"c", "\"a\\\\b\\\"c\""),
        ("\t\r\n\u{7}\u{0}\u{7f}", "\"\\t\\r\\n\\a\\x00\\x7f\""),
        ("\u{a0}\u{2028}", "\"\\u00a0\\u2028\""),
    ] {
        assert_eq!(quoted(text), expected);
    }
}
