//! The servers of an agent without free file descriptors: they stay usable.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// What the agent may open, and a crowd that wants more.
const DESCRIPTORS: usize = 160;
const CROWD: usize = 600;

/// Far less than the pauses of the doors add up to for a crowd; the machine may be busy.
const SOON: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(60);

const PODBAY: &str = env!("CARGO_BIN_EXE_podbay");

/// An agent without a containerd, which nobody needs here, in a folder of its own.
struct Agent {
    folder: tempfile::TempDir,
    child: Child,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let pki = path("pki");
        for words in [&["init"][..], &["agent", "--san", "localhost"], &["client", "alice"]] {
            let made =
                Command::new(PODBAY).arg("certs").args(words).arg("--dir").arg(&pki).output();
            assert!(made.expect("podbay certs").status.success(), "{words:?}");
        }
        std::fs::write(path("policy.toml"), "[[allow]]\nnames = [\"cn:alice\"]\nrole = \"view\"\n")
            .expect("the policy");
        std::fs::write(path("podbay.toml"), config(folder.path())).expect("the configuration");
        let log = std::fs::File::create(path("log")).expect("a log");
        let line = format!("ulimit -n {DESCRIPTORS}; exec \"$0\" agent --config \"$1\"");
        let child = Command::new("sh")
            .args(["-c", &line, PODBAY])
            .arg(path("podbay.toml"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log again"))
            .stderr(log)
            .spawn()
            .expect("an agent");
        let agent = Self { folder, child };
        agent.until("it listens", || agent.log().contains("remote API is listening")).await;
        agent
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("the log")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// That descriptors ran out, and that the log tells it rarely.
    async fn ran_out(&self, what: &str) {
        self.until("descriptors ran out", || self.log().contains(what)).await;
        let told = self.log().matches(what).count();
        assert!(told < 60, "{told} lines\n{}", self.log());
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "not: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The address of the remote API, from the log.
    fn address(&self) -> String {
        self.address_in("remote API is listening")
    }

    /// The address in the first line of the log with this text.
    fn address_in(&self, text: &str) -> String {
        let log = self.log();
        let line = log.lines().find(|line| line.contains(text)).expect("a line");
        let address = line.split("address=").nth(1).expect("an address");
        address.split_whitespace().next().expect("an address").trim_matches('"').to_owned()
    }

    async fn unix(&self) -> Result<Channel, tonic::transport::Error> {
        let path = self.path("podbay.sock");
        Endpoint::from_shared(format!("unix://{}", path.display())).expect("a path").connect().await
    }

    async fn remote(&self) -> Result<Channel, tonic::transport::Error> {
        let (address, connector) = (self.address(), self.connector());
        let connect = tower::service_fn(move |_: http::Uri| {
            let (address, connector) = (address.clone(), connector.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("localhost").expect("a name");
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connect).await
    }

    fn connector(&self) -> TlsConnector {
        let read = |name: &str| self.path("pki").join(name);
        let cert = |name| CertificateDer::from_pem_file(read(name)).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(cert("ca.crt")).expect("an authority");
        let key = PrivateKeyDer::from_pem_file(read("alice.key")).expect("a key");
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("TLS 1.3")
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![cert("alice.crt")], key)
                .expect("a client");
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

fn config(folder: &Path) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let pki = |name: &str| path(&format!("pki/{name}"));
    format!(
        "root = {:?}\nstate = {:?}\n[cri]\nsocket = {:?}\n[containerd]\naddress = {:?}\n\
         [network]\nconf_dir = {:?}\ncache_dir = {:?}\nnetns_dir = {:?}\n\
         [streaming]\naddress = \"127.0.0.1:0\"\n\
         [pods]\nmanifests = {:?}\nlog_root = {:?}\n\
         [remote]\naddress = \"127.0.0.1:0\"\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\npolicy = {:?}\n",
        path("root"),
        path("state"),
        path("podbay.sock"),
        path("nobody.sock"),
        path("net.d"),
        path("cache"),
        path("netns"),
        path("manifests"),
        path("logs"),
        pki("agent.crt"),
        pki("agent.key"),
        pki("ca.crt"),
        path("policy.toml"),
    )
}

/// That a client of the streaming server is answered; how long it took.
async fn answered(address: &str) -> Duration {
    let begun = Instant::now();
    let ask = async || {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(b"GET /exec/x HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.map(|_| answer)
    };
    let asked = async {
        while !ask().await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 404 ")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("an answer");
    begun.elapsed()
}

/// That somebody is served; how long it took.
async fn served(connect: impl AsyncFn() -> Result<Channel, tonic::transport::Error>) -> Duration {
    let begun = Instant::now();
    let asked = async {
        loop {
            if let Ok(channel) = connect().await {
                let request = HealthCheckRequest { service: String::new() };
                if HealthClient::new(channel).check(request).await.is_ok() {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("somebody answers");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doors_without_descriptors_stay_open() {
    let agent = Agent::start().await;
    served(async || agent.unix().await).await;
    served(async || agent.remote().await).await;

    // Strangers of the network: they have to make room while they are still there.
    let crowd = |address: &str| -> Vec<_> {
        (0..CROWD).map(|_| std::net::TcpStream::connect(address).expect("connect")).collect()
    };
    let strangers = crowd(&agent.address());
    let took = served(async || agent.remote().await).await;
    assert!(took < SOON, "{took:?}\n{}", agent.log());
    agent.ran_out("accept a remote connection").await;
    drop(strangers);
    let streaming = agent.address_in("streaming server is listening");
    let strangers = crowd(&streaming);
    let took = answered(&streaming).await;
    assert!(took < SOON, "{took:?}\n{}", agent.log());
    agent.ran_out("accept a streaming connection").await;
    drop(strangers);

    // Friends of the host, who keep what they have got.
    let socket = agent.path("podbay.sock");
    let mut friends = Vec::new();
    while friends.len() < CROWD && !agent.log().contains("accept a connection") {
        let socket = socket.clone();
        let connect = tokio::task::spawn_blocking(move || UnixStream::connect(socket));
        match tokio::time::timeout(Duration::from_secs(1), connect).await {
            Ok(connected) => friends.extend(connected.expect("no panic")),
            // The queue before the door is full, too.
            Err(_) => break,
        }
    }
    agent.until("descriptors ran out", || agent.log().contains("accept a connection")).await;
    drop(friends);
    for took in
        [served(async || agent.unix().await).await, served(async || agent.remote().await).await]
    {
        assert!(took < SOON, "{took:?}\n{}", agent.log());
    }
}
