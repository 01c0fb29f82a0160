//! The state shared by all pods, and the table of pods.

mod logs;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use k8s_openapi::api::core::v1::{Pod as Object, PodStatus};
use tokio::sync::Notify;

use super::handler::{Exec, Reporter};
use super::news::EventLog;
use super::object::{Given, PodKey};
use super::observe::SeenSandbox;
use super::phase::{Viewpoint, time};
use super::plan::{Policy, Wait};
use super::probe::Prober;
use super::pulled::Pulled;
use super::record::Life;
use super::translate::{NodeFacts, Qos, cgroup, qos};
use super::turns::Turns;
use super::view::{EventType, PodView, Waits};
use super::watch::Hub;
use super::{Allocatable, VolumeContext, Volumes};
use crate::backend::Host;
use crate::image::Images;
use crate::lifecycle::Tasks;
use crate::locks::{Mutex, MutexGuard};
use crate::model::UnixNanos;
use crate::model::resources::{CgroupDriver, CgroupLimits};
use crate::sandbox::Sandboxes;
use crate::store::{self, Batch, Revision, Store};
use crate::telemetry::error_chain;

/// Maximum number of concurrent process creations by the OCI runtime, per core: one waits while
/// another computes.
const STARTS_PER_CORE: usize = 2;

/// The collaborators of the pods.
#[derive(Clone)]
pub(super) struct Deps {
    pub(super) sandboxes: Arc<Sandboxes>,
    pub(super) images: Arc<Images>,
    pub(super) host: Arc<dyn Host>,
    pub(super) store: Store,
    pub(super) tasks: Tasks,
    pub(super) volumes: Arc<Volumes>,
    pub(super) prober: Arc<Prober>,
    pub(super) exec: Arc<dyn Exec>,
    pub(super) report: Reporter,
    pub(super) hub: Arc<Hub>,
    pub(super) events: Arc<EventLog>,
    /// Notified when a pod has gone.
    pub(super) gone: Arc<Notify>,
}

/// The state shared by all pods.
pub(super) struct Room {
    pub(super) deps: Deps,
    /// Delays between attempts.
    pub(super) policy: Policy,
    /// Limits concurrent starts.
    pub(super) turns: Arc<Turns>,
    /// Who may use which image.
    pub(super) pulled: Pulled,
    /// Notified when a pod uses less than before.
    pub(super) freed: Arc<Notify>,
    /// Notified when a pod has ended, so that its QoS class weighs less.
    pub(super) lighter: Arc<Notify>,
    /// Held while a QoS class gets its weight, so that the newest one is set last.
    weighing: tokio::sync::Mutex<()>,
    node: Arc<NodeFacts>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_uid: BTreeMap<String, Arc<Entry>>,
    /// The uid shown for each name.
    shown: BTreeMap<PodKey, String>,
}

/// One pod.
pub(super) struct Entry {
    pub(super) uid: String,
    pub(super) key: PodKey,
    /// Held while its record is being changed.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Notified when something changed that concerns it.
    pub(super) changed: Notify,
    /// Notified after each change of its record.
    told: Notify,
    /// Counts changes of its specification.
    generation: AtomicU64,
    left: AtomicBool,
    life: Mutex<Arc<Life>>,
    waits: Mutex<Vec<Waits>>,
}

impl Entry {
    pub(super) fn new(life: Life) -> Arc<Self> {
        Arc::new(Self {
            uid: life.uid.clone(),
            key: life.given.key(),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            told: Notify::new(),
            generation: AtomicU64::new(0),
            left: AtomicBool::new(false),
            life: Mutex::new(Arc::new(life)),
            waits: Mutex::default(),
        })
    }

    /// Its record.
    pub(super) fn life(&self) -> Arc<Life> {
        self.life.lock().clone()
    }

    /// Sets its record. Called by the holder of its turn, after storing it.
    pub(super) fn set(&self, life: Arc<Life>) {
        *self.life.lock() = life;
        self.told.notify_waiters();
    }

    /// Returns when nothing of it runs any more and its volumes are removed.
    pub(super) async fn ended(&self) {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.left.load(Ordering::Acquire) || self.life().settled {
                return;
            }
            told.await;
        }
    }

    /// Marks it as gone.
    fn leave(&self) {
        self.left.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    /// Changes with its specification.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Notes that its specification has changed.
    pub(super) fn regenerate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// What it is waiting for.
    pub(super) fn waits(&self) -> Vec<Waits> {
        self.waits.lock().clone()
    }

    /// Sets what it is waiting for; an unchanged step keeps its start time.
    pub(super) fn set_waits(&self, waits: &[Wait], now: UnixNanos) {
        let mut kept = self.waits.lock();
        let since = |wait: &Wait| {
            let mut same = kept.iter();
            let same = same.find(|old| old.container == wait.container && old.step == wait.step);
            same.map_or(now, |old| old.since)
        };
        let next = waits.iter().map(|wait| Waits {
            container: wait.container.clone(),
            step: wait.step.clone(),
            since: since(wait),
            last_error: wait.last_error.clone(),
            next_try: wait.next_try,
            unblocks: wait.unblocks.clone(),
        });
        let next: Vec<_> = next.collect();
        *kept = next;
    }
}

impl Room {
    pub(super) fn new(deps: Deps, policy: Policy, node: NodeFacts) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Turns::new(cores * STARTS_PER_CORE);
        Self {
            deps,
            policy,
            turns,
            pulled: Pulled::default(),
            freed: Arc::default(),
            lighter: Arc::default(),
            weighing: tokio::sync::Mutex::default(),
            node: Arc::new(node),
            table: Mutex::default(),
        }
    }

    /// Whether there are no pods.
    pub(super) fn is_empty(&self) -> bool {
        self.table().by_uid.is_empty()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// The node.
    pub(super) fn node(&self) -> Arc<NodeFacts> {
        self.node.clone()
    }

    /// The addresses of a pod; those of the node for the host network.
    pub(super) fn ips<'a>(&'a self, home: &'a SeenSandbox) -> &'a [IpAddr] {
        if home.host_network { &self.node.ips } else { &home.ips }
    }

    /// Whether a runtime handler supports recursive read-only mounts.
    pub(super) fn supports_recursive_read_only(&self, handler: &str) -> bool {
        let features = self.deps.sandboxes.features();
        let handler = features.get(handler).or_else(|| features.values().next());
        handler.is_some_and(|handler| handler.recursive_read_only_mounts)
    }

    pub(super) fn viewpoint(&self) -> Viewpoint {
        Viewpoint { ips: self.node.ips.clone(), restart: self.policy.restart }
    }

    /// All pods, including hidden ones.
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.table().by_uid.values().cloned().collect()
    }

    /// The pod shown under a name.
    pub(super) fn shown(&self, key: &PodKey) -> Option<Arc<Entry>> {
        let table = self.table();
        table.by_uid.get(table.shown.get(key)?).cloned()
    }

    /// The newest pod with a name: the one shown, or the last of those that wait for it to go.
    pub(super) fn newest(&self, key: &PodKey) -> Option<Arc<Entry>> {
        let table = self.table();
        let shown = table.by_uid.get(table.shown.get(key)?)?.clone();
        Some(table.followers(&shown.uid).pop().unwrap_or(shown))
    }

    /// The pods that wait for this one to go, the next one first.
    pub(super) fn followers(&self, uid: &str) -> Vec<Arc<Entry>> {
        self.table().followers(uid)
    }

    /// A pod by its uid.
    pub(super) fn by_uid(&self, uid: &str) -> Option<Arc<Entry>> {
        self.table().by_uid.get(uid).cloned()
    }

    pub(super) fn has(&self, uid: &str) -> bool {
        self.table().by_uid.contains_key(uid)
    }

    /// Whether this pod exists and some of it may still run.
    pub(super) fn runs(&self, uid: &str) -> bool {
        self.by_uid(uid).is_some_and(|entry| !entry.life().settled)
    }

    /// Notes that a pod has ended, and wakes those that wait for its resources.
    pub(super) fn settled(&self, uid: &str) {
        let waits = |entry: &&Arc<Entry>| entry.life().preempts.iter().any(|one| one == uid);
        self.all().iter().filter(waits).for_each(|entry| entry.changed.notify_one());
        self.freed.notify_one();
        self.lighter.notify_one();
    }

    /// Adds pods, whose uids nobody may have; each is shown unless it has a predecessor.
    pub(super) fn add(&self, entries: &[Arc<Entry>]) {
        let mut table = self.table();
        for entry in entries {
            let old = table.by_uid.insert(entry.uid.clone(), entry.clone());
            debug_assert!(old.is_none(), "{} is there twice", entry.uid);
        }
        for entry in entries {
            let life = entry.life();
            let waits = life.follows.as_ref().is_some_and(|uid| table.by_uid.contains_key(uid));
            if !is_hidden(entry) && !waits {
                table.shown.insert(entry.key.clone(), entry.uid.clone());
            }
        }
    }

    /// Hides a pod, which may still exist.
    pub(super) fn hide(&self, entry: &Entry) {
        let mut table = self.table();
        if table.shown.get(&entry.key) != Some(&entry.uid) {
            return;
        }
        table.shown.remove(&entry.key);
        self.deps.hub.gone(&entry.key);
        let next = table.followers(&entry.uid).into_iter().find(|next| !is_hidden(next));
        if let Some(next) = next {
            table.shown.insert(entry.key.clone(), next.uid.clone());
            next.changed.notify_one();
        }
    }

    /// Removes a pod; its successor starts.
    pub(super) fn forget(&self, entry: &Entry) {
        self.hide(entry);
        {
            let mut table = self.table();
            table.by_uid.remove(&entry.uid);
            entry.leave();
            let next = table.by_uid.values().filter(|next| follows(next, &entry.uid));
            next.for_each(|next| next.changed.notify_one());
        }
        self.settled(&entry.uid);
        self.deps.gone.notify_one();
    }

    /// Stores the record of a pod.
    pub(super) async fn save(&self, life: &Life) -> Result<(), store::Error> {
        let batch = Batch::new().put(life)?;
        let batch = if life.is_ending() { batch.ends_work() } else { batch };
        self.deps.store.write(batch).await.map(drop)
    }

    /// Publishes the current state of a pod.
    pub(super) fn show(&self, entry: &Entry, life: &Life, status: PodStatus) {
        self.publish(entry, self.view(life, status));
    }

    /// Publishes a view of a pod if it is the one shown under its name; returns the view.
    pub(super) fn publish(&self, entry: &Entry, view: PodView) -> PodView {
        // Locked until it is published: a pod that is hidden meanwhile would be shown for ever.
        let table = self.table();
        match table.shown.get(&entry.key) == Some(&entry.uid) {
            true => self.deps.hub.publish(view),
            false => view,
        }
    }

    /// The object of a pod, with its status.
    pub(super) fn view(&self, life: &Life, status: PodStatus) -> PodView {
        let mut pod = Object::clone(life.shown());
        pod.status = Some(status);
        pod.metadata.generation = Some(life.generation);
        if let Some(deletion) = &life.deletion {
            let grace = i64::try_from(deletion.grace.as_secs()).unwrap_or(i64::MAX);
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            pod.metadata.deletion_timestamp = time(deletion.deadline);
        }
        let revision = Revision { epoch: String::new(), number: 0 };
        PodView { pod: Arc::new(pod), source: life.given.source, revision }
    }

    /// Records an event.
    pub(super) fn event(
        &self,
        life: &Life,
        container: Option<&str>,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let whose = (life.given.key(), life.uid.clone(), container.map(str::to_owned));
        self.deps.events.add(whose, kind, reason, message.into());
    }

    pub(super) fn volume_context(&self, given: &Given) -> VolumeContext {
        let allocatable = &self.node.allocatable;
        let unsigned = |amount: i64| u64::try_from(amount).unwrap_or(0);
        let limits = cgroup::pod_resources(given, &self.node);
        VolumeContext {
            allocatable: Allocatable {
                milli_cpu: unsigned(allocatable.milli_cpu),
                memory: unsigned(allocatable.memory),
                ephemeral_storage: unsigned(allocatable.ephemeral_storage),
            },
            pod_memory_limit: limits.memory.map(unsigned),
        }
    }

    /// Makes the cgroup of a pod, or sets its limits again.
    pub(super) async fn make_cgroup(&self, given: &Given) -> Result<(), String> {
        let node = &self.node;
        let (class, driver) = (qos(given.spec()), cgroup::driver(given.spec(), node));
        let root = cgroup::root(driver, node);
        // Guaranteed pods are directly below the root.
        let has_class = cgroup::of_class(class, driver, node) != root;
        self.set_cgroup(driver, root, cgroup::root_limits(node)).await?;
        if has_class {
            self.weigh(class, driver).await?;
        }
        let limits = cgroup::pod_resources(given, node);
        self.set_cgroup(driver, cgroup::of_pod(given, node), limits).await
    }

    /// Sets the CPU weight of a QoS class again, from the pods that have not ended.
    pub(super) async fn weigh(&self, class: Qos, driver: CgroupDriver) -> Result<(), String> {
        let _last = self.weighing.lock().await;
        let lives = self.all().into_iter().map(|entry| entry.life());
        let active: Vec<_> = lives.filter(|life| !life.rejected && !life.settled).collect();
        let specs = active.iter().map(|life| life.given.spec());
        let of_driver = specs.filter(|spec| cgroup::driver(spec, &self.node) == driver);
        let limits = cgroup::class_limits(class, of_driver);
        self.set_cgroup(driver, cgroup::of_class(class, driver, &self.node), limits).await
    }

    async fn set_cgroup(
        &self,
        driver: CgroupDriver,
        path: String,
        limits: CgroupLimits,
    ) -> Result<(), String> {
        let made = self.deps.host.make_cgroup(driver, Path::new(&path), &limits).await;
        made.map_err(|error| error_chain(&error))
    }

    pub(super) async fn remove_cgroup(&self, given: &Given) -> Result<(), String> {
        let path = cgroup::of_pod(given, &self.node);
        let driver = cgroup::driver(given.spec(), &self.node);
        let removed = self.deps.host.destroy_cgroup(driver, Path::new(&path)).await;
        removed.map_err(|error| error_chain(&error))
    }
}

impl Table {
    /// The pods that wait for this one to go, the next one first.
    fn followers(&self, uid: &str) -> Vec<Arc<Entry>> {
        let mut found: Vec<Arc<Entry>> = Vec::new();
        // Each pod is at most once in the row, whatever the records say.
        while found.len() < self.by_uid.len() {
            let last = found.last().map_or(uid, |last| &last.uid);
            let Some(next) = self.by_uid.values().find(|next| follows(next, last)) else { break };
            found.push(next.clone());
        }
        found
    }
}

fn follows(entry: &Entry, uid: &str) -> bool {
    entry.life().follows.as_deref() == Some(uid)
}

fn is_hidden(entry: &Entry) -> bool {
    entry.life().deletion.as_ref().is_some_and(|deletion| deletion.hidden)
}
