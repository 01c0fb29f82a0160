//! Pods end before the host shuts down.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use podbay::backend::{self, Error, ErrorKind, Notice, Shutdown};
use podbay::pod::{Band, Bands, Face};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::rig::{Rig, container, is_true, phase, pod, quick, state, uid};
use crate::world::{Agent, eventually};

/// A host that shuts down when the test says so.
#[derive(Clone)]
struct Power {
    shutting_down: Arc<watch::Sender<bool>>,
    held: Arc<Mutex<bool>>,
}

struct Promise {
    power: Power,
    told: watch::Receiver<bool>,
    first: bool,
}

impl Power {
    fn on() -> Self {
        Self { shutting_down: Arc::new(watch::Sender::new(false)), held: Arc::default() }
    }

    fn say(&self, shutting_down: bool) {
        self.shutting_down.send_replace(shutting_down);
    }

    fn is_held(&self) -> bool {
        *self.held.lock().expect("a lock")
    }

    fn set_held(&self, held: bool) {
        *self.held.lock().expect("a lock") = held;
    }

    /// The agent ends pods by bands of so many seconds, and holds the host up.
    async fn minded_by(&self, agent: &Agent, bands: &[(i32, u64)]) {
        let band = |&(priority, seconds): &(i32, u64)| Band {
            priority,
            grace: Duration::from_secs(seconds),
        };
        let bands = Bands::new(bands.iter().map(band).collect());
        let (pods, host) = (agent.rooms.pods.clone(), Arc::new(self.clone()));
        agent.inside(async move { pods.start_shutdown(bands, host) }).await.expect("no panic");
        eventually("held up", async || self.is_held().then_some(())).await;
    }
}

#[async_trait]
impl Shutdown for Power {
    async fn notice(&self) -> backend::Result<Box<dyn Notice>> {
        let told = self.shutting_down.subscribe();
        Ok(Box::new(Promise { power: self.clone(), told, first: true }))
    }
}

#[async_trait]
impl Notice for Promise {
    fn patience(&self) -> Duration {
        Duration::from_secs(3600)
    }

    async fn hold(&mut self) -> backend::Result<()> {
        self.power.set_held(true);
        Ok(())
    }

    fn release(&mut self) {
        self.power.set_held(false);
    }

    async fn next(&mut self) -> backend::Result<bool> {
        if !std::mem::take(&mut self.first) {
            let lost = |_| Error::new(ErrorKind::Unavailable, "wait for the end");
            self.told.changed().await.map_err(lost)?;
        }
        Ok(*self.told.borrow_and_update())
    }
}

fn important(name: &str, priority: i32, command: &str) -> Value {
    pod(name, &[container("a", &[command])], json!({ "priority": priority }))
}

fn reason(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.reason.as_deref()).unwrap_or_default()
}

async fn is_ready(rig: &Rig<'_>) -> bool {
    let status = rig.pods().node().await.expect("a node").node.status.expect("a status");
    let conditions = status.conditions.expect("conditions");
    conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True")
}

#[tokio::test]
async fn pods_end_by_priority_and_then_the_host_goes_on() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let power = Power::on();
    power.minded_by(&agent, &[(0, 60), (1000, 60), (2_000_000_000, 60)]).await;
    // Only SIGKILL ends it, so there is time to look.
    rig.apply(&important("low", 0, "ignore-term")).await;
    rig.apply(&important("middle", 1500, "ignore-term")).await;
    rig.apply(&important("high", 2_000_000_000, "run")).await;
    for name in ["low", "middle", "high"] {
        rig.phase(name, "Running").await;
    }
    let never = json!({ "restartPolicy": "Never" });
    rig.apply(&pod("done", &[container("a", &["exit", "0"])], never)).await;
    rig.phase("done", "Succeeded").await;
    assert!(is_ready(&rig).await);
    power.say(true);
    eventually("not ready", async || (!is_ready(&rig).await).then_some(())).await;
    let late = rig.apply(&important("late", 0, "run")).await;
    assert_eq!((phase(&late.pod), reason(&late.pod)), ("Failed", "NodeShutdown"));
    let status = late.pod.status.clone().expect("a status");
    let message = status.message.expect("a message");
    assert_eq!(message, "Pod was rejected: Pod was rejected as the node is shutting down.");
    let low = rig.phase("low", "Failed").await;
    assert_eq!(reason(&low), "Terminated");
    let message = low.status.as_ref().and_then(|status| status.message.as_deref());
    assert_eq!(message, Some("Pod was terminated in response to imminent node shutdown."));
    assert!(is_true(&low, "DisruptionTarget"));
    // One band after the other.
    assert_eq!(state(&rig.get("high").expect("there"), "a"), "running");
    let middle = rig.phase("middle", "Failed").await;
    let begun = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|it| it.conditions.clone());
        let mut target = conditions.into_iter().flatten().filter(|c| c.type_ == "DisruptionTarget");
        target.next().and_then(|target| target.last_transition_time)
    };
    assert!(begun(&low) < begun(&middle), "{low:#?}{middle:#?}");
    rig.phase("high", "Failed").await;
    eventually("let go", async || (!power.is_held()).then_some(())).await;
    assert_eq!(reason(&rig.get("done").expect("there")), "");
    rig.remove_all(&["low", "middle", "high", "late", "done"]).await;
    world.clean().await;
}

#[tokio::test]
async fn a_shutdown_that_is_taken_back_leaves_the_rest_alone() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let power = Power::on();
    power.minded_by(&agent, &[(0, 60), (1000, 60)]).await;
    rig.set_static(&[important("fixed", 0, "run")]).await;
    let slow = json!({ "terminationGracePeriodSeconds": 600 });
    rig.apply(&pod("low", &[container("a", &["ignore-term"])], slow)).await;
    rig.apply(&important("high", 1000, "run")).await;
    for name in ["fixed", "low", "high"] {
        rig.phase(name, "Running").await;
    }
    power.say(true);
    let ended = rig.phase("fixed", "Failed").await;
    assert_eq!(reason(&ended), "Terminated");
    power.say(false);
    eventually("ready", async || is_ready(&rig).await.then_some(())).await;
    assert!(power.is_held());
    // Its file still has it.
    let again = rig.phase("fixed", "Running").await;
    assert_eq!(uid(&again), uid(&ended));
    assert!(!is_true(&again, "DisruptionTarget"));
    assert_eq!(state(&rig.get("high").expect("there"), "a"), "running");
    rig.apply(&important("late", 0, "run")).await;
    rig.phase("late", "Running").await;
    rig.set_static(&[]).await;
    rig.gone("fixed").await;
    for name in ["low", "high", "late"] {
        rig.delete(name, Some(Duration::from_secs(1))).await;
        rig.gone(name).await;
    }
    world.clean().await;
}

#[tokio::test]
async fn after_the_reboot_static_pods_begin_again_and_others_stay_failed() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let power = Power::on();
    power.minded_by(&agent, &[(0, 60)]).await;
    rig.set_static(&[important("fixed", 0, "run")]).await;
    rig.apply(&important("other", 0, "run")).await;
    let before = rig.phase("fixed", "Running").await;
    rig.phase("other", "Running").await;
    power.say(true);
    rig.phase("fixed", "Failed").await;
    rig.phase("other", "Failed").await;
    eventually("let go", async || (!power.is_held()).then_some(())).await;
    // Nothing begins in the little time that is left.
    agent.kill().await;
    let agent = world.agent().await;
    assert_eq!(phase(&Rig(&agent).get("fixed").expect("there")), "Failed");
    agent.kill().await;
    let world = world.rebooted();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let after = rig.phase("fixed", "Running").await;
    assert_eq!(uid(&after), uid(&before));
    assert_eq!(reason(&rig.get("other").expect("there")), "Terminated");
    rig.set_static(&[]).await;
    rig.gone("fixed").await;
    rig.delete("other", None).await;
    rig.gone("other").await;
    world.clean().await;
}

#[tokio::test]
async fn a_band_that_is_late_does_not_hold_up_the_next_one() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let power = Power::on();
    power.minded_by(&agent, &[(0, 1), (1000, 60)]).await;
    rig.apply(&important("stuck", 0, "run")).await;
    rig.apply(&important("high", 1000, "run")).await;
    for name in ["stuck", "high"] {
        rig.phase(name, "Running").await;
    }
    // Its network does not go away.
    world.fakes.steps.hang("detach");
    power.say(true);
    world.fakes.steps.called("detach", 2).await;
    world.fakes.steps.release("detach");
    eventually("let go", async || (!power.is_held()).then_some(())).await;
    for name in ["stuck", "high"] {
        assert_eq!(reason(&rig.phase(name, "Failed").await), "Terminated");
        rig.delete(name, None).await;
        rig.gone(name).await;
    }
    world.clean().await;
}

/// A host without anybody who tells.
struct Nobody(Mutex<usize>);

#[async_trait]
impl Shutdown for Nobody {
    async fn notice(&self) -> backend::Result<Box<dyn Notice>> {
        let mut asked = self.0.lock().expect("a lock");
        *asked += 1;
        let kind = if *asked < 2 { ErrorKind::Unavailable } else { ErrorKind::Unsupported };
        Err(Error::new(kind, "ask for notice"))
    }
}

#[tokio::test]
async fn where_nobody_tells_nothing_is_done() {
    let world = quick();
    let agent = world.agent().await;
    let nobody = Arc::new(Nobody(Mutex::default()));
    let (pods, host) = (agent.rooms.pods.clone(), nobody.clone());
    let band = Band { priority: 0, grace: Duration::from_secs(1) };
    let start = async move { pods.start_shutdown(Bands::new(vec![band]), host) };
    agent.inside(start).await.expect("no panic");
    // Away is asked again, absent is not.
    eventually("asked twice", async || {
        let asked = *nobody.0.lock().expect("a lock");
        (asked == 2 && Arc::strong_count(&nobody) == 1).then_some(())
    })
    .await;
    let rig = Rig(&agent);
    rig.apply(&important("web", 0, "run")).await;
    rig.phase("web", "Running").await;
    assert!(is_ready(&rig).await);
    rig.delete("web", None).await;
    rig.gone("web").await;
    world.clean().await;
}
