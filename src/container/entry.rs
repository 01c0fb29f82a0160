//! One container: its record, the lock that serialises its changes, and its run-time parts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::attach::Stdin;
use super::hooks::Told;
use super::record::ContainerRecord;
use super::{Container, ContainerState, Deps, Error, EventKind};
use crate::backend::RootfsMount;
use crate::ids::{ContainerId, PodId};
use crate::locks::{Mutex, MutexGuard};
use crate::logs::Pump;
use crate::model::container::ContainerConfig;
use crate::store::Kept;

/// One container.
pub(super) struct Entry {
    pub(super) id: ContainerId,
    pub(super) pod: PodId,
    /// Serialises changes. Never held while waiting for a process to end.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Held while a checkpoint is taken.
    pub(super) checkpointing: tokio::sync::Mutex<()>,
    record: Kept<ContainerRecord>,
    live: Mutex<Live>,
    /// The stdin that attached clients write to.
    pub(super) stdin: Stdin,
    /// Why its creation failed, for callers that joined it.
    pub(super) failure: OnceLock<Arc<Error>>,
    /// Whether it is certain that no process of the container runs any more.
    pub(super) ended: watch::Sender<bool>,
    /// Whether the kernel reported an OOM kill.
    pub(super) oom: watch::Sender<bool>,
    /// Whether the agent sent SIGKILL.
    pub(super) killed: AtomicBool,
    /// Whether the stop signal was sent; it is sent only once.
    pub(super) stop_sent: AtomicBool,
    /// Whether its process is being created or started, which may keep the pod's shim from
    /// answering about other containers.
    starting: AtomicBool,
    /// What the node's plugins were told about it.
    pub(super) told: Told,
}

/// Its process is being started, until this is dropped.
pub(super) struct Starting<'a>(&'a Entry);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.store(false, Ordering::Release);
    }
}

/// State that does not survive a restart of the agent.
#[derive(Default)]
struct Live {
    pump: Option<Pump>,
    rootfs: Option<Vec<RootfsMount>>,
    /// The spec's `process` as compact JSON, the template for execs.
    process: Option<Box<str>>,
    /// The reason, if a plugin requested its eviction.
    evicted: Option<String>,
}

impl Entry {
    pub(super) fn new(record: ContainerRecord) -> Arc<Self> {
        let told = Told::from_record(
            record.container.state != ContainerState::Creating,
            matches!(record.container.state, ContainerState::Exited(_)),
        );
        Arc::new(Self {
            id: record.container.id.clone(),
            pod: record.container.pod.clone(),
            changing: tokio::sync::Mutex::new(()),
            checkpointing: tokio::sync::Mutex::new(()),
            record: Kept::new(record),
            live: Mutex::default(),
            stdin: Stdin::default(),
            failure: OnceLock::new(),
            ended: watch::Sender::new(false),
            oom: watch::Sender::new(false),
            killed: AtomicBool::new(false),
            stop_sent: AtomicBool::new(false),
            starting: AtomicBool::new(false),
            told,
        })
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock()
    }

    pub(super) fn record(&self) -> Arc<ContainerRecord> {
        self.record.get()
    }

    /// The published part of the record, at this moment.
    pub(super) fn container(&self) -> Container {
        self.record.read(|record| record.container.clone())
    }

    /// The requested configuration.
    pub(super) fn config(&self) -> Arc<ContainerConfig> {
        self.record.read(|record| record.container.config.clone())
    }

    pub(super) fn state(&self) -> ContainerState {
        self.record.read(|record| record.container.state.clone())
    }

    pub(super) fn is_removing(&self) -> bool {
        self.record.read(|record| record.removing)
    }

    pub(super) fn begin_start(&self) -> Starting<'_> {
        self.starting.store(true, Ordering::Release);
        Starting(self)
    }

    pub(super) fn is_starting(&self) -> bool {
        self.starting.load(Ordering::Acquire)
    }

    pub(super) fn set_pump(&self, pump: Option<Pump>) -> Option<Pump> {
        std::mem::replace(&mut self.live().pump, pump)
    }

    pub(super) fn pump(&self) -> Option<Pump> {
        self.live().pump.clone()
    }

    pub(super) fn set_rootfs(&self, rootfs: Vec<RootfsMount>) {
        self.live().rootfs = Some(rootfs);
    }

    pub(super) fn take_rootfs(&self) -> Option<Vec<RootfsMount>> {
        self.live().rootfs.take()
    }

    /// Keeps the part of the spec that execs are built from.
    pub(super) fn set_process(&self, spec: &serde_json::Value) {
        let process = serde_json::json!({ "process": spec["process"] });
        self.live().process = Some(process.to_string().into());
    }

    pub(super) fn process(&self) -> Option<serde_json::Value> {
        self.live().process.as_deref().and_then(|text| serde_json::from_str(text).ok())
    }

    pub(super) fn set_evicted(&self, reason: String) {
        self.live().evicted = Some(reason);
    }

    pub(super) fn evicted(&self) -> Option<String> {
        self.live().evicted.clone()
    }

    /// Changes and stores the record, without publishing it.
    pub(super) async fn save(
        &self,
        deps: &Deps,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<(), Error> {
        Ok(self.record.save(&deps.store, change).await?)
    }

    /// Changes and stores the record while `act` runs; it shows the change once both are done.
    pub(super) async fn save_during<T>(
        &self,
        deps: &Deps,
        change: impl FnOnce(&mut ContainerRecord),
        act: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.record.save_during(&deps.store, change, act).await
    }

    /// Like `save`, for the record of an end, which may use the store's reserve.
    pub(super) async fn save_end(
        &self,
        deps: &Deps,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<(), Error> {
        Ok(self.record.save_end(&deps.store, change).await?)
    }

    /// Changes the state in memory only, for when the store cannot be written.
    pub(super) fn set_state(&self, state: ContainerState) {
        self.record.change(|record| record.container.state = state);
    }

    /// Publishes the record on the board.
    pub(super) fn publish(&self, deps: &Deps, news: Option<EventKind>) {
        deps.board.publish_container(self.container(), news);
    }

    /// The error for an `operation` that the current state does not allow.
    pub(super) fn wrong_state(&self, operation: &'static str) -> Error {
        Error::WrongState { operation, id: self.id.clone(), state: self.state().name() }
    }

    /// Whether it is certain that no process of the container runs.
    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until no process of the container runs. Cancel-safe.
    pub(super) async fn wait_ended(&self) {
        // `self` holds the sender, so the wait cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}
