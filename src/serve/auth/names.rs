//! The names in a certificate.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::{Policy, Role};

/// Maximum number of names that are read from a certificate.
const MOST: usize = 64;

/// The names of a certificate, each with its kind: `cn:alice`, `dns:ctl.example`,
/// `uri:spiffe://example/ctl`, `email:alice@example`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Names(Vec<String>);

impl Names {
    /// Each name in the form used in policies.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "nobody" } else { "" })?;
        f.write_str(&self.0.join(" "))
    }
}

/// The peer of a connection, identified by its verified certificate.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The names in its certificate.
    pub(super) names: Arc<Names>,
    /// Expiry of the certificate, in seconds since the Unix epoch.
    pub(super) expires: i64,
    /// Its network address.
    pub(super) address: SocketAddr,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.names, self.address)
    }
}

impl Caller {
    /// The names in its certificate.
    pub(crate) fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Whether its certificate has expired.
    pub(crate) fn expired(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.expires < now.cast_signed()
    }

    /// Whether it has fewer permissions under `now` than under `before`.
    pub(crate) fn may_less(&self, before: &Policy, now: &Policy) -> bool {
        Role::ALL.iter().any(|role| {
            let (before, now) = (before.grant(&self.names, *role), now.grant(&self.names, *role));
            match (before.map(|it| it.namespaces), now.map(|it| it.namespaces)) {
                (None, _) | (_, Some(None)) => false,
                (Some(Some(before)), Some(Some(now))) => !before.is_subset(&now),
                (Some(_), _) => true,
            }
        })
    }

    /// Parses a verified certificate; `None` when it cannot be parsed.
    pub(crate) fn new(certificate: &CertificateDer<'_>, address: SocketAddr) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let expires = parsed.validity().not_after.timestamp();
        Some(Self { names: Arc::new(names(&parsed)), expires, address })
    }
}

fn names(certificate: &X509Certificate<'_>) -> Names {
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.take(MOST).map(|name| name_of("cn", name)).collect();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(found) = extension.parsed_extension() else {
            continue;
        };
        names.extend(found.general_names.iter().take(MOST).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name_of("dns", name)),
            GeneralName::URI(name) => Some(name_of("uri", name)),
            GeneralName::RFC822Name(name) => Some(name_of("email", name)),
            _ => None,
        }));
    }
    Names(names)
}

/// A name in normalised form: DNS names are case-insensitive.
fn name_of(kind: &str, name: &str) -> String {
    let name = if kind == "dns" { name.to_ascii_lowercase() } else { name.to_owned() };
    format!("{kind}:{name}")
}

/// Validates and normalises a name in a policy.
///
/// # Errors
/// What is wrong with the name.
pub(super) fn checked(name: &str) -> Result<String, String> {
    match name.split_once(':') {
        Some((kind @ ("cn" | "dns" | "uri" | "email"), rest)) if !rest.is_empty() => {
            if rest.contains('*') {
                return Err(format!("{name:?}: there are no patterns, names are compared whole"));
            }
            Ok(name_of(kind, rest))
        }
        _ => Err(format!("{name:?} must begin with cn:, dns:, uri: or email:")),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn all_names_are_read_with_their_kind() {
        let mut params = CertificateParams::new(["Ctl.Example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "dns:root");
        params.subject_alt_names.extend([
            SanType::URI("spiffe://x/Ctl".try_into().unwrap()),
            SanType::Rfc822Name("a@b".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ]);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let caller = Caller::new(certificate.der(), ([127, 0, 0, 1], 1).into()).unwrap();
        // A common name cannot be mistaken for another kind of name.
        let names = "cn:dns:root dns:ctl.example uri:spiffe://x/Ctl email:a@b";
        assert_eq!(caller.names.to_string(), names);
        assert!(Caller::new(&CertificateDer::from(&b"x"[..]), caller.address).is_none());
        assert_eq!(Names::default().to_string(), "nobody");
    }

    #[test]
    fn names_of_policies() {
        assert_eq!(checked("dns:A.B"), Ok("dns:a.b".to_owned()));
        assert_eq!(checked("cn:A B"), Ok("cn:A B".to_owned()));
        for bad in ["", "alice", "cn:", "ip:1.2.3.4", "dns:*.example"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
