//! The environment of a container, as specified in its pod.

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, Container, EnvFromSource, EnvVar, EnvVarSource, FileKeySelector,
    SecretKeySelector,
};

use super::downward::Downward;
use super::env_file::{self, EnvFiles};
use super::expand::expand;
use super::node::NodeFacts;
use super::{Error, Translated, Warning};
use crate::pod::Given;

const CONFIG_MAP: &str = "ConfigMap";
const SECRET: &str = "Secret";

/// Variables in order, with unique names and resolved values: those of `envFrom` first, then those
/// of `env`, which may refer to earlier ones. A later value replaces an earlier one. `files` are
/// the existing files for `fileKeyRef`. Keys that are not valid names are skipped with a warning.
pub fn environment(
    given: &Given,
    container: &Container,
    pod_ips: &[IpAddr],
    files: &EnvFiles,
    node: &NodeFacts,
) -> Result<Translated<Vec<(String, String)>>, Error> {
    let mut sources = Sources {
        given,
        container,
        files,
        downward: Downward { given, node, pod_ips },
        warnings: Vec::new(),
    };
    let mut variables = Variables::default();
    for from in container.env_from.iter().flatten() {
        sources.all_of(from, &mut variables)?;
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = sources.value_of(variable, &variables)? {
            variables.set(&variable.name, value);
        }
    }
    Ok(Translated { config: variables.list, warnings: sources.warnings })
}

#[derive(Default)]
pub(super) struct Variables {
    list: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Variables {
    pub(super) fn of(list: &[(String, String)]) -> Self {
        let mut variables = Self::default();
        for (name, value) in list {
            variables.set(name, value.clone());
        }
        variables
    }

    fn set(&mut self, name: &str, value: String) {
        match self.places.get(name) {
            Some(&place) => self.list[place].1 = value,
            None => {
                self.places.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }

    /// Resolves the references in a text.
    pub(super) fn expand(&self, text: &str) -> String {
        expand(text, |name| self.places.get(name).map(|&place| self.list[place].1.clone()))
    }
}

struct Sources<'a> {
    given: &'a Given,
    container: &'a Container,
    files: &'a EnvFiles,
    downward: Downward<'a>,
    warnings: Vec<Warning>,
}

impl Sources<'_> {
    fn namespace(&self) -> String {
        self.given.key().namespace
    }

    fn all_of(&mut self, from: &EnvFromSource, variables: &mut Variables) -> Result<(), Error> {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut skipped = Vec::new();
        let mut put = |key: &str, value: String| {
            let name = format!("{prefix}{key}");
            if is_name(&name) { variables.set(&name, value) } else { skipped.push(name) }
        };
        let objects = &self.given.objects;
        let (kind, object) = if let Some(from) = &from.config_map_ref {
            match objects.config_maps.get(&from.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        put(key, usable(value, CONFIG_MAP, &self.namespace(), &from.name, key)?);
                    }
                }
                None if from.optional.unwrap_or_default() => {}
                None => return Err(Error::NoConfigMap(from.name.clone())),
            }
            ("configMap", &from.name)
        } else if let Some(from) = &from.secret_ref {
            match objects.secrets.get(&from.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        put(key, text(&value.0, &self.namespace(), &from.name, key)?);
                    }
                }
                None if from.optional.unwrap_or_default() => {}
                None => return Err(Error::NoSecret(from.name.clone())),
            }
            ("secret", &from.name)
        } else {
            return Ok(());
        };
        if !skipped.is_empty() {
            let message = format!(
                "Keys [{}] from the EnvFrom {kind} {}/{object} were skipped since they are \
                 considered invalid environment variable names.",
                skipped.join(", "),
                self.namespace(),
            );
            self.warnings.push(Warning { reason: "InvalidEnvironmentVariableNames", message });
        }
        Ok(())
    }

    /// The value of a variable; `None` when its source is optional and missing.
    fn value_of(&self, variable: &EnvVar, before: &Variables) -> Result<Option<String>, Error> {
        match (variable.value.as_deref(), &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Ok(Some(before.expand(value))),
            (_, Some(source)) => self.resolved(source),
            _ => Ok(Some(String::new())),
        }
    }

    fn resolved(&self, source: &EnvVarSource) -> Result<Option<String>, Error> {
        let EnvVarSource {
            config_map_key_ref,
            field_ref,
            file_key_ref,
            resource_field_ref,
            secret_key_ref,
        } = source;
        if let Some(field) = field_ref {
            self.downward.field(&field.field_path).map(Some)
        } else if let Some(resource) = resource_field_ref {
            self.downward.resource(Some(self.container), resource).map(Some)
        } else if let Some(key) = config_map_key_ref {
            self.of_config_map(key)
        } else if let Some(key) = secret_key_ref {
            self.of_secret(key)
        } else if let Some(key) = file_key_ref {
            self.of_file(key)
        } else {
            Ok(Some(String::new()))
        }
    }

    fn of_config_map(&self, wanted: &ConfigMapKeySelector) -> Result<Option<String>, Error> {
        let ConfigMapKeySelector { key, name, optional } = wanted;
        let optional = optional.unwrap_or_default();
        let Some(map) = self.given.objects.config_maps.get(name) else {
            return if optional { Ok(None) } else { Err(Error::NoConfigMap(name.clone())) };
        };
        match map.data.as_ref().and_then(|data| data.get(key)) {
            Some(value) => usable(value, CONFIG_MAP, &self.namespace(), name, key).map(Some),
            None if optional => Ok(None),
            None => Err(self.no_key(CONFIG_MAP, name, key)),
        }
    }

    fn of_secret(&self, wanted: &SecretKeySelector) -> Result<Option<String>, Error> {
        let SecretKeySelector { key, name, optional } = wanted;
        let optional = optional.unwrap_or_default();
        let Some(secret) = self.given.objects.secrets.get(name) else {
            return if optional { Ok(None) } else { Err(Error::NoSecret(name.clone())) };
        };
        match secret.data.as_ref().and_then(|data| data.get(key)) {
            Some(value) => text(&value.0, &self.namespace(), name, key).map(Some),
            None if optional => Ok(None),
            None => Err(self.no_key(SECRET, name, key)),
        }
    }

    fn of_file(&self, wanted: &FileKeySelector) -> Result<Option<String>, Error> {
        let FileKeySelector { key, optional, path, volume_name } = wanted;
        let optional = optional.unwrap_or_default();
        let Some(content) = self.files.get(&(volume_name.clone(), path.clone())) else {
            return if optional { Ok(None) } else { Err(Error::NoFile(wanted.into())) };
        };
        let variables = env_file::parse(content)
            .map_err(|problem| Error::BadFile { file: wanted.into(), problem })?;
        match variables.get(key.as_str()) {
            Some(value) => Ok(Some((*value).to_owned())),
            None if optional => Ok(None),
            None => Err(Error::NoFileKey { file: wanted.into(), key: key.clone() }),
        }
    }

    fn no_key(&self, kind: &'static str, name: &str, key: &str) -> Error {
        let (name, key) = (name.to_owned(), key.to_owned());
        Error::NoKey { kind, namespace: self.namespace(), name, key }
    }
}

/// Printable ASCII without `=`, as Kubernetes allows since the rules for names were relaxed.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=')
}

fn text(bytes: &[u8], namespace: &str, name: &str, key: &str) -> Result<String, Error> {
    match std::str::from_utf8(bytes) {
        Ok(value) => usable(value, SECRET, namespace, name, key),
        Err(_) => Err(bad(SECRET, namespace, name, key, "is not UTF-8")),
    }
}

fn usable(
    value: &str,
    kind: &'static str,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<String, Error> {
    if value.contains('\0') {
        return Err(bad(kind, namespace, name, key, "contains a NUL"));
    }
    Ok(value.to_owned())
}

fn bad(kind: &'static str, namespace: &str, name: &str, key: &str, problem: &'static str) -> Error {
    Error::BadValue {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests;
