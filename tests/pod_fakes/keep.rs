//! The node's upkeep: log rotation, evictions, reported shortages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use podbay::board::Sandbox;
use podbay::pod::upkeep::{
    EvictionOptions, LogLimits, Observation, Observations, Signal, UpkeepOptions,
};
use podbay::pod::{Face, KeepOptions, Meter, Used};
use serde_json::json;

use crate::rig::{Rig, container, is_true, phase, pod, quick, state};
use crate::world::{Agent, eventually};

/// Tells what the test says.
#[derive(Default)]
struct Told(Mutex<Observations>, AtomicUsize);

impl Told {
    fn memory(&self, available: u64) {
        let seen = Observation { available, capacity: 1 << 30 };
        self.0.lock().expect("a lock").insert(Signal::MemoryAvailable, seen);
    }

    /// Waits for so many rounds.
    async fn rounds(&self, count: usize) {
        let until = self.1.load(Ordering::Relaxed) + count;
        let reached = async || (self.1.load(Ordering::Relaxed) >= until).then_some(());
        eventually("rounds", reached).await;
    }
}

#[async_trait]
impl Meter for Told {
    async fn observe(&self) -> Observations {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.lock().expect("a lock").clone()
    }

    async fn used(&self, sandboxes: Vec<Arc<Sandbox>>) -> BTreeMap<String, Used> {
        // As many bytes as the name is long.
        let used = |sandbox: &Arc<Sandbox>| Used {
            memory: u64::try_from(sandbox.config.metadata.name.len()).ok(),
            ..Used::default()
        };
        sandboxes.iter().map(|it| (it.config.metadata.uid.clone(), used(it))).collect()
    }
}

async fn keep(agent: &Agent, logs: LogLimits, hold: Duration) -> Arc<Told> {
    let told = Arc::new(Told::default());
    let often = Duration::from_millis(10);
    let options = KeepOptions {
        upkeep: UpkeepOptions {
            logs,
            dead: 2,
            logs_every: often,
            dead_every: often,
            images_every: often,
            evict_every: often,
            ..UpkeepOptions::default()
        },
        image_gc: false,
        eviction: EvictionOptions {
            thresholds: vec!["memory.available<100Mi".parse().expect("a threshold")],
            hold,
            own_image_disk: false,
        },
    };
    let (pods, meter) = (agent.rooms.pods.clone(), told.clone());
    agent.inside(async move { pods.start_upkeep(options, meter) }).await.expect("no panic");
    told
}

#[tokio::test]
async fn logs_of_whole_pods_are_rotated() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    rig.apply(&pod("talker", &[container("a", &["run"])], json!({}))).await;
    rig.phase("talker", "Running").await;
    let found = rig.0.rooms.sandboxes.containers(&Default::default()).remove(0);
    let log = found.log_path.clone().expect("a log");
    std::fs::write(&log, [b'x'; 4096]).expect("written");
    keep(&agent, LogLimits { size: 4096, files: 3 }, Duration::ZERO).await;
    let names = || {
        let found = std::fs::read_dir(log.parent().expect("a folder")).expect("a folder");
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().expect("text");
        found.map(|entry| name(entry.expect("an entry"))).collect::<Vec<_>>()
    };
    eventually("a rotated log", async || {
        let names = names();
        let rotated = names.iter().any(|name| name.starts_with("0.log.2"));
        (rotated && names.contains(&"0.log".to_owned())).then_some(())
    })
    .await;
    let size = std::fs::metadata(&log).expect("a new log").len();
    assert!(size < 4096, "{size}");
    rig.delete("talker", None).await;
    rig.gone("talker").await;
    world.clean().await;
}

#[tokio::test]
async fn a_node_short_of_memory_evicts_who_takes_the_most() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    for name in ["small", "much-larger"] {
        rig.apply(&pod(name, &[container("a", &["run"])], json!({}))).await;
        rig.phase(name, "Running").await;
    }
    let told = keep(&agent, LogLimits::default(), Duration::from_secs(600)).await;
    told.memory(50 << 20);
    let evicted = rig
        .until("much-larger", "evicted", |pod| {
            let status = pod.status.as_ref().expect("a status");
            phase(pod) == "Failed" && status.reason.as_deref() == Some("Evicted")
        })
        .await;
    told.memory(500 << 20);
    let message = evicted.status.as_ref().and_then(|status| status.message.clone());
    let message = message.expect("a message");
    assert!(message.starts_with("The node was low on resource: memory."), "{message}");
    assert!(is_true(&evicted, "DisruptionTarget"));
    let events = rig.events("much-larger").await;
    assert_eq!(events.iter().filter(|(reason, _)| reason == "Evicted").count(), 1, "{events:?}");
    assert_eq!(state(&rig.get("small").expect("there"), "a"), "running");
    // The shortage is held: the node shows it, and takes no pod that asks for nothing.
    let node = rig.pods().node().await.expect("a node").node;
    let conditions = node.status.expect("a status").conditions.expect("conditions");
    let memory = conditions.iter().find(|it| it.type_ == "MemoryPressure").expect("told");
    assert_eq!(memory.status, "True");
    assert_eq!(conditions.len(), 4);
    let refused = rig.apply(&pod("late", &[container("a", &["run"])], json!({}))).await;
    assert_eq!(phase(&refused.pod), "Failed");
    let reason = refused.pod.status.as_ref().and_then(|status| status.reason.as_deref());
    assert_eq!(reason, Some("Evicted"));
    rig.remove_all(&["small", "much-larger", "late"]).await;
    world.clean().await;
}

#[tokio::test]
async fn the_last_end_of_a_container_is_not_collected() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let never = json!({ "restartPolicy": "Never" });
    rig.apply(&pod("done", &[container("a", &["exit", "3"])], never)).await;
    let told = keep(&agent, LogLimits::default(), Duration::ZERO).await;
    rig.phase("done", "Failed").await;
    // All rounds have the same period: the dead are looked for as often as the memory.
    told.rounds(5).await;
    assert_eq!(rig.ids("a").len(), 1);
    assert_eq!(state(&rig.get("done").expect("there"), "a"), "exit 3");
    rig.delete("done", None).await;
    rig.gone("done").await;
    world.clean().await;
}
