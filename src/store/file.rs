//! Opens the store's file: lock, schema check, handling of damage.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, TableDefinition, TableError};
use time::OffsetDateTime;
use time::macros::format_description;

use super::Error;
use super::reserve::Reserve;
use super::writer::Medium;

/// Version of the table layout. Rows have versions of their own.
const SCHEMA: u32 = 1;
/// The store's own data: `schema`, `epoch`, `revision`, `boot_id`.
pub(super) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("store.meta");
/// How a redb file begins.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// The highest file format that this version of redb reads.
const FORMAT: u8 = 3;
/// Where the two commit slots of a redb file are; each begins with the file format. The lowest bit
/// of the byte after [`MAGIC`] says which one is in force.
const SLOTS: [usize; 2] = [64, 192];
/// Rooms keep their records in memory; the cache serves only the pages of a commit.
const CACHE: usize = 256 << 10;
/// For so long a locked file may be about to be given up.
const PATIENCE: Duration = Duration::from_millis(200);

/// Options for opening a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file, mode 0600. Missing directories are created with mode 0700. A lock file is next to
    /// it.
    pub path: PathBuf,
}

/// The store's own data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) epoch: String,
    pub(super) number: u64,
    pub(super) boot_id: Option<String>,
}

/// An open file.
pub(super) struct Ready {
    pub(super) database: Database,
    pub(super) meta: Meta,
    pub(super) quarantined: Option<PathBuf>,
    pub(super) fresh: bool,
    pub(super) medium: FileMedium,
}

/// The place of the database: a file.
#[derive(Debug)]
pub(super) struct FileMedium {
    path: PathBuf,
    reserve: Reserve,
    /// Held for the lifetime of this value, also while the database is closed after a failure.
    _lock: File,
}

impl FileMedium {
    /// Opens the file; if the disk is too full for that, releases the reserve first.
    fn attempt(&mut self, check: bool) -> Result<(Database, Meta, bool), Error> {
        match attempt(&self.path, check) {
            Err(Error::Full { .. }) => {
                self.reserve.release();
                attempt(&self.path, check)
            }
            other => other,
        }
    }
}

impl Medium for FileMedium {
    /// Does not move a damaged file aside: the rooms have their records in memory, and the next
    /// start repairs the store.
    fn open(&mut self) -> Result<(Database, Meta), Error> {
        // A file that has disappeared must not be replaced by an empty one.
        fs::metadata(&self.path).map_err(|error| Error::io(opening(&self.path), error))?;
        self.attempt(false).map(|(database, meta, _)| (database, meta))
    }

    fn ensure_reserve(&mut self) -> Result<(), Error> {
        self.reserve.ensure()
    }

    fn release_reserve(&mut self) {
        self.reserve.release();
    }
}

/// A redb builder with the store's settings.
pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// Opens the store at the start of the agent.
pub(super) fn open(options: &Options) -> Result<Ready, Error> {
    let path = &options.path;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Error::io(format!("make the folder {}", folder.display()), error))?;
    let lock = patiently(|| lock(path))?;
    refuse_newer(path)?;
    let reserve = Reserve::new(beside(path, ".reserve"));
    let mut medium = FileMedium { path: path.clone(), reserve, _lock: lock };
    let (found, quarantined) = match medium.attempt(true) {
        Err(Error::Corrupt { problem }) => {
            let aside = quarantine(path)?;
            tracing::error!(problem, moved_to = %aside.display(), "state store is damaged");
            (medium.attempt(true), Some(aside))
        }
        // The integrity check writes; a full disk must not keep the agent from starting.
        Err(Error::Full { .. }) => (medium.attempt(false), None),
        found => (found, None),
    };
    let (database, meta, fresh) = found?;
    sync_folder(folder)?;
    Ok(Ready { database, meta, quarantined, fresh, medium })
}

/// Opens the file once; a panic of the database on damaged pages counts as damage.
fn attempt(path: &Path, check: bool) -> Result<(Database, Meta, bool), Error> {
    let open = || -> Result<(Database, Meta, bool), Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)
            .map_err(|error| Error::io(opening(path), error))?;
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(|error| Error::io(opening(path), error))?;
        let disk = FileBackend::new(file)
            .map_err(|error| Error::from_redb(opening(path), error.into()))?;
        let database = builder()
            .set_check_integrity_on_open(check)
            .create_with_backend(disk)
            .map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    Error::Locked { path: path.to_owned(), pid: None }
                }
                error => Error::from_redb(opening(path), error.into()),
            })?;
        let (meta, fresh) = meta_of(&database).map_err(|error| match error {
            Error::NewerSchema { found, known, .. } => {
                Error::NewerSchema { path: path.to_owned(), found, known }
            }
            other => other,
        })?;
        Ok((database, meta, fresh))
    };
    let open = || catch_unwind(AssertUnwindSafe(open));
    patiently(|| open().unwrap_or(Err(Error::Corrupt { problem: "opening it panicked".into() })))
}

/// Retries for a short time while the file is locked. A child process between fork and exec holds
/// copies of all descriptors, and so may still hold a lock that was just released.
fn patiently<T>(attempt: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(Error::Locked { .. }) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(PATIENCE / 20);
            }
            outcome => return outcome,
        }
    }
}

fn opening(path: &Path) -> String {
    format!("open the state store {}", path.display())
}

/// Refuses a file of a newer podbay before anything in it is changed. What cannot be checked
/// read-only (damage, a file left by a crash) is left to the ordinary opening, which repairs,
/// checks again, and still writes no row.
fn refuse_newer(path: &Path) -> Result<(), Error> {
    match format_of(path) {
        Some(found) if found > FORMAT => {
            return Err(Error::NewerFormat { path: path.to_owned(), found, known: FORMAT });
        }
        _ => {}
    }
    let peek = || -> Option<u32> {
        let database = builder().open_read_only(path).ok()?;
        let txn = database.begin_read().ok()?;
        let schema = txn.open_table(META).ok()?.get("schema").ok()??.value().parse();
        schema.ok()
    };
    match catch_unwind(AssertUnwindSafe(peek)) {
        Ok(Some(found)) if found > SCHEMA => {
            Err(Error::NewerSchema { path: path.to_owned(), found, known: SCHEMA })
        }
        _ => Ok(()),
    }
}

/// The file format of a redb file; `None` if it is not one.
fn format_of(path: &Path) -> Option<u8> {
    let mut head = [0; SLOTS[1] + 1];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    let rest = head.strip_prefix(MAGIC)?;
    let slot = SLOTS[usize::from(rest.first()? & 1)];
    head.get(slot).copied()
}

/// Reads the store's own data, or initialises it in an empty database. Returns whether it was
/// empty.
pub(super) fn meta_of(database: &Database) -> Result<(Meta, bool), Error> {
    let failed = |error: redb::Error| Error::from_redb("read the state store", error);
    let txn = database.begin_read().map_err(|error| failed(error.into()))?;
    let rows = match txn.open_table(META) {
        Ok(rows) => rows,
        Err(TableError::TableDoesNotExist(_)) => {
            let mut tables = txn.list_tables().map_err(|error| failed(error.into()))?;
            if tables.next().is_some() {
                return Err(Error::Corrupt { problem: "it has rows but no schema".into() });
            }
            return Ok((initialise(database)?, true));
        }
        Err(error) => return Err(failed(error.into())),
    };
    let row = |key: &str| -> Result<Option<String>, Error> {
        let row = rows.get(key).map_err(|error| failed(error.into()))?;
        Ok(row.map(|value| value.value().to_owned()))
    };
    let number = |key: &'static str| -> Result<u64, Error> {
        row(key)?
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::Corrupt { problem: format!("its {key} is not a number") })
    };
    let found = u32::try_from(number("schema")?).unwrap_or(u32::MAX);
    if found > SCHEMA {
        return Err(Error::NewerSchema { path: PathBuf::new(), found, known: SCHEMA });
    }
    let epoch =
        row("epoch")?.ok_or_else(|| Error::Corrupt { problem: "it has no epoch".into() })?;
    Ok((Meta { epoch, number: number("revision")?, boot_id: row("boot_id")? }, false))
}

fn initialise(database: &Database) -> Result<Meta, Error> {
    let failed = |error: redb::Error| Error::from_redb("initialise the state store", error);
    let epoch = hex::encode(rand::random::<[u8; 8]>());
    let mut txn = database.begin_write().map_err(|error| failed(error.into()))?;
    txn.set_two_phase_commit(true);
    {
        let mut rows = txn.open_table(META).map_err(|error| failed(error.into()))?;
        let schema = SCHEMA.to_string();
        for (key, value) in [("schema", schema.as_str()), ("epoch", &epoch), ("revision", "0")] {
            rows.insert(key, value).map_err(|error| failed(error.into()))?;
        }
    }
    txn.commit().map_err(|error| failed(error.into()))?;
    Ok(Meta { epoch, number: 0, boot_id: None })
}

/// Locks the store for as long as the returned file is open. The database locks its own file too,
/// but not while it is closed after a failure.
fn lock(path: &Path) -> Result<File, Error> {
    let path_of_lock = beside(path, ".lock");
    let tried = || format!("lock the state store with {}", path_of_lock.display());
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path_of_lock)
        .map_err(|error| Error::io(tried(), error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.take(16).read_to_string(&mut text).ok();
            let pid = pid.and_then(|_| text.trim().parse().ok());
            return Err(Error::Locked { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(Error::io(tried(), error)),
    }
    // The PID only serves the other process's error message: a full disk must not prevent the
    // start.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Moves a damaged file aside, under an unused name.
fn quarantine(path: &Path) -> Result<PathBuf, Error> {
    let now = OffsetDateTime::now_utc()
        .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
        .unwrap_or_else(|_| "unknown".into());
    let mut aside = beside(path, &format!(".corrupt-{now}"));
    let mut count = 1;
    while fs::symlink_metadata(&aside).is_ok() {
        aside = beside(path, &format!(".corrupt-{now}-{count}"));
        count += 1;
    }
    fs::rename(path, &aside).map_err(|error| {
        Error::io(format!("move the damaged state store to {}", aside.display()), error)
    })?;
    Ok(aside)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes new names in the directory durable.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io(format!("flush the folder {}", folder.display()), error))
}
