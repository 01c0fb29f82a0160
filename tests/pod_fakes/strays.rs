//! Whole pods after the loss of the store: they continue. What cannot be rebuilt is left alone and
//! then removed.

use std::time::Duration;

use serde_json::json;

use crate::rig::{Rig, container, pod, quick, state, status, uid};
use crate::world::eventually;

#[tokio::test]
async fn pods_of_a_lost_store_go_on() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("lost", &[container("a", &["run"])], json!({}))).await;
    let before = rig.phase("lost", "Running").await;
    let (ids, kept) = (rig.ids("a"), world.path("root/pods").join(uid(&before)).join("pod.json"));
    eventually("it is kept", async || kept.exists().then_some(())).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&kept.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    agent.kill().await;
    world.delete_store();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let after = rig.phase("lost", "Running").await;
    assert_eq!((uid(&after), rig.ids("a")), (uid(&before), ids));
    assert_eq!(status(&after, "a").restart_count, 0);
    // And after one more agent, whose store is not lost.
    agent.kill().await;
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.phase("lost", "Running").await;
    rig.delete("lost", None).await;
    rig.gone("lost").await;
    world.clean().await;
}

#[tokio::test]
async fn a_deletion_is_not_lost_with_the_store() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("lost", &[container("a", &["run"])], json!({}))).await;
    let pod = rig.phase("lost", "Running").await;
    let kept = world.path("root/pods").join(uid(&pod)).join("pod.json");
    world.fakes.steps.hang("kill");
    rig.delete("lost", Some(Duration::from_secs(1))).await;
    let is_deleted =
        || std::fs::read_to_string(&kept).is_ok_and(|it| !it.contains("\"deletion\":null"));
    eventually("the deletion is kept", async || is_deleted().then_some(())).await;
    agent.kill().await;
    world.fakes.steps.release("kill");
    world.delete_store();
    let agent = world.agent().await;
    Rig(&agent).gone("lost").await;
    world.clean().await;
}

#[tokio::test]
async fn what_cannot_be_rebuilt_is_left_alone_and_goes_later() {
    let mut world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("lost", &[container("a", &["run"])], json!({}))).await;
    let pod_before = rig.phase("lost", "Running").await;
    let kept = world.path("root/pods").join(uid(&pod_before)).join("pod.json");
    eventually("it is kept", async || kept.exists().then_some(())).await;
    let (ids, before) = (rig.ids("a"), world.leftovers());
    agent.kill().await;
    std::fs::write(&kept, "{").unwrap();
    world.delete_store();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    assert!(rig.get("lost").is_none());
    assert_eq!((rig.ids("a"), world.leftovers()), (ids, before));
    agent.kill().await;
    world.stray_patience = Duration::ZERO;
    // Its removal holds up nobody.
    world.fakes.steps.hang("detach");
    let agent = world.agent().await;
    let rig = Rig(&agent);
    world.fakes.steps.called("detach", 1).await;
    rig.apply(&pod("other", &[container("b", &["run"])], json!({}))).await;
    rig.until("other", "running", |pod| state(pod, "b") == "running").await;
    world.fakes.steps.release("detach");
    rig.delete("other", None).await;
    rig.gone("other").await;
    world.clean().await;
}

#[tokio::test]
async fn a_static_pod_of_a_lost_store_goes_on() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let wanted = [pod("fixed", &[container("a", &["run"])], json!({}))];
    rig.set_static(&wanted).await;
    let before = rig.phase("fixed", "Running").await;
    let ids = rig.ids("a");
    agent.kill().await;
    world.delete_store();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    assert_eq!(rig.ids("a"), ids, "it runs until it is known what is wanted");
    rig.set_static(&wanted).await;
    let after = rig.phase("fixed", "Running").await;
    assert_eq!(uid(&after), uid(&before));
    assert_eq!(status(&after, "a").container_id, status(&before, "a").container_id);
    rig.set_static(&[]).await;
    rig.gone("fixed").await;
    world.clean().await;
}
