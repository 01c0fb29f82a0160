//! The inputs of a configuration, and the parsing of the file into flat keys.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::faults::{Fault, Source};

/// The file that is read when none is named; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/podbay/config.toml";

/// Access to environment and files; replaced by a map in tests.
pub trait Inputs {
    /// The environment.
    fn variables(&self) -> Vec<(OsString, OsString)>;

    /// Reads a text file.
    fn read(&self, path: &Path) -> io::Result<String>;
}

/// The inputs of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process;

impl Inputs for Process {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        std::env::vars_os().collect()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }
}

/// Files only, without the environment, to check a file for another process.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileOnly;

impl Inputs for FileOnly {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        Vec::new()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        Process.read(path)
    }
}

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The dotted key it sets.
    pub key: &'static str,
    /// The flag as typed, with its dashes.
    pub name: &'static str,
    /// Its values: one for each time it was given.
    pub values: Vec<String>,
}

/// The command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// The file to read, which must exist; `None` reads [`DEFAULT_FILE`].
    pub config: Option<PathBuf>,
    /// The settings.
    pub settings: Vec<Flag>,
}

/// The parts of a dotted key.
pub(super) type Key = Vec<String>;

/// A TOML value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    Int(i64),
    Bool(bool),
    List(Vec<Raw>),
    /// The name of a type that no setting has.
    Other(&'static str),
}

/// A file as flat keys, each with its line.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<Key, (Raw, usize)>,
    pub(super) tables: BTreeMap<Key, usize>,
}

impl File {
    /// Parses a file; if there are faults, as much of it as possible.
    pub(super) fn parse(path: PathBuf, text: &str) -> (Self, Vec<Fault>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut file = Self { path, ..Self::default() };
        let fault = |error: &toml::de::Error| Fault {
            key: String::new(),
            source: file.source(line_at(text, &error.span().unwrap_or_default())),
            problem: error.message().to_owned(),
        };
        let faults = errors.iter().map(fault).collect();
        file.flatten(text, &[], table.get_ref());
        (file, faults)
    }

    pub(super) fn source(&self, line: usize) -> Source {
        Source::File { path: self.path.clone(), line }
    }

    fn flatten(&mut self, text: &str, above: &[String], table: &DeTable<'_>) {
        for (name, value) in table {
            let mut key = above.to_vec();
            key.push(name.get_ref().to_string());
            let line = line_at(text, &name.span());
            match value.get_ref() {
                DeValue::Table(inner) => {
                    self.flatten(text, &key, inner);
                    self.tables.insert(key, line);
                }
                other => {
                    self.values.insert(key, (raw(other), line));
                }
            }
        }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("an integer too large"), Raw::Int),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Float(_) => Raw::Other("a float"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

fn line_at(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    before.bytes().filter(|byte| *byte == b'\n').count() + 1
}
