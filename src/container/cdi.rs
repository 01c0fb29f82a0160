//! CDI devices of a container: reads and resolves the spec files of the host.

use std::path::Path;

use super::error::{Error, Step};
use super::{Containers, PodContext};
use crate::cdi::{self, DeviceName, DeviceNode, Edits, Library};
use crate::model::container::ContainerConfig;
use crate::telemetry::error_chain;

/// Maximum size of a spec file. Those of GPU drivers are a few hundred kilobytes.
const MAX_FILE: usize = 8 << 20;

/// First OCI runtime spec version in which runtimes move network interfaces.
const MOVES_INTERFACES: (u32, u32) = (1, 3);

impl Containers {
    /// The OCI spec edits for the CDI devices of a container; empty when it requests none.
    pub(super) async fn cdi_edits(
        &self,
        pod: &PodContext,
        config: &ContainerConfig,
    ) -> Result<Edits, Error> {
        let names = cdi::requested(&config.cdi_devices, &config.annotations)?;
        self.edits_of(pod, &names).await
    }

    /// The OCI spec edits for these CDI devices.
    pub(super) async fn edits_of(
        &self,
        pod: &PodContext,
        names: &[DeviceName],
    ) -> Result<Edits, Error> {
        let Some(first) = names.first() else { return Ok(Edits::default()) };
        if self.options.cdi_spec_dirs.is_empty() {
            return Err(cdi::Error::Off(first.to_string()).into());
        }
        let mut edits = self.cdi_library().await?.resolve(names)?;
        if edits.moves_interfaces() && version(&pod.features.oci_version_max) < MOVES_INTERFACES {
            return Err(cdi::Error::Unsupported("1.3").into());
        }
        for node in edits.nodes_mut().iter_mut().filter(|node| node.needs_host()) {
            self.look_at(node).await?;
        }
        Ok(edits)
    }

    /// An unusable spec file fails only the requests for devices that it might define.
    async fn cdi_library(&self) -> Result<Library, Error> {
        let mut library = Library::default();
        for (number, folder) in self.options.cdi_spec_dirs.iter().enumerate() {
            let files = match self.deps.host.trusted_files(folder, MAX_FILE).await {
                Ok(files) => files,
                Err(error) => {
                    library.add_fault(folder, &error_chain(&error));
                    continue;
                }
            };
            for file in files.into_iter().filter(|file| cdi::is_spec_file(&file.name)) {
                let path = folder.join(&file.name);
                match file.content {
                    Ok(content) => library.add(number, &path, &content),
                    Err(error) => library.add_fault(&path, &error_chain(&error)),
                }
            }
        }
        Ok(library)
    }

    /// Fills in the properties of a device node that only the host knows.
    async fn look_at(&self, node: &mut DeviceNode) -> Result<(), Error> {
        let path = node.on_host().to_owned();
        let wrong = |problem: String| cdi::Error::Node { path: path.clone(), problem };
        let found = self.deps.host.devices(Path::new(&path), &node.path).await;
        let found = match found {
            Err(error) if error.is_not_found() => {
                return Err(wrong("it is not on this host".to_owned()).into());
            }
            other => other.step("inspect a CDI device node")?,
        };
        let [found] = found.as_slice() else {
            return Err(wrong("it is a folder".to_owned()).into());
        };
        let kind = found.kind.to_string();
        let same = |a: &str, b: &str| a == b || (a == "u" && b == "c");
        if !node.kind.is_empty() && !same(&node.kind, &kind) {
            let problem = format!("it has type {kind:?}, not {:?}", node.kind);
            return Err(wrong(problem).into());
        }
        node.kind = kind;
        if node.major.is_none() {
            (node.major, node.minor) = (Some(found.major), Some(found.minor));
        }
        Ok(())
    }
}

/// Major and minor number of an OCI spec version; 0.0 when it cannot be parsed.
fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version("1.3.0") >= MOVES_INTERFACES && version("1.10.0-dev") > MOVES_INTERFACES);
        assert!(version("1.0.2-dev") < MOVES_INTERFACES && version("") < MOVES_INTERFACES);
    }
}
