//! The endpoints that serve a registry's content: its mirrors and the registry itself.
//!
//! Reads containerd's own layout: below one of the configured directories, a directory for each
//! registry host, with a `hosts.toml` or, as Docker does it, bare certificate files.
//! <https://github.com/containerd/containerd/blob/main/docs/hosts.md>

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::Error;
use super::registry::tls::TlsOptions;

/// Maximum size of a `hosts.toml`, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// An endpoint that serves a registry's content.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Scheme, host and path prefix, usually `/v2`; without a trailing slash.
    pub url: Url,
    /// Whether it is a mirror rather than the registry itself.
    pub mirror: bool,
    /// Whether it may resolve tags.
    pub resolve: bool,
    /// Whether it may serve content by digest.
    pub pull: bool,
    /// Headers sent with every request to this host.
    pub headers: HeaderMap,
    /// TLS options.
    pub tls: TlsOptions,
}

impl Source {
    /// Whether this endpoint is on another host than the registry, so that it may serve several
    /// registries; as in containerd, a `server` may be one too.
    pub fn is_proxy(&self, registry: &str) -> bool {
        let url = &self.url;
        let hub = registry == "docker.io" && url.host_str() == Some("registry-1.docker.io");
        // Parsed with the same scheme, so that its default port is equal to none.
        let own = Url::parse(&format!("{}://{registry}", url.scheme()));
        let same = own.is_ok_and(|own| {
            own.host() == url.host() && own.port_or_known_default() == url.port_or_known_default()
        });
        !hub && !same
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HostsFile {
    server: Option<String>,
    #[serde(flatten)]
    own: HostTable,
    host: BTreeMap<String, Spanned<HostTable>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: OneOrMany,
    client: Option<ClientPairs>,
    skip_verify: bool,
    override_path: bool,
    dial_timeout: Option<String>,
    header: BTreeMap<String, OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ClientPairs {
    One(String),
    Files(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl OneOrMany {
    fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// The endpoints for a registry host, by descending priority; never empty.
///
/// # Errors
/// [`Error::HostConfig`] when the host's configuration is invalid.
pub(super) async fn sources(folders: &[PathBuf], host: &str) -> Result<Vec<Source>, Error> {
    for folder in folders {
        for name in folder_names(host) {
            let folder = folder.join(name);
            if !tokio::fs::metadata(&folder).await.is_ok_and(|meta| meta.is_dir()) {
                continue;
            }
            let file = folder.join("hosts.toml");
            return match tokio::fs::metadata(&file).await {
                Ok(meta) if meta.len() > MAX_FILE => Err(Error::host_config(&file, "too large")),
                Ok(_) => {
                    let text = tokio::fs::read_to_string(&file).await;
                    let text =
                        text.map_err(|error| Error::host_config(&file, error.kind().to_string()))?;
                    from_file(host, &file, &text)
                }
                Err(_) => upstream(host, &certificate_files(&folder).await),
            };
        }
    }
    upstream(host, &TlsOptions::default())
}

/// Safe as directory names: the reference parser allows no slash and no `..` in a host.
fn folder_names(host: &str) -> Vec<String> {
    let mut names = Vec::with_capacity(3);
    if let Some((name, port)) = host.rsplit_once(':') {
        names.push(format!("{name}_{port}_"));
    }
    names.push(host.to_owned());
    names.push("_default".to_owned());
    names
}

/// Docker's layout: `*.crt` are certificate authorities, `x.cert` with `x.key` is a client
/// certificate.
async fn certificate_files(folder: &Path) -> TlsOptions {
    let mut tls = TlsOptions::default();
    let Ok(mut entries) = tokio::fs::read_dir(folder).await else { return tls };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let path = entry.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => tls.client = Some((path.clone(), Some(path.with_extension("key")))),
            _ => {}
        }
    }
    tls.ca.sort();
    tls
}

fn from_file(host: &str, path: &Path, text: &str) -> Result<Vec<Source>, Error> {
    let broken = |problem: String| Error::host_config(path, problem);
    let file: HostsFile = toml::from_str(text).map_err(|error| {
        // Only the line number: the parser's message may quote a header line, and so a secret.
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        broken(format!("malformed at line {line}"))
    })?;
    // As in containerd, mirrors are tried in the order of the file.
    let mut mirrors: Vec<_> = file.host.iter().collect();
    mirrors.sort_by_key(|(_, table)| table.span().start);
    let mut sources = Vec::with_capacity(mirrors.len() + 1);
    for (address, table) in mirrors {
        sources.push(table.get_ref().source(address, true, path).map_err(broken)?);
    }
    match file.server.as_deref().filter(|server| !server.is_empty()) {
        Some(server) => sources.push(file.own.source(server, false, path).map_err(broken)?),
        None => {
            let model = file.own.source("https://unused", false, path).map_err(broken)?;
            for own in upstream(host, &model.tls)? {
                sources.push(Source { url: own.url, tls: own.tls, ..model.clone() });
            }
        }
    }
    Ok(sources)
}

impl HostTable {
    fn source(&self, address: &str, mirror: bool, path: &Path) -> Result<Source, String> {
        // The third is for clients that upload.
        let known = |able: &&String| matches!(able.as_str(), "pull" | "resolve" | "push");
        let mut all = self.capabilities.iter().flatten();
        if let Some(unknown) = all.find(|able| !known(able)) {
            return Err(format!("unknown capability {unknown:?}"));
        }
        let able = |what: &str| match &self.capabilities {
            None => true,
            Some(list) => list.iter().any(|able| able == what),
        };
        let folder = path.parent().unwrap_or(path);
        Ok(Source {
            url: base_url(address, self.override_path)?,
            mirror,
            resolve: able("resolve"),
            pull: able("pull"),
            headers: self.headers()?,
            tls: TlsOptions {
                ca: self.ca.list().iter().map(|file| folder.join(file)).collect(),
                client: self.client(folder)?,
                skip_verify: self.skip_verify,
                dial_timeout: self.dial_timeout()?,
            },
        })
    }

    fn dial_timeout(&self) -> Result<Option<Duration>, String> {
        let Some(text) = &self.dial_timeout else { return Ok(None) };
        let bad = || "dial_timeout: must be a duration such as \"5s\"".to_owned();
        let time = humantime::parse_duration(text).map_err(|_| bad())?;
        // As in Go programs, 0 is no limit of its own.
        Ok(Some(time).filter(|time| !time.is_zero()))
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, values) in &self.header {
            let bad = || format!("header {name:?} cannot be sent");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            for value in values.list() {
                let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
                value.set_sensitive(true);
                headers.append(name.clone(), value);
            }
        }
        Ok(headers)
    }

    /// The first pair only, since rustls sends one certificate.
    fn client(&self, folder: &Path) -> Result<Option<(PathBuf, Option<PathBuf>)>, String> {
        let (cert, key) = match &self.client {
            None => return Ok(None),
            Some(ClientPairs::One(file)) => (file, None),
            Some(ClientPairs::Files(files)) => match files.first() {
                None => return Ok(None),
                Some(file) => (file, None),
            },
            Some(ClientPairs::Pairs(pairs)) => match pairs.first().map(Vec::as_slice) {
                Some([cert]) => (cert, None),
                Some([cert, key]) => (cert, Some(key).filter(|key| !key.is_empty())),
                _ => return Err("client: must be pairs of certificate and key".to_owned()),
            },
        };
        Ok(Some((folder.join(cert), key.map(|key| folder.join(key)))))
    }
}

fn base_url(address: &str, override_path: bool) -> Result<Url, String> {
    let with_scheme =
        if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let bad = || "a host is not an http or https URL without user, query or fragment".to_owned();
    let mut url = Url::parse(&with_scheme).map_err(|_| bad())?;
    let odd = url.query().is_some() || url.fragment().is_some();
    let user = !url.username().is_empty() || url.password().is_some();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || odd || user {
        return Err(bad());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    url.set_path(&path);
    Ok(url)
}

/// The registry itself. Docker Hub's address differs from its name. A local registry on a port of
/// its own is tried over http first, then over https without certificate verification.
fn upstream(host: &str, tls: &TlsOptions) -> Result<Vec<Source>, Error> {
    let port = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, p)| p);
    let addresses = match port {
        _ if host == "docker.io" => vec!["https://registry-1.docker.io".to_owned()],
        Some("80") if is_local(host) => vec![format!("http://{host}")],
        Some(port) if is_local(host) && port != "443" => {
            vec![format!("http://{host}"), format!("https://{host}")]
        }
        _ => vec![format!("https://{host}")],
    };
    let source = |address: &String| {
        let url = base_url(address, false).map_err(|_| Error::InvalidReference {
            image: host.to_owned(),
            problem: "the registry host is malformed",
        })?;
        let mut tls = tls.clone();
        tls.skip_verify |= is_local(host) && url.scheme() == "https";
        let headers = HeaderMap::new();
        Ok(Source { url, mirror: false, resolve: true, pull: true, headers, tls })
    };
    addresses.iter().map(source).collect()
}

/// Whether a host (with or without port) names this machine.
pub(super) fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
