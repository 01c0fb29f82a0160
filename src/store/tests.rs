//! Tests of the store: `rows` (contents), `faults` (damage, full disks), `crash` (kill -9 and power
//! cuts). Where real files do not suffice they use a `model_disk`. `stored` checks the stored form of
//! the records of all rooms.

mod crash;
mod faults;
mod model_disk;
mod rows;
pub(crate) mod stored;

use serde::{Deserialize, Serialize};

use super::*;

/// A record of the tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    name: String,
    text: String,
}

impl Record for Note {
    const TABLE: &'static str = "notes";
    const VERSION: u16 = 2;

    fn key(&self) -> &str {
        &self.name
    }

    fn upgrade(version: u16, value: serde_json::Value) -> Result<Self, Error> {
        match (version, value["name"].as_str(), value["title"].as_str()) {
            (1, Some(name), Some(title)) => Ok(note(name, title)),
            _ => Err(Error::Row {
                table: Self::TABLE,
                key: String::new(),
                problem: format!("version {version}"),
            }),
        }
    }
}

/// The same table as an older podbay wrote it.
#[derive(Serialize, Deserialize)]
struct OldNote<const VERSION: u16> {
    name: String,
    title: String,
}

impl<const V: u16> Record for OldNote<V> {
    const TABLE: &'static str = "notes";
    const VERSION: u16 = V;

    fn key(&self) -> &str {
        &self.name
    }
}

fn note(name: &str, text: &str) -> Note {
    Note { name: name.into(), text: text.into() }
}

fn put(name: &str, text: &str) -> Batch {
    Batch::new().put(&note(name, text)).unwrap()
}

fn at(folder: &tempfile::TempDir) -> Options {
    Options { path: folder.path().join("state/podbay.redb") }
}

fn texts(store: &Store) -> Vec<String> {
    let loaded = store.load::<Note>().unwrap();
    assert!(loaded.faults.is_empty(), "{:?}", loaded.faults);
    loaded.records.into_iter().map(|note| note.text).collect()
}
