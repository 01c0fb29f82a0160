use std::sync::Arc;

use super::*;
use crate::pod::{PodView, Source};

fn view() -> PodView {
    let pod = serde_json::json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "u", "labels": {"app": "web"},
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "deletionTimestamp": "2026-01-02T03:05:05Z", "deletionGracePeriodSeconds": 30,
        },
        "spec": {
            "nodeName": "n1", "restartPolicy": "Never",
            "initContainers": [
                {"name": "prepare", "image": "i1"},
                {"name": "proxy", "image": "i2", "restartPolicy": "Always"},
            ],
            "containers": [{"name": "main", "image": "i3", "ports": [
                {"name": "dns", "containerPort": 53, "hostPort": 5353, "protocol": "UDP"},
                {"containerPort": 80},
            ]}],
            "ephemeralContainers": [{"name": "look", "image": "i4", "targetContainerName": "main"}],
        },
        "status": {
            "phase": "Running", "reason": "r", "message": "m", "qosClass": "Burstable",
            "podIP": "10.0.0.7", "hostIPs": [{"ip": "192.0.2.1"}],
            "startTime": "2026-01-02T03:04:06Z",
            "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
            "initContainerStatuses": [
                {"name": "prepare", "image": "i1", "imageID": "sha256:1", "ready": true,
                 "restartCount": 0, "containerID": "containerd://abc", "state": {"terminated":
                    {"exitCode": 0, "reason": "Completed", "signal": 15}}},
            ],
            "containerStatuses": [
                {"name": "main", "image": "i3", "imageID": "sha256:3", "ready": false,
                 "started": true, "restartCount": 4, "containerID": "containerd://def",
                 "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "later"}},
                 "lastState": {"running": {"startedAt": "2026-01-02T03:04:07.25Z"}}},
            ],
            "ephemeralContainerStatuses": [
                {"name": "look", "image": "i4", "imageID": "sha256:4", "ready": false, "restartCount": 0,
                 "containerID": "containerd://123", "state": {"terminated": {"exitCode": 7}}},
            ],
        },
    });
    let revision = Revision { epoch: "e".into(), number: 12 };
    PodView { pod: Arc::new(serde_json::from_value(pod).unwrap()), source: Source::File, revision }
}

#[test]
fn a_pod_is_shown_whole() {
    use v1::container_state::State;
    let shown = pod(&view());
    assert_eq!((shown.source(), shown.phase()), (v1::Source::File, v1::Phase::Running));
    assert_eq!((shown.reason.as_str(), shown.message.as_str()), ("r", "m"));
    assert_eq!(shown.labels["app"], "web");
    assert_eq!(
        (shown.addresses, shown.host_addresses),
        (vec!["10.0.0.7".to_owned()], vec!["192.0.2.1".to_owned()],)
    );
    assert_eq!((shown.qos_class.as_str(), shown.restart_policy.as_str()), ("Burstable", "Never"));
    let created = shown.created.unwrap().seconds;
    assert_eq!(shown.deletion_deadline.unwrap().seconds - created, 60);
    assert_eq!(shown.deletion_grace.unwrap().seconds, 30);
    assert_eq!(shown.started.unwrap().seconds - created, 1);
    assert_eq!(shown.conditions[0].status(), v1::ConditionStatus::False);
    let kinds: Vec<_> = shown.containers.iter().map(v1::Container::kind).collect();
    use v1::ContainerKind::{App, Ephemeral, Init, Sidecar};
    assert_eq!(kinds, [Init, Sidecar, App, Ephemeral]);
    let [prepare, proxy, main, look] = &shown.containers[..] else { panic!("four containers") };
    let Some(State::Terminated(ended)) = look.state.clone().unwrap().state else { panic!() };
    assert_eq!((ended.exit_code, look.image.as_str()), (7, "i4"));
    let Some(State::Terminated(ended)) = prepare.state.clone().unwrap().state else { panic!() };
    assert_eq!((ended.exit_code, ended.signal, &*ended.reason), (0, 15, "Completed"));
    assert_eq!((proxy.state.clone(), proxy.image.as_str()), (None, "i2"));
    assert_eq!((main.restarts, main.ready, main.started), (4, false, true));
    let Some(State::Waiting(waiting)) = main.state.clone().unwrap().state else { panic!() };
    assert_eq!(waiting.reason, "CrashLoopBackOff");
    let Some(State::Running(running)) = main.last_state.clone().unwrap().state else { panic!() };
    assert_eq!(running.started.unwrap().nanos, 250_000_000);
    assert_eq!((main.ports[0].protocol(), main.ports[0].host_port), (v1::Protocol::Udp, 5353));
    assert_eq!((main.ports[1].protocol(), main.ports[1].container_port), (v1::Protocol::Tcp, 80));
    let object: serde_json::Value = serde_json::from_str(&shown.object).unwrap();
    assert_eq!((&object["kind"], &object["apiVersion"]), (&"Pod".into(), &"v1".into()));
}

#[test]
fn a_container_is_known_by_its_id() {
    assert_eq!(container_name(&view(), "def").as_deref(), Some("main"));
    assert_eq!(container_name(&view(), "abc").as_deref(), Some("prepare"));
    assert_eq!(container_name(&view(), "123").as_deref(), Some("look"));
    assert_eq!(container_name(&view(), "ef"), None);
    assert_eq!(container_name(&view(), ""), None);
}

#[test]
fn times_before_the_epoch_count_onwards_too() {
    assert_eq!(timestamp(-1), Timestamp { seconds: -1, nanos: 999_999_999 });
    assert_eq!(timestamp(1_000_000_001), Timestamp { seconds: 1, nanos: 1 });
    let early = "1969-12-31T23:59:59.5Z".parse().unwrap();
    assert_eq!(time(&Some(Time(early))), Some(Timestamp { seconds: -1, nanos: 500_000_000 }));
}
