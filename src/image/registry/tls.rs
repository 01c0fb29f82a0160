//! HTTP clients: root certificates, private authorities, client certificates.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::Client;
use rustls::client::VerifierBuilderError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::verifier::Trusted;
use crate::image::Error;

/// How long connecting may take, if a host has no limit of its own.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of the connections to one host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::image) struct TlsOptions {
    /// Additional certificate authorities, PEM files.
    pub ca: Vec<PathBuf>,
    /// Client certificate and key, PEM files (both may be in the first).
    pub client: Option<(PathBuf, Option<PathBuf>)>,
    /// Disables certificate verification.
    pub skip_verify: bool,
    /// How long connecting may take; `None` for the default.
    pub dial_timeout: Option<Duration>,
}

/// Creates clients and caches the common ones, with their connections, for later pulls.
pub(in crate::image) struct Clients {
    stall: Duration,
    trusted: OnceLock<Arc<Trusted>>,
    plain: OnceLock<Client>,
    local: OnceLock<Client>,
}

impl Clients {
    /// `stall` limits the wait for the next bytes of any reply.
    pub fn new(stall: Duration) -> Self {
        let (plain, local) = (OnceLock::new(), OnceLock::new());
        Self { stall, trusted: OnceLock::new(), plain, local }
    }

    /// A client for hosts with these options. `local` hosts are reached without a proxy, as in Go
    /// programs.
    pub fn get(&self, tls: &TlsOptions, local: bool) -> Result<Client, Error> {
        if *tls != TlsOptions::default() {
            return self.build(tls, local);
        }
        let kept = if local { &self.local } else { &self.plain };
        if let Some(client) = kept.get() {
            return Ok(client.clone());
        }
        let client = self.build(tls, local)?;
        Ok(kept.get_or_init(|| client).clone())
    }

    fn build(&self, tls: &TlsOptions, local: bool) -> Result<Client, Error> {
        // Redirects are followed by hand, because of the rules for sending credentials.
        let builder = Client::builder()
            .tls_backend_preconfigured(self.config(tls)?)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("podbay/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(tls.dial_timeout.unwrap_or(DIAL_TIMEOUT).min(self.stall))
            .read_timeout(self.stall)
            .pool_idle_timeout(Duration::from_secs(20));
        let builder = if local { builder.no_proxy() } else { builder };
        builder.build().map_err(|source| Error::RegistryUnavailable {
            tried: "making an HTTP client".to_owned(),
            source: Some(Arc::new(source.without_url())),
        })
    }

    fn config(&self, tls: &TlsOptions) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let broken = |path: &Path, problem: &str| Error::host_config(path, problem);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|_| broken(Path::new("tls"), "no usable protocol version"))?;
        let verifier = if tls.skip_verify {
            accept_any_certificate(provider)
        } else {
            let verifier = self.trusted(&tls.ca)?.verifier(provider);
            verifier.map_err(|_| broken(Path::new("tls"), "no trusted certificates"))?
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &tls.client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let key_path = key.as_ref().unwrap_or(cert);
                let key = PrivateKeyDer::from_pem_file(key_path)
                    .map_err(|_| broken(key_path, "no private key can be read from it"))?;
                builder
                    .with_client_auth_cert(certificates(cert)?, key)
                    .map_err(|_| broken(cert, "client certificate and key do not match"))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The built-in roots, the system's, and private ones.
    fn trusted(&self, extra: &[PathBuf]) -> Result<Arc<Trusted>, Error> {
        let common = self.trusted.get_or_init(|| Arc::new(common()));
        if extra.is_empty() {
            return Ok(Arc::clone(common));
        }
        let mut trusted = Trusted::clone(common);
        for path in extra {
            for certificate in certificates(path)? {
                let added = trusted.add(certificate);
                added
                    .map_err(|_| Error::host_config(path, "it contains a malformed certificate"))?;
            }
        }
        Ok(Arc::new(trusted))
    }
}

/// Checks servers with the built-in roots and those of the system.
///
/// # Errors
/// If there are none.
pub(crate) fn common_verifier(
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, VerifierBuilderError> {
    Arc::new(common()).verifier(provider)
}

/// The built-in roots and those of the system.
fn common() -> Trusted {
    let built_in = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut trusted = Trusted::new(built_in);
    for certificate in rustls_native_certs::load_native_certs().certs {
        // Malformed ones are left out, as by other programs.
        let _ = trusted.add(certificate);
    }
    trusted
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Error::host_config(path, "no certificate can be read from it")),
    }
}

/// A verifier that accepts everything: for hosts with `skip_verify`, and for container probes.
pub(crate) fn accept_any_certificate(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(AcceptAny(provider))
}

#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
