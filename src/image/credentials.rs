//! Chooses which credentials are sent to which registry host.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use serde::Deserialize;

use super::Error;
use super::reference::Reference;

/// Maximum size of a docker configuration file, in bytes.
const MAX_DOCKER_CONFIG: u64 = 1 << 20;

/// Credentials of one pull (CRI `AuthConfig`). Never logged.
#[derive(Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    /// The host that they are for; empty means the image's registry.
    pub server_address: String,
    /// OAuth refresh token.
    pub identity_token: String,
    /// Bearer token, sent unchanged.
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = canonical_host(&self.server_address);
        f.debug_struct("Credentials").field("server_address", &address).finish_non_exhaustive()
    }
}

/// Credentials in the form in which they are sent.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// User and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// Refresh token, to be exchanged for a bearer token.
    Refresh(String),
    /// Bearer token.
    Bearer(String),
}

impl Credentials {
    /// The form to send; `None` when all fields are empty, which means anonymous. The precedence is
    /// containerd's: user name, identity token, `auth`, then registry token.
    pub(super) fn secret(&self, host: &str) -> Result<Option<Secret>, Error> {
        if !self.username.is_empty() {
            let (username, password) = (self.username.clone(), self.password.clone());
            return Ok(Some(Secret::Basic { username, password }));
        }
        if !self.identity_token.is_empty() {
            return Ok(Some(Secret::Refresh(self.identity_token.clone())));
        }
        if !self.auth.is_empty() {
            return decode_auth(&self.auth)
                .map(Some)
                .map_err(|problem| Error::InvalidCredentials { host: host.to_owned(), problem });
        }
        if !self.registry_token.is_empty() {
            return Ok(Some(Secret::Bearer(self.registry_token.clone())));
        }
        Ok(None)
    }
}

/// `base64(user:password)`, with the NUL padding that old clients add.
fn decode_auth(auth: &str) -> Result<Secret, &'static str> {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    let auth = auth.trim();
    let decoded = STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth));
    let decoded = decoded.map_err(|_| "auth is not base64")?;
    let text = String::from_utf8(decoded).map_err(|_| "auth is not UTF-8 text")?;
    let (username, password) = text.split_once(':').ok_or("auth is not user:password")?;
    let password = password.trim_matches('\0').to_owned();
    Ok(Secret::Basic { username: username.to_owned(), password })
}

/// Host and port of an address in any of the forms in use (`https://index.docker.io/v1/`,
/// `host:443`, `host/path`), with the names of the Docker hub made one.
fn canonical_host(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

/// All credentials that a pull may use.
pub(super) struct Keyring<'a> {
    /// The image.
    pub reference: &'a Reference,
    /// From the pull request.
    pub given: Option<&'a Credentials>,
    /// From the agent's configuration, by host.
    pub configured: &'a BTreeMap<String, Credentials>,
    /// From a docker configuration file.
    pub docker: &'a DockerConfig,
}

impl Keyring<'_> {
    /// The credentials for an endpoint. An upstream endpoint is the image's own registry at any
    /// address; a mirror gets only credentials that name it.
    pub fn for_endpoint(&self, address: &str, upstream: bool) -> Result<Option<Secret>, Error> {
        let registry = canonical_host(self.reference.host());
        let endpoint = canonical_host(address);
        let own = upstream || endpoint == registry;
        let named = |host: &str| host == endpoint || (own && host == registry);
        if let Some(given) = self.given {
            let meant = canonical_host(&given.server_address);
            let applies = if given.server_address.is_empty() { own } else { named(&meant) };
            if applies && let Some(secret) = given.secret(&endpoint)? {
                return Ok(Some(secret));
            }
        }
        for (host, credentials) in self.configured {
            if named(&canonical_host(host)) {
                return credentials.secret(&endpoint);
            }
        }
        let path = own.then(|| self.reference.repository());
        self.docker
            .best(&endpoint, path)
            .or_else(|| own.then(|| self.docker.best(&registry, path)).flatten())
            .map_or(Ok(None), |credentials| credentials.secret(&endpoint))
    }
}

/// The `auths` of a docker `config.json`. Credential helpers are not run.
#[derive(Default)]
pub(super) struct DockerConfig(Vec<(String, Option<String>, Credentials)>);

#[derive(Deserialize)]
struct DockerFile {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "lowercase")]
#[derive(Default)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl DockerConfig {
    /// Reads a file. A missing file gives an empty value; a malformed one is logged and gives an
    /// empty value too.
    pub async fn load(path: &Path) -> Self {
        match tokio::fs::metadata(path).await {
            Ok(meta) if meta.len() <= MAX_DOCKER_CONFIG => {}
            Ok(_) => {
                tracing::warn!(path = %path.display(), "docker configuration is too large");
                return Self::default();
            }
            Err(_) => return Self::default(),
        }
        let parsed = tokio::fs::read(path).await.ok().and_then(|bytes| Self::parse(&bytes));
        parsed.unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "cannot read docker configuration");
            Self::default()
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let file: DockerFile = serde_json::from_slice(bytes).ok()?;
        Some(Self::of(file.auths))
    }

    /// The old format, `.dockercfg`: the top level is what the new format has under `auths`.
    fn parse_old(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self::of)
    }

    fn of(auths: BTreeMap<String, DockerAuth>) -> Self {
        let entries = auths.into_iter().map(|(key, entry)| {
            let rest = key.split_once("://").map_or(key.as_str(), |(_, rest)| rest);
            let path = rest.split_once('/').map(|(_, path)| path.trim_matches('/'));
            let path = path.filter(|path| !matches!(*path, "" | "v1" | "v2"));
            let credentials = Credentials {
                username: entry.username,
                password: entry.password,
                auth: entry.auth,
                server_address: String::new(),
                identity_token: entry.identitytoken,
                registry_token: entry.registrytoken,
            };
            (canonical_host(&key), path.map(str::to_owned), credentials)
        });
        Self(entries.collect())
    }

    /// The credentials for the registry of an image.
    fn for_image(&self, image: &Reference) -> Option<&Credentials> {
        self.best(&canonical_host(image.host()), Some(image.repository()))
    }

    /// The most specific entry for a host and a repository.
    fn best(&self, host: &str, repository: Option<&str>) -> Option<&Credentials> {
        let fits = |path: &Option<String>| match (path, repository) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(path), Some(repository)) => repository
                .strip_prefix(path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        };
        self.0
            .iter()
            .filter(|(entry, path, _)| entry == host && fits(path))
            .max_by_key(|(_, path, _)| path.as_ref().map_or(0, String::len))
            .map(|(_, _, credentials)| credentials)
    }
}

/// Credentials for an image from the text of a docker `config.json`, or of the `old` format.
pub fn docker_credentials(text: &[u8], old: bool, image: &Reference) -> Option<Credentials> {
    let config = if old { DockerConfig::parse_old(text) } else { DockerConfig::parse(text) };
    config?.for_image(image).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Option<Secret> {
        Some(Secret::Basic { username: username.into(), password: password.into() })
    }

    fn user(name: &str) -> Credentials {
        Credentials { username: name.into(), password: "p".into(), ..Default::default() }
    }

    fn has(found: Result<Option<Secret>, Error>, want: Option<Secret>) {
        assert!(found.is_ok_and(|found| found == want));
    }

    #[test]
    fn takes_the_first_form_given() {
        let auth = |text: &str| Credentials {
            auth: base64::engine::general_purpose::STANDARD.encode(text),
            ..Default::default()
        };
        has(auth("u:p:q\0\0").secret("h"), basic("u", "p:q"));
        has(user("u").secret("h"), basic("u", "p"));
        has(Credentials::default().secret("h"), None);
        let refresh = Credentials { identity_token: "r".into(), ..auth("u:p") };
        has(refresh.secret("h"), Some(Secret::Refresh("r".into())));
        let token = Credentials { registry_token: "t".into(), ..Default::default() };
        has(token.secret("h"), Some(Secret::Bearer("t".into())));
        for bad in ["S3CRET!!", "dXNlcg=="] {
            let broken = Credentials { auth: bad.into(), ..Default::default() };
            let error = broken.secret("reg.io").err().expect(bad).to_string();
            assert!(error.contains("reg.io") && !error.contains(bad), "{error}");
        }
        let shown = format!("{:?}", Credentials { password: "S3CRET".into(), ..user("u") });
        assert!(!shown.contains("S3CRET"), "{shown}");
    }

    #[test]
    fn hosts_get_only_what_is_theirs() {
        let reference = Reference::parse("reg.example.com/team/app").unwrap();
        let (none, docker) = (BTreeMap::new(), DockerConfig::default());
        let find = |given: &Credentials, endpoint: &str, upstream: bool| {
            let given = Some(given);
            Keyring { reference: &reference, given, configured: &none, docker: &docker }
                .for_endpoint(endpoint, upstream)
        };
        has(find(&user("u"), "https://reg.example.com/v2", true), basic("u", "p"));
        has(find(&user("u"), "https://mirror.example.com/v2", false), None);
        let at = |address: &str| Credentials { server_address: address.into(), ..user("u") };
        has(
            find(&at("https://mirror.example.com/v1/"), "https://mirror.example.com", false),
            basic("u", "p"),
        );
        has(find(&at("other.example.com"), "https://reg.example.com", true), None);
        has(find(&at("reg.example.com:443"), "https://reg.example.com", true), basic("u", "p"));
    }

    #[test]
    fn falls_back_to_configured_and_docker_files() {
        let reference = Reference::parse("busybox").unwrap();
        let configured = BTreeMap::from([("https://index.docker.io/v1/".into(), user("conf"))]);
        let docker = DockerConfig::parse(
            br#"{"auths": {"docker.io": {"username": "d", "password": "p"},
                 "https://docker.io/library": {"auth": "bGliOnA="},
                 "m.io": {"identitytoken": "t"}, "m.io/library": {"auth": "eDp5"}},
                "credsStore": "pass"}"#,
        )
        .unwrap();
        let none = BTreeMap::new();
        let ring = |configured| Keyring {
            reference: &reference,
            given: None,
            configured,
            docker: &docker,
        };
        has(
            ring(&configured).for_endpoint("https://registry-1.docker.io/v2", true),
            basic("conf", "p"),
        );
        has(ring(&none).for_endpoint("https://registry-1.docker.io/v2", true), basic("lib", "p"));
        has(ring(&none).for_endpoint("https://m.io/v2", false), Some(Secret::Refresh("t".into())));
        has(ring(&none).for_endpoint("https://x.io/v2", false), None);
        assert!(DockerConfig::parse(b"{").is_none());
    }
}
