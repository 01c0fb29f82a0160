use std::path::Path;

use rcgen::ExtendedKeyUsagePurpose::{self, ClientAuth, ServerAuth};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::registry::Reply;
use super::*;

/// A private certificate authority.
struct Authority {
    pem: String,
    der: rustls::pki_types::CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let (pem, der) = (certificate.pem(), certificate.der().clone());
    Authority { pem, der, issuer: Issuer::new(params, key) }
}

impl Authority {
    fn sign(&self, expired: bool) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn server(&self, expired: bool, wants_client: bool) -> ServerConfig {
        server(&self.sign(expired), wants_client.then_some(self))
    }
}

fn server(
    (certificate, key): &(rcgen::Certificate, KeyPair),
    clients_of: Option<&Authority>,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if let Some(authority) = clients_of {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()
}

/// A certificate as by `openssl req -x509`: signed by itself and marked as an authority.
fn self_signed(
    name: &str,
    years: [i32; 2],
    uses: &[ExtendedKeyUsagePurpose],
) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec![name.into()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    [params.not_before, params.not_after] = years.map(|year| date_time_ymd(year, 1, 1));
    params.extended_key_usages = uses.to_vec();
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key)
}

/// Pulls `reg.example.com/app:v1` from `registry`, with additional settings.
async fn pull(folder: &Path, registry: &Registry, settings: &str) -> Result<Image, Error> {
    let host = folder.join("reg.example.com");
    std::fs::create_dir_all(&host).unwrap();
    let server = format!("server = \"https://localhost:{}\"\n", registry.address.port());
    std::fs::write(host.join("hosts.toml"), server + settings).unwrap();
    let room = room_with(|options| options.config_dirs = vec![folder.into()]);
    let pulled = room.images.pull("reg.example.com/app:v1", user("u", "S3CRET")).await;
    assert!(pulled.is_ok() || room.store.is_empty());
    pulled
}

#[tokio::test]
async fn certificates_are_checked_as_configured() {
    let (ours, theirs) = (authority(), authority());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ca = format!("ca = {:?}\n", file("ca.pem", &ours.pem));
    let other_ca = format!("ca = {:?}\n", file("other.pem", &theirs.pem));
    let broken_ca = format!("ca = {:?}\n", file("broken.pem", "S3CRET"));
    let (certificate, key) = ours.sign(false);
    let certificate = file("client.pem", &certificate.pem());
    let client =
        format!("client = [[{certificate:?}, {:?}]]\n", file("client.key", &key.serialize_pem()));
    let both = format!("{ca}{client}");
    for (name, expired, wants_client, settings, good) in [
        ("no authority", false, false, "", false),
        ("its authority", false, false, ca.as_str(), true),
        ("another authority", false, false, &other_ca, false),
        ("no check", false, false, "skip_verify = true\n", true),
        ("expired", true, false, &ca, false),
        ("a client certificate", false, true, &both, true),
        ("no client certificate", false, true, &ca, false),
        ("an unreadable authority", false, false, &broken_ca, false),
    ] {
        let (content, parts) = three_layers();
        let tls = ours.server(expired, wants_client);
        let registry = Registry::with_tls(content, |_| None, Some(tls)).await;
        match pull(folder.path(), &registry, settings).await {
            Ok(image) => assert!(good && image.id == parts.config, "{name}"),
            Err(error) => {
                let expected =
                    matches!(error, Error::RegistryUnavailable { .. } | Error::HostConfig { .. });
                assert!(!good && expected, "{name}: {}", chain(&error));
                assert!(!chain(&error).contains("S3CRET"), "{name}");
            }
        }
    }
}

/// Go programs accept it, and the documentation of Docker's registry recommends it.
#[tokio::test]
async fn a_registry_may_show_the_configured_certificate_itself() {
    let (now, past, future) = ([2001, 4000], [2001, 2002], [3999, 4000]);
    for (name, host, years, uses, configured, good) in [
        ("configured", "localhost", now, &[][..], true, true),
        ("for servers", "localhost", now, &[ClientAuth, ServerAuth], true, true),
        ("not for servers", "localhost", now, &[ClientAuth], true, false),
        ("another name", "elsewhere", now, &[], true, false),
        ("expired", "localhost", past, &[], true, false),
        ("not valid yet", "localhost", future, &[], true, false),
        ("not configured", "localhost", now, &[], false, false),
    ] {
        let shown = self_signed(host, years, uses);
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let other = self_signed(host, years, uses).0.pem();
        std::fs::write(&ca, if configured { shown.0.pem() } else { other }).unwrap();
        let (content, _) = three_layers();
        let registry = Registry::with_tls(content, |_| None, Some(server(&shown, None))).await;
        let settings = format!("ca = {:?}", ca.display().to_string());
        let pulled = pull(folder.path(), &registry, &settings).await;
        let refused = matches!(pulled, Err(Error::RegistryUnavailable { .. }));
        assert!(if good { pulled.is_ok() } else { refused }, "{name}: {pulled:?}");
    }
}

#[tokio::test]
async fn tls_is_never_given_up() {
    let plain = Registry::start(three_layers().0).await;
    for (name, reply) in [
        ("redirect", Reply::status(307).with("Location", format!("http://{}/x", plain.address))),
        (
            "token server",
            Reply::status(401)
                .with("WWW-Authenticate", format!("Bearer realm=\"http://{}/t\"", plain.address)),
        ),
    ] {
        let ours = authority();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, &ours.pem).unwrap();
        let hook = move |_: &super::registry::Request| Some(reply.clone());
        let registry =
            Registry::with_tls(Content::default(), hook, Some(ours.server(false, false))).await;
        let settings = format!("ca = {:?}", ca.display().to_string());
        let error = pull(folder.path(), &registry, &settings).await.unwrap_err();
        assert!(!matches!(error, Error::RegistryUnavailable { .. }), "{name}: {}", chain(&error));
        assert_eq!(plain.requests().len(), 0, "{name}");
    }
}
