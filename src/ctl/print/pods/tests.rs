use serde_json::json;

use super::super::table::Table;
use super::*;

fn pod(spec: Value, status: Value) -> Value {
    json!({
        "metadata": {
            "name": "web", "namespace": "default", "creationTimestamp": "2026-11-23T07:00:00Z",
            "labels": {"app": "web", "tier": "front"},
        },
        "spec": spec,
        "status": status,
    })
}

fn now() -> OffsetDateTime {
    let at = json!("2026-11-23T07:05:00Z");
    age::time_at(&at, "").expect("time")
}

fn row(pod: &Value) -> String {
    let summary = Summary::of(pod);
    format!(
        "{}/{} {} {}",
        summary.ready,
        summary.containers,
        summary.status,
        summary.restarts(now())
    )
}

fn running(ready: bool) -> Value {
    json!({"name": "app", "ready": ready, "restartCount": 0, "state": {"running": {}}})
}

#[test]
fn a_row_says_what_kubectl_says() {
    let one = json!({"containers": [{"name": "app"}]});
    let two = json!({"containers": [{"name": "app"}, {"name": "side"}]});
    let init =
        json!({"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "app"}]});
    let sidecar = json!({
        "initContainers": [{"name": "a", "restartPolicy": "Always"}], "containers": [{"name": "app"}],
    });
    let waiting = |reason: &str, count: u32| {
        json!({"name": "app", "restartCount": count, "state": {"waiting": {"reason": reason}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-11-23T07:04:00Z"}}})
    };
    let ended =
        |end: Value| json!({"name": "app", "restartCount": 0, "state": {"terminated": end}});
    let apps =
        |phase: &str, statuses: Value| json!({"phase": phase, "containerStatuses": statuses});
    let inits = |statuses: Value| json!({"phase": "Pending", "initContainerStatuses": statuses});
    let rows = [
        (&one, json!({"phase": "Pending"}), "0/1 Pending 0"),
        (&one, apps("Running", json!([running(true)])), "1/1 Running 0"),
        (&one, apps("Running", json!([running(false)])), "0/1 Running 0"),
        (
            &one,
            apps("Pending", json!([waiting("ContainerCreating", 0)])),
            "0/1 ContainerCreating 0",
        ),
        (
            &one,
            apps("Running", json!([waiting("CrashLoopBackOff", 3)])),
            "0/1 CrashLoopBackOff 3 (60s ago)",
        ),
        (
            &one,
            apps("Succeeded", json!([ended(json!({"exitCode": 0, "reason": "Completed"}))])),
            "0/1 Completed 0",
        ),
        (&one, apps("Failed", json!([ended(json!({"exitCode": 3}))])), "0/1 ExitCode:3 0"),
        (
            &one,
            apps("Failed", json!([ended(json!({"exitCode": 137, "signal": 9}))])),
            "0/1 Signal:9 0",
        ),
        (
            &two,
            apps("Running", json!([ended(json!({"reason": "Completed"})), running(true)])),
            "1/2 NotReady 0",
        ),
        (
            &init,
            inits(json!([{"name": "a", "restartCount": 0, "state": {"running": {}}}])),
            "0/1 Init:0/2 0",
        ),
        (
            &init,
            inits(
                json!([{"name": "a", "restartCount": 2, "state": {"terminated": {"exitCode": 1}}}]),
            ),
            "0/1 Init:ExitCode:1 2",
        ),
        (
            &init,
            inits(
                json!([{"name": "a", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]),
            ),
            "0/1 Init:Error 0",
        ),
        (
            &init,
            inits(json!([
                {"name": "a", "state": {"terminated": {"exitCode": 0}}},
                {"name": "b", "state": {"waiting": {"reason": "ImagePullBackOff"}}},
            ])),
            "0/1 Init:ImagePullBackOff 0",
        ),
        (
            &sidecar,
            json!({"phase": "Running",
                "initContainerStatuses": [{"name": "a", "started": true, "ready": true, "restartCount": 4, "state": {"running": {}}}],
                "containerStatuses": [running(true)],
            }),
            "2/2 Running 4",
        ),
        (&one, json!({"phase": "Failed", "reason": "Evicted"}), "0/1 Evicted 0"),
    ];
    for (spec, status, expected) in rows {
        assert_eq!(row(&pod(spec.clone(), status.clone())), expected, "{status}");
    }
}

#[test]
fn a_pod_that_is_being_deleted_is_terminating_until_it_has_ended() {
    let mut ending = pod(json!({"containers": [{}]}), json!({"phase": "Running"}));
    ending["metadata"]["deletionTimestamp"] = json!("2026-11-23T07:05:00Z");
    assert_eq!(status_word(&ending), "Terminating");
    ending["status"] = json!({"phase": "Failed"});
    assert_eq!(status_word(&ending), "Failed");
}

#[test]
fn all_columns() {
    let mut web = pod(
        json!({"containers": [{"name": "app"}], "nodeName": "host", "readinessGates": [{"conditionType": "x"}]}),
        json!({"phase": "Running", "podIP": "10.1.0.2", "containerStatuses": [running(true)],
            "conditions": [{"type": "x", "status": "True"}]}),
    );
    let mut bare = web.clone();
    bare["metadata"] = json!({"name": "other", "namespace": "kube-system"});
    bare["spec"] = json!({});
    bare["status"] = json!({"phase": "Pending"});
    web["metadata"]["annotations"] = json!({});
    let columns = PodColumns { namespace: true, wide: true, kind: true };
    let mut table = Table::new(columns.header(), false);
    let rows = [columns.row(&web, now()), columns.row(&bare, now())];
    insta::assert_snapshot!(table.rows(&rows));
    let few = PodColumns::default();
    let mut table = Table::new(few.header(), true);
    insta::assert_snapshot!(table.rows(&[few.row(&web, now())]).replace('\u{1b}', "^"));
}

#[test]
fn moods_follow_the_word() {
    assert_eq!(mood("Running"), Mood::Good);
    assert_eq!(mood("Init:1/2"), Mood::Busy);
    assert_eq!(mood("Init:Error"), Mood::Bad);
    assert_eq!(mood("Init:"), Mood::Bad);
    assert_eq!(mood("CrashLoopBackOff"), Mood::Bad);
}
