//! Authentication challenges of registries, and the tokens to answer them.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/>, and its OAuth2 variant for
//! refresh tokens.

use std::net::{IpAddr, Ipv6Addr};

use base64::Engine as _;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Method, StatusCode, Url};
use serde::Deserialize;
use url::{Host, form_urlencoded};

use super::http::{Call, exchange, is_passing, small_body};
use crate::image::Error;
use crate::image::credentials::Secret;

/// Maximum size of a token server's reply, in bytes.
const MAX_TOKEN_REPLY: usize = 1 << 20;

/// One challenge of a `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token from a token server.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// Name of the registry at the token server.
        service: Option<String>,
        /// The permissions that the token should have.
        scope: Option<String>,
    },
}

/// The challenge to answer; bearer tokens are preferred.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let mut found = texts.flat_map(parse).collect::<Vec<_>>();
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found.into_iter().next()
}

fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut current: Option<(String, Vec<(String, String)>)> = None;
    for item in items(header) {
        // `Bearer realm="…"` starts a challenge, `service="…"` continues it.
        let key = item.split('=').next().unwrap_or_default().trim_end();
        let (scheme, parameter) = match key.split_once(char::is_whitespace) {
            Some((scheme, _)) => (Some(scheme), item[scheme.len()..].trim_start()),
            None if item.contains('=') => (None, item),
            None => (Some(item), ""),
        };
        if let Some(scheme) = scheme {
            challenges.extend(current.take().and_then(finish));
            current = Some((scheme.to_ascii_lowercase(), Vec::new()));
        }
        if let (Some((_, parameters)), Some((key, value))) =
            (&mut current, parameter.split_once('='))
        {
            parameters.push((key.trim().to_ascii_lowercase(), unquoted(value.trim())));
        }
    }
    challenges.extend(current.and_then(finish));
    challenges
}

/// The challenges in a header as text, for the fuzz tests.
#[doc(hidden)]
pub fn challenges(header: &str) -> Vec<String> {
    parse(header).iter().map(|challenge| format!("{challenge:?}")).collect()
}

/// Splits at commas outside quotes.
fn items(header: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    header
        .split(move |c| {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ',' if !quoted => return true,
                _ => {}
            }
            false
        })
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else { return value.to_owned() };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

fn finish((scheme, parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let get = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        }),
        _ => None,
    }
}

/// The token server's address, if credentials may be sent there.
///
/// A token server on another host is normal, but it must be reached as safely as the registry,
/// and it is never a link-local or (for a registry elsewhere) a loopback address.
fn token_server(registry: &Url, realm: &str, secret: bool) -> Result<Url, &'static str> {
    let url = Url::parse(realm).map_err(|_| "its token server has no valid address")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("its token server's address holds a user");
    }
    match (registry.scheme(), url.scheme()) {
        (_, "https") => {}
        ("http", "http") if !secret || url.host() == registry.host() => {}
        (_, "http") => return Err("its token server would get credentials without TLS"),
        _ => return Err("its token server has no valid address"),
    }
    if reachable(registry, &url) {
        Ok(url)
    } else {
        Err("its token server has a forbidden address")
    }
}

/// Whether a server may redirect to `to`: metadata services, and loopback for remote servers, are
/// forbidden.
pub(super) fn reachable(from: &Url, to: &Url) -> bool {
    let same = from.host() == to.host();
    match place(to) {
        Place::Elsewhere => true,
        Place::Loopback => same || place(from) == Place::Loopback,
        Place::LinkLocal => same,
    }
}

#[derive(PartialEq, Eq)]
enum Place {
    Elsewhere,
    Loopback,
    LinkLocal,
}

fn place(url: &Url) -> Place {
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
        Some(Host::Ipv6(ip)) => ip.to_canonical(),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            let local = name == "localhost" || name.ends_with(".localhost");
            return if local { Place::Loopback } else { Place::Elsewhere };
        }
        None => return Place::LinkLocal,
    };
    /// The metadata service of a large cloud provider.
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip {
        IpAddr::V4(ip) if ip.is_link_local() => Place::LinkLocal,
        IpAddr::V6(ip) if ip.is_unicast_link_local() || ip == METADATA => Place::LinkLocal,
        ip if ip.is_loopback() || ip.is_unspecified() => Place::Loopback,
        _ => Place::Elsewhere,
    }
}

/// Obtains the `Authorization` header for a challenge.
pub(super) struct Asker<'a> {
    /// The endpoint that sent the challenge.
    pub registry: &'a Url,
    /// Client for the endpoint's own host.
    pub client: &'a Client,
    /// Client for token servers on other hosts: always verifies certificates.
    pub token_client: &'a Client,
    /// The available credentials.
    pub secret: Option<&'a Secret>,
    /// The required scope, e.g. `repository:library/busybox:pull`.
    pub scope: &'a str,
}

impl Asker<'_> {
    /// Answers a challenge; the error says why that is impossible, or is the token server's.
    pub async fn answer(&self, challenge: &Challenge) -> Result<HeaderValue, Refusal> {
        match (challenge, self.secret) {
            (_, Some(Secret::Bearer(token))) => Ok(header("Bearer", token)?),
            (Challenge::Basic, Some(Secret::Basic { username, password })) => {
                Ok(basic(username, password)?)
            }
            (Challenge::Basic, Some(Secret::Refresh(_))) => {
                Err(Refusal::No("it takes no identity token".to_owned()))
            }
            (Challenge::Basic, None) => Err(Refusal::No("it wants credentials".to_owned())),
            (Challenge::Bearer { realm, service, scope }, secret) => {
                let server = token_server(self.registry, realm, secret.is_some());
                let server = server.map_err(|problem| Refusal::No(problem.to_owned()))?;
                let scope = scope.as_deref().unwrap_or(self.scope);
                self.token(server, service.as_deref(), scope).await
            }
        }
    }

    async fn token(
        &self,
        server: Url,
        service: Option<&str>,
        scope: &str,
    ) -> Result<HeaderValue, Refusal> {
        #[derive(Deserialize)]
        struct Reply {
            token: Option<String>,
            access_token: Option<String>,
        }
        let own = server.origin() == self.registry.origin();
        let client = if own { self.client } else { self.token_client };
        let call = token_call(server, service, scope, self.secret)?;
        let name = call.name();
        let reply = exchange(client, call).await.map_err(Refusal::Failed)?;
        let status = reply.status();
        if status.is_client_error() && !is_passing(status) {
            return Err(Refusal::No(format!("its token server answered {status}")));
        }
        if status != StatusCode::OK {
            let tried = format!("{name} answered {status}");
            return Err(Refusal::Failed(Error::RegistryUnavailable { tried, source: None }));
        }
        let body = small_body(reply, MAX_TOKEN_REPLY, &name).await;
        let body = body.map_err(Refusal::Failed)?;
        let reply: Reply = serde_json::from_slice(&body)
            .map_err(|_| Refusal::No("its token server sent no token".to_owned()))?;
        let some = |token: Option<String>| token.filter(|token| !token.is_empty());
        match some(reply.token).or(some(reply.access_token)) {
            Some(token) => Ok(header("Bearer", &token)?),
            None => Err(Refusal::No("its token server sent no token".to_owned())),
        }
    }
}

/// Why there is no `Authorization`.
pub(super) enum Refusal {
    /// It was refused, for this reason.
    No(String),
    /// The request to the token server failed.
    Failed(Error),
}

fn token_call(
    mut server: Url,
    service: Option<&str>,
    scope: &str,
    secret: Option<&Secret>,
) -> Result<Call, Refusal> {
    if let Some(Secret::Refresh(token)) = secret {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("client_id", "podbay");
        form.append_pair("refresh_token", token).append_pair("scope", scope);
        form.append_pair("service", service.unwrap_or_default());
        return Ok(Call::new(Method::POST, server).with_form(form.finish()));
    }
    {
        let mut query = server.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in scope.split_ascii_whitespace() {
            query.append_pair("scope", scope);
        }
        query.append_pair("client_id", "podbay");
    }
    let mut call = Call::new(Method::GET, server);
    if let Some(Secret::Basic { username, password }) = secret {
        call.headers.insert(AUTHORIZATION, basic(username, password)?);
    }
    Ok(call)
}

fn basic(username: &str, password: &str) -> Result<HeaderValue, Refusal> {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    header("Basic", &pair)
}

fn header(scheme: &str, value: &str) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {value}"))
        .map_err(|_| Refusal::No("the token cannot be sent".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> Vec<Challenge> {
        parse(header)
    }

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        };
        for (header, want) in [
            ("Basic realm=\"x\"", vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a/b:pull,push\"",
                vec![bearer("https://a/t", Some("s"), Some("repository:a/b:pull,push"))],
            ),
            (
                "Bearer realm=\"https://a/t?x=y\" , service = s, Basic realm=\"q\\\"uote\"",
                vec![bearer("https://a/t?x=y", Some("s"), None), Challenge::Basic],
            ),
            ("Digest nonce=\"1\", Basic", vec![Challenge::Basic]),
            ("Bearer service=\"s\"", vec![]),
            ("", vec![]),
            ("=,=\",,\\", vec![]),
        ] {
            assert_eq!(read(header), want, "{header}");
        }
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Bearer realm=\"https://a\"".parse().unwrap());
        assert_eq!(challenge(&headers), Some(bearer("https://a", None, None)));
    }

    #[test]
    fn credentials_go_only_to_safe_token_servers() {
        for (registry, realm, secret, good) in [
            ("https://reg.io/v2", "https://auth.io/token", true, true),
            ("https://reg.io/v2", "http://reg.io/token", true, false),
            ("https://reg.io/v2", "http://reg.io/token", false, false),
            ("https://reg.io/v2", "https://169.254.169.254/latest", true, false),
            ("https://reg.io/v2", "https://[::ffff:169.254.169.254]/", true, false),
            ("https://reg.io/v2", "https://[fe80::1]/", true, false),
            ("https://reg.io/v2", "https://[fd00:ec2::254]/", true, false),
            ("https://reg.io/v2", "https://127.0.0.1/", true, false),
            ("https://reg.io/v2", "https://localhost./", true, false),
            ("https://reg.io/v2", "https://0/", true, false),
            ("https://reg.io/v2", "https://2852039166/", true, false),
            ("https://reg.io/v2", "https://u:p@auth.io/", true, false),
            ("https://reg.io/v2", "ftp://auth.io/", true, false),
            ("https://reg.io/v2", "file:///etc/passwd", true, false),
            ("https://reg.io/v2", "/token", true, false),
            ("http://reg.io:5000/v2", "http://reg.io:5001/token", true, true),
            ("http://reg.io:5000/v2", "http://other.io/token", true, false),
            ("http://reg.io:5000/v2", "http://other.io/token", false, true),
            ("http://reg.io:5000/v2", "https://other.io/token", true, true),
            ("http://127.0.0.1:5000/v2", "http://127.0.0.1:5001/token", true, true),
            ("http://localhost:5000/v2", "https://127.0.0.1:5001/token", true, true),
        ] {
            let found = token_server(&Url::parse(registry).unwrap(), realm, secret);
            assert_eq!(found.is_ok(), good, "{registry} {realm} {found:?}");
        }
    }
}
