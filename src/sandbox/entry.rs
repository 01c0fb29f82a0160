//! One sandbox: its record and the locks that serialise its changes.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use tokio::sync::RwLock;

use super::record::{Owed, SandboxRecord};
use super::volumes::Volumes;
use super::{Error, Sandbox, SandboxState};
use crate::board::EventKind;
use crate::container::{Deps, Told};
use crate::ids::PodId;
use crate::lifecycle::Owned;
use crate::locks::Mutex;
use crate::store::Kept;

/// One sandbox.
pub(super) struct Entry {
    pub(super) id: PodId,
    /// Held shared while a container is made or started in the pod, exclusively while the pod
    /// itself changes.
    pub(super) gate: Arc<RwLock<()>>,
    record: Kept<SandboxRecord>,
    /// Whether it has claimed its host ports; it keeps them until it is stopped or `NotReady`.
    pub(super) has_ports: AtomicBool,
    /// Deletes the task of its ended pause process; the value says whether it is gone.
    pub(super) deletion: Mutex<Option<Owned<bool>>>,
    /// Whether a task finishes its stop.
    pub(super) is_finishing: AtomicBool,
    /// Images mounted in it as volumes; locked while one is mounted.
    pub(super) volumes: tokio::sync::Mutex<Volumes>,
    /// Which events of it plugins were told.
    pub(super) told: Told,
    /// Why its creation failed, for callers that joined it.
    pub(super) failure: OnceLock<Arc<Error>>,
}

impl Entry {
    pub(super) fn new(record: SandboxRecord) -> Arc<Self> {
        let is_done = record.owed.iter().all(|step| *step == Owed::Pause);
        let stopped = record.sandbox.state == SandboxState::NotReady && is_done;
        let told = Told::from_record(record.sandbox.state != SandboxState::Creating, stopped);
        Arc::new(Self {
            id: record.sandbox.id.clone(),
            gate: Arc::default(),
            record: Kept::new(record),
            has_ports: AtomicBool::new(false),
            deletion: Mutex::default(),
            is_finishing: AtomicBool::new(false),
            volumes: tokio::sync::Mutex::default(),
            told,
            failure: OnceLock::new(),
        })
    }

    pub(super) fn record(&self) -> Arc<SandboxRecord> {
        self.record.get()
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&SandboxRecord) -> T) -> T {
        self.record.read(read)
    }

    pub(super) fn sandbox(&self) -> Sandbox {
        self.read(|record| record.sandbox.clone())
    }

    /// Whether this has yet to be removed.
    pub(super) fn owes(&self, step: Owed) -> bool {
        self.read(|record| record.owed.contains(&step))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.read(|record| record.sandbox.is_ready())
    }

    /// Changes the record in memory only.
    pub(super) fn change(&self, change: impl FnOnce(&mut SandboxRecord)) {
        self.record.change(change);
    }

    /// Changes and stores the record, without publishing it.
    pub(super) async fn save(
        &self,
        deps: &Deps,
        change: impl FnOnce(&mut SandboxRecord),
    ) -> Result<(), Error> {
        Ok(self.record.save(&deps.store, change).await?)
    }

    /// Like `save`, for the record of an end, which may use the store's reserve.
    pub(super) async fn save_end(
        &self,
        deps: &Deps,
        change: impl FnOnce(&mut SandboxRecord),
    ) -> Result<(), Error> {
        Ok(self.record.save_end(&deps.store, change).await?)
    }

    /// Publishes the record on the board.
    pub(super) fn publish(&self, deps: &Deps, news: Option<EventKind>) {
        deps.board.publish_pod(self.sandbox(), news);
    }
}
