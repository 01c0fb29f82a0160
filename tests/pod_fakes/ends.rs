//! Hooks, deadlines, and rejected pods.

use std::time::Duration;

use podbay::pod::{Delete, Face, Selector};
use serde_json::{Map, json};
use tokio::time::Instant;

use crate::rig::{Rig, container, named, phase, pod, quick, state};

#[tokio::test]
async fn a_pod_beyond_its_deadline_has_failed() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let deadline = json!({ "activeDeadlineSeconds": 1 });
    rig.apply(&pod("late", &[container("a", &["run"])], deadline)).await;
    let failed = rig.phase("late", "Failed").await;
    assert_eq!(failed.status.expect("a status").reason.as_deref(), Some("DeadlineExceeded"));
    rig.delete("late", None).await;
    rig.gone("late").await;
    world.clean().await;
}

#[tokio::test]
async fn a_failing_post_start_hook_ends_its_container() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let mut hooked = container("a", &["run"]);
    hooked["lifecycle"] = json!({ "postStart": { "exec": { "command": ["exit", "1"] } } });
    let never = json!({ "restartPolicy": "Never" });
    rig.apply(&pod("hooked", &[hooked], never)).await;
    let failed = rig.phase("hooked", "Failed").await;
    assert!(state(&failed, "a").starts_with("exit"), "{failed:#?}");
    let events = rig.events("hooked").await;
    assert!(events.iter().any(|event| event.0 == "FailedPostStartHook"), "{events:?}");
    rig.delete("hooked", None).await;
    rig.gone("hooked").await;
    world.clean().await;
}

#[tokio::test]
async fn a_pod_that_the_node_does_not_take_is_shown_as_failed() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let mut big = container("a", &["run"]);
    big["resources"] = json!({ "requests": { "cpu": "1000" } });
    rig.apply(&pod("big", &[big], json!({}))).await;
    let failed = rig.phase("big", "Failed").await;
    let status = failed.status.clone().expect("a status");
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    let expected = "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, \
                    used: 0, capacity: 64000";
    assert_eq!(status.message.as_deref(), Some(expected));
    assert_eq!((status.container_statuses, status.conditions), (None, None));
    assert!(status.start_time.is_some());
    assert_eq!(phase(&failed), "Failed");
    assert!(rig.ids("a").is_empty());
    rig.delete("big", None).await;
    rig.gone("big").await;
    world.clean().await;
}

#[tokio::test]
async fn a_missing_image_is_told_and_tried_again() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let mut absent = container("a", &["run"]);
    absent["image"] = json!("test.example/absent:1");
    absent["imagePullPolicy"] = json!("Never");
    rig.apply(&pod("absent", &[absent], json!({}))).await;
    let waiting =
        rig.until("absent", "waiting", |pod| state(pod, "a") == "ErrImageNeverPull").await;
    assert_eq!(phase(&waiting), "Pending");
    rig.delete("absent", None).await;
    rig.gone("absent").await;
    world.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_deletion_is_not_undone_by_news_of_the_pod() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    // So many that a view of the pod takes a while to make.
    let notes: Map<_, _> = (0..3000).map(|note| (format!("note-{note}"), "x".into())).collect();
    for round in 0..60_u64 {
        let name = format!("brief-{round}");
        let mut brief = pod(&name, &[container("a", &["run"])], json!({}));
        brief["metadata"]["annotations"] = notes.clone().into();
        rig.apply(&brief).await;
        // At another moment of its start each time, and on another thread than the pod's task.
        let moment = Instant::now() + Duration::from_micros(round % 50 * 200);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        let grace = Some(Duration::ZERO);
        let request = Delete { selector: named(&name), grace, force: true, ..Delete::default() };
        rig.pods().delete(request).await.expect("deleted");
    }
    world.clean().await;
    let left = rig.pods().list(&Selector::default()).expect("a list").pods;
    let left: Vec<_> = left.iter().map(|view| view.key().name.clone()).collect();
    assert_eq!(left, [""; 0], "they are shown, and nobody can delete them");
}
