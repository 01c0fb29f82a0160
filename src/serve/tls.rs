//! Keys and certificates of the remote door, and whether their files have changed.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of the agent, those of intermediate authorities behind it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that clients' certificates must come from.
    pub client_ca: PathBuf,
    /// Their lists of revoked certificates. With any, each authority of a certificate needs one.
    pub crl: Vec<PathBuf>,
}

/// What the files are good for.
#[derive(Debug)]
pub(super) struct Tls {
    /// The server's side.
    pub(super) server: Arc<ServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// Whether a client with these certificates, its own first, would be let in now.
    pub(super) fn check(&self, certificates: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let (own, others) =
            certificates.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.clients.verify_client_cert(own, others, UnixTime::now()).map(drop)
    }
}

/// Files that no server can be made of.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("read {what} from {}", path.display())]
    File {
        /// What should be in it.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: pem::Error,
    },
    /// A file holds nothing that is looked for.
    #[error("there is no {what} in {}", path.display())]
    Empty {
        /// What is looked for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// Certificate and key do not fit, or one of them is of no use.
    #[error("use the certificate {} with the key {}", cert.display(), key.display())]
    Unusable {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// An authority is none.
    #[error("use the certificate authority {}", path.display())]
    Authority {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// The authorities cannot be used together.
    #[error("check clients' certificates")]
    Verifier(#[from] VerifierBuilderError),
}

impl TlsFiles {
    /// A server's side of TLS 1.3 for HTTP/2, which demands a client certificate. No session is
    /// resumed: every connection shows its certificate anew.
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

    /// All files.
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
            tracing::warn!(%path, "everybody on this host can read the private key: chmod 600");
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

/// What files look like from outside: it differs when one was changed or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<[i64; 5]>>);

impl Stamp {
    /// Looks at the files. Links are followed: what they lead to counts.
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
