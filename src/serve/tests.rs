//! Tests of the server on a real socket, with fake services.

use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use tokio::sync::oneshot;
use tonic::codegen::BoxStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use super::*;
use crate::proto::runtime::v1::image_service_client::ImageServiceClient;
use crate::proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use crate::proto::runtime::v1::*;

const LIMIT: Duration = Duration::from_secs(10);

/// Answers a few calls by itself.
#[derive(Clone)]
struct Stub(CancellationToken);

#[tonic::async_trait]
impl RuntimeService for Stub {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(cri::version()))
    }

    async fn list_containers(
        &self,
        _: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        panic!("a bug in a handler")
    }

    async fn exec_sync(
        &self,
        request: Request<ExecSyncRequest>,
    ) -> Result<Response<ExecSyncResponse>, Status> {
        // The size is chosen by the test, to test messages in both directions.
        let stdout = vec![b'x'; request.into_inner().timeout as usize];
        Ok(Response::new(ExecSyncResponse { stdout, ..Default::default() }))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Result<Response<BoxStream<ContainerEventResponse>>, Status> {
        let closing = self.0.clone();
        Ok(Response::new(Box::pin(
            futures::stream::pending().take_until(closing.cancelled_owned()),
        )))
    }
}

#[tonic::async_trait]
impl ImageService for Stub {}

struct TestServer {
    folder: tempfile::TempDir,
    ready: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    running: tokio::task::JoinHandle<Result<(), Error>>,
}

impl TestServer {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SocketOptions { path: Self::path(folder.path()), mode: 0o600, gid: None };
        let listener = bind(&options).await.unwrap();
        let (ready, follow) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let closing = CancellationToken::new();
        let stub = Stub(closing.clone());
        let routes = doors(stub.clone(), stub);
        let stopped = async {
            let _ = stopped.await;
        };
        let incoming = connections(listener);
        let running = tokio::spawn(run(incoming, Door::local(), routes, follow, closing, stopped));
        Self { folder, ready, stop: Some(stop), running }
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join("podbay.sock")
    }

    async fn connect(&self) -> Channel {
        let path = Self::path(self.folder.path());
        Endpoint::from_shared(format!("unix://{}", path.display()))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(LIMIT, self.running).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn before_recovery_only_version_answers() {
    let server = TestServer::start().await;
    let mut runtime = RuntimeServiceClient::new(server.connect().await);
    let mut images = ImageServiceClient::new(server.connect().await);

    let version = runtime.version(VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!(version.version, "0.1.0");
    assert_eq!(version.runtime_name, "podbay");
    assert_eq!(version.runtime_version, env!("CARGO_PKG_VERSION"));
    assert_eq!(version.runtime_api_version, "v1");
    let early = [
        runtime.exec_sync(ExecSyncRequest::default()).await.unwrap_err(),
        images.list_images(ListImagesRequest::default()).await.unwrap_err(),
    ];
    for status in early {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "server is not initialized yet");
    }
    server.ready.send(true).unwrap();
    runtime.exec_sync(ExecSyncRequest::default()).await.unwrap();
    let status = images.list_images(ListImagesRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    server.stop().await;
}

#[tokio::test]
async fn health_follows_readiness_for_every_service() {
    let server = TestServer::start().await;
    let mut health = HealthClient::new(server.connect().await);
    for service in Door::local().names {
        let request = HealthCheckRequest { service: (*service).to_owned() };
        let mut watch = health.watch(request).await.unwrap().into_inner();
        let mut next = async || {
            let next = tokio::time::timeout(LIMIT, watch.message()).await.unwrap().unwrap();
            next.map(|answer| answer.status())
        };
        use tonic_health::pb::health_check_response::ServingStatus;
        assert_eq!(next().await, Some(ServingStatus::NotServing), "{service}");
        server.ready.send(true).unwrap();
        assert_eq!(next().await, Some(ServingStatus::Serving), "{service}");
        server.ready.send(false).unwrap();
        assert_eq!(next().await, Some(ServingStatus::NotServing), "{service}");
    }
    let unknown = HealthCheckRequest { service: "nobody".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn reflection_names_the_services_in_both_versions() {
    let server = TestServer::start().await;
    let wanted = ["grpc.health.v1.Health", "runtime.v1.ImageService", "runtime.v1.RuntimeService"];

    let mut new = v1::server_reflection_client::ServerReflectionClient::new(server.connect().await);
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let answers = new.server_reflection_info(futures::stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap();
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("no list")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(wanted.iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");

    let mut old =
        v1alpha::server_reflection_client::ServerReflectionClient::new(server.connect().await);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                "runtime.v1.PodSandboxConfig".to_owned(),
            ),
        ),
    };
    let answers = old.server_reflection_info(futures::stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap();
    assert!(matches!(
        answer.message_response,
        Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
    ));
    server.stop().await;
}

#[tokio::test]
async fn a_panic_costs_one_call_and_not_the_connection() {
    let server = TestServer::start().await;
    server.ready.send(true).unwrap();
    let mut runtime = RuntimeServiceClient::new(server.connect().await);
    let status = runtime.list_containers(ListContainersRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    runtime.version(VersionRequest::default()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn messages_may_have_sixteen_mebibytes() {
    let server = TestServer::start().await;
    server.ready.send(true).unwrap();
    let mut runtime = RuntimeServiceClient::new(server.connect().await)
        .max_decoding_message_size(2 * MAX_MESSAGE)
        .max_encoding_message_size(2 * MAX_MESSAGE);
    let big = MAX_MESSAGE - 64;
    let request =
        ExecSyncRequest { cmd: vec!["y".repeat(big)], timeout: big as i64, ..Default::default() };
    let answer = runtime.exec_sync(request).await.unwrap().into_inner();
    assert_eq!(answer.stdout.len(), big);
    let over = ExecSyncRequest { cmd: vec!["y".repeat(MAX_MESSAGE)], ..Default::default() };
    assert_eq!(runtime.exec_sync(over).await.unwrap_err().code(), Code::OutOfRange);
    server.stop().await;
}

#[tokio::test]
async fn the_end_closes_endless_streams_and_idle_connections() {
    let server = TestServer::start().await;
    server.ready.send(true).unwrap();
    let mut runtime = RuntimeServiceClient::new(server.connect().await);
    let events = runtime.get_container_events(GetEventsRequest::default()).await.unwrap();
    let mut health = HealthClient::new(server.connect().await);
    let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
    let begun = tokio::time::Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < LAST_CALLS, "the streams held the end up");
    assert_eq!(events.into_inner().count().await, 0);
    let statuses: Vec<_> = watch.into_inner().collect().await;
    assert!(statuses.iter().all(Result::is_ok), "{statuses:?}");
}
