//! Resizes of running pods.

use podbay::proto::podbay::v1::Phase;
use serde_json::{Value, json};

use crate::rig::{Rig, container, pod};
use crate::support::containerd::Line;

/// A pod that holds more than 40 MiB of memory, with this limit.
fn holder(rig: &Rig, limit: &str) -> Value {
    let script =
        "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo holds; while true; do sleep 1; done";
    let mut app = rig.script("a", script);
    app["resources"] = json!({ "limits": { "memory": limit }, "requests": { "memory": "1Mi" } });
    pod("holder", &[app], json!({}))
}

pub async fn memory_in_use_is_not_taken_away(line: Line) {
    let rig = Rig::start(line).await;
    rig.apply(&holder(&rig, "512Mi")).await;
    rig.log_has("holder", "a", "holds").await;
    rig.apply(&holder(&rig, "16Mi")).await;
    let refused = rig.until("holder", "told that it is in use", |pod| {
        pod.conditions.iter().any(|it| {
            it.r#type == "PodResizeInProgress" && it.message.contains("below current usage")
        })
    });
    let refused = refused.await;
    let told = refused.conditions.iter().find(|it| it.r#type == "PodResizeInProgress");
    let message = &told.expect("the condition").message;
    for limit in ["pod memory limit (16777216)", "container \"a\" memory limit (16777216)"] {
        assert!(message.contains(limit), "{message}");
    }
    rig.apply(&holder(&rig, "256Mi")).await;
    let done = rig.until("holder", "resized", |pod| {
        pod.conditions.iter().all(|it| it.r#type != "PodResizeInProgress")
    });
    let done = done.await;
    assert_eq!((done.phase(), container(&done, "a").restarts), (Phase::Running, 0));
    rig.delete("holder", Some(1)).await;
    rig.gone("holder").await;
    rig.agent.assert_clean().await;
}
