//! Registry credentials from the secrets of a pod (`imagePullSecrets`). Pure.

use k8s_openapi::api::core::v1::Secret;

use super::object::Given;
use crate::image::{Credentials, Reference, docker_credentials};

/// Credentials for the registry of an image: the best match in each of the pod's secrets, in order.
/// A missing secret, or one of another type, is skipped.
pub(super) fn of_registry(given: &Given, image: &str) -> Vec<Credentials> {
    let Ok(reference) = Reference::parse(image) else { return Vec::new() };
    let secrets = given.spec().image_pull_secrets.iter().flatten();
    let secrets = secrets.filter_map(|secret| given.objects.secrets.get(&secret.name));
    secrets.filter_map(|secret| of_secret(secret, &reference)).collect()
}

fn of_secret(secret: &Secret, image: &Reference) -> Option<Credentials> {
    let data = secret.data.as_ref()?;
    let of = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice());
    match (of(".dockerconfigjson"), of(".dockercfg")) {
        (Some(json), _) => docker_credentials(json, false, image),
        (None, Some(json)) => docker_credentials(json, true, image),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn name(key: &str, json: &str, image: &str) -> Option<String> {
        let data = [(key.to_owned(), ByteString(json.as_bytes().to_vec()))].into();
        let secret = Secret { data: Some(data), ..Secret::default() };
        let image = Reference::parse(image).expect("a reference");
        of_secret(&secret, &image).map(|credentials| credentials.username)
    }

    #[test]
    fn the_most_specific_entry_of_a_registry_is_taken_in_both_forms() {
        let auths = r#"{"r.io": {"username": "all"}, "https://r.io/team": {"username": "team"},
            "https://index.docker.io/v1/": {"username": "hub"}}"#;
        let json = format!(r#"{{"auths": {auths}}}"#);
        let table = [
            ("r.io/team/app:1", Some("team")),
            ("r.io/teams/app:1", Some("all")),
            ("busybox", Some("hub")),
            ("other.io/app", None),
            ("evil.r.io/app", None),
        ];
        for (image, expected) in table {
            let expected = expected.map(str::to_owned);
            assert_eq!(name(".dockerconfigjson", &json, image), expected, "{image}");
            assert_eq!(name(".dockercfg", auths, image), expected, "{image}");
        }
        assert_eq!(name("other", &json, "busybox"), None);
        assert_eq!(name(".dockerconfigjson", "{", "busybox"), None);
    }
}
