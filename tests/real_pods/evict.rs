//! Evictions: of a pod that exceeds its limits, and from a node whose disk gets full.

use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use podbay::proto::podbay::v1::{Phase, Pod};
use serde_json::{Value, json};

use crate::rig::{Rig, SOON, is_true, pod};
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::images::ImageBuilder;
use crate::support::wait_until;

/// How long a shortage is told of after it is over.
const HOLD: Duration = Duration::from_secs(12);

/// A pod that writes so many MiB into a volume.
fn writer(rig: &Rig, name: &str, mib: u32, volume: Value) -> Value {
    let script = format!("dd if=/dev/zero of=/data/x bs=1M count={mib}; echo written; sleep 600");
    let mut app = rig.script("a", &script);
    app["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    pod(name, &[app], json!({ "volumes": [{ "name": "data", "emptyDir": volume }] }))
}

fn is_evicted(pod: &Pod) -> bool {
    pod.phase() == Phase::Failed && pod.reason == "Evicted"
}

pub async fn a_volume_beyond_its_limit_evicts_its_pod(line: Line) {
    let rig = Rig::start(line).await;
    rig.apply(&writer(&rig, "modest", 1, json!({ "sizeLimit": "4Mi" }))).await;
    rig.apply(&writer(&rig, "greedy", 3, json!({ "sizeLimit": "2Mi" }))).await;
    let evicted = rig.until("greedy", "evicted", is_evicted).await;
    assert_eq!(evicted.message, "Usage of EmptyDir volume \"data\" exceeds the limit \"2Mi\". ");
    assert!(is_true(&evicted, "DisruptionTarget"), "{evicted:#?}");
    assert!(!is_true(&evicted, "Ready"), "{evicted:#?}");
    let modest = rig.get("modest").await.expect("it is there");
    assert_eq!(modest.phase(), Phase::Running);
    for name in ["greedy", "modest"] {
        rig.delete(name, Some(1)).await;
        rig.gone(name).await;
    }
    rig.agent.assert_clean().await;
}

pub async fn a_full_disk_evicts_and_keeps_pods_out(line: Line) {
    let mut env = TestEnv::start(line).await;
    std::fs::create_dir_all(env.root()).expect("the root");
    let (kind, size) = (Some("tmpfs"), Some("size=64m,mode=700"));
    mount(kind, &env.root(), kind, MsFlags::empty(), size).expect("a disk of its own");
    env.set_pods(&format!(
        "eviction = [\"nodefs.available<50%\"]\neviction_hold = \"{}s\"",
        HOLD.as_secs()
    ));
    let rig = Rig::start_in(env, ImageBuilder::busybox()).await;
    assert!(!rig.node_is("DiskPressure").await);
    rig.apply(&writer(&rig, "small", 2, json!({}))).await;
    rig.apply(&writer(&rig, "big", 40, json!({}))).await;
    let evicted = rig.until("big", "evicted", is_evicted).await;
    let begin = Instant::now();
    let low = "The node was low on resource: ephemeral-storage. Threshold quantity: ";
    assert!(evicted.message.starts_with(low), "{}", evicted.message);
    assert!(is_true(&evicted, "DisruptionTarget"), "{evicted:#?}");
    // The disk has room again, and the node waits whether that lasts.
    assert!(rig.node_is("DiskPressure").await);
    rig.apply(&pod("late", &[rig.script("a", "sleep 600")], json!({}))).await;
    let late = rig.get("late").await.expect("it is there");
    assert!(is_evicted(&late), "{late:#?}");
    assert_eq!(late.message, "Pod was rejected: The node had condition: [DiskPressure]. ");
    let critical = json!({ "priorityClassName": "system-node-critical" });
    rig.apply(&pod("critical", &[rig.script("a", "sleep 600")], critical)).await;
    rig.phase("critical", Phase::Running).await;
    let small = rig.get("small").await.expect("it is there");
    assert_eq!(small.phase(), Phase::Running);
    wait_until(SOON, "no pressure", async || !rig.node_is("DiskPressure").await).await;
    // Looks are ten seconds apart: the last one that saw it was at most as long before.
    assert!(begin.elapsed() + Duration::from_secs(10) > HOLD, "{:?}", begin.elapsed());
    rig.apply(&pod("again", &[rig.script("a", "sleep 600")], json!({}))).await;
    rig.phase("again", Phase::Running).await;
    for name in ["small", "big", "late", "critical", "again"] {
        rig.delete(name, Some(1)).await;
        rig.gone(name).await;
    }
    rig.agent.assert_clean().await;
}
