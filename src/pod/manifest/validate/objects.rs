//! Metadata, config maps, secrets.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::at::At;
use super::names;

/// Maximum size of all annotations of an object, keys and values, in bytes.
const MOST_ANNOTATIONS: usize = 256 << 10;
/// Maximum size of an object's data, in bytes.
const MOST_DATA: usize = 1 << 20;

pub(super) fn metadata(at: &At<'_>, meta: &ObjectMeta) {
    match (meta.name.as_deref(), meta.generate_name.as_deref()) {
        (Some(name), _) if !name.is_empty() => {
            at.field("name").all(name, names::subdomain(name));
        }
        (_, Some(base)) if !base.is_empty() => {
            let body = base.strip_suffix('-').unwrap_or(base);
            at.field("generateName").all(base, names::subdomain(body));
        }
        _ => at.field("name").required("name or generateName is required"),
    }
    at.field("namespace").named(meta.namespace.as_deref().unwrap_or_default(), names::label);
    if let Some(uid) = &meta.uid {
        uid_is_plain(&at.field("uid"), uid);
    }
    labels(&at.field("labels"), &meta.labels);
    let at = at.field("annotations");
    let mut size = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        // Kubernetes allows upper case in prefixes here.
        at.all(key, names::qualified(&key.to_lowercase()));
        size += key.len() + value.len();
    }
    if size > MOST_ANNOTATIONS {
        at.too_long(MOST_ANNOTATIONS);
    }
}

/// Uids become names of directories and of cgroups.
fn uid_is_plain(at: &At<'_>, uid: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if uid.is_empty() || uid.len() > 63 || uid.starts_with('.') || !uid.bytes().all(plain) {
        at.invalid(uid, "must be 1 to 63 letters, digits, '-', '_' or '.', and not begin with '.'");
    }
}

pub(super) fn labels(at: &At<'_>, labels: &Option<BTreeMap<String, String>>) {
    for (key, value) in labels.iter().flatten() {
        at.all(key, names::qualified(key));
        at.all(value, names::label_value(value));
    }
}

pub(super) fn config_map(at: &At<'_>, map: &ConfigMap) {
    metadata(&at.field("metadata"), &map.metadata);
    let mut size = 0;
    for (key, text) in map.data.iter().flatten() {
        at.field("data").key(key).all(key, names::config_key(key));
        size += text.len();
    }
    for (key, bytes) in map.binary_data.iter().flatten() {
        let at = at.field("binaryData").key(key);
        at.all(key, names::config_key(key));
        if map.data.as_ref().is_some_and(|data| data.contains_key(key)) {
            at.invalid(key, "duplicate of key present in data");
        }
        size += bytes.0.len();
    }
    if size > MOST_DATA {
        at.too_long(MOST_DATA);
    }
}

pub(super) fn secret(at: &At<'_>, secret: &Secret) {
    metadata(&at.field("metadata"), &secret.metadata);
    let mut sizes = BTreeMap::new();
    for (key, bytes) in secret.data.iter().flatten() {
        at.field("data").key(key).all(key, names::config_key(key));
        sizes.insert(key, bytes.0.len());
    }
    for (key, text) in secret.string_data.iter().flatten() {
        at.field("stringData").key(key).all(key, names::config_key(key));
        sizes.insert(key, text.len());
    }
    if sizes.values().sum::<usize>() > MOST_DATA {
        at.field("data").too_long(MOST_DATA);
    }
    for key in needed_keys(secret.type_.as_deref().unwrap_or_default()) {
        if !sizes.keys().any(|there| there == key) {
            at.field("data").key(key).required("");
        }
    }
}

/// The keys that pull secrets of a type must have.
fn needed_keys(type_: &str) -> &'static [&'static str] {
    match type_ {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    }
}
