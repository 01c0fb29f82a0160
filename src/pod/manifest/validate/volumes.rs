//! Volumes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource,
    ImageVolumeSource, KeyToPath, ProjectedVolumeSource, SecretVolumeSource, Volume,
    VolumeProjection,
};

use super::super::super::quantity::Quantity;
use super::at::At;
use super::env::{self, Use};
use super::names;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MOST_MODE: i32 = 0o777;
const MODE_OF_FOLDER: &str = "must be a number between 0 and 01777 (octal), both inclusive";
const MOST_OF_FOLDER: i32 = 0o1777;
const PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const TWO: &str = "may not specify more than 1 volume type";

pub(super) fn all(at: &At<'_>, volumes: &[Volume]) {
    let mut seen = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let at = at.item(index);
        at.field("name").named(&volume.name, names::label);
        if !volume.name.is_empty() && !seen.insert(volume.name.as_str()) {
            at.field("name").duplicate(&volume.name);
        }
        source(&at, volume);
    }
}

fn source(at: &At<'_>, volume: &Volume) {
    let mut set = Vec::new();
    if let Some(source) = &volume.empty_dir {
        set.push("emptyDir");
        empty_dir(&at.field("emptyDir"), source);
    }
    if let Some(source) = &volume.host_path {
        set.push("hostPath");
        host_path(&at.field("hostPath"), source);
    }
    if let Some(source) = &volume.config_map {
        set.push("configMap");
        config_map(&at.field("configMap"), source);
    }
    if let Some(source) = &volume.secret {
        set.push("secret");
        secret(&at.field("secret"), source);
    }
    if let Some(source) = &volume.downward_api {
        set.push("downwardAPI");
        let at = at.field("downwardAPI");
        mode(&at.field("defaultMode"), source.default_mode);
        user(&at.field("defaultUser"), source.default_user);
        downward(&at.field("items"), source.items.as_deref().unwrap_or_default());
    }
    if let Some(source) = &volume.projected {
        set.push("projected");
        projected(&at.field("projected"), source);
    }
    if let Some(source) = &volume.image {
        set.push("image");
        image(&at.field("image"), source);
    }
    match set.as_slice() {
        [] => at.required("must specify a volume type"),
        [_] => {}
        [_, more @ ..] => more.iter().for_each(|name| at.field(name).forbidden(TWO)),
    }
}

fn empty_dir(at: &At<'_>, source: &EmptyDirVolumeSource) {
    let medium = source.medium.as_deref().unwrap_or_default();
    let sized =
        medium.strip_prefix("HugePages-").is_some_and(|size| size.parse::<Quantity>().is_ok());
    if !sized {
        at.field("medium").one_of(medium, &["", "HugePages", "Memory"]);
    }
    if let Some(mode) = source.mode.filter(|mode| !(0..=MOST_OF_FOLDER).contains(mode)) {
        at.field("mode").invalid(mode, MODE_OF_FOLDER);
    }
    if let Some(text) = &source.size_limit {
        let at = at.field("sizeLimit");
        match Quantity::try_from(text) {
            Err(why) => at.invalid(&text.0, why),
            Ok(size) if size.is_negative() => {
                at.forbidden("SizeLimit field must be a valid resource quantity");
            }
            Ok(_) => {}
        }
    }
}

fn host_path(at: &At<'_>, source: &HostPathVolumeSource) {
    let path_at = at.field("path");
    path_at.named(&source.path, names::no_steps_back);
    if !source.path.is_empty() {
        path_at.all(&source.path, names::absolute(&source.path));
    }
    at.field("type").one_of(source.type_.as_deref().unwrap_or_default(), PATH_TYPES);
}

fn config_map(at: &At<'_>, source: &ConfigMapVolumeSource) {
    at.field("name").named(&source.name, names::subdomain);
    mode(&at.field("defaultMode"), source.default_mode);
    user(&at.field("defaultUser"), source.default_user);
    items(&at.field("items"), source.items.as_deref().unwrap_or_default());
}

fn secret(at: &At<'_>, source: &SecretVolumeSource) {
    let name = source.secret_name.as_deref().unwrap_or_default();
    at.field("secretName").named(name, names::subdomain);
    mode(&at.field("defaultMode"), source.default_mode);
    user(&at.field("defaultUser"), source.default_user);
    items(&at.field("items"), source.items.as_deref().unwrap_or_default());
}

fn image(at: &At<'_>, source: &ImageVolumeSource) {
    let reference = source.reference.as_deref().unwrap_or_default();
    at.field("reference").named(reference, |_| Vec::new());
    let policies = ["Always", "IfNotPresent", "Never"];
    at.field("pullPolicy").one_of_if_set(&source.pull_policy, &policies);
}

fn mode(at: &At<'_>, mode: Option<i32>) {
    if let Some(mode) = mode.filter(|mode| !(0..=MOST_MODE).contains(mode)) {
        at.invalid(mode, MODE);
    }
}

/// Validates the owner of a file.
fn user(at: &At<'_>, user: Option<i64>) {
    if let Some(user) = user {
        at.between(user, 0, i64::from(i32::MAX));
    }
}

fn items(at: &At<'_>, items: &[KeyToPath]) {
    for (index, item) in items.iter().enumerate() {
        let at = at.item(index);
        at.field("key").named(&item.key, |_| Vec::new());
        at.field("path").named(&item.path, names::unreserved);
        mode(&at.field("mode"), item.mode);
        user(&at.field("user"), item.user);
    }
}

fn downward(at: &At<'_>, files: &[DownwardAPIVolumeFile]) {
    for (index, file) in files.iter().enumerate() {
        let at = at.item(index);
        at.field("path").named(&file.path, names::unreserved);
        match (&file.field_ref, &file.resource_field_ref) {
            (Some(_), Some(_)) => {
                at.invalid("", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
            (Some(field), None) => env::field(&at.field("fieldRef"), field, Use::File),
            (None, Some(resource)) => {
                env::resource(&at.field("resourceFieldRef"), resource, Use::File);
            }
            (None, None) => at.required("one of fieldRef and resourceFieldRef is required"),
        }
        mode(&at.field("mode"), file.mode);
        user(&at.field("user"), file.user);
    }
}

fn projected(at: &At<'_>, source: &ProjectedVolumeSource) {
    mode(&at.field("defaultMode"), source.default_mode);
    user(&at.field("defaultUser"), source.default_user);
    let mut paths = BTreeSet::new();
    for (index, source) in source.sources.iter().flatten().enumerate() {
        let at = at.field("sources").item(index);
        projection(&at, source);
        for path in written(source) {
            if !path.is_empty() && !paths.insert(path) {
                at.invalid(path, "conflicting duplicate paths");
            }
        }
    }
}

fn projection(at: &At<'_>, source: &VolumeProjection) {
    let mut set = Vec::new();
    if let Some(secret) = &source.secret {
        set.push("secret");
        let at = at.field("secret");
        at.field("name").named(&secret.name, names::subdomain);
        items(&at.field("items"), secret.items.as_deref().unwrap_or_default());
    }
    if let Some(map) = &source.config_map {
        set.push("configMap");
        let at = at.field("configMap");
        at.field("name").named(&map.name, names::subdomain);
        items(&at.field("items"), map.items.as_deref().unwrap_or_default());
    }
    if let Some(api) = &source.downward_api {
        set.push("downwardAPI");
        let at = at.field("downwardAPI").field("items");
        downward(&at, api.items.as_deref().unwrap_or_default());
    }
    match set.as_slice() {
        [] => at.required("must specify a source: secret, configMap or downwardAPI"),
        [_] => {}
        [_, more @ ..] => more.iter().for_each(|name| at.field(name).forbidden(TWO)),
    }
}

/// Paths of the files in a source.
fn written(source: &VolumeProjection) -> Vec<&str> {
    let secret = source.secret.iter().flat_map(|source| source.items.iter().flatten());
    let map = source.config_map.iter().flat_map(|source| source.items.iter().flatten());
    let keys = secret.chain(map).map(|item| item.path.as_str());
    let api = source.downward_api.iter().flat_map(|source| source.items.iter().flatten());
    keys.chain(api.map(|file| file.path.as_str())).collect()
}
