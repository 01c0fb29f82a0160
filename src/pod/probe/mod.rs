//! Startup, liveness and readiness probes.
//!
//! ```text
//!   sync(uid, targets) ──► a task for each probe of each container ──► states(uid)
//!                          startup ──started──► liveness, readiness         ▲
//!                                                       └── change ── on_change(uid)
//! ```
//!
//! The probed containers are those of the last [`Prober::sync`]: a new container id starts over, a
//! missing one is no longer probed. The rules are the kubelet's (`pkg/kubelet/prober`): a container
//! that fails its liveness or startup probe is reported as failed once and then left alone until
//! its id changes; liveness and readiness wait for the startup probe; a probe that cannot be
//! carried out is tried three times and then has no result.

mod periods;
mod task;

pub use periods::{PERIOD_PREFIX, check_periods};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

use super::handler::{Exec, Reporter};
use crate::ids::ContainerId;
use crate::lifecycle::{Owned, Tasks};
use crate::locks::Mutex;
use crate::model::UnixNanos;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Has it started? The other probes wait for this one.
    Startup,
    /// Must it be restarted?
    Liveness,
    /// May it receive traffic?
    Readiness,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The lower-case name in annotations and messages: `liveness`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

/// The name in events: `Liveness`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}

/// A running container to probe. A container without probes counts as started and ready.
#[derive(Debug, Clone)]
pub struct ProbeTarget {
    /// The pod; its spec and annotations say what to probe.
    pub pod: Arc<Pod>,
    /// Name of the container: an app or a sidecar.
    pub container: String,
    /// Id of the running container.
    pub container_id: ContainerId,
    /// Address of the pod.
    pub pod_ip: Option<String>,
    /// When the container started.
    pub started_at: UnixNanos,
    /// What was known of this container before the agent restarted; used only if the id is new to
    /// the prober.
    pub known: Known,
    /// Whether the pod is being deleted: startup and liveness probes end, readiness continues.
    pub terminating: bool,
}

/// Probe results recorded by an earlier agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// Whether its startup probe had succeeded.
    pub started: bool,
    /// Whether it was ready.
    pub ready: bool,
}

/// Probe results of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeState {
    /// Id of the container.
    pub container_id: ContainerId,
    /// Whether the startup probe succeeded, or there is none.
    pub started: bool,
    /// Whether it has started and the readiness probe succeeds, or there is none.
    pub ready: bool,
    /// It must be restarted. Stays until the container id changes.
    pub failed: Option<Failure>,
}

/// A failed liveness or startup probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of probe.
    pub kind: Kind,
    /// Message of the probe.
    pub message: String,
    /// Grace period in seconds for this kill, instead of the pod's.
    pub grace: Option<i64>,
}

impl Failure {
    /// Message of the event `Killing`.
    pub fn killing(&self, container: &str) -> String {
        format!("Container {container} failed {} probe, will be restarted", self.kind.as_str())
    }
}

/// Called with a pod's uid when its state changed. Called from tasks, so it must not block.
pub type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

/// What a prober needs.
pub struct Options {
    /// Runs commands.
    pub exec: Arc<dyn Exec>,
    /// Spawns its tasks.
    pub tasks: Tasks,
    /// Wall-clock time, as used for containers' start times.
    pub clock: fn() -> UnixNanos,
    /// Seed of the random delays after a restart of the agent.
    pub seed: u64,
    /// Called on changes.
    pub on_change: OnChange,
    /// Receives the events `Unhealthy` and `ProbeWarning`.
    pub report: Reporter,
}

/// Runs the probes of all pods.
pub struct Prober {
    options: Options,
    /// Start time of the prober: older containers existed before the agent's start.
    born: UnixNanos,
    origin: Instant,
    rng: Mutex<StdRng>,
    pods: Mutex<BTreeMap<String, BTreeMap<String, Slot>>>,
}

/// State of the prober for one container.
struct Slot {
    aim: Arc<Aim>,
    state: Arc<watch::Sender<ProbeState>>,
    running: BTreeMap<Kind, Running>,
}

/// The parameters of a container's probe tasks. If they are unchanged the tasks continue.
#[derive(Debug, PartialEq)]
struct Aim {
    uid: String,
    container: Container,
    id: ContainerId,
    pod_ip: Option<String>,
    periods: BTreeMap<Kind, Duration>,
    /// When the container started, limited by the range of the timer clock.
    started: Instant,
}

/// A task that is aborted when this is dropped.
struct Running(Owned<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Prober {
    /// A prober without targets.
    pub fn new(options: Options) -> Self {
        let (born, rng) = ((options.clock)(), StdRng::seed_from_u64(options.seed));
        let (rng, pods) = (Mutex::new(rng), Mutex::default());
        Self { options, born, origin: Instant::now(), rng, pods }
    }

    /// Sets the containers of a pod to probe; an empty list ends all its probes. Unchanged targets
    /// are not disturbed.
    pub fn sync(&self, uid: &str, targets: Vec<ProbeTarget>) {
        let mut pods = self.pods.lock();
        let mut old = pods.remove(uid).unwrap_or_default();
        let mut new = BTreeMap::new();
        for target in targets {
            let slot = old.remove(&target.container);
            let slot = slot.filter(|slot| slot.aim.id == target.container_id);
            let Some(slot) = self.slot(uid, &target, slot) else { continue };
            new.insert(target.container, slot);
        }
        if !new.is_empty() {
            pods.insert(uid.to_owned(), new);
        }
    }

    /// The current states of the containers of the last [`Prober::sync`], by name.
    pub fn states(&self, uid: &str) -> BTreeMap<String, ProbeState> {
        let pods = self.pods.lock();
        let slots = pods.get(uid).into_iter().flatten();
        slots.map(|(name, slot)| (name.clone(), slot.state.borrow().clone())).collect()
    }

    /// The slot for a target; `None` for a container that the pod does not have.
    fn slot(&self, uid: &str, target: &ProbeTarget, old: Option<Slot>) -> Option<Slot> {
        let container = container(&target.pod, &target.container)?;
        let age = (self.options.clock)().saturating_sub(target.started_at).max(0) as u64;
        let now = Instant::now();
        let started = match &old {
            Some(slot) => slot.aim.started,
            None => now.checked_sub(Duration::from_nanos(age)).unwrap_or(now),
        };
        let aim = Aim {
            uid: uid.to_owned(),
            container: container.clone(),
            id: target.container_id.clone(),
            pod_ip: target.pod_ip.clone(),
            periods: periods::of(&target.pod, container),
            started,
        };
        let survived = target.started_at < self.born;
        let mut slot = match old {
            Some(slot) if *slot.aim == aim => slot,
            Some(slot) => {
                let state = Arc::clone(&slot.state);
                self.begin(aim, state, target.terminating, false)
            }
            None => {
                let state = Arc::new(watch::Sender::new(first(&aim, target.known)));
                self.begin(aim, state, target.terminating, survived)
            }
        };
        if target.terminating {
            slot.running.retain(|kind, _| *kind == Kind::Readiness);
        }
        Some(slot)
    }

    /// Starts the tasks for what is not known yet.
    fn begin(
        &self,
        aim: Aim,
        state: Arc<watch::Sender<ProbeState>>,
        terminating: bool,
        survived: bool,
    ) -> Slot {
        let aim = Arc::new(aim);
        let done = {
            let state = state.borrow();
            move |kind| match kind {
                Kind::Startup => terminating || state.started || state.failed.is_some(),
                Kind::Liveness => terminating || state.failed.is_some(),
                Kind::Readiness => false,
            }
        };
        let wanted = Kind::ALL.into_iter().filter(|kind| !done(*kind));
        let wanted: Vec<_> =
            wanted.filter_map(|kind| Some((kind, probe(&aim.container, kind)?.clone()))).collect();
        drop(done);
        let mut running = BTreeMap::new();
        for (kind, probe) in wanted {
            let period = task::period(&probe, aim.periods.get(&kind));
            // Random delays, so that an agent that restarts with many pods does not probe all at
            // once.
            let delay = if survived { self.portion(period) } else { Duration::ZERO };
            let task = task::Task {
                kind,
                probe,
                period,
                delay,
                origin: self.origin,
                aim: Arc::clone(&aim),
                state: Arc::clone(&state),
                exec: Arc::clone(&self.options.exec),
                on_change: Arc::clone(&self.options.on_change),
                report: Arc::clone(&self.options.report),
            };
            let task = self.options.tasks.spawn_until_drain("probe", task.run());
            running.insert(kind, Running(task));
        }
        Slot { aim, state, running }
    }

    fn portion(&self, period: Duration) -> Duration {
        let mut rng = self.rng.lock();
        period.mul_f64(rng.random::<f64>())
    }
}

/// A container of a pod by name, if it can have probes.
fn container<'p>(pod: &'p Pod, name: &str) -> Option<&'p Container> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(sidecars).find(|container| container.name == name)
}

fn probe(container: &Container, kind: Kind) -> Option<&k8s_openapi::api::core::v1::Probe> {
    match kind {
        Kind::Startup => container.startup_probe.as_ref(),
        Kind::Liveness => container.liveness_probe.as_ref(),
        Kind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// The initial state: not ready if there is a readiness probe, alive, and not started if there is a
/// startup probe.
fn first(aim: &Aim, known: Known) -> ProbeState {
    let started = aim.container.startup_probe.is_none() || known.started;
    let ready = started && (aim.container.readiness_probe.is_none() || known.ready);
    ProbeState { container_id: aim.id.clone(), started, ready, failed: None }
}

#[cfg(test)]
mod tests;
