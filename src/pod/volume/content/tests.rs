use std::sync::Arc;

use k8s_openapi::api::core::v1::Volume;
use serde_json::{Value, json};

use super::*;

fn given() -> Given {
    let pod = json!({ "metadata": { "name": "web", "namespace": "n", "uid": "u" },
        "spec": { "containers": [] } });
    let map = json!({ "metadata": { "name": "conf" },
        "data": { "a": "1", "b": "2" }, "binaryData": { "raw": "AAH/" } });
    let secret = json!({ "metadata": { "name": "key" }, "data": { "a": "cw==", "s": "dA==" } });
    let mut given = Given {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        objects: Default::default(),
        source: Default::default(),
    };
    let map = Arc::new(serde_json::from_value(map).unwrap());
    let secret = Arc::new(serde_json::from_value(secret).unwrap());
    given.objects.config_maps.insert("conf".into(), map);
    given.objects.secrets.insert("key".into(), secret);
    given
}

fn made(source: Value, gid: Option<u32>) -> Result<VolumeFiles, Error> {
    let mut volume = source;
    volume["name"] = json!("v");
    let volume: Volume = serde_json::from_value(volume).unwrap();
    files(&given(), "v", &Kind::of(&volume), gid, &VolumeContext::default())
}

/// Path, content and mode.
fn shown(source: Value) -> Vec<(String, String, u32)> {
    let files = made(source, None).unwrap().files.into_iter();
    files.map(|(path, f)| (path, String::from_utf8_lossy(&f.content).into(), f.mode)).collect()
}

fn row(path: &str, content: &str, mode: u32) -> (String, String, u32) {
    (path.into(), content.into(), mode)
}

#[test]
fn all_keys_or_the_named_ones() {
    let all = shown(json!({ "configMap": { "name": "conf", "items": [] } }));
    assert_eq!(all[0], row("a", "1", 0o644));
    assert_eq!(all[2], row("raw", "\0\u{1}\u{fffd}", 0o644));
    let items = json!([{ "key": "b", "path": "x/y", "mode": 0o400 }, { "key": "a", "path": "z" }]);
    let some = json!({ "configMap": { "name": "conf", "items": items, "defaultMode": 0o640 } });
    assert_eq!(shown(some), [row("x/y", "2", 0o400), row("z", "1", 0o640)]);
    let secret = json!({ "secret": { "secretName": "key", "defaultMode": 0o400 } });
    assert_eq!(shown(secret), [row("a", "s", 0o400), row("s", "t", 0o400)]);
}

#[test]
fn what_is_missing_is_told_in_the_words_of_the_kubelet() {
    let missing = |source| made(source, None).unwrap_err().to_string();
    let setup = "MountVolume.SetUp failed for volume \"v\" : ";
    let key = json!([{ "key": "no", "path": "p" }]);
    let table = [
        (json!({ "configMap": { "name": "no" } }), "configmap \"no\" not found"),
        (json!({ "secret": { "secretName": "no" } }), "secret \"no\" not found"),
        (
            json!({ "configMap": { "name": "conf", "items": key } }),
            "configmap references non-existent config key: no",
        ),
        (
            json!({ "secret": { "secretName": "key", "items": key } }),
            "references non-existent secret key: no",
        ),
        (
            json!({ "projected": { "sources": [{ "secret": { "name": "no" } }] } }),
            "secret \"no\" not found",
        ),
        (
            json!({ "downwardAPI": { "items": [
                { "path": "p", "fieldRef": { "fieldPath": "spec.x" } }] } }),
            "unsupported fieldPath: spec.x",
        ),
    ];
    for (source, wanted) in table {
        assert_eq!(missing(source), format!("{setup}{wanted}"));
    }
}

#[test]
fn optional_objects_and_keys_may_be_missing() {
    assert_eq!(shown(json!({ "configMap": { "name": "no", "optional": true } })), []);
    assert_eq!(shown(json!({ "secret": { "secretName": "no", "optional": true } })), []);
    let items = json!([{ "key": "no", "path": "p" }, { "key": "a", "path": "a" }]);
    let some = json!({ "configMap": { "name": "conf", "items": items, "optional": true } });
    assert_eq!(shown(some), [row("a", "1", 0o644)]);
}

#[test]
fn projections_come_together_and_the_later_one_wins() {
    let source = json!({ "projected": { "defaultMode": 0o440, "sources": [
        { "configMap": { "name": "conf", "items": [{ "key": "a", "path": "one" }] } },
        { "secret": { "name": "key", "items": [{ "key": "a", "path": "one", "mode": 0o400 },
                                              { "key": "s", "path": "d/two" }] } },
        { "downwardAPI": { "items": [
            { "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } },
    ] } });
    let wanted = [row("d/two", "t", 0o440), row("name", "web", 0o440), row("one", "s", 0o400)];
    assert_eq!(shown(source), wanted);
}

#[test]
fn projections_that_need_an_api_server_are_refused_by_name() {
    let table = [
        ("serviceAccountToken", json!({ "path": "token" })),
        ("clusterTrustBundle", json!({ "path": "ca.pem" })),
        ("podCertificate", json!({ "signerName": "s", "keyType": "ED25519" })),
    ];
    for (what, value) in table {
        let source = json!({ "projected": { "sources": [{ what: value }] } });
        let error = made(source, None).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }));
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(error.reason().as_str(), "FailedMount");
    }
}

#[test]
fn the_group_may_read_and_owners_are_kept() {
    let items = json!([{ "key": "a", "path": "a", "user": 7 }, { "key": "s", "path": "s" }]);
    let source = json!({ "secret": { "secretName": "key", "defaultMode": 0o400, "items": items,
        "defaultUser": 9 } });
    let made = made(source, Some(2000)).unwrap();
    assert_eq!(made.gid, Some(2000));
    assert_eq!((made.files["a"].mode, made.files["a"].uid), (0o440, Some(7)));
    assert_eq!((made.files["s"].mode, made.files["s"].uid), (0o440, Some(9)));
}

#[test]
fn files_tell_of_the_pod_and_of_what_the_node_gives() {
    let context = VolumeContext {
        allocatable: crate::pod::Allocatable {
            milli_cpu: 3500,
            memory: 8 << 30,
            ..Default::default()
        },
        pod_memory_limit: None,
    };
    let told = |item: Value| {
        let mut item = item;
        item["path"] = json!("f");
        let volume = json!({ "name": "v", "downwardAPI": { "items": [item] } });
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let mut given = given();
        let mut pod = given.pod.as_ref().clone();
        let labels = [("b", "2"), ("a", "say \"hi\"\n")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        pod.metadata.labels = Some(labels.into());
        let containers = json!([{ "name": "app", "resources": { "limits": { "cpu": "1200m" } } }]);
        pod.spec.as_mut().unwrap().containers = serde_json::from_value(containers).unwrap();
        given.pod = Arc::new(pod);
        let made = files(&given, "v", &Kind::of(&volume), None, &context);
        made.map(|made| String::from_utf8(made.files["f"].content.clone()).unwrap())
    };
    let field = |path: &str| told(json!({ "fieldRef": { "fieldPath": path } }));
    assert_eq!(field("metadata.labels").unwrap(), "a=\"say \\\"hi\\\"\\n\"\nb=\"2\"");
    assert_eq!(field("metadata.labels['b']").unwrap(), "2");
    assert_eq!(field("metadata.uid").unwrap(), "u");
    for bad in ["spec.nodeName", "status.podIP", "status.hostIPs", "metadata.owner", ""] {
        let error = field(bad).unwrap_err().to_string();
        assert!(error.ends_with(&format!("unsupported fieldPath: {bad}")), "{error}");
    }
    let resource = |name: &str, divisor: &str| {
        told(json!({ "resourceFieldRef": {
            "containerName": "app", "resource": name, "divisor": divisor } }))
    };
    assert_eq!(resource("limits.cpu", "0").unwrap(), "2");
    assert_eq!(resource("limits.cpu", "1m").unwrap(), "1200");
    assert_eq!(resource("limits.memory", "1Gi").unwrap(), "8");
    assert_eq!(resource("requests.memory", "1").unwrap(), "0");
    assert!(matches!(resource("limits.nonsense", "1"), Err(Error::Value { .. })));
    assert!(matches!(told(json!({})), Err(Error::Value { .. })));
}
