//! The one thread that writes.
//!
//! It takes all batches that wait into one transaction, commits it, and answers all of them. After
//! any failure, also a panic, the file is closed and opened again: redb asks for that after an I/O
//! error. While it cannot be opened batches fail at once with the reason.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use redb::Database;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::file::{META, Meta};
use super::record::table;
use super::{Batch, Error, Revision};
use crate::locks::{Mutex, RwLock};

/// The place where the database is stored.
pub(super) trait Medium: Send + 'static {
    /// Opens it again after a failure.
    fn open(&mut self) -> Result<(Database, Meta), Error>;

    /// Ensures that space is reserved for ending work; without it new work is refused.
    fn ensure_reserve(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Releases that space.
    fn release_reserve(&mut self) {}
}

/// A store without a file: a failure loses its contents.
pub(super) struct Memory;

impl Medium for Memory {
    fn open(&mut self) -> Result<(Database, Meta), Error> {
        Err(Error::Closed)
    }
}

/// Maximum number of queued batches.
const QUEUE: usize = 4096;
/// Maximum number of batches in one commit.
const GROUP: usize = 512;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// A request to the writer.
pub(super) enum Job {
    /// Write this.
    Write { batch: Batch, reply: oneshot::Sender<Result<u64, Error>> },
    /// Close the file and end.
    Close { reply: oneshot::Sender<()> },
}

/// State shared by the handles and the writer.
pub(super) struct Shared {
    /// `Err` while the file is closed.
    database: RwLock<Result<Database, Error>>,
    epoch: String,
    number: AtomicU64,
    /// The last failure; cleared by a successful commit.
    trouble: Mutex<Option<Error>>,
    /// Transactions committed by this process.
    #[cfg(test)]
    pub(super) commits: AtomicU64,
}

impl Shared {
    pub(super) fn new(database: Database, meta: Meta) -> Self {
        Self {
            database: RwLock::new(Ok(database)),
            epoch: meta.epoch,
            number: AtomicU64::new(meta.number),
            trouble: Mutex::new(None),
            #[cfg(test)]
            commits: AtomicU64::new(0),
        }
    }

    /// Runs `read` on the open database. Readers do not block the writer.
    pub(super) fn with_database<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let database = self.database.read();
        read(database.as_ref().map_err(Clone::clone)?)
    }

    pub(super) fn revision(&self) -> Revision {
        Revision { epoch: self.epoch.clone(), number: self.number.load(Ordering::Acquire) }
    }

    pub(super) fn health(&self) -> Result<(), Error> {
        self.trouble.lock().clone().map_or(Ok(()), Err)
    }

    fn set_trouble(&self, trouble: Option<Error>) {
        *self.trouble.lock() = trouble;
    }

    /// Closes the current database, after waiting for readers, and sets the new one.
    fn replace(&self, database: Result<Database, Error>) {
        let mut place = self.database.write();
        let old = std::mem::replace(&mut *place, database);
        // Dropping a database in which something panicked may panic again.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
    }
}

/// Starts the thread. It ends after a `Close`, or when all senders are gone.
pub(super) fn start(
    shared: Arc<Shared>,
    medium: Box<dyn Medium>,
) -> Result<SyncSender<Job>, Error> {
    let (jobs, queue) = sync_channel(QUEUE);
    std::thread::Builder::new()
        .name("store-writer".into())
        .stack_size(512 << 10)
        .spawn(move || Writer { shared, medium, retry: None }.run(&queue))
        .map_err(|error| Error::io("start the store's writer thread", error))?;
    Ok(jobs)
}

type Waiting = (Batch, oneshot::Sender<Result<u64, Error>>);

struct Writer {
    shared: Arc<Shared>,
    medium: Box<dyn Medium>,
    /// While the file is closed: when to open it again, and the delay used for that.
    retry: Option<(Instant, Duration)>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Job>) {
        let closed = loop {
            if self.retry.is_some_and(|(at, _)| at <= Instant::now()) {
                self.reopen();
            }
            match self.next(queue) {
                Ok(Job::Close { reply }) => break Some(reply),
                Ok(Job::Write { batch, reply }) => {
                    let (group, close) = gather((batch, reply), queue);
                    self.write(group);
                    if let Some(reply) = close {
                        break Some(reply);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        self.shared.replace(Err(Error::Closed));
        drop(self.medium);
        if let Some(reply) = closed {
            let _ = reply.send(());
        }
    }

    fn next(&self, queue: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
        match self.retry {
            Some((at, _)) => queue.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn write(&mut self, mut group: Vec<Waiting>) {
        let reserve = self.medium.ensure_reserve().err();
        if let Some(error) = &reserve {
            // Also when nothing is left to commit.
            self.shared.set_trouble(Some(error.clone()));
            group = refuse_new_work(group, error);
        }
        let mut done = self.commit(&group);
        if let Err(error @ Error::Full { .. }) = &done {
            group = refuse_new_work(group, error);
            if !group.is_empty() {
                self.medium.release_reserve();
                done = self.commit(&group);
            }
        }
        if done.is_ok() && !group.is_empty() {
            self.shared.set_trouble(reserve);
        }
        let first = done.as_ref().map_or(0, |last| last + 1 - group.len() as u64);
        for (number, (_, reply)) in (first..).zip(group) {
            // A caller that is gone needs no answer.
            let _ = reply.send(done.clone().map(|_| number));
        }
    }

    /// Commits a group; returns the number of its last batch.
    fn commit(&mut self, group: &[Waiting]) -> Result<u64, Error> {
        let before = self.shared.number.load(Ordering::Acquire);
        if group.is_empty() {
            return Ok(before);
        }
        let batches: Vec<&Batch> = group.iter().map(|(batch, _)| batch).collect();
        let done = self.shared.with_database(|database| {
            catch_unwind(AssertUnwindSafe(|| commit(database, &batches, before)))
                .unwrap_or(Err(Error::Corrupt { problem: "writing to it panicked".into() }))
        });
        match &done {
            Ok(last) => {
                self.shared.number.store(*last, Ordering::Release);
                #[cfg(test)]
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if self.retry.is_none() => self.failed(error.clone()),
            Err(_) => {}
        }
        done
    }

    fn failed(&mut self, error: Error) {
        tracing::error!(error = &error as &dyn std::error::Error, "state store commit failed");
        self.shared.set_trouble(Some(error.clone()));
        self.shared.replace(Err(error));
        self.reopen();
    }

    fn reopen(&mut self) {
        let opened = catch_unwind(AssertUnwindSafe(|| self.medium.open()))
            .unwrap_or(Err(Error::Corrupt { problem: "opening it panicked".into() }));
        match opened {
            Ok((_, meta)) if meta.epoch != self.shared.epoch => {
                self.retry_later(Error::Corrupt { problem: "the file was replaced".into() });
            }
            Ok((database, meta)) => {
                // A commit that was reported as failed may have reached the disk whole.
                self.shared.number.fetch_max(meta.number, Ordering::AcqRel);
                self.shared.replace(Ok(database));
                if self.retry.take().is_some() {
                    self.shared.set_trouble(None);
                    tracing::info!("state store reopened");
                }
            }
            Err(error) => self.retry_later(error),
        }
    }

    fn retry_later(&mut self, error: Error) {
        let delay = self.retry.map_or(FIRST_RETRY, |(_, delay)| (delay * 2).min(LAST_RETRY));
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot reopen the state store");
        self.shared.set_trouble(Some(error.clone()));
        self.shared.replace(Err(error));
        self.retry = Some((Instant::now() + delay, delay));
    }
}

/// Fails all batches except those that end work, which are returned.
fn refuse_new_work(group: Vec<Waiting>, error: &Error) -> Vec<Waiting> {
    let (ending, new): (Vec<_>, Vec<_>) =
        group.into_iter().partition(|(batch, _)| batch.may_use_reserve());
    for (_, reply) in new {
        let _ = reply.send(Err(error.clone()));
    }
    ending
}

/// Collects all queued batches, without waiting for more.
fn gather(first: Waiting, queue: &Receiver<Job>) -> (Vec<Waiting>, Option<oneshot::Sender<()>>) {
    let mut group = vec![first];
    while group.len() < GROUP {
        match queue.try_recv() {
            Ok(Job::Write { batch, reply }) => group.push((batch, reply)),
            Ok(Job::Close { reply }) => return (group, Some(reply)),
            Err(_) => break,
        }
    }
    (group, None)
}

/// One durable transaction; returns the number of the last batch.
fn commit(database: &Database, batches: &[&Batch], before: u64) -> Result<u64, Error> {
    let failed = |error: redb::Error| Error::from_redb("write to the state store", error);
    let mut txn = database.begin_write().map_err(|error| failed(error.into()))?;
    // Two-phase: one-phase commits trust a checksum that a user could forge through stored data. It
    // costs one more flush (median on ext4 0.65 ms instead of 0.32 ms). Also saving the allocator
    // state for a quick repair gains nothing: repairing a store of 70 MB takes 0.1 s.
    txn.set_two_phase_commit(true);
    let last = before + batches.len() as u64;
    {
        let mut tables = BTreeMap::new();
        for change in batches.iter().flat_map(|batch| &batch.changes) {
            if !tables.contains_key(change.table) {
                let opened =
                    txn.open_table(table(change.table)).map_err(|error| failed(error.into()))?;
                tables.insert(change.table, opened);
            }
            let Some(rows) = tables.get_mut(change.table) else { continue };
            match &change.row {
                Some(row) => rows.insert(change.key.as_str(), row.as_slice()),
                None => rows.remove(change.key.as_str()),
            }
            .map_err(|error| failed(error.into()))?;
        }
        let mut meta = txn.open_table(META).map_err(|error| failed(error.into()))?;
        let number = last.to_string();
        let boot_id = batches.iter().rev().find_map(|batch| batch.boot_id.as_deref());
        let rows = [Some(("revision", number.as_str())), boot_id.map(|id| ("boot_id", id))];
        for (key, value) in rows.into_iter().flatten() {
            meta.insert(key, value).map_err(|error| failed(error.into()))?;
        }
    }
    txn.commit().map_err(|error| failed(error.into()))?;
    Ok(last)
}
