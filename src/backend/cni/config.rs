//! Network configurations: CNI specification, section 1 (lists) and the older single-plugin form.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::backend::linux::files;
use crate::telemetry::error_text;

/// Maximum size of a configuration file.
const FILE_LIMIT: usize = 1 << 20;

/// Supported versions of the specification, oldest first.
const VERSIONS: &[Version] = &[
    Version(0, 1, 0),
    Version(0, 2, 0),
    Version(0, 3, 0),
    Version(0, 3, 1),
    Version(0, 4, 0),
    Version(1, 0, 0),
    Version(1, 1, 0),
];

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u8, pub u8, pub u8);

impl Version {
    /// From this version on plugins get the result of the previous one.
    pub(super) const CHAINED: Self = Self(0, 3, 0);
    /// From this version on DEL gets the result of ADD.
    pub(super) const DEL_WITH_RESULT: Self = Self(0, 4, 0);
    /// From this version on plugins support STATUS.
    pub(super) const STATUS: Self = Self(1, 1, 0);

    /// Parses a supported version.
    pub(super) fn parse(text: &str) -> Option<Self> {
        VERSIONS.iter().copied().find(|version| version.to_string() == text)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A network: plugins that are executed one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Network {
    /// Name, usable as a file name.
    pub name: String,
    /// Version used with all plugins.
    pub version: Version,
    /// At least one.
    pub plugins: Vec<Plugin>,
    /// The list as JSON, for the cache.
    pub raw: Vec<u8>,
}

/// One plugin of a network.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plugin {
    /// Name of its executable.
    pub kind: String,
    /// Capabilities it declares.
    pub capabilities: BTreeSet<String>,
    /// Its configuration, unchanged.
    body: Map<String, Value>,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("cannot be read")]
    Read(#[source] crate::backend::Error),
    #[error("is not valid JSON")]
    Json(#[source] serde_json::Error),
    #[error("{field}: {problem}")]
    Field { field: String, problem: String },
}

fn fault(field: impl Into<String>, problem: impl Into<String>) -> Fault {
    Fault::Field { field: field.into(), problem: problem.into() }
}

impl Network {
    /// Parses a list (`*.conflist`).
    pub(super) fn from_list(raw: &[u8]) -> Result<Self, Fault> {
        let list: Map<String, Value> = serde_json::from_slice(raw).map_err(Fault::Json)?;
        let plugins = match list.get("plugins") {
            Some(Value::Array(plugins)) if !plugins.is_empty() => plugins,
            _ => return Err(fault("plugins", "not a list of at least one plugin")),
        };
        let plugins = plugins.iter().enumerate().map(|(index, plugin)| {
            let field = format!("plugins[{index}]");
            match plugin {
                Value::Object(body) => Plugin::new(&field, body.clone()),
                _ => Err(fault(field, "not an object")),
            }
        });
        Ok(Self {
            name: network_name(&list)?,
            version: version(&list)?,
            plugins: plugins.collect::<Result<_, _>>()?,
            raw: raw.to_vec(),
        })
    }

    /// Parses a single plugin (`*.conf`, `*.json`) as a list of one.
    pub(super) fn from_single(raw: &[u8]) -> Result<Self, Fault> {
        let body: Map<String, Value> = serde_json::from_slice(raw).map_err(Fault::Json)?;
        let (name, version) = (network_name(&body)?, version(&body)?);
        let plugin = Plugin::new("", body.clone())?;
        let list = serde_json::json!({
            "name": name, "cniVersion": version.to_string(), "plugins": [body],
        });
        let raw = list.to_string().into_bytes();
        Ok(Self { name, version, plugins: vec![plugin], raw })
    }

    fn from_file(path: &Path) -> Result<Self, Fault> {
        let raw = read(path)?;
        if path.extension() == Some(OsStr::new("conflist")) {
            Self::from_list(&with_folder(path, raw)?)
        } else {
            Self::from_single(&raw)
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    Ok(files::read(path, FILE_LIMIT).map_err(Fault::Read)?.unwrap_or_default())
}

/// A list with the plugins of its folder appended, which has the network's name and one plugin in
/// each `*.conf`, unless the list asks to load only its own (specification 1.1).
fn with_folder(path: &Path, raw: Vec<u8>) -> Result<Vec<u8>, Fault> {
    const ONLY_ITS_OWN: &str = "loadOnlyInlinedPlugins";
    let mut list: Map<String, Value> = serde_json::from_slice(&raw).map_err(Fault::Json)?;
    match list.get(ONLY_ITS_OWN) {
        Some(Value::Bool(true)) => return Ok(raw),
        None | Some(Value::Bool(false)) => {}
        Some(_) => return Err(fault(ONLY_ITS_OWN, "not true or false")),
    }
    let folder = path.with_file_name(network_name(&list)?);
    let names = list_of_files(&folder, is_plugin_file).into_iter().map(|(name, ..)| name);
    let mut more = Vec::new();
    for name in names {
        let plugin = serde_json::from_slice(&read(&folder.join(name))?).map_err(Fault::Json)?;
        more.push(plugin);
    }
    if more.is_empty() {
        return Ok(raw);
    }
    match list.entry("plugins").or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(plugins) => plugins.append(&mut more),
        _ => return Err(fault("plugins", "not a list")),
    }
    // The cache keeps the whole list, so that DEL does what ADD did.
    list.insert(ONLY_ITS_OWN.to_owned(), true.into());
    Ok(Value::Object(list).to_string().into_bytes())
}

impl Plugin {
    fn new(field: &str, body: Map<String, Value>) -> Result<Self, Fault> {
        let at =
            |key: &str| if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") };
        let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
        if !is_plugin_name(kind) {
            return Err(fault(at("type"), format!("{kind:?} is not a plain file name")));
        }
        let capabilities = match body.get("capabilities") {
            None | Some(Value::Null) => BTreeSet::new(),
            Some(Value::Object(declared)) => declared
                .iter()
                .filter(|(_, on)| on.as_bool() == Some(true))
                .map(|(name, _)| name.clone())
                .collect(),
            Some(_) => return Err(fault(at("capabilities"), "not an object")),
        };
        Ok(Self { kind: kind.to_owned(), capabilities, body })
    }

    /// Whether it keeps firewall rules for the pod's addresses, which at DEL it learns only from
    /// the interface (the reference plugins `bridge` and `ptp`, at least up to 1.9).
    pub(super) fn masquerades(&self) -> bool {
        matches!(self.kind.as_str(), "bridge" | "ptp")
            && self.body.get("ipMasq").and_then(Value::as_bool) == Some(true)
    }

    /// Whether it has nothing to do for a pod with these `runtime` values. The reference plugin
    /// `portmap` only passes the result on at ADD if the pod publishes no port; but at DEL it
    /// searches the firewall rules anyway, which costs more than the rest of the chain.
    pub(super) fn is_idle(&self, runtime: &Map<String, Value>) -> bool {
        let ports = runtime.get("portMappings").and_then(Value::as_array);
        self.kind == "portmap"
            && self.capabilities.contains("portMappings")
            && ports.is_none_or(Vec::is_empty)
    }

    /// The configuration to execute: specification, section 2, "deriving request configuration".
    /// `runtime` contains all available values; the plugin gets those that it declared.
    pub(super) fn request(
        &self,
        network: &Network,
        runtime: &Map<String, Value>,
        previous: Option<&Value>,
    ) -> Vec<u8> {
        let mut body = self.body.clone();
        body.remove("capabilities");
        body.insert("name".to_owned(), network.name.clone().into());
        body.insert("cniVersion".to_owned(), network.version.to_string().into());
        let declared = runtime.iter().filter(|(name, _)| self.capabilities.contains(*name));
        let declared: Map<_, _> = declared.map(|(k, v)| (k.clone(), v.clone())).collect();
        if !declared.is_empty() {
            body.insert("runtimeConfig".to_owned(), Value::Object(declared));
        }
        if let Some(previous) = previous {
            body.insert("prevResult".to_owned(), previous.clone());
        }
        Value::Object(body).to_string().into_bytes()
    }
}

/// Whether `kind` can only name a file directly in the plugin directories.
pub(super) fn is_plugin_name(kind: &str) -> bool {
    !matches!(kind, "" | "." | "..") && !kind.contains(['/', '\\', '\0'])
}

/// The name becomes part of file names, so only the specification's characters are allowed.
fn network_name(list: &Map<String, Value>) -> Result<String, Fault> {
    let name = list.get("name").and_then(Value::as_str).unwrap_or_default();
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && name.bytes().all(letter) {
        return Ok(name.to_owned());
    }
    Err(fault("name", format!("{name:?} is not a letter or digit followed by those, _ . or -")))
}

/// The highest version that both the network and podbay support.
fn version(list: &Map<String, Value>) -> Result<Version, Fault> {
    let offered = list.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
    let offered: Vec<&str> =
        offered.chain(list.get("cniVersion")).filter_map(Value::as_str).collect();
    offered.iter().filter_map(|text| Version::parse(text)).max().ok_or_else(|| {
        fault(
            "cniVersion",
            format!("none of {offered:?} is from {} to {}", VERSIONS[0], VERSIONS[6]),
        )
    })
}

/// The networks of a directory that could be loaded.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Ordered by file name, podbay's own last.
    pub networks: Vec<Network>,
    /// Problems of the files that were skipped.
    pub faults: Vec<String>,
    /// Whether there was any configuration file.
    pub any_file: bool,
}

/// Changes whenever a configuration file does.
pub(super) type Fingerprint = Vec<(OsString, Option<SystemTime>, u64)>;

/// Computes the fingerprint of a directory. It includes folders of plugins, by names with a `/`.
pub(super) fn fingerprint(dir: &Path) -> Fingerprint {
    let mut found = list_of_files(dir, is_config_name);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let folder = entry.file_name();
        for (name, time, size) in list_of_files(&entry.path(), is_plugin_file) {
            found.push((Path::new(&folder).join(name).into_os_string(), time, size));
        }
    }
    found.sort_unstable();
    found
}

/// The files with such names, sorted; none if it is not a directory.
fn list_of_files(dir: &Path, wanted: fn(&OsStr) -> bool) -> Fingerprint {
    let Ok(entries) = fs::read_dir(dir) else { return Fingerprint::new() };
    let mut found: Fingerprint = entries
        .flatten()
        .filter(|entry| wanted(&entry.file_name()))
        .map(|entry| match fs::metadata(entry.path()) {
            Ok(meta) => (entry.file_name(), meta.modified().ok(), meta.len()),
            Err(_) => (entry.file_name(), None, 0),
        })
        .collect();
    found.sort_unstable();
    found
}

/// Loads at most `max` networks (0: all). A malformed file is skipped and reported. `own` is the
/// file written by podbay, which is used only if there is no other.
pub(super) fn load(dir: &Path, files: &Fingerprint, own: &str, max: usize) -> Loaded {
    let files = files.iter().map(|(name, ..)| name);
    let mut names: Vec<&OsString> = files.filter(|name| is_config_name(name)).collect();
    names.sort_by_key(|name| *name == own);
    let mut loaded = Loaded { any_file: !names.is_empty(), ..Loaded::default() };
    for name in names {
        let enough = max != 0 && loaded.networks.len() >= max;
        if enough || (*name == own && !loaded.networks.is_empty()) {
            break;
        }
        let path: PathBuf = dir.join(name);
        match Network::from_file(&path) {
            Ok(network) if loaded.networks.iter().any(|known| known.name == network.name) => {
                loaded.faults.push(format!("{}: name is used twice", path.display()));
            }
            Ok(network) => loaded.networks.push(network),
            Err(fault) => {
                loaded.faults.push(format!("{} {}", path.display(), error_text(&fault)));
            }
        }
    }
    loaded
}

/// Whether it is a plugin of a network's folder.
fn is_plugin_file(name: &OsStr) -> bool {
    Path::new(name).extension() == Some(OsStr::new("conf"))
}

fn is_config_name(name: &OsStr) -> bool {
    // Not of a plugin below.
    if name.as_encoded_bytes().contains(&b'/') {
        return false;
    }
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    matches!(extension, Some("conf" | "conflist" | "json"))
}

#[cfg(test)]
mod tests;
