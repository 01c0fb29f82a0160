//! Volumes of whole pods.

use podbay::proto::podbay::v1::Phase;
use serde_json::json;

use crate::rig::{Rig, pod};
use crate::support::containerd::Line;

pub async fn volumes_are_there_and_go(line: Line) {
    let rig = Rig::start(line).await;
    let map = |text: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "words" }, "data": { "greeting": text } })
    };
    let script = "while true; do cat /config/greeting; echo \" $WORD $(stat -f -c %T /mem)\"; sleep 0.2; done";
    let mut reader = rig.script("a", script);
    reader["volumeMounts"] = json!([{ "name": "config", "mountPath": "/config" },
                                    { "name": "mem", "mountPath": "/mem" }]);
    reader["env"] = json!([{ "name": "WORD", "valueFrom": { "configMapKeyRef": {
        "name": "words", "key": "greeting" } } }]);
    let volumes = json!({ "volumes": [
        { "name": "config", "configMap": { "name": "words" } },
        { "name": "mem", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
    ] });
    let pod = pod("reader", &[reader], volumes);
    // The pod waits for its config map.
    rig.apply(&pod).await;
    let waiting = rig.get("reader").await.expect("it is there");
    assert_eq!(waiting.phase(), Phase::Pending);
    rig.try_apply(&map("hello").to_string()).await.expect("applied");
    rig.log_has("reader", "a", "hello hello tmpfs").await;
    // A live update reaches the volume, not the environment.
    rig.try_apply(&map("goodbye").to_string()).await.expect("applied");
    rig.log_has("reader", "a", "goodbye hello tmpfs").await;
    rig.delete("reader", Some(1)).await;
    rig.gone("reader").await;
    rig.agent.assert_clean().await;
}
