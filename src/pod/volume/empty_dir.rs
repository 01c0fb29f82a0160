//! `emptyDir` volumes, which are initially empty and live as long as the pod.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource};

use super::kind::Kind;
use super::{Error, GROUP_MODE, VolumeContext, Volumes, fs_group};
use crate::backend::{Medium, VolumeDir};
use crate::pod::{Given, Quantity};

/// Writable for all users in the pod.
const MODE: u32 = 0o777;
const HUGE_PAGES: &str = "HugePages";

/// An `emptyDir` on disk, to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmptyDir {
    /// Name of the volume.
    pub volume: String,
    /// Its path.
    pub path: PathBuf,
    /// Maximum size in bytes, enforced only by eviction.
    pub size_limit: Option<u64>,
}

impl Volumes {
    /// A pod's `emptyDir` volumes on disk.
    pub fn empty_dirs(&self, given: &Given) -> Result<Vec<EmptyDir>, Error> {
        let mut found = Vec::new();
        for volume in given.spec().volumes.iter().flatten() {
            let kind = Kind::of(volume);
            let Kind::EmptyDir(source) = kind else { continue };
            if !medium_of(source).is_empty() {
                continue;
            }
            if let Some(path) = self.volume_dir(given, &volume.name, &kind)? {
                let size_limit = size_limit(&volume.name, source)?;
                found.push(EmptyDir { volume: volume.name.clone(), path, size_limit });
            }
        }
        Ok(found)
    }

    pub(super) async fn make_empty_dir(
        &self,
        given: &Given,
        name: &str,
        source: Option<&EmptyDirVolumeSource>,
        context: &VolumeContext,
    ) -> Result<(), Error> {
        let medium = match medium_of(source) {
            "" => Medium::Disk,
            "Memory" => Medium::Memory(most_memory(size_limit(name, source)?, context)),
            huge if huge.starts_with(HUGE_PAGES) => {
                let pages = page_size(given, &huge[HUGE_PAGES.len()..]);
                let value = |problem| Error::Value { volume: name.to_owned(), problem };
                Medium::HugePages(pages.map_err(value)?)
            }
            other => {
                let what = format!("emptyDir medium {other:?}");
                return Err(Error::Unsupported { volume: name.to_owned(), what });
            }
        };
        let gid = fs_group(given);
        let mode = source.and_then(|source| source.mode).map_or(MODE, |mode| mode as u32 & 0o1777);
        let mode = mode | if gid.is_some() { GROUP_MODE } else { 0 };
        if let Some(path) = self.volume_dir(given, name, &Kind::EmptyDir(source))? {
            let made = self.host.create_volume(&path, VolumeDir { medium, mode, gid }).await;
            made.map_err(|source| Error::SetUp { volume: name.to_owned(), source })?;
        }
        Ok(())
    }
}

fn medium_of(source: Option<&EmptyDirVolumeSource>) -> &str {
    source.and_then(|source| source.medium.as_deref()).unwrap_or_default()
}

fn size_limit(name: &str, source: Option<&EmptyDirVolumeSource>) -> Result<Option<u64>, Error> {
    let Some(text) = source.and_then(|source| source.size_limit.as_ref()) else { return Ok(None) };
    let limit = Quantity::try_from(text).map_err(|error| {
        let problem = format!("sizeLimit {:?}: {error}", text.0);
        Error::Value { volume: name.to_owned(), problem }
    })?;
    Ok(u64::try_from(limit.value()).ok().filter(|limit| *limit > 0))
}

/// Maximum size of files in memory: the smallest of the volume's, the pod's and the node's limit.
pub(super) fn most_memory(limit: Option<u64>, context: &VolumeContext) -> Option<u64> {
    let node = Some(context.allocatable.memory).filter(|memory| *memory > 0);
    [limit, context.pod_memory_limit, node].into_iter().flatten().min()
}

/// Huge page size in bytes: as named (`-2Mi`), or the only size that the pod requests.
fn page_size(given: &Given, named: &str) -> Result<u64, String> {
    let spec = given.spec();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let asked: std::collections::BTreeSet<&str> = containers.flat_map(huge_pages_of).collect();
    let size = match (named.strip_prefix('-'), asked.iter().collect::<Vec<_>>().as_slice()) {
        (Some(size), _) if asked.contains(size) => size,
        (Some(size), _) => {
            return Err(format!("medium HugePages-{size} not in pod resource requests"));
        }
        (None, [size]) if named.is_empty() => size,
        (None, []) => return Err("medium HugePages: the pod asks for no huge pages".to_owned()),
        (None, _) => return Err(format!("medium HugePages{named}: of which size is not said")),
    };
    let parsed =
        size.parse::<Quantity>().map_err(|error| format!("page size {size:?}: {error}"))?;
    u64::try_from(parsed.value()).map_err(|_| format!("page size {size:?} is negative"))
}

fn huge_pages_of(container: &Container) -> impl Iterator<Item = &str> {
    let limits = container.resources.iter().flat_map(|all| all.limits.iter().flatten());
    limits.filter_map(|(resource, _)| resource.strip_prefix("hugepages-"))
}

#[cfg(test)]
mod tests;
