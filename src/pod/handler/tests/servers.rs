//! Valid and misbehaving servers.

use std::sync::{Arc, Mutex};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What a server does after it has read the head of a request.
pub(crate) enum Reply {
    /// Sends this and closes.
    Whole(String),
    /// Sends this and then letters for as long as possible.
    Endless(String),
    /// Sends this, and then keeps the connection open silently.
    Stuck(String),
}

impl Reply {
    pub(crate) fn ok(body: &str) -> Self {
        Self::Whole(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    pub(crate) fn to(location: &str) -> Self {
        Self::Whole(format!(
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        ))
    }
}

/// A server on 127.0.0.1, with the heads of the requests it received.
pub(crate) struct Server {
    pub port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

pub(crate) async fn serve(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (kept, answer) = (Arc::clone(&heads), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            tokio::spawn(async move {
                let head = head(&mut stream).await;
                kept.lock().unwrap().push(head.clone());
                reply(&mut stream, answer(&head)).await;
            });
        }
    });
    Server { port, heads }
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
        // A TLS ClientHello: its end is not detected here.
        if head.len() == 64 && head[0] == 22 {
            break;
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

async fn reply(stream: &mut TcpStream, reply: Reply) {
    match reply {
        Reply::Whole(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
            // Closing with unread bytes would cause a reset that may overtake the answer.
            let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
        }
        Reply::Endless(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            while stream.write_all(&[b'y'; 4096]).await.is_ok() {}
        }
        Reply::Stuck(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            std::future::pending::<()>().await;
        }
    }
}

/// An acceptor with a self-signed certificate.
pub(crate) fn acceptor(protocols: &[&[u8]]) -> TlsAcceptor {
    let own = rcgen::generate_simple_self_signed(vec!["nobody.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A TLS server that always sends the same answer.
pub(crate) struct TlsServer {
    pub port: u16,
}

impl TlsServer {
    pub(crate) async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = acceptor(&[]);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut first = [0; 1024];
                let _ = stream.read(&mut first).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { port }
    }
}
