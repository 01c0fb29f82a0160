use serde_json::json;

use super::*;
use crate::proto::podbay::v1::EventType;

/// A pod with all fields that are shown.
fn full() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": "default", "uid": "u-1",
            "labels": {"app": "web", "tier": "front"}, "annotations": {"note": "two\nlines\u{1b}[1m"},
        },
        "spec": {
            "nodeName": "host", "priority": 0, "serviceAccountName": "default",
            "initContainers": [
                {"name": "setup", "image": "busybox", "command": ["sh", "-c", "echo a\necho b"]},
                {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"},
            ],
            "containers": [{
                "name": "app", "image": "nginx:1", "args": ["-g"],
                "ports": [{"containerPort": 80}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}],
                "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"path": "/live", "port": "http", "scheme": "HTTP"}, "periodSeconds": 5},
                "readinessProbe": {"exec": {"command": ["cat", "/ok"]}, "failureThreshold": 1},
                "startupProbe": {"tcpSocket": {"port": 80}},
                "envFrom": [{"prefix": "C_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "s", "optional": true}}],
                "env": [
                    {"name": "PLAIN", "value": "x"},
                    {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": true}}},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                ],
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data", "subPath": "a"},
                    {"name": "conf", "mountPath": "/conf", "readOnly": true},
                ],
            }],
            "readinessGates": [{"conditionType": "x.io/ready"}],
            "volumes": [
                {"name": "data", "emptyDir": {"sizeLimit": "1Gi"}},
                {"name": "conf", "configMap": {"name": "settings"}},
                {"name": "sec", "secret": {"secretName": "s", "optional": true}},
                {"name": "host", "hostPath": {"path": "/srv", "type": "Directory"}},
                {"name": "img", "image": {"reference": "data:1", "pullPolicy": "Always"}},
                {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "all", "projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "m"}}]}},
                {"name": "odd", "nfs": {}},
            ],
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [
                {"operator": "Exists"},
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "a", "value": "b", "effect": "NoSchedule"},
            ],
        },
        "status": {
            "phase": "Running", "qosClass": "Burstable", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}],
            "hostIP": "192.0.2.1", "startTime": "2026-11-23T07:00:00Z",
            "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "not ready: [app]"},
            ],
            "initContainerStatuses": [{
                "name": "setup", "containerID": "containerd://1", "imageID": "sha256:1", "ready": true, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": "2026-11-23T07:00:01Z", "finishedAt": "2026-11-23T07:00:02Z"}},
            }],
            "containerStatuses": [{
                "name": "app", "containerID": "containerd://2", "imageID": "sha256:2", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                "lastState": {"terminated": {"exitCode": 137, "signal": 9, "reason": "OOMKilled", "message": "a\nb",
                    "startedAt": "2026-11-23T07:00:03Z", "finishedAt": "2026-11-23T07:00:04Z"}},
            }],
        },
    })
}

fn now() -> OffsetDateTime {
    age::time_at(&json!("2026-11-23T07:10:00Z"), "").expect("time")
}

#[test]
fn a_full_pod() {
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let began = now().unix_timestamp() - 300;
    let event = |kind: EventType, reason: &str, count| Event {
        r#type: kind.into(),
        reason: reason.to_owned(),
        message: format!("it is {reason}\nnow"),
        container: if count > 1 { "app".to_owned() } else { String::new() },
        first: at(began),
        last: at(began + 240),
        count,
        ..Event::default()
    };
    let events = [event(EventType::Normal, "Started", 1), event(EventType::Warning, "BackOff", 7)];
    insta::assert_snapshot!(pod(&full(), &events, now()));
}

#[test]
fn a_pod_that_somebody_looks_at() {
    let looked_at = json!({
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {
            "containers": [{"name": "c", "image": "i"}],
            "ephemeralContainers": [{"name": "look", "image": "tools", "command": ["sh"], "targetContainerName": "c"}],
        },
        "status": {
            "phase": "Running",
            "ephemeralContainerStatuses": [{"name": "look", "containerID": "containerd://3", "imageID": "sha256:3",
                "state": {"terminated": {"exitCode": 7, "reason": "Error"}}}],
        },
    });
    let page = pod(&looked_at, &[], now());
    let (_, after) = page.split_once("Ephemeral Containers:\n  look:\n").expect("its part");
    for part in [
        "Container ID:  containerd://3",
        "Target:        c",
        "Reason:       Error",
        "Exit Code:    7",
    ] {
        assert!(after.contains(part), "{part} in\n{page}");
    }
}

#[test]
fn a_pod_that_ends_and_has_nothing() {
    let bare = json!({
        "metadata": {"name": "a", "namespace": "b", "deletionTimestamp": "2026-11-23T07:09:00Z", "deletionGracePeriodSeconds": 30},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Pending"},
    });
    insta::assert_snapshot!(pod(&bare, &[], now()));
}

#[test]
fn a_node() {
    let host = json!({
        "metadata": {"name": "host", "labels": {"kubernetes.io/os": "linux"}},
        "spec": {},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "capacity": {"cpu": "2", "memory": "8Gi"}, "allocatable": {"cpu": "1900m"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "AgentReady"}],
            "nodeInfo": {"kernelVersion": "6.1", "architecture": "amd64"},
            "images": [{}, {}],
        },
    });
    insta::assert_snapshot!(node(&host, Some(&[]), now()));
}
