//! TLS for probes, which accepts any certificate.

use std::io;
use std::sync::{Arc, LazyLock};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::image::accept_any_certificate;

/// A connection with or without TLS.
pub(super) type Stream = Box<dyn Connection>;

/// Bytes both ways.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Performs the TLS handshake, offering HTTP/2 if `http2`. The caller limits the time.
pub(super) async fn encrypt(stream: TcpStream, host: &str, http2: bool) -> io::Result<Stream> {
    static PLAIN: LazyLock<Result<Arc<ClientConfig>, rustls::Error>> =
        LazyLock::new(|| config(&[]));
    static HTTP2: LazyLock<Result<Arc<ClientConfig>, rustls::Error>> =
        LazyLock::new(|| config(&[b"h2"]));
    let config = if http2 { &*HTTP2 } else { &*PLAIN };
    let config = config.as_ref().map_err(|error| io::Error::other(error.clone()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::clone(config));
    Ok(Box::new(connector.connect(name, stream).await?))
}

fn config(protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(accept_any_certificate(provider))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}
