//! Prints the effective configuration, as TOML for humans and as JSON for programs.

use std::fmt::Write;

use serde_json::{Map, Value as Json};
use toml::Value;

use super::faults::Source;
use super::inputs::Key;

/// A printable setting, with secrets hidden already.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) key: Key,
    /// `None` when it is unset and has no default.
    pub(super) value: Option<Value>,
    pub(super) source: Source,
}

/// The dotted key in TOML syntax.
pub(super) fn key_text(key: &[String]) -> String {
    let part = |part: &String| {
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !part.is_empty() && part.chars().all(bare) { part.clone() } else { format!("{part:?}") }
    };
    key.iter().map(part).collect::<Vec<_>>().join(".")
}

/// TOML with the source of each value as a comment.
pub(super) fn render(shown: &[Shown]) -> String {
    let mut text = String::new();
    let mut open: &[String] = &[];
    for Shown { key, value, source } in shown {
        let Some((name, table)) = key.split_last() else { continue };
        if table != open {
            let _ = writeln!(text, "\n[{}]", key_text(table));
            open = table;
        }
        let name = key_text(std::slice::from_ref(name));
        // Writing to a String cannot fail.
        let _ = match value {
            Some(value) => writeln!(text, "{name} = {value}  # {source}"),
            None => writeln!(text, "# {name} is not set"),
        };
    }
    text
}

/// One object with a member for each table; unset values are omitted.
pub(super) fn object(shown: &[Shown]) -> Json {
    let mut top = Map::new();
    for Shown { key, value, source: _ } in shown {
        let (Some((name, tables)), Some(value)) = (key.split_last(), value) else { continue };
        // A key that is a table is never a value as well.
        let table = tables.iter().try_fold(&mut top, |place, name| {
            place.entry(name.clone()).or_insert_with(|| Map::new().into()).as_object_mut()
        });
        // Every TOML value has a JSON form except times, which no setting uses.
        let value = serde_json::to_value(value).unwrap_or_default();
        drop(table.map(|table| table.insert(name.clone(), value)));
    }
    top.into()
}
