//! Settings of pods by annotations.

use serde_json::json;

use crate::rig::{Rig, pod};
use crate::support::containerd::Line;

pub async fn ulimits_reach_their_container(line: Line) {
    let rig = Rig::start(line).await;
    let script = "echo \"$(ulimit -S -n) $(ulimit -H -n) $(ulimit -c)\"; sleep 600";
    let containers = [rig.script("a", script), rig.script("b", script)];
    let mut limited = pod("limited", &containers, json!({}));
    limited["metadata"]["annotations"] =
        json!({ "ulimits.podbay.io/a": "nofile=1000:2000,core=0" });
    rig.apply(&limited).await;
    let told = rig.log_has("limited", "a", "\n").await;
    assert_eq!(told, "1000 2000 0\n");
    // The annotation is of one container.
    let other = rig.log_has("limited", "b", "\n").await;
    assert!(!other.contains("1000 2000"), "{other}");
    rig.delete("limited", Some(1)).await;
    rig.gone("limited").await;
    // What is no limit is refused by name.
    limited["metadata"]["annotations"] = json!({ "ulimits.podbay.io/a": "files=1000" });
    let refused = rig.try_apply(&limited.to_string()).await.expect_err("no such limit");
    assert!(refused.message().contains("ulimits.podbay.io/a"), "{refused}");
    rig.agent.assert_clean().await;
}
