//! Environment variables, and pod fields that can be exposed to containers.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};

use super::super::super::quantity::Quantity;
use super::at::At;
use super::names;

const CHOICE: &str = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                      `secretKeyRef` or `fileKeyRef`";
const TWO: &str = "may not have more than one field specified at a time";

/// Fields available to variables.
const OF_VARIABLES: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields available to files.
const OF_FILES: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Whether a field is exposed as a variable or a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Variable,
    File,
}

pub(super) fn variables(at: &At<'_>, variables: &[EnvVar], folders: &[&str]) {
    for (index, variable) in variables.iter().enumerate() {
        let at = at.item(index);
        at.field("name").named(&variable.name, names::variable);
        if let Some(source) = &variable.value_from {
            let at = at.field("valueFrom");
            if !variable.value.as_deref().unwrap_or_default().is_empty() {
                at.invalid("", "may not be specified when `value` is not empty");
            }
            value_from(&at, source, folders);
        }
    }
}

fn value_from(at: &At<'_>, source: &EnvVarSource, folders: &[&str]) {
    let mut sources = 0;
    if let Some(reference) = &source.field_ref {
        sources += 1;
        field(&at.field("fieldRef"), reference, Use::Variable);
    }
    if let Some(reference) = &source.resource_field_ref {
        sources += 1;
        resource(&at.field("resourceFieldRef"), reference, Use::Variable);
    }
    if let Some(reference) = &source.config_map_key_ref {
        sources += 1;
        key_of_object(&at.field("configMapKeyRef"), &reference.name, &reference.key);
    }
    if let Some(reference) = &source.secret_key_ref {
        sources += 1;
        key_of_object(&at.field("secretKeyRef"), &reference.name, &reference.key);
    }
    if let Some(reference) = &source.file_key_ref {
        sources += 1;
        let at = at.field("fileKeyRef");
        at.field("key").named(&reference.key, names::variable);
        at.field("path").named(&reference.path, names::unreserved);
        if reference.volume_name.is_empty() {
            at.field("volumeName").required("");
        } else if !folders.contains(&reference.volume_name.as_str()) {
            at.field("volumeName").not_found(&reference.volume_name);
        }
    }
    match sources {
        0 => at.invalid("", CHOICE),
        1 => {}
        _ => at.invalid("", TWO),
    }
}

fn key_of_object(at: &At<'_>, name: &str, key: &str) {
    at.field("name").named(name, names::subdomain);
    at.field("key").named(key, names::config_key);
}

/// Validates a reference to a field of the pod.
pub(super) fn field(at: &At<'_>, reference: &ObjectFieldSelector, to: Use) {
    at.field("apiVersion").one_of(reference.api_version.as_deref().unwrap_or_default(), &["v1"]);
    let path = reference.field_path.as_str();
    let at = at.field("fieldPath");
    if path.is_empty() {
        return at.required("");
    }
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.labels" => at.all(path, names::qualified(key)),
            "metadata.annotations" => at.all(path, names::qualified(&key.to_lowercase())),
            _ => at.invalid(path, "does not support subscript"),
        };
    }
    at.one_of(path, if to == Use::Variable { OF_VARIABLES } else { OF_FILES });
}

/// The parts of `map['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// Validates a reference to a resource of a container.
pub(super) fn resource(at: &At<'_>, reference: &ResourceFieldSelector, to: Use) {
    if to == Use::File && reference.container_name.as_deref().unwrap_or_default().is_empty() {
        at.field("containerName").required("");
    }
    let resource = reference.resource.as_str();
    let huge = ["limits.hugepages-", "requests.hugepages-"]
        .iter()
        .any(|prefix| resource.starts_with(prefix));
    if resource.is_empty() {
        at.field("resource").required("");
    } else if !huge {
        at.field("resource").one_of(resource, RESOURCES);
    }
    let Some(text) = &reference.divisor else { return };
    let at = at.field("divisor");
    let Ok(divisor) = Quantity::try_from(text) else {
        return at.invalid(&text.0, "must be a quantity");
    };
    if divisor.is_zero() {
        return;
    }
    let supported = if resource.ends_with(".cpu") { &["1m", "1"][..] } else { SIZES };
    if !supported.iter().any(|size| size.parse() == Ok(divisor)) {
        let kind = resource.split_once('.').map_or(resource, |(_, kind)| kind);
        let list = match supported.split_last() {
            Some((last, [one])) => format!("{one} and {last}"),
            _ => supported.join(", "),
        };
        let why = format!("only divisor's values {list} are supported with the {kind} resource");
        at.invalid(&text.0, why);
    }
}

pub(super) fn from(at: &At<'_>, sources: &[EnvFromSource]) {
    for (index, source) in sources.iter().enumerate() {
        let at = at.item(index);
        if let Some(prefix) = source.prefix.as_deref() {
            at.field("prefix").all(prefix, names::variable(prefix));
        }
        let mut count = 0;
        if let Some(map) = &source.config_map_ref {
            count += 1;
            at.field("configMapRef").field("name").named(&map.name, names::subdomain);
        }
        if let Some(secret) = &source.secret_ref {
            count += 1;
            at.field("secretRef").field("name").named(&secret.name, names::subdomain);
        }
        match count {
            0 => at.invalid("", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => at.invalid("", TWO),
        }
    }
}
