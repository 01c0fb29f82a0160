//! Env files written by earlier containers of the pod.

use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::kind::Kind;
use super::{Error, Volumes};
use crate::pod::Given;
use crate::pod::translate::EnvFiles;

/// Maximum size of a file in bytes, as in Kubernetes.
const LARGEST: usize = 64 << 10;

impl Volumes {
    /// The existing files for `fileKeyRef` in a container's environment. They are in `emptyDir`
    /// volumes; links cannot lead out of those.
    pub async fn env_files(&self, given: &Given, container: &Container) -> Result<EnvFiles, Error> {
        let mut files = EnvFiles::new();
        for variable in container.env.iter().flatten() {
            let source = variable.value_from.as_ref().and_then(|from| from.file_key_ref.as_ref());
            let Some(source) = source else { continue };
            let key = (source.volume_name.clone(), source.path.clone());
            if files.contains_key(&key) {
                continue;
            }
            if let Some(content) = self.env_file(given, &key).await? {
                files.insert(key, content);
            }
        }
        Ok(files)
    }

    async fn env_file(
        &self,
        given: &Given,
        (name, path): &(String, String),
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut volumes = given.spec().volumes.iter().flatten();
        let volume = volumes.find(|volume| volume.name == *name);
        let kind = volume.map(Kind::of).filter(|kind| matches!(kind, Kind::EmptyDir(_)));
        let folder = kind.map(|kind| self.volume_dir(given, name, &kind)).transpose()?.flatten();
        let Some(folder) = folder else { return Err(Error::NoFolder { volume: name.clone() }) };
        let read = self.host.read_in_volume(&folder, Path::new(path), LARGEST).await;
        read.map_err(|source| {
            let (volume, path) = (name.clone(), path.clone());
            Error::EnvFile { volume, path, source }
        })
    }
}
