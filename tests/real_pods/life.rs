//! Pods are created, run, and survive the agent.

use podbay::proto::podbay::v1::{self as api, Phase};
use podbay::proto::runtime::v1 as cri;
use serde_json::json;

use crate::rig::{Rig, SOON, container, is_true, pod};
use crate::support::containerd::Line;
use crate::support::wait_until;

pub async fn a_pod_from_its_manifest_to_its_last_trace(line: Line) {
    let rig = Rig::start(line).await;
    let inits = json!({ "initContainers": [
        rig.script("first", "sleep 0.3; date +%s%N > /shared/first"),
        rig.script("second", "cat /shared/first && date +%s%N > /shared/second"),
    ], "volumes": [{ "name": "work", "emptyDir": {} }] });
    let web = "while true; do echo hello | nc -l -p 8080; done";
    let near = "until nc 127.0.0.1 8080 2>/dev/null | grep hello; do sleep 0.1; done; ls /shared; sleep 600";
    let mut manifest = pod("slice", &[rig.script("web", web), rig.script("near", near)], inits);
    let mounts = json!([{ "name": "work", "mountPath": "/shared" }]);
    for list in ["initContainers", "containers"] {
        for container in manifest["spec"][list].as_array_mut().expect("containers") {
            container["volumeMounts"] = mounts.clone();
        }
    }
    rig.apply(&manifest).await;
    let running = rig.phase("slice", Phase::Running).await;
    assert!(is_true(&running, "Initialized") && is_true(&running, "Ready"), "{running:#?}");
    assert!(running.addresses[0].starts_with(&rig.agent.env.subnet_prefix()));
    let log = rig.log_has("slice", "near", "second").await;
    assert_eq!(log, "hello\nfirst\nsecond\n");
    rig.delete("slice", None).await;
    rig.gone("slice").await;
    rig.agent.assert_clean().await;
    let logs = std::fs::read_dir(rig.agent.env.log_root()).expect("the logs").count();
    assert_eq!(logs, 0, "logs of a pod that is gone");
}

pub async fn a_killed_agent_keeps_pods_running(line: Line) {
    let mut rig = Rig::start(line).await;
    let tick = "n=0; while true; do echo tick $n; n=$((n+1)); sleep 0.2; done";
    rig.apply(&pod("kept", &[rig.script("a", tick)], json!({}))).await;
    rig.apply(&pod("crash", &[rig.script("a", "exit 3")], json!({}))).await;
    let before = rig.phase("kept", Phase::Running).await;
    let looping = |pod: &podbay::proto::podbay::v1::Pod| container(pod, "a").restarts == 1;
    rig.until("crash", "restarted once", looping).await;
    rig.agent.kill9();
    rig.agent.restart().await;
    let after = rig.get("kept").await.expect("it is there");
    assert_eq!(after.phase(), Phase::Running);
    assert_eq!(container(&after, "a").container_id, container(&before, "a").container_id);
    assert_eq!((after.started, &after.conditions), (before.started, &before.conditions));
    let crash = rig.get("crash").await.expect("it is there");
    assert_eq!(container(&crash, "a").restarts, 1);
    for name in ["kept", "crash"] {
        rig.delete(name, Some(1)).await;
        rig.gone(name).await;
    }
    rig.agent.assert_clean().await;
}

pub async fn a_lost_store_loses_no_pod(line: Line) {
    let mut rig = Rig::start(line).await;
    let tick = "n=0; while true; do echo tick $n; n=$((n+1)); sleep 0.2; done";
    rig.apply(&pod("kept", &[rig.script("a", tick)], json!({}))).await;
    let before = rig.phase("kept", Phase::Running).await;
    let pid = pid_of(&rig, &before).await;
    let root = rig.agent.env.root();
    let keepsake = root.join("pods").join(&before.uid).join("pod.json");
    wait_until(SOON, "it is kept beside the store", async || keepsake.exists()).await;
    rig.agent.stop().await;
    std::fs::remove_file(root.join("state.redb")).expect("the store");
    rig.agent.restart().await;
    let known = |pod: &api::Pod| pod.phase() == Phase::Running && is_true(pod, "Ready");
    let after = rig.until("kept", "known again", known).await;
    assert_eq!((&after.uid, &after.addresses), (&before.uid, &before.addresses));
    let id = |pod: &api::Pod| container(pod, "a").container_id.clone();
    assert_eq!((id(&after), container(&after, "a").restarts), (id(&before), 0));
    assert_eq!(pid_of(&rig, &after).await, pid, "it was restarted");
    // Its log goes on where it was.
    let then = rig.log("kept", "a").await.lines().count();
    rig.log_has("kept", "a", &format!("tick {}\n", then + 5)).await;
    let log = rig.log("kept", "a").await;
    assert!(log.starts_with("tick 0\n"), "{log}");
    rig.delete("kept", Some(1)).await;
    rig.gone("kept").await;
    rig.agent.assert_clean().await;
}

/// PID of the first process of container `a`.
async fn pid_of(rig: &Rig, pod: &api::Pod) -> u64 {
    let id = &container(pod, "a").container_id;
    let container_id = id.strip_prefix("containerd://").unwrap_or(id).to_owned();
    let request = cri::ContainerStatusRequest { container_id, verbose: true };
    let answer = rig.agent.runtime().container_status(request).await.expect("a container");
    let info: serde_json::Value =
        serde_json::from_str(&answer.into_inner().info["info"]).expect("JSON");
    info["pid"].as_u64().expect("a pid")
}

pub async fn a_static_pod_follows_its_file(line: Line) {
    let rig = Rig::start(line).await;
    let manifest = pod("fixed", &[rig.script("a", "sleep 600")], json!({}));
    let file = rig.agent.env.manifests_dir().join("fixed.yaml");
    std::fs::write(&file, manifest.to_string()).expect("the manifest");
    let running = rig.phase("fixed", Phase::Running).await;
    assert_eq!(running.source(), podbay::proto::podbay::v1::Source::File);
    std::fs::remove_file(&file).expect("the manifest goes");
    rig.gone("fixed").await;
    rig.agent.assert_clean().await;
}
