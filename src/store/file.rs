//! Opening the file: lock, schema, damage.

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

/// The layout of the tables. Rows have versions of their own.
const SCHEMA: u32 = 1;
/// What the store knows about itself: `schema`, `epoch`, `revision`, `boot_id`.
pub(super) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("store.meta");
/// Rooms keep their records in memory; the cache serves only the pages of a commit.
const CACHE: usize = 256 << 10;
/// For so long a locked file may be about to be given up.
const PATIENCE: Duration = Duration::from_millis(200);

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file, mode 0600. Missing folders are made 0700. A lock file stands beside it.
    pub path: PathBuf,
}

/// The store's knowledge about itself.
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

/// Where the store lives.
#[derive(Debug)]
pub(super) struct FileMedium {
    path: PathBuf,
    reserve: Reserve,
    /// Held as long as this lives, also while the database is closed after a failure.
    _lock: File,
}

impl FileMedium {
    /// Opens the file; when the disk is too full for that, with the space of the reserve.
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
    /// Damage is not moved aside here: the rooms hold the truth in memory, and the next start
    /// heals the store.
    fn open(&mut self) -> Result<(Database, Meta), Error> {
        // A file that vanished must not come back empty.
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

/// redb with our settings.
pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// Opens the store for good.
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
            tracing::error!(problem, moved_to = %aside.display(), "state store: damaged");
            (medium.attempt(true), Some(aside))
        }
        // The check writes; a full disk must not keep the agent from starting.
        Err(Error::Full { .. }) => (medium.attempt(false), None),
        found => (found, None),
    };
    let (database, meta, fresh) = found?;
    sync_folder(folder)?;
    Ok(Ready { database, meta, quarantined, fresh, medium })
}

/// One try; a panic in the database on damaged pages counts as damage.
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

/// Tries again for a moment while it is locked. A program that this process is starting holds
/// copies of all its files between fork and exec, and with them a lock that was just given up.
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

/// Refuses a file of a newer podbay before anything in it is touched. What cannot be told
/// read-only (damage, a file left by a crash) is left to the real opening: that repairs and then
/// looks again, and still writes no row.
fn refuse_newer(path: &Path) -> Result<(), Error> {
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

/// Reads the store's knowledge about itself, or gives it to an empty database. Returns whether
/// it was empty.
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
            .ok_or_else(|| Error::Corrupt { problem: format!("its {key} is no number") })
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

/// Takes the lock on the store; it is held while the file handle lives. The database locks its
/// file too, but not while it is closed after a failure.
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
    // Only for the other's message: a full disk must not keep us from starting.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Moves a damaged file aside, under a name that is free.
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

/// Makes new names in the folder durable.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io(format!("flush the folder {}", folder.display()), error))
}
