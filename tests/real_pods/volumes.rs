//! Volumes of whole pods.

use podbay::proto::podbay::v1::Phase;
use podbay::proto::podbay::v1::container_state::State;
use serde_json::json;

use crate::rig::{Rig, container, pod};
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

pub async fn an_init_container_writes_the_environment_of_the_apps(line: Line) {
    let rig = Rig::start(line).await;
    let write = "printf \"# made\\nWORD = 'hello\\n\\$HOME'\\n\" > /made/app.env; ln -s /etc/passwd /made/out";
    let mut init = rig.script("write", write);
    init["volumeMounts"] = json!([{ "name": "made", "mountPath": "/made" }]);
    let from = |name: &str, path: &str, key: &str, optional: bool| {
        let key = json!({ "volumeName": "made", "path": path, "key": key, "optional": optional });
        json!({ "name": name, "valueFrom": { "fileKeyRef": key } })
    };
    let mut good = rig.script("good", "echo \"$A $B.\"; sleep 600");
    good["env"] = json!([
        from("A", "app.env", "WORD", false),
        from("B", "app.env", "OTHER", true),
        json!({ "name": "C", "value": "$(A)" }),
    ]);
    let mut bad = rig.script("bad", "true");
    bad["env"] = json!([from("A", "out", "root", true)]);
    let more = json!({
        "initContainers": [init],
        "volumes": [{ "name": "made", "emptyDir": { "medium": "Memory" } }],
    });
    rig.apply(&pod("filed", &[good, bad], more)).await;
    assert_eq!(rig.log_has("filed", "good", ".").await, "hello\n$HOME .\n");
    let refused = |pod: &podbay::proto::podbay::v1::Pod| {
        let state = container(pod, "bad").state.clone().and_then(|state| state.state);
        let Some(State::Waiting(waiting)) = state else { return false };
        waiting.reason == "CreateContainerConfigError"
            && waiting.message.contains("a link leads out of the volume")
    };
    rig.until("filed", "refused", refused).await;
    rig.delete("filed", Some(1)).await;
    rig.gone("filed").await;
    rig.agent.assert_clean().await;
}
