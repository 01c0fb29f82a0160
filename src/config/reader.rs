//! Looks up every setting in all layers, and records its source and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::faults::{Fault, Source};
use super::inputs::{DEFAULT_FILE, File, Flag, Flags, Inputs, Key};
use super::setting::Setting;
use super::show::{Shown, key_text};

const PREFIX: &str = "PODBAY_";

/// Names the configuration file, like the flag `--config`.
const CONFIG_VARIABLE: &str = "PODBAY_CONFIG";

/// Variables of the command line clients. The agent ignores them: a shell that starts one may have
/// them set.
const CLIENT_VARIABLES: [&str; 3] = ["PODBAY_ADDRESS", "PODBAY_CONTEXT", "PODBAY_CLIENT_CONFIG"];

pub(super) struct Reader {
    file: File,
    variables: BTreeMap<String, String>,
    flags: Vec<Flag>,
    known: BTreeSet<Key>,
    shown: Vec<Shown>,
    faults: Vec<Fault>,
}

impl Reader {
    /// Reads the layers. An unreadable layer is a fault and counts as empty.
    pub(super) fn new(inputs: &dyn Inputs, flags: &Flags) -> Self {
        let mut reader = Self {
            file: File::default(),
            variables: BTreeMap::new(),
            flags: flags.settings.clone(),
            known: BTreeSet::new(),
            shown: Vec::new(),
            faults: Vec::new(),
        };
        reader.read_variables(inputs);
        let named = match (&flags.config, reader.variables.remove(CONFIG_VARIABLE)) {
            (Some(path), _) => Some((path.clone(), Source::Flag("--config".to_owned()))),
            (None, Some(path)) => Some((path.into(), Source::Env(CONFIG_VARIABLE.to_owned()))),
            (None, None) => None,
        };
        let (path, source) = match &named {
            Some((path, source)) => (path.as_path(), source.clone()),
            None => (Path::new(DEFAULT_FILE), Source::Default),
        };
        match inputs.read(path) {
            Ok(text) => {
                let (file, faults) = File::parse(path.to_owned(), &text);
                reader.file = file;
                reader.faults.extend(faults);
            }
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let problem = format!("read {}: {error}", path.display());
                reader.faults.push(Fault { key: String::new(), source, problem });
            }
        }
        reader
    }

    fn read_variables(&mut self, inputs: &dyn Inputs) {
        for (name, value) in inputs.variables() {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) || CLIENT_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            match value.into_string() {
                Ok(value) => {
                    self.variables.insert(name, value);
                }
                Err(_) => self.faults.push(Fault {
                    key: String::new(),
                    source: Source::Env(name),
                    problem: "is not UTF-8".to_owned(),
                }),
            }
        }
    }

    /// The value of a setting; `default` when there is no valid one.
    pub(super) fn get<T: Setting>(&mut self, key: &str, default: T) -> T {
        let key: Key = key.split('.').map(str::to_owned).collect();
        let (value, source) = self.find(&key).unwrap_or((default, Source::Default));
        self.shown.push(Shown { key, value: Some(value.to_toml()), source });
        value
    }

    /// The value of an optional setting.
    pub(super) fn get_optional<T: Setting>(&mut self, key: &str) -> Option<T> {
        self.get_optional_in(&[], key)
    }

    /// A setting in a table with a user-chosen name.
    pub(super) fn get_in<T: Setting>(&mut self, table: &[String], name: &str, default: T) -> T {
        let key = join(table, name);
        let (value, source) = self.find(&key).unwrap_or((default, Source::Default));
        self.shown.push(Shown { key, value: Some(value.to_toml()), source });
        value
    }

    /// Like [`Reader::get_in`], for an optional setting.
    pub(super) fn get_optional_in<T: Setting>(
        &mut self,
        table: &[String],
        name: &str,
    ) -> Option<T> {
        let mut key = table.to_vec();
        key.extend(name.split('.').map(str::to_owned));
        let (value, source) = self.find::<T>(&key).unzip();
        let source = source.unwrap_or(Source::Default);
        self.shown.push(Shown { key, value: value.as_ref().map(Setting::to_toml), source });
        value
    }

    /// The names of the tables in this table of the file.
    pub(super) fn table_names(&mut self, table: &str) -> Vec<String> {
        let above: Key = table.split('.').map(str::to_owned).collect();
        let below = |key: &&Key| key.len() == above.len() + 1 && key.starts_with(&above);
        let names = self.file.tables.keys().filter(below).filter_map(|key| key.last().cloned());
        let names = names.collect();
        self.known.insert(above);
        names
    }

    /// Adds a fault for this key, with its source, unless `good`.
    pub(super) fn check(&mut self, good: bool, key: &[&str], problem: &str) {
        if good {
            return;
        }
        let key: Key = key.iter().map(|part| (*part).to_owned()).collect();
        let source = match self.shown.iter().find(|shown| shown.key == key) {
            Some(shown) => shown.source.clone(),
            None => self.file.tables.get(&key).map_or(Source::Default, |l| self.file.source(*l)),
        };
        let fault = Fault { key: key_text(&key), source, problem: problem.to_owned() };
        // If the value could not be parsed that is a fault already; its default is valid.
        if !self.faults.iter().any(|known| known.key == fault.key) {
            self.faults.push(fault);
        }
    }

    /// All settings and all faults, including unknown keys.
    pub(super) fn finish(mut self) -> (Vec<Shown>, Vec<Fault>) {
        let mut unknown = Vec::new();
        for (key, (_, line)) in &self.file.values {
            if !self.known.contains(key) {
                let problem = match self.known.iter().any(|known| known.starts_with(key)) {
                    true => "must be a table",
                    false => "unknown key",
                };
                unknown.push((key, self.file.source(*line), problem));
            }
        }
        for (key, line) in &self.file.tables {
            let told = self.file.values.keys().any(|value| value.starts_with(key));
            if !told && !self.known.iter().any(|known| known.starts_with(key)) {
                unknown.push((key, self.file.source(*line), "unknown table"));
            }
        }
        let fault = |(key, source, problem): (&Key, Source, &str)| Fault {
            key: key_text(key),
            source,
            problem: problem.to_owned(),
        };
        self.faults.extend(unknown.into_iter().map(fault));
        let names: BTreeSet<String> = self.known.iter().map(|key| variable(key)).collect();
        let sets_none = |name: &String| !names.contains(name) && !is_service_link(name);
        for name in self.variables.into_keys().filter(sets_none) {
            let problem = "sets no key".to_owned();
            self.faults.push(Fault { key: String::new(), source: Source::Env(name), problem });
        }
        // In the order in which a user will look for them.
        self.faults.sort_by(|a, b| a.source.cmp(&b.source));
        (self.shown, self.faults)
    }

    /// The first valid value by precedence. Every layer is read, so that a fault is reported even
    /// if a higher layer overrides it.
    fn find<T: Setting>(&mut self, key: &Key) -> Option<(T, Source)> {
        self.known.insert(key.clone());
        let text = key_text(key);
        let flag = self.flags.iter().find(|flag| flag.key == text);
        let flag = flag.map(|f| (T::from_texts(&f.values), Source::Flag(f.name.to_owned())));
        let name = variable(key);
        let env = self.variables.get(&name).map(|v| (T::from_text(v), Source::Env(name.clone())));
        let file = self.file.values.get(key);
        let file = file.map(|(raw, line)| (T::from_raw(raw), self.file.source(*line)));
        let mut found = None;
        for (value, source) in [flag, env, file].into_iter().flatten() {
            match value {
                Ok(value) => {
                    found.get_or_insert((value, source));
                }
                Err(problem) => self.faults.push(Fault { key: text.clone(), source, problem }),
            }
        }
        found
    }
}

fn join(table: &[String], name: &str) -> Key {
    let mut key = table.to_vec();
    key.push(name.to_owned());
    key
}

/// The environment variable of a key: `PODBAY_CRI_SOCKET` for `cri.socket`.
fn variable(key: &[String]) -> String {
    format!("{PREFIX}{}", key.join("_").to_uppercase())
}

/// Whether Kubernetes may have set this variable: in a pod there are some for each service, and a
/// service may be named podbay.
fn is_service_link(name: &str) -> bool {
    let is_port = |rest: &str| {
        rest.is_empty()
            || rest.strip_prefix('_').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.rsplit_once("_PORT").is_some_and(|(_, rest)| is_port(rest))
}
