//! A remote agent: mutual TLS 1.3, certificates of a context.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use podbay::proto::podbay::v1::images_server::ImagesServer;
use podbay::proto::podbay::v1::pods_server::PodsServer;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::agent::{Agent, Fake};

/// An authority and what it has signed, as PEM.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key"));
        Self { issuer: issuer.expect("authority") }
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new([name.to_owned()]).expect("name");
        let signed = params.signed_by(&key, &self.issuer).expect("sign");
        (signed.pem(), key.serialize_pem())
    }
}

/// A connection that has passed.
struct Passed(TlsStream<TcpStream>);

impl Connected for Passed {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Passed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Passed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Serves a fake behind mutual TLS on a free port.
async fn serve(fake: Fake, authority: &Authority, tasks: &mut tokio::task::JoinSet<()>) -> u16 {
    let (cert, key) = authority.sign("agent-1");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).expect("root");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("verifier"))
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("pem")],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("pem"),
        )
        .expect("certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let passed = async_stream::stream! {
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            // Those who do not pass are told so by TLS itself.
            if let Ok(stream) = acceptor.accept(stream).await {
                yield Ok::<_, std::io::Error>(Passed(stream));
            }
        }
    };
    let router = tonic::transport::Server::builder()
        .add_service(PodsServer::new(fake.clone()))
        .add_service(ImagesServer::new(fake));
    tasks.spawn(async move { router.serve_with_incoming(passed).await.expect("serve") });
    port
}

fn write(folder: &Path, context: &str, port: u16, name: &str) -> String {
    std::fs::create_dir_all(folder).expect("folder");
    format!(
        "[contexts.{context}]\naddress = \"https://127.0.0.1:{port}\"\nca = \"ca.pem\"\n\
         cert = \"{context}.pem\"\nkey = \"{context}.key\"\nserver_name = \"{name}\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_agent_is_asked_with_certificates() {
    let agent = Agent::start().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let mut tasks = tokio::task::JoinSet::new();
    let port = serve(agent.fake.clone(), &authority, &mut tasks).await;
    let folder = agent.dir.path().join(".config/podbay");
    let mut text = write(&folder, "good", port, "agent-1");
    text.push_str(&write(&folder, "other", port, "agent-2"));
    text.push_str(&write(&folder, "stranger", port, "agent-1"));
    text.push_str(&write(&folder, "empty", port, "agent-1"));
    std::fs::write(folder.join("config.toml"), text).expect("contexts");
    std::fs::write(folder.join("ca.pem"), authority.issuer.pem()).expect("ca");
    for (context, by) in [("good", &authority), ("other", &authority), ("stranger", &stranger)] {
        let (cert, key) = by.sign("me");
        std::fs::write(folder.join(format!("{context}.pem")), cert).expect("cert");
        std::fs::write(folder.join(format!("{context}.key")), key).expect("key");
    }
    let done = agent.run(&["--context", "good", "get", "pods"]).await;
    assert_eq!((done.code, done.err.as_str()), (0, "No resources found in default namespace.\n"));
    agent.state(|state| state.images.insert("b:2".to_owned(), 1));
    let listed = agent.run(&["--context", "good", "images", "-o", "name"]).await.good();
    assert_eq!(listed, "b:2\n", "images are there as well");
    let fault = agent.run(&["--context", "other", "get", "pods"]).await.bad(4);
    assert!(fault.contains("certificate"), "the name is another: {fault}");
    let asked = agent.state(|state| state.asked.len());
    let fault = agent.run(&["--context", "stranger", "get", "pods"]).await.bad(4);
    assert!(fault.starts_with("error: ") && !fault.ends_with("transport error\n"), "{fault}");
    assert_eq!(agent.state(|state| state.asked.len()), asked, "a stranger asks nothing");
    let fault = agent.run(&["--context", "empty", "get", "pods"]).await.bad(2);
    assert!(fault.contains("empty."), "the file is named: {fault}");
}
