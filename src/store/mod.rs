//! The persistent store of intents and results; survives crashes, power cuts and reboots.
//!
//! One redb file holds versioned rows of several types. A [`Batch`] is written atomically, and
//! [`Store::write`] returns only after the commit is durable: a room writes its intent, acts, then
//! writes the result. All batches queued during a commit go into the next commit together, so that
//! many callers share one disk flush and nobody waits for a timer.
//!
//! The rooms keep their records in memory and read the store only at start. So a full or failing
//! disk prevents changes but not reads: batches fail with [`Error::Full`] or [`Error::Io`], the
//! file is closed and reopened with back-off, and work resumes by itself when the disk works again.

mod error;
mod file;
mod kept;
mod record;
mod reserve;
mod writer;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::TrySendError;

use redb::{Database, ReadableDatabase, ReadableTable, TableError};
use tokio::sync::oneshot;

pub use error::Error;
pub use file::Options;
pub use kept::Kept;
pub use record::{Batch, Fault, Loaded, Record};

use record::table;
#[cfg(test)]
pub(crate) use tests::stored;
use writer::{Job, Medium, Shared};

/// A point in the store's history. Numbers of different epochs must not be compared: a new epoch
/// means that the history was lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision {
    /// Random name of this history; changes when a new store is created.
    pub epoch: String,
    /// Number of batches so far; 0 before the first.
    pub number: u64,
}

/// An opened store.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// New path of a damaged file that was moved aside; the store is then `fresh`.
    pub quarantined: Option<PathBuf>,
    /// Whether there was no usable store, so that all state must be recovered from the backends.
    pub fresh: bool,
    /// What [`Batch::boot_id`] last set.
    pub boot_id: Option<String>,
}

/// Handle of the store. Cheap to clone.
///
/// When all handles are dropped, or after [`Store::close`], the file is closed and unlocked.
#[derive(Clone)]
pub struct Store {
    jobs: std::sync::mpsc::SyncSender<Job>,
    shared: Arc<Shared>,
}

impl Store {
    /// Opens the store, creating it if needed, and starts its writer thread. Blocks while the whole
    /// file is checked, and shortly when it is locked.
    ///
    /// A damaged file is moved aside, never deleted. Fails with [`Error::Locked`] if another
    /// process has the store, and with [`Error::NewerSchema`] or [`Error::NewerFormat`], leaving the
    /// file untouched, if a newer podbay wrote it.
    pub fn open(options: Options) -> Result<Opened, Error> {
        let file::Ready { database, meta, quarantined, fresh, medium } = file::open(&options)?;
        let boot_id = meta.boot_id.clone();
        let store = Self::start(database, meta, medium)?;
        Ok(Opened { store, quarantined, fresh, boot_id })
    }

    /// A store without a file, for tests and dry runs.
    ///
    /// # Panics
    /// If an empty database cannot even be created in memory.
    pub fn in_memory() -> Self {
        let database = file::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .expect("an empty database fits into memory");
        let (meta, _) = file::meta_of(&database).expect("a new database can be initialised");
        Self::start(database, meta, writer::Memory).expect("a thread can be started")
    }

    fn start(database: Database, meta: file::Meta, medium: impl Medium) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(database, meta));
        let jobs = writer::start(shared.clone(), Box::new(medium))?;
        Ok(Self { jobs, shared })
    }

    /// Writes a batch atomically and returns its revision number once it is durable.
    ///
    /// After [`Error::Full`] or [`Error::Io`] the batch is either completely in the store or, more
    /// likely, not at all. Writing it again is safe. A caller that drops this future does not
    /// cancel the write.
    pub async fn write(&self, batch: Batch) -> Result<u64, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Write { batch, reply })?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// All records of a type, in key order. Unreadable rows are left in place and reported, so that
    /// nothing is cleaned up for want of a record that could not be understood.
    pub fn load<R: Record>(&self) -> Result<Loaded<R>, Error> {
        self.shared.with_database(|database| {
            catch_unwind(AssertUnwindSafe(|| load_rows(database)))
                .unwrap_or(Err(Error::Corrupt { problem: "reading it panicked".into() }))
        })
    }

    /// The last durable revision.
    pub fn revision(&self) -> Revision {
        self.shared.revision()
    }

    /// `Err` with the last failure while writes fail.
    pub fn health(&self) -> Result<(), Error> {
        self.shared.health()
    }

    /// Writes what is queued, closes the file and unlocks it. Later writes fail with
    /// [`Error::Closed`], also through other handles.
    pub async fn close(self) {
        let (reply, closed) = oneshot::channel();
        let mut job = Job::Close { reply };
        // The queue is bounded; the writer frees a place within one commit.
        while let Err(TrySendError::Full(back)) = self.jobs.try_send(job) {
            job = back;
            tokio::task::yield_now().await;
        }
        let _ = closed.await;
    }

    fn send(&self, job: Job) -> Result<(), Error> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Disconnected(_) => Error::Closed,
        })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

fn load_rows<R: Record>(database: &Database) -> Result<Loaded<R>, Error> {
    let tried = || format!("read the {} rows of the state store", R::TABLE);
    let failed = |error: redb::Error| Error::from_redb(tried(), error);
    let txn = database.begin_read().map_err(|error| failed(error.into()))?;
    let mut loaded = Loaded { records: Vec::new(), faults: Vec::new() };
    let rows = match txn.open_table(table(R::TABLE)) {
        Ok(rows) => rows,
        Err(TableError::TableDoesNotExist(_)) => return Ok(loaded),
        Err(error) => return Err(failed(error.into())),
    };
    for row in rows.iter().map_err(|error| failed(error.into()))? {
        let (key, bytes) = row.map_err(|error| failed(error.into()))?;
        match record::decode::<R>(key.value(), bytes.value()) {
            Ok(record) => loaded.records.push(record),
            Err(problem) => {
                loaded.faults.push(Fault { table: R::TABLE, key: key.value().into(), problem });
            }
        }
    }
    Ok(loaded)
}
