//! A private registry: the distribution's own daemon on a free local port, with its files in a
//! temporary folder, optionally behind a password or TLS.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use tempfile::TempDir;

use super::images::{Blob, Bundle};
use super::process::Daemon;

/// The user of a registry started with [`Options::password`].
pub const USER: &str = "podbay";
/// Its password.
pub const PASSWORD: &str = "secret";
/// bcrypt of [`PASSWORD`], cost 5: the daemon reads no other form.
const HTPASSWD: &str = "podbay:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// How a registry is protected.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Wants [`USER`] and [`PASSWORD`] (HTTP Basic).
    pub password: bool,
    /// Serves HTTPS with a certificate of its own CA, for `localhost` and 127.0.0.1.
    pub tls: bool,
}

/// A running registry. Dropping it ends it and removes its files.
pub struct Registry {
    daemon: Daemon,
    folder: TempDir,
    port: u16,
    options: Options,
    client: Client,
}

impl Registry {
    /// Open, plain HTTP.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// With these protections. Waits until it answers.
    pub async fn start_with(options: Options) -> Self {
        let mut folder =
            tempfile::Builder::new().prefix("podbay-registry-").tempdir().expect("a folder");
        let mut client = client(&folder, options);
        // A port that was free a moment ago can be taken by somebody else: then try another.
        for _ in 0..5 {
            let port = free_port();
            let config = write_config(&folder, port, options);
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(config).env("OTEL_TRACES_EXPORTER", "none");
            let daemon = Daemon::start(&mut command, &folder.path().join("log"));
            let mut registry = Self { daemon, folder, port, options, client };
            if registry.answers(Duration::from_secs(20)).await {
                return registry;
            }
            Self { folder, client, .. } = registry;
        }
        panic!("the registry did not start: {}", folder.path().display());
    }

    async fn answers(&mut self, limit: Duration) -> bool {
        let answer = super::eventually(limit, async || {
            if self.daemon.ended().is_some() {
                return Some(false);
            }
            let sent = self.request(Method::GET, "").send().await;
            sent.ok().map(|answer| answer.status() == StatusCode::OK)
        });
        answer.await.unwrap_or(false)
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The CA to trust, when TLS is on.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Where the daemon keeps blobs and links, for tests that damage them.
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Ends the daemon; its files and its port stay promised to [`Registry::go_on`].
    pub fn stop(&mut self) {
        self.daemon.kill9();
    }

    /// Starts it again on the same port after [`Registry::stop`].
    pub async fn go_on(&mut self) {
        let config = self.folder.path().join("config.yml");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config).env("OTEL_TRACES_EXPORTER", "none");
        self.daemon = Daemon::start(&mut command, &self.folder.path().join("log"));
        assert!(self.answers(Duration::from_secs(20)).await, "{}", self.daemon.last_words());
    }

    /// Pushes under `repository:tag`; returns the whole reference.
    pub async fn push(&self, bundle: &Bundle, repository: &str, tag: &str) -> String {
        for blob in &bundle.blobs {
            self.push_blob(repository, blob).await;
        }
        for manifest in &bundle.manifests {
            self.push_manifest(repository, &manifest.digest, manifest).await;
        }
        self.push_manifest(repository, tag, &bundle.root).await;
        format!("{}/{repository}:{tag}", self.host())
    }

    /// Uploads one blob in one piece.
    pub async fn push_blob(&self, repository: &str, blob: &Blob) {
        let begun = self.request(Method::POST, &format!("{repository}/blobs/uploads/"));
        let begun = accepted(begun.send().await, "begin an upload").await;
        let place = begun.headers()[LOCATION].to_str().expect("a text location").to_owned();
        let place = if place.starts_with("http") { place } else { self.origin() + &place };
        let sign = if place.contains('?') { '&' } else { '?' };
        let put = self.client.put(format!("{place}{sign}digest={}", blob.digest));
        accepted(self.signed(put).body(blob.bytes.clone()).send().await, "upload a blob").await;
    }

    /// Puts any manifest under a tag or its digest; the registry checks it.
    pub async fn push_manifest(&self, repository: &str, name: &str, manifest: &Blob) {
        let put = self.request(Method::PUT, &format!("{repository}/manifests/{name}"));
        let put = put.header(CONTENT_TYPE, &manifest.media_type).body(manifest.bytes.clone());
        accepted(put.send().await, "put a manifest").await;
    }

    fn origin(&self) -> String {
        format!("{}://{}", if self.options.tls { "https" } else { "http" }, self.host())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.signed(self.client.request(method, format!("{}/v2/{path}", self.origin())))
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        if self.options.password { request.basic_auth(USER, Some(PASSWORD)) } else { request }
    }
}

async fn accepted(answer: reqwest::Result<Response>, what: &str) -> Response {
    let answer = answer.unwrap_or_else(|e| panic!("cannot {what}: {e:?}"));
    let status = answer.status();
    if status.is_success() {
        return answer;
    }
    let body = answer.text().await.unwrap_or_default();
    panic!("cannot {what}: the registry answers {status}: {body}")
}

/// A port of 127.0.0.1 that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn client(folder: &TempDir, options: Options) -> Client {
    // Err: another test of this process has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = Client::builder().no_proxy().timeout(Duration::from_secs(30));
    if options.tls {
        let ca = make_certificates(folder);
        client = client.tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("our CA")]);
    }
    client.build().expect("an HTTP client")
}

/// Writes ca.pem, cert.pem and key.pem; returns the CA.
fn make_certificates(folder: &TempDir) -> Vec<u8> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.distinguished_name.push(rcgen::DnType::CommonName, "podbay test CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a CA").pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = CertificateParams::new(names).expect("parameters");
    let cert = leaf.signed_by(&key, &issuer).expect("a certificate").pem();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file of the registry");
    };
    write("ca.pem", &ca_pem);
    write("cert.pem", &cert);
    write("key.pem", &key.serialize_pem());
    ca_pem.into_bytes()
}

fn write_config(folder: &TempDir, port: u16, options: Options) -> PathBuf {
    let at = folder.path().display();
    let mut text = format!(
        "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {at}/data\n  delete:\n    enabled: true\n\
         http:\n  addr: 127.0.0.1:{port}\n"
    );
    if options.tls {
        text += &format!("  tls:\n    certificate: {at}/cert.pem\n    key: {at}/key.pem\n");
    }
    if options.password {
        std::fs::write(folder.path().join("htpasswd"), HTPASSWD).expect("the password file");
        text += &format!("auth:\n  htpasswd:\n    realm: podbay\n    path: {at}/htpasswd\n");
    }
    let path = folder.path().join("config.yml");
    std::fs::write(&path, text).expect("the registry's configuration");
    path
}
