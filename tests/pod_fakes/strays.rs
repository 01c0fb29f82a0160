//! Whole pods that nobody knows after the store was lost.

use serde_json::json;

use crate::rig::{Rig, container, pod, quick, status, uid};

#[tokio::test]
async fn pods_of_a_lost_store_are_removed() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("lost", &[container("a", &["run"])], json!({}))).await;
    rig.phase("lost", "Running").await;
    agent.kill().await;
    world.delete_store();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    assert!(rig.get("lost").is_none());
    world.clean().await;
    // Its name is free.
    rig.apply(&pod("lost", &[container("a", &["run"])], json!({}))).await;
    rig.phase("lost", "Running").await;
    rig.delete("lost", None).await;
    rig.gone("lost").await;
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
