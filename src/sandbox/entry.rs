//! One sandbox: its record and the locks its changes queue behind.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::RwLock;

use super::record::SandboxRecord;
use super::{Error, Sandbox, SandboxState};
use crate::board::EventKind;
use crate::container::{Deps, Told};
use crate::ids::PodId;
use crate::store::Batch;

/// One sandbox.
pub(super) struct Entry {
    pub(super) id: PodId,
    /// Held shared while a container is made or started in it, alone while it changes itself.
    pub(super) gate: Arc<RwLock<()>>,
    record: Mutex<SandboxRecord>,
    /// Whether host ports are claimed by it; they are its own while it is not `NotReady`.
    pub(super) has_ports: AtomicBool,
    /// What plugins of the node have been told of it.
    pub(super) told: Told,
    /// Why its creation failed, for callers that joined it.
    failure: Mutex<Option<String>>,
}

impl Entry {
    pub(super) fn new(record: SandboxRecord) -> Arc<Self> {
        let stopped = record.sandbox.state == SandboxState::NotReady && record.owed.is_empty();
        let told = Told::from_record(record.sandbox.state != SandboxState::Creating, stopped);
        Arc::new(Self {
            id: record.sandbox.id.clone(),
            gate: Arc::default(),
            record: Mutex::new(record),
            has_ports: AtomicBool::new(false),
            told,
            failure: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, SandboxRecord> {
        self.record.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn record(&self) -> SandboxRecord {
        self.lock().clone()
    }

    pub(super) fn sandbox(&self) -> Sandbox {
        self.lock().sandbox.clone()
    }

    /// Changes the record in memory only.
    pub(super) fn change(&self, change: impl FnOnce(&mut SandboxRecord)) {
        change(&mut self.lock());
    }

    /// Changes the record and makes it durable; nothing is published. On failure the record is
    /// as before.
    pub(super) async fn save(
        &self,
        deps: &Deps,
        change: impl FnOnce(&mut SandboxRecord),
    ) -> Result<(), Error> {
        self.store(deps, Batch::new(), change).await
    }

    /// As `save`, for the record of an end: it may use the room that is kept for ending work
    /// when the disk is full.
    pub(super) async fn save_end(
        &self,
        deps: &Deps,
        change: impl FnOnce(&mut SandboxRecord),
    ) -> Result<(), Error> {
        self.store(deps, Batch::new().ends_work(), change).await
    }

    async fn store(
        &self,
        deps: &Deps,
        batch: Batch,
        change: impl FnOnce(&mut SandboxRecord),
    ) -> Result<(), Error> {
        let mut next = self.record();
        change(&mut next);
        deps.store.write(batch.put(&next)?).await?;
        *self.lock() = next;
        Ok(())
    }

    /// Puts the record on the board.
    pub(super) fn publish(&self, deps: &Deps, news: Option<EventKind>) {
        deps.board.publish_pod(self.sandbox(), news);
    }

    pub(super) fn set_failure(&self, failure: String) {
        *self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(failure);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
