//! The files of volumes that podbay manages. Pure: converts objects to files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, VolumeProjection,
};

use super::kind::Kind;
use super::{Error, VolumeContext};
use crate::backend::{VolumeFile, VolumeFiles};
use crate::pod::Given;
use crate::pod::translate::{Downward, NodeFacts};

/// Default mode of a file.
const DEFAULT_MODE: i32 = 0o644;
/// Permissions of a volume's group on its files, which are read-only.
const GROUP_MODE: u32 = 0o440;

/// All files of a volume; `None` for kinds whose contents podbay does not manage.
pub(super) fn files(
    given: &Given,
    volume: &str,
    kind: &Kind<'_>,
    gid: Option<u32>,
    context: &VolumeContext,
) -> Result<VolumeFiles, Error> {
    let mut content =
        Content { given, volume, context, mode: None, user: None, files: BTreeMap::new() };
    match kind {
        Kind::ConfigMap(source) => {
            (content.mode, content.user) = (source.default_mode, source.default_user);
            content.config_map(&source.name, source.items.as_deref(), source.optional)?;
        }
        Kind::Secret(source) => {
            (content.mode, content.user) = (source.default_mode, source.default_user);
            let name = source.secret_name.as_deref().unwrap_or_default();
            content.secret(name, source.items.as_deref(), source.optional)?;
        }
        Kind::DownwardApi(source) => {
            (content.mode, content.user) = (source.default_mode, source.default_user);
            content.downward(source.items.as_deref())?;
        }
        Kind::Projected(source) => {
            (content.mode, content.user) = (source.default_mode, source.default_user);
            source.sources.iter().flatten().try_for_each(|source| content.project(source))?;
        }
        Kind::EmptyDir(_) | Kind::HostPath(_) | Kind::Image(_) | Kind::Other(_) => {}
    }
    let mut files = content.files;
    if gid.is_some() {
        files.values_mut().for_each(|file| file.mode |= GROUP_MODE);
    }
    Ok(VolumeFiles { files, gid })
}

struct Content<'a> {
    given: &'a Given,
    volume: &'a str,
    context: &'a VolumeContext,
    mode: Option<i32>,
    user: Option<i64>,
    files: BTreeMap<String, VolumeFile>,
}

impl Content<'_> {
    fn project(&mut self, source: &VolumeProjection) -> Result<(), Error> {
        let refused = [
            ("serviceAccountToken", source.service_account_token.is_some()),
            ("clusterTrustBundle", source.cluster_trust_bundle.is_some()),
            ("podCertificate", source.pod_certificate.is_some()),
        ];
        if let Some((what, _)) = refused.iter().find(|(_, asked)| *asked) {
            let what = format!("projected source {what}");
            return Err(Error::Unsupported { volume: self.volume.to_owned(), what });
        }
        if let Some(map) = &source.config_map {
            self.config_map(&map.name, map.items.as_deref(), map.optional)?;
        }
        if let Some(secret) = &source.secret {
            self.secret(&secret.name, secret.items.as_deref(), secret.optional)?;
        }
        match &source.downward_api {
            Some(source) => self.downward(source.items.as_deref()),
            None => Ok(()),
        }
    }

    fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), Error> {
        let objects = &self.given.objects.config_maps;
        self.object("configmap", name, objects.get(name).map(|map| map_data(map)), items, optional)
    }

    fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), Error> {
        let objects = &self.given.objects.secrets;
        let data = objects.get(name).map(|secret| secret_data(secret));
        self.object("secret", name, data, items, optional)
    }

    /// Keys of an object as files: all, or only the named ones.
    fn object(
        &mut self,
        kind: &'static str,
        name: &str,
        data: Option<BTreeMap<&str, &[u8]>>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), Error> {
        let optional = optional.unwrap_or_default();
        let volume = || self.volume.to_owned();
        let Some(data) = data else {
            return match optional {
                true => Ok(()),
                false => Err(Error::NoObject { volume: volume(), kind, name: name.to_owned() }),
            };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, value) in data {
                self.put(key, value.to_vec(), None, None);
            }
            return Ok(());
        };
        for item in items {
            match data.get(&*item.key) {
                Some(value) => self.put(&item.path, value.to_vec(), item.mode, item.user),
                None if optional => {}
                None => {
                    let (volume, key) = (self.volume.to_owned(), item.key.clone());
                    return Err(Error::NoKey { volume, kind, key });
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: Option<&[DownwardAPIVolumeFile]>) -> Result<(), Error> {
        for item in items.unwrap_or_default() {
            let value = self.told(item);
            let value = value
                .map_err(|problem| Error::Value { volume: self.volume.to_owned(), problem })?;
            self.put(&item.path, value.into_bytes(), item.mode, item.user);
        }
        Ok(())
    }

    /// The contents of a downward API file.
    fn told(&self, item: &DownwardAPIVolumeFile) -> Result<String, String> {
        let allocatable = self.context.allocatable.amounts();
        let node = NodeFacts { allocatable, ..NodeFacts::default() };
        let downward = Downward { given: self.given, node: &node, pod_ips: &[] };
        match (&item.field_ref, &item.resource_field_ref) {
            // Other fields are unknown before the pod runs, and Kubernetes does not offer them in
            // files.
            (Some(field), _) if !field.field_path.starts_with("metadata.") => {
                Err(format!("unsupported fieldPath: {}", field.field_path))
            }
            (Some(field), _) => {
                downward.field(&field.field_path).map_err(|error| error.to_string())
            }
            (None, Some(resource)) => {
                downward.resource(None, resource).map_err(|error| error.to_string())
            }
            (None, None) => Err(format!("{}: neither fieldRef nor resourceFieldRef", item.path)),
        }
    }

    fn put(&mut self, path: &str, content: Vec<u8>, mode: Option<i32>, user: Option<i64>) {
        let mode = mode.or(self.mode).unwrap_or(DEFAULT_MODE);
        let uid = user.or(self.user).and_then(|user| u32::try_from(user).ok());
        let file = VolumeFile { content, mode: mode as u32 & 0o777, uid };
        self.files.insert(path.to_owned(), file);
    }
}

fn map_data(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), &*value.0));
    text.chain(binary).collect()
}

fn secret_data(secret: &Secret) -> BTreeMap<&str, &[u8]> {
    secret.data.iter().flatten().map(|(key, value)| (key.as_str(), &*value.0)).collect()
}

#[cfg(test)]
mod tests;
