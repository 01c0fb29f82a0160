//! All devices described by the spec files of a host.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::edits::{Edits, SpecFile};
use super::name::DeviceName;

/// Whether a file has the name of a spec file.
pub fn is_spec_file(name: &str) -> bool {
    matches!(Path::new(name).extension().and_then(|ending| ending.to_str()), Some("json" | "yaml"))
}

/// The parsed files of all directories. A device in a later directory overrides the same device in
/// an earlier one; a device twice in one directory is a conflict.
#[derive(Debug, Default)]
pub struct Library {
    found: BTreeMap<String, Found>,
    faults: Vec<String>,
}

#[derive(Debug)]
struct Found {
    folder: usize,
    path: String,
    spec: Arc<SpecFile>,
    index: usize,
    /// Another file in the same directory that has the device too.
    rival: Option<String>,
}

impl Library {
    /// Adds a file of directory number `folder`, in ascending priority.
    pub fn add(&mut self, folder: usize, path: &Path, content: &[u8]) {
        let json = path.extension().is_some_and(|ending| ending == "json");
        match SpecFile::parse(content, json) {
            Ok(spec) => self.add_spec(folder, path, spec),
            Err(problem) => self.add_fault(path, &problem),
        }
    }

    /// Records an unusable file or directory.
    pub fn add_fault(&mut self, path: &Path, problem: &str) {
        tracing::warn!(path = %path.display(), problem, "ignoring CDI file");
        self.faults.push(format!("{}: {problem}", path.display()));
    }

    fn add_spec(&mut self, folder: usize, path: &Path, spec: SpecFile) {
        let spec = Arc::new(spec);
        for (index, device) in spec.devices.iter().enumerate() {
            let name = format!("{}={}", spec.kind, device.name);
            let path = path.display().to_string();
            match self.found.get_mut(&name) {
                Some(other) if other.folder == folder => other.rival = Some(path),
                Some(other) if other.folder > folder => {}
                _ => {
                    let spec = Arc::clone(&spec);
                    self.found.insert(name, Found { folder, path, spec, index, rival: None });
                }
            }
        }
    }

    /// The edits for these devices: those of each device's file, once per file, then the device's
    /// own.
    ///
    /// # Errors
    /// [`Error::Unresolvable`] with all devices that were not found.
    pub fn resolve(&self, devices: &[DeviceName]) -> Result<Edits, Error> {
        let (mut edits, mut missing, mut faults) = (Edits::default(), Vec::new(), Vec::new());
        let mut specs: Vec<&Arc<SpecFile>> = Vec::new();
        for name in devices {
            let name = name.to_string();
            let found = match self.found.get(&name) {
                Some(Found { rival: Some(rival), path, .. }) => {
                    faults.push(format!("{path} and {rival} both define {name}"));
                    None
                }
                found => found,
            };
            let Some(found) = found else {
                missing.push(name);
                continue;
            };
            if !specs.iter().any(|known| Arc::ptr_eq(known, &found.spec)) {
                specs.push(&found.spec);
                edits.append(&found.spec.container_edits);
            }
            edits.append(&found.spec.devices[found.index].container_edits);
        }
        if missing.is_empty() {
            return Ok(edits);
        }
        faults.extend(self.faults.iter().cloned());
        Err(Error::Unresolvable { devices: missing, faults })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(files: &[(usize, &str, &str)]) -> Library {
        let mut library = Library::default();
        for (folder, name, content) in files {
            library.add(*folder, Path::new(name), content.as_bytes());
        }
        library
    }

    fn file(env: &str, devices: &[&str]) -> String {
        let device = |name: &&str| {
            format!(r#"{{"name":"{name}","containerEdits":{{"env":["{env}_{name}=1"]}}}}"#)
        };
        let devices: Vec<_> = devices.iter().map(device).collect();
        format!(
            r#"{{"cdiVersion":"0.6.0","kind":"v.com/gpu","devices":[{}],
               "containerEdits":{{"env":["{env}=1"]}}}}"#,
            devices.join(",")
        )
    }

    fn names(list: &[&str]) -> Vec<DeviceName> {
        list.iter().map(|name| DeviceName::parse(&format!("v.com/gpu={name}")).unwrap()).collect()
    }

    #[test]
    fn a_file_counts_once_and_a_later_folder_wins() {
        let library = library(&[
            (0, "/etc/cdi/a.json", &file("ETC", &["0", "1", "2"])),
            (1, "/run/cdi/b.json", &file("RUN", &["1"])),
        ]);
        let edits = library.resolve(&names(&["2", "1", "0"])).unwrap();
        assert_eq!(edits.env, ["ETC=1", "ETC_2=1", "RUN=1", "RUN_1=1", "ETC_0=1"]);
    }

    #[test]
    fn all_that_is_missing_is_named_with_the_files_that_could_not_be_used() {
        let library = library(&[
            (0, "/etc/cdi/a.json", &file("A", &["0"])),
            (0, "/etc/cdi/bad.yaml", "kind: [unclosed"),
        ]);
        let error = library.resolve(&names(&["7", "0", "8"])).unwrap_err().to_string();
        assert!(error.starts_with("unresolvable CDI devices v.com/gpu=7, v.com/gpu=8 (not used: "));
        assert!(error.contains("/etc/cdi/bad.yaml: "), "{error}");
        assert!(library.resolve(&names(&["0"])).is_ok(), "a bad file harms no other");
    }

    #[test]
    fn of_two_files_of_a_folder_nobody_wins() {
        let (a, b) = (file("A", &["0", "1"]), file("B", &["0"]));
        let library = library(&[(1, "/run/a.json", &a), (1, "/run/b.json", &b)]);
        let error = library.resolve(&names(&["0"])).unwrap_err().to_string();
        assert!(error.contains("/run/a.json and /run/b.json both define v.com/gpu=0"), "{error}");
        assert!(library.resolve(&names(&["1"])).is_ok());
    }

    #[test]
    fn json_and_yaml_are_spec_files() {
        assert!(is_spec_file("a.json") && is_spec_file("vendor.com-gpu.yaml"));
        assert!(!is_spec_file("a.yml") && !is_spec_file("json") && !is_spec_file("a.json.tmp"));
    }
}
