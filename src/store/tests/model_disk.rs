//! A disk in memory that can fail at a chosen operation and lose unflushed changes.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use super::*;
use crate::locks::Mutex;
use crate::store::file::{self, Meta};

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It fails with this error; later ones succeed.
    Once(io::ErrorKind),
    /// It and all later ones fail, as after a power cut.
    PowerCut,
    /// The operation panics.
    Panic,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

#[derive(Debug, Default)]
struct State {
    /// The contents that survive a power cut.
    durable: Vec<u8>,
    /// The contents that programs see.
    seen: Vec<u8>,
    /// The changes from `durable` to `seen`.
    pending: Vec<Change>,
    /// Number of operations before the fault, and the fault.
    fault: Option<(u64, Fault)>,
    operations: u64,
}

/// Clones share the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct ModelDisk(Arc<Mutex<State>>);

fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Len(len) => image.resize(*len as usize, 0),
        Change::Write(at, bytes) => {
            let end = *at as usize + bytes.len();
            image.resize(image.len().max(end), 0);
            image[*at as usize..end].copy_from_slice(bytes);
        }
    }
}

impl ModelDisk {
    /// A disk with this content.
    pub(super) fn of(image: Vec<u8>) -> Self {
        let state = State { durable: image.clone(), seen: image, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Makes the operation after the next `operations` ones fail.
    pub(super) fn fail_after(&self, operations: u64, fault: Fault) {
        self.state().fault = Some((operations, fault));
    }

    /// Ends the fault.
    pub(super) fn heal(&self) {
        self.state().fault = None;
    }

    pub(super) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Whether the fault has not occurred yet.
    pub(super) fn is_fault_ahead(&self) -> bool {
        self.state().fault.is_some()
    }

    /// The contents after a power cut: all flushed changes, and those unflushed ones for which
    /// `keep` returns true.
    pub(super) fn after_power_cut(&self, mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let state = self.state();
        let mut image = state.durable.clone();
        for change in state.pending.iter().filter(|_| keep()) {
            apply(&mut image, change);
        }
        image
    }

    /// A store on this disk.
    pub(super) fn store(&self) -> Result<(Store, bool), Error> {
        let (database, meta, fresh) = self.open_once()?;
        Ok((Store::start(database, meta, self.clone())?, fresh))
    }

    fn open_once(&self) -> Result<(redb::Database, Meta, bool), Error> {
        let database = file::builder()
            .create_with_backend(self.clone())
            .map_err(|error| Error::from_redb("open the model disk", error.into()))?;
        let (meta, fresh) = file::meta_of(&database)?;
        Ok((database, meta, fresh))
    }

    fn operation(&self) -> io::Result<std::sync::MutexGuard<'_, State>> {
        let mut state = self.state();
        state.operations += 1;
        match state.fault {
            Some((0, Fault::PowerCut)) => Err(io::Error::other("the power is gone")),
            Some((0, fault)) => {
                state.fault = None;
                drop(state);
                match fault {
                    Fault::Once(kind) => Err(kind.into()),
                    _ => panic!("the disk panics"),
                }
            }
            Some((left, fault)) => {
                state.fault = Some((left - 1, fault));
                Ok(state)
            }
            None => Ok(state),
        }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.operation()?;
        apply(&mut state.seen, &change);
        state.pending.push(change);
        Ok(())
    }
}

impl Medium for ModelDisk {
    fn open(&mut self) -> Result<(redb::Database, Meta), Error> {
        self.open_once().map(|(database, meta, _)| (database, meta))
    }
}

impl StorageBackend for ModelDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.operation()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.operation()?;
        let from = offset as usize;
        let bytes = state.seen.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.operation()?;
        state.durable = state.seen.clone();
        state.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
    }
}
