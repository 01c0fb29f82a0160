//! Keys and certificates of the TCP server, and detection of changed files.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// Paths of PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The agent's certificate, followed by intermediate certificates.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificate authorities of clients.
    pub client_ca: PathBuf,
    /// Certificate revocation lists. If there are any, each authority in a chain needs one.
    pub crl: Vec<PathBuf>,
}

/// The TLS state made from the files.
#[derive(Debug)]
pub(super) struct Tls {
    /// The server configuration.
    pub(super) server: Arc<ServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// Whether a client with these certificates, its own first, would be accepted now.
    pub(super) fn check(&self, certificates: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let (own, others) =
            certificates.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.clients.verify_client_cert(own, others, UnixTime::now()).map(drop)
    }
}

/// Why the files are unusable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or has the wrong contents.
    #[error("read {what} from {}", path.display())]
    File {
        /// The expected contents.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: pem::Error,
    },
    /// A file lacks the expected contents.
    #[error("there is no {what} in {}", path.display())]
    Empty {
        /// The expected contents.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
    },
    /// Certificate and key do not match, or one of them is invalid.
    #[error("use the certificate {} with the key {}", cert.display(), key.display())]
    Unusable {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// A certificate authority is invalid.
    #[error("use the certificate authority {}", path.display())]
    Authority {
        /// Its file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// The authorities cannot be used together.
    #[error("check clients' certificates")]
    Verifier(#[from] VerifierBuilderError),
}

impl TlsFiles {
    /// A TLS 1.3 server configuration for HTTP/2 that requires a client certificate. Session
    /// resumption is off, so every connection presents its certificate.
    pub(super) fn load(&self) -> Result<Tls, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(&self.client_ca)? {
            let path = || self.client_ca.clone();
            let added = authorities.add(certificate);
            added.map_err(|source| TlsError::Authority { path: path(), source })?;
        }
        let clients = WebPkiClientVerifier::builder_with_provider(
            Arc::new(authorities),
            Arc::clone(&provider),
        );
        let clients = clients.with_crls(self.revoked()?).build()?;
        let unusable =
            |source| TlsError::Unusable { cert: self.cert.clone(), key: self.key.clone(), source };
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|source| failed("a private key", &self.key, source))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(Arc::clone(&clients))
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        self.warn_of_open_key();
        Ok(Tls { server: Arc::new(config), clients })
    }

    /// Paths of all files.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let Self { cert, key, client_ca, crl } = self.clone();
        [cert, key, client_ca].into_iter().chain(crl).collect()
    }

    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        let mut all = Vec::new();
        for path in &self.crl {
            let found = CertificateRevocationListDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|source| failed("lists of revoked certificates", path, source))?;
            if found.is_empty() {
                let what = "list of revoked certificates";
                return Err(TlsError::Empty { what, path: path.clone() });
            }
            all.extend(found);
        }
        Ok(all)
    }

    fn warn_of_open_key(&self) {
        let mode = std::fs::metadata(&self.key).map_or(0, |meta| meta.permissions().mode());
        if mode & 0o007 != 0 {
            let path = self.key.display();
            tracing::warn!(%path, "private key is readable by all users on this host: chmod 600");
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| failed("certificates", path, source))?;
    if found.is_empty() {
        return Err(TlsError::Empty { what: "certificate", path: path.to_owned() });
    }
    Ok(found)
}

fn failed(what: &'static str, path: &Path, source: pem::Error) -> TlsError {
    TlsError::File { what, path: path.to_owned(), source }
}

/// Metadata of files, which changes when one is modified or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<[i64; 5]>>);

impl Stamp {
    /// Reads the metadata. Links are followed.
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let look = |path: &PathBuf| -> io::Result<[i64; 5]> {
            let meta = std::fs::metadata(path)?;
            let (dev, ino, size) = (meta.dev(), meta.ino(), meta.size());
            let place = [dev, ino, size].map(u64::cast_signed);
            Ok([place[0], place[1], place[2], meta.mtime(), meta.mtime_nsec()])
        };
        Self(paths.iter().map(|path| look(path).ok()).collect())
    }
}
