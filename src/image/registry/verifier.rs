//! Checks of a registry's certificate.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// Trusted certificates.
#[derive(Debug, Clone)]
pub(super) struct Trusted {
    /// Those that may have signed a server's certificate.
    authorities: Arc<RootCertStore>,
    /// SHA-256 of those that a server may show itself.
    themselves: BTreeSet<[u8; 32]>,
}

impl Trusted {
    pub(super) fn new(authorities: RootCertStore) -> Self {
        Self { authorities: Arc::new(authorities), themselves: BTreeSet::new() }
    }

    /// Trusts one more certificate.
    ///
    /// # Errors
    /// If it is malformed.
    pub(super) fn add(&mut self, certificate: CertificateDer<'_>) -> Result<(), rustls::Error> {
        let sum = Sha256::digest(&certificate).into();
        Arc::make_mut(&mut self.authorities).add(certificate.into_owned())?;
        self.themselves.insert(sum);
        Ok(())
    }

    /// Checks servers with these certificates.
    ///
    /// # Errors
    /// If there are none.
    pub(super) fn verifier(
        self: Arc<Self>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, VerifierBuilderError> {
        let authorities = Arc::clone(&self.authorities);
        let signed = WebPkiServerVerifier::builder_with_provider(authorities, provider).build()?;
        Ok(Arc::new(Verifier { signed, trusted: self }))
    }
}

/// Accepts certificates signed by a trusted one, and the trusted ones themselves. rustls refuses
/// the latter when they are marked as authorities, as self-signed certificates of registries
/// usually are; Go programs accept them.
#[derive(Debug)]
struct Verifier {
    signed: Arc<WebPkiServerVerifier>,
    trusted: Arc<Trusted>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let signed = &self.signed;
        let refused =
            match signed.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
                Ok(accepted) => return Ok(accepted),
                Err(refused) => refused,
            };
        let sum: [u8; 32] = Sha256::digest(certificate).into();
        if !self.trusted.themselves.contains(&sum) || !is_server_at(certificate, now) {
            return Err(refused);
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Whether a certificate is valid at this time and may be used by a server: one that names no uses
/// may.
fn is_server_at(certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let valid = ASN1Time::from_timestamp(seconds)
        .is_ok_and(|time| certificate.validity().is_valid_at(time));
    let uses = certificate.extended_key_usage();
    valid && uses.is_ok_and(|uses| uses.is_none_or(|uses| uses.value.any || uses.value.server_auth))
}
