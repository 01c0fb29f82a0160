//! A certificate authority, a server in a directory of its own, and clients.

use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore, SupportedProtocolVersion};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1;

use super::super::super::{About, Error, Grant, Subject};
use super::super::*;
use crate::proto::podbay::v1::pods_server::{Pods, PodsServer};
use crate::proto::podbay::v1::*;

pub const LIMIT: Duration = Duration::from_secs(20);

/// A certificate and its key, PEM.
pub struct Made {
    pub cert: String,
    pub key: String,
}

/// About midnight, `days` from now.
pub fn day(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(days)
}

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn made(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Made {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (day(-1), day(1));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap().pem();
        Made { cert, key: key.serialize_pem() }
    }

    /// A revocation list with these certificates.
    pub fn crl(&self, made: &[&Made]) -> String {
        let serial = |made: &&Made| {
            let (_, pem) = x509_parser::pem::parse_x509_pem(made.cert.as_bytes()).unwrap();
            SerialNumber::from_slice(pem.parse_x509().unwrap().raw_serial())
        };
        let revoked = |made| RevokedCertParams {
            serial_number: serial(made),
            revocation_time: day(-1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: day(-1),
            next_update: day(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: made.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    pub fn client(&self, name: &str) -> Made {
        self.made(name, |_| {})
    }

    pub fn agent(&self) -> Made {
        self.made("agent", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names =
                vec![rcgen::SanType::DnsName("agent.example".try_into().unwrap())];
        })
    }
}

/// A service that accepts every call.
pub struct Stub;

#[tonic::async_trait]
impl Pods for Stub {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let namespace = request.get_ref().namespace.clone();
        Grant::of(&request)?.check(&namespace)?;
        Ok(Response::new(GetResponse::default()))
    }

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        Subject::of(&request).set(About { dry_run: true, ..About::new("default/web") });
        Ok(Response::new(ApplyResponse::default()))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        Subject::of(&request).set(About::new("default/*"));
        Err(Status::not_found("pod default/web is not found"))
    }

    async fn restart_container(
        &self,
        request: Request<RestartContainerRequest>,
    ) -> Result<Response<RestartContainerResponse>, Status> {
        Subject::of(&request).set(About::new("default/slow"));
        std::future::pending().await
    }
}

const POLICY: &str = r#"
[[allow]]
names = ["cn:view"]
role = "view"
[[allow]]
names = ["cn:operate"]
role = "operate"
[[allow]]
names = ["cn:admin"]
role = "admin"
[[allow]]
names = ["cn:team"]
role = "operate"
namespaces = ["team-a"]
"#;

/// Stops the server, and its result.
type Running = (oneshot::Sender<()>, JoinHandle<Result<(), Error>>);

pub struct World {
    folder: tempfile::TempDir,
    pub authority: Authority,
    pub address: SocketAddr,
    running: Option<Running>,
    looked: watch::Receiver<u32>,
    _ready: watch::Sender<bool>,
}

impl World {
    /// Writes all files, without starting a server.
    pub fn new() -> Self {
        let authority = Authority::new("own");
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            authority,
            address: ([127, 0, 0, 1], 0).into(),
            running: None,
            looked: watch::channel(0).1,
            _ready: watch::Sender::new(true),
        };
        world.write("ca.crt", &world.authority.pem());
        world.write("ca.crl", &world.authority.crl(&[]));
        world.install(&world.authority.agent());
        world.write("policy.toml", POLICY);
        world
    }

    pub async fn start() -> Self {
        let mut world = Self::new();
        let remote = Remote::open(world.options()).await.unwrap();
        world.address = remote.address();
        world.looked = remote.files.looked.subscribe();
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let routes = Routes::new(PodsServer::new(Stub));
        let ready = world._ready.subscribe();
        let closing = CancellationToken::new();
        let serving = serve_remote(remote, routes, ready, closing, stopped);
        world.running = Some((stop, tokio::spawn(serving)));
        world
    }

    pub async fn stop(mut self) {
        let (stop, running) = self.running.take().unwrap();
        let _ = stop.send(());
        tokio::time::timeout(LIMIT, running).await.unwrap().unwrap().unwrap();
    }

    pub fn options(&self) -> RemoteOptions {
        RemoteOptions {
            address: ([127, 0, 0, 1], 0).into(),
            tls: TlsFiles {
                cert: self.path("agent.crt"),
                key: self.path("agent.key"),
                client_ca: self.path("ca.crt"),
                crl: vec![self.path("ca.crl")],
            },
            policy: self.path("policy.toml"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file atomically.
    pub fn write(&self, name: &str, text: &str) {
        let draft = self.path("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.path(name)).unwrap();
    }

    pub fn install(&self, agent: &Made) {
        self.write("agent.crt", &agent.cert);
        self.write("agent.key", &agent.key);
    }

    /// Waits until the files were checked twice more: the first check may have begun before.
    pub async fn settle(&self) {
        let mut looked = self.looked.clone();
        let enough = *looked.borrow() + 2;
        let waiting = looked.wait_for(|looked| *looked >= enough);
        tokio::time::timeout(LIMIT, waiting).await.expect("in time").expect("it serves");
    }

    pub async fn until(&self, mut holds: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("in time");
    }

    /// A client with a certificate of this common name.
    pub async fn caller(&self, name: &str) -> Caller {
        self.connect(&self.authority.client(name)).await
    }

    pub async fn connect(&self, made: &Made) -> Caller {
        self.channel(client_config(&self.authorities(), Some(made), &rustls::version::TLS13)).await
    }

    /// The authority of the agent's certificate and, after a change, the one in its file.
    fn authorities(&self) -> [String; 2] {
        let now = std::fs::read_to_string(self.path("ca.crt")).unwrap();
        [self.authority.pem(), now]
    }

    async fn channel(&self, config: ClientConfig) -> Caller {
        let address = self.address;
        let connector = TlsConnector::from(Arc::new(config));
        let connect = tower::service_fn(move |_: http::Uri| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("agent.example").unwrap();
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        let endpoint = Endpoint::from_static("http://agent.example");
        Caller(endpoint.connect_with_connector(connect).await.unwrap())
    }

    /// The TLS alert for this certificate; `None` when it is accepted.
    pub async fn refusal(
        &self,
        made: Option<&Made>,
        version: &'static SupportedProtocolVersion,
    ) -> Option<AlertDescription> {
        let connector =
            TlsConnector::from(Arc::new(client_config(&self.authorities(), made, version)));
        let attempt = async || {
            let stream = TcpStream::connect(self.address).await?;
            let name = ServerName::try_from("agent.example").unwrap();
            let mut stream = connector.connect(name, stream).await?;
            // In TLS 1.3 the server verifies the certificate after the client's handshake is
            // complete.
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
            stream.read_exact(&mut [0]).await.map(drop)
        };
        let answered = async {
            loop {
                match attempt().await {
                    // It was accepted while the files changed.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                    answer => return answer,
                }
            }
        };
        let error = tokio::time::timeout(LIMIT, answered).await.expect("in time").err()?;
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
            _ => panic!("{error:?}"),
        }
    }
}

fn client_config(
    authorities: &[String],
    made: Option<&Made>,
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match made {
        None => builder.with_no_client_auth(),
        Some(made) => {
            let chain = vec![CertificateDer::from_pem_slice(made.cert.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A client that calls RPCs by path.
pub struct Caller(pub Channel);

impl Caller {
    /// Calls with an empty message and returns the status in the response head. An RPC that the
    /// stub does not serve counts as allowed.
    pub async fn call(&mut self, path: &'static str) -> Result<(), Status> {
        let mut client = tonic::client::Grpc::new(self.0.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<(), ()>::default();
        let request = Request::new(());
        let path = http::uri::PathAndQuery::from_static(path);
        let call = client.server_streaming(request, path, codec);
        match tokio::time::timeout(LIMIT, call).await.expect("in time") {
            Err(status) if status.code() != Code::Unimplemented => Err(status),
            _ => Ok(()),
        }
    }

    /// The services listed by reflection, except reflection itself.
    pub async fn services(&self) -> Vec<String> {
        use v1::server_reflection_request::MessageRequest;
        use v1::server_reflection_response::MessageResponse;
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(self.0.clone());
        let list = Some(MessageRequest::ListServices(String::new()));
        let request = v1::ServerReflectionRequest { host: String::new(), message_request: list };
        let answers = client.server_reflection_info(futures::stream::iter([request])).await;
        let answer = answers.unwrap().into_inner().next().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("no list")
        };
        let names = list.service.into_iter().map(|service| service.name);
        let mut names: Vec<_> = names.filter(|name| !name.contains("reflection")).collect();
        names.sort();
        names
    }
}
