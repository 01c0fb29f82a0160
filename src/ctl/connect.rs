//! The connection to an agent.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::util::BoxCloneService;

use super::context::{Address, Meant, TlsFiles};
use super::error::Error;
use crate::proto::podbay::v1::images_client::ImagesClient;
use crate::proto::podbay::v1::pods_client::PodsClient;

/// Time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of an answer: enough for a complete list of pods with their objects.
const MAX_ANSWER: usize = 64 << 20;

/// A client of an agent.
#[derive(Debug, Clone)]
pub struct Client {
    /// Service of its pods.
    pub pods: PodsClient<Channel>,
    /// Service of its images.
    pub images: ImagesClient<Channel>,
    meant: Meant,
}

impl Client {
    /// Connects to an agent.
    pub async fn connect(meant: Meant) -> Result<Self, Error> {
        let connector = Way::to(&meant.address)?.connector();
        let connected = endpoint().connect_with_connector(connector).await;
        let channel = connected.map_err(|error| Error::Connect {
            address: meant.shown.clone(),
            source: error.into(),
        })?;
        Ok(Self::over(channel, meant))
    }

    /// A client that connects with the first call, and again after the connection was lost. A call
    /// fails with Unavailable while that is not possible. Must be made inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the files of the context are invalid.
    pub fn lazy(meant: Meant) -> Result<Self, Error> {
        let connector = Way::to(&meant.address)?.connector();
        Ok(Self::over(endpoint().connect_with_connector_lazy(connector), meant))
    }

    fn over(channel: Channel, meant: Meant) -> Self {
        let pods = PodsClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let images = ImagesClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        Self { pods, images, meant }
    }

    /// The namespace to use: the named one, that of the context, or `default`.
    pub fn namespace(&self, named: Option<&str>) -> String {
        named.or(self.meant.namespace.as_deref()).unwrap_or("default").to_owned()
    }
}

fn endpoint() -> Endpoint {
    // The authority is not used on a unix socket, and TLS checks the certificate's name itself.
    Endpoint::from_static("http://podbay")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true)
}

/// How an agent is reached.
#[derive(Clone)]
enum Way {
    Unix(PathBuf),
    Tls { host: String, port: u16, tls: Tls },
}

/// A connection to an agent.
type Link = Either<UnixStream, TlsStream<TcpStream>>;

impl Way {
    fn to(address: &Address) -> Result<Self, Error> {
        Ok(match address {
            Address::Unix(path) => Self::Unix(path.clone()),
            Address::Tls { host, port, files } => {
                Self::Tls { host: host.clone(), port: *port, tls: Tls::load(files)? }
            }
        })
    }

    fn connector(self) -> BoxCloneService<Uri, TokioIo<Link>, io::Error> {
        BoxCloneService::new(tower::service_fn(move |_: Uri| {
            let way = self.clone();
            async move { way.open().await.map(TokioIo::new) }
        }))
    }

    async fn open(self) -> io::Result<Link> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).await.map(Either::Left),
            Self::Tls { host, port, tls } => {
                let tcp = TcpStream::connect((host.as_str(), port)).await?;
                tcp.set_nodelay(true)?;
                tls.connector.connect(tls.name, tcp).await.map(Either::Right)
            }
        }
    }
}

/// A TLS 1.3 client: verifies the agent with one authority, and presents the caller's certificate.
#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    fn load(files: &TlsFiles) -> Result<Self, Error> {
        let bad = |path: &std::path::Path, why: String| {
            Error::Misuse(format!("{}: {why}", path.display()))
        };
        let read = |path: &std::path::Path| -> Result<Vec<CertificateDer<'static>>, Error> {
            let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let all: Vec<_> = all.map_err(|error| bad(path, error.to_string()))?;
            if all.is_empty() {
                Err(bad(path, "contains no certificate".to_owned()))
            } else {
                Ok(all)
            }
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in read(&files.ca)? {
            roots.add(certificate).map_err(|error| bad(&files.ca, error.to_string()))?;
        }
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| bad(&files.key, error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Error::Misuse(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(read(&files.cert)?, key)
            .map_err(|error| bad(&files.cert, error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(files.server_name.clone())
            .map_err(|error| Error::Misuse(format!("server_name: {error}")))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }
}
