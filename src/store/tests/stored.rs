//! The stored form of each kind of record, so that an agent understands what an earlier one wrote.
//!
//! tests/data/records has a file for each table: a record with all its fields as this version writes
//! them, and in `old` one with only those that every agent has written.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::super::Record;

#[derive(Deserialize)]
struct Stored {
    version: u16,
    record: Value,
}

fn stored<R: Record>(folder: &str) -> Stored {
    let records = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/records");
    let path = records.join(folder).join(R::TABLE).with_added_extension("json");
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The record with all fields. Writing it gives what was read: a renamed field would be lost, and a
/// new one has to be added to the file.
pub fn now<R: Record>() -> R {
    let Stored { version, record } = stored::<R>("");
    assert_eq!(version, R::VERSION, "{}: move its file to `old`", R::TABLE);
    let read: R = serde_json::from_value(record.clone()).expect(R::TABLE);
    let again = serde_json::to_value(&read).expect(R::TABLE);
    let mut lost = Vec::new();
    compare(R::TABLE, &record, &again, &mut lost);
    assert!(lost.is_empty(), "records of earlier agents would lose something: {lost:#?}");
    read
}

/// The record with the fields that every agent has written.
pub fn old<R: Record>() -> R {
    let Stored { version, record } = stored::<R>("old");
    match version == R::VERSION {
        true => serde_json::from_value(record).expect(R::TABLE),
        false => R::upgrade(version, record).expect(R::TABLE),
    }
}

/// The places where two documents differ.
fn compare(place: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    let (Value::Object(before), Value::Object(after)) = (before, after) else {
        if before != after {
            found.push(format!("{place}: {before} became {after}"));
        }
        return;
    };
    for (key, value) in before {
        let next = after.get(key).unwrap_or(&Value::Null);
        match after.contains_key(key) {
            true => compare(&format!("{place}.{key}"), value, next, found),
            false => found.push(format!("{place}.{key} is lost")),
        }
    }
    let new = after.keys().filter(|key| !before.contains_key(*key));
    found.extend(new.map(|key| format!("{place}.{key} is not in the file")));
}

#[test]
fn differences_are_found_at_any_depth() {
    let before = serde_json::json!({"a": {"b": 1, "c": [1], "old": null}, "same": true});
    let after = serde_json::json!({"a": {"b": 2, "c": [2], "new": null}, "same": true});
    let mut found = Vec::new();
    compare("x", &before, &after, &mut found);
    assert_eq!(
        found,
        [
            "x.a.b: 1 became 2",
            "x.a.c: [1] became [2]",
            "x.a.old is lost",
            "x.a.new is not in the file",
        ]
    );
}
