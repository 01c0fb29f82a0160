//! Registry credentials from the secrets of a pod (`imagePullSecrets`). Pure.

use serde::Deserialize;
use std::collections::BTreeMap;

use super::object::Given;
use crate::image::{Credentials, Reference};

#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

/// Credentials for the registry of an image, in the order of the pod's secrets. A secret that is
/// not there or not of this kind gives none.
pub(super) fn of_registry(given: &Given, image: &str) -> Vec<Credentials> {
    let Ok(reference) = Reference::parse(image) else { return Vec::new() };
    let host = reference.host().to_owned();
    let secrets = given.spec().image_pull_secrets.iter().flatten();
    let secrets = secrets.filter_map(|secret| given.objects.secrets.get(&secret.name));
    secrets.flat_map(|secret| of_secret(secret, &host)).collect()
}

fn of_secret(secret: &k8s_openapi::api::core::v1::Secret, host: &str) -> Vec<Credentials> {
    let data = secret.data.as_ref();
    let of = |key: &str| data.and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let document: Document = match (of(".dockerconfigjson"), of(".dockercfg")) {
        (Some(json), _) => serde_json::from_slice(json).unwrap_or_default(),
        (None, Some(json)) => Document { auths: serde_json::from_slice(json).unwrap_or_default() },
        (None, None) => Document::default(),
    };
    let fits = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        let name = key.split('/').next().unwrap_or_default();
        let hub = |name: &str| name == "docker.io" || name.ends_with(".docker.io");
        name == host || (hub(name) && hub(host))
    };
    let found = document.auths.into_iter().filter(|(key, _)| fits(key));
    found
        .map(|(_, auth)| Credentials {
            username: auth.username,
            password: auth.password,
            auth: auth.auth,
            identity_token: auth.identitytoken,
            ..Credentials::default()
        })
        .collect()
}
