//! Rows: how records are encoded, so that later and earlier versions of podbay can check them.
//!
//! ```text
//! | format 1 | version 2, little endian | checksum 16 | record as JSON |
//! ```
//! The checksum is the start of a SHA-256 over table, key, format, version and JSON. It covers
//! bytes, not decoded structures, so that a changed type is not mistaken for damage.

use redb::TableDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::Error;

const FORMAT: u8 = 1;
const CHECKSUM: usize = 16;
const HEAD: usize = 1 + 2 + CHECKSUM;
/// Maximum size of a record in bytes: far more than any pod needs, and harmless to the agent's
/// memory.
const MAX_RECORD: usize = 8 << 20;
/// Maximum size of a key in bytes.
const MAX_KEY: usize = 512;

/// A record type of the store. A new field needs `#[serde(default)]`; any other change needs a new
/// `VERSION` and an `upgrade`.
pub trait Record: Serialize + DeserializeOwned {
    /// Table, unique among all types.
    const TABLE: &'static str;
    /// Version of the JSON encoding.
    const VERSION: u16;

    /// Key, unique in the table, 1 to 512 bytes.
    fn key(&self) -> &str;

    /// Converts the JSON of another version. The default refuses.
    fn upgrade(version: u16, value: serde_json::Value) -> Result<Self, Error> {
        let _ = value;
        Err(Error::Row {
            table: Self::TABLE,
            key: String::new(),
            problem: format!("version {version} is unknown, expected {}", Self::VERSION),
        })
    }
}

/// All rows of one type.
#[derive(Debug)]
pub struct Loaded<R> {
    /// Readable records, in key order.
    pub records: Vec<R>,
    /// Unreadable rows.
    pub faults: Vec<Fault>,
}

/// A row that cannot be read. It stays in the store until its key is written or deleted.
#[derive(Debug)]
pub struct Fault {
    /// Table.
    pub table: &'static str,
    /// Key.
    pub key: String,
    /// What is wrong with it.
    pub problem: Error,
}

/// Changes that are applied atomically, in this order.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) changes: Vec<Change>,
    pub(super) boot_id: Option<String>,
    ends_work: bool,
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) table: &'static str,
    pub(super) key: String,
    /// `None` deletes.
    pub(super) row: Option<Vec<u8>>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a record. [`Error::Row`] when it cannot be stored.
    pub fn put<R: Record>(mut self, record: &R) -> Result<Self, Error> {
        let key = record.key();
        let row = encode(record).map_err(|problem| row_error::<R>(key, problem))?;
        self.changes.push(Change { table: R::TABLE, key: key.to_owned(), row: Some(row) });
        Ok(self)
    }

    /// Deletes a record; a missing one is fine.
    #[must_use]
    pub fn delete<R: Record>(mut self, key: &str) -> Self {
        self.changes.push(Change { table: R::TABLE, key: key.to_owned(), row: None });
        self
    }

    /// Marks this batch as a step of ending something, or as the record of an end: it may use the
    /// reserve when the disk is full. A batch of deletions only may do so without this.
    #[must_use]
    pub fn ends_work(mut self) -> Self {
        self.ends_work = true;
        self
    }

    /// Stores the host's boot id to which all records now belong; set once recovery is done.
    #[must_use]
    pub fn boot_id(mut self, boot_id: impl Into<String>) -> Self {
        self.boot_id = Some(boot_id.into());
        self
    }
}

impl Batch {
    /// Whether this batch may use the reserve.
    pub(super) fn may_use_reserve(&self) -> bool {
        self.ends_work || self.changes.iter().all(|change| change.row.is_none())
    }
}

/// The definition of a table; all tables have the same key and value types.
pub(super) fn table(name: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(name)
}

fn row_error<R: Record>(key: &str, problem: impl Into<String>) -> Error {
    Error::Row { table: R::TABLE, key: key.to_owned(), problem: problem.into() }
}

fn encode<R: Record>(record: &R) -> Result<Vec<u8>, String> {
    let key = record.key();
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(format!("the key must have 1 to {MAX_KEY} bytes"));
    }
    let mut row = vec![0; HEAD];
    row[0] = FORMAT;
    row[1..3].copy_from_slice(&R::VERSION.to_le_bytes());
    serde_json::to_writer(&mut row, record).map_err(|error| error.to_string())?;
    if row.len() > MAX_RECORD {
        return Err(format!("{} bytes are over the limit of {MAX_RECORD}", row.len()));
    }
    let sum = checksum(R::TABLE, key, &row);
    row[3..HEAD].copy_from_slice(&sum);
    Ok(row)
}

/// Decodes a row. Any damage results in an error, never in a panic.
pub(super) fn decode<R: Record>(key: &str, row: &[u8]) -> Result<R, Error> {
    let bad = |problem: String| row_error::<R>(key, problem);
    let (Some(&format), Some(json)) = (row.first(), row.get(HEAD..)) else {
        return Err(bad(format!("{} bytes are too few", row.len())));
    };
    if format != FORMAT {
        return Err(bad(format!("row format {format} is not known")));
    }
    if row[3..HEAD] != checksum(R::TABLE, key, row) {
        return Err(bad("the checksum does not match".into()));
    }
    let version = u16::from_le_bytes([row[1], row[2]]);
    let parse = |error: serde_json::Error| bad(error.to_string());
    let record: R = if version == R::VERSION {
        serde_json::from_slice(json).map_err(parse)?
    } else {
        R::upgrade(version, serde_json::from_slice(json).map_err(parse)?).map_err(|error| {
            match error {
                Error::Row { problem, .. } => bad(problem),
                other => other,
            }
        })?
    };
    if record.key() == key {
        Ok(record)
    } else {
        Err(bad(format!("it holds a record with key {:?}", record.key())))
    }
}

fn checksum(table: &str, key: &str, row: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = Sha256::new();
    for part in [table.as_bytes(), key.as_bytes(), &row[..3], &row[HEAD..]] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&hash.finalize()[..CHECKSUM]);
    sum
}
