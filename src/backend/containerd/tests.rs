//! Tests of calls with a daemon that answers slowly, or not at all.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, ListSnapshotsResponse, UsageRequest,
    UsageResponse,
};
use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::*;
use crate::backend::{FsUsage, LayerUnpack, Lease};
use crate::lifecycle::Tasks;
use crate::model::StringMap;
use crate::model::image::{Descriptor, Digest};

/// The time limit of calls, and how long the daemon needs for a commit.
const LIMIT: Duration = Duration::from_secs(10);
const COMMIT: Duration = Duration::from_secs(30);

/// The daemon's content service: takes writes.
#[derive(Clone)]
struct Content;

/// The daemon's snapshot service, with a snapshot that it can measure once only.
#[derive(Clone, Default)]
struct Snapshots {
    measured: Arc<AtomicBool>,
}

/// A service of the daemon.
trait Stub: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    fn answer(&self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>>;
}

/// A stub as a server takes it.
#[derive(Clone)]
struct Served<S>(S);

impl<S: Stub> NamedService for Served<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Stub> tower::Service<http::Request<Body>> for Served<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.answer(request).map(Ok))
    }
}

impl Stub for Content {
    const NAME: &'static str = "containerd.services.content.v1.Content";

    fn answer(&self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<WriteContentResponse, WriteContentRequest>::default();
            let write = |request: Request<Streaming<WriteContentRequest>>| async move {
                Ok::<_, Status>(Response::new(request.into_inner().then(written).boxed()))
            };
            Grpc::new(codec).streaming(tower::service_fn(write), request).await
        })
    }
}

async fn written(
    message: std::result::Result<WriteContentRequest, Status>,
) -> std::result::Result<WriteContentResponse, Status> {
    let message = message?;
    if message.action() == WriteAction::Commit {
        tokio::time::sleep(COMMIT).await;
    }
    let offset = message.offset + i64::try_from(message.data.len()).unwrap();
    Ok(WriteContentResponse { action: message.action, offset, ..Default::default() })
}

impl Stub for Snapshots {
    const NAME: &'static str = "containerd.services.snapshots.v1.Snapshots";

    fn answer(&self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        let measured = Arc::clone(&self.measured);
        Box::pin(async move {
            let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            match call.as_str() {
                "Commit" => {
                    let codec = ProstCodec::<(), CommitSnapshotRequest>::default();
                    let commit = |_: Request<CommitSnapshotRequest>| async {
                        tokio::time::sleep(COMMIT).await;
                        Ok::<_, Status>(Response::new(()))
                    };
                    Grpc::new(codec).unary(tower::service_fn(commit), request).await
                }
                "List" => {
                    let codec =
                        ProstCodec::<ListSnapshotsResponse, ListSnapshotsRequest>::default();
                    let list = |_: Request<ListSnapshotsRequest>| async {
                        let all = futures::stream::iter([Ok::<_, Status>(listed())]);
                        Ok::<_, Status>(Response::new(all))
                    };
                    Grpc::new(codec).server_streaming(tower::service_fn(list), request).await
                }
                "Usage" => {
                    let codec = ProstCodec::<UsageResponse, UsageRequest>::default();
                    let usage = |request: Request<UsageRequest>| {
                        let used = match request.get_ref().key.as_str() {
                            "busy" if measured.swap(true, Ordering::Relaxed) => {
                                Err(Status::unknown("lstat /fs/tmp/1: no such file"))
                            }
                            "busy" => Ok(UsageResponse { size: 50, inodes: 1 }),
                            _ => Ok(UsageResponse { size: 1000, inodes: 3 }),
                        };
                        std::future::ready(used.map(Response::new))
                    };
                    Grpc::new(codec).unary(tower::service_fn(usage), request).await
                }
                _ => Status::unimplemented(call).into_http(),
            }
        })
    }
}

fn listed() -> ListSnapshotsResponse {
    let info = |name: &str, kind: Kind| Info {
        name: name.to_owned(),
        kind: kind.into(),
        ..Info::default()
    };
    ListSnapshotsResponse { info: vec![info("layer", Kind::Committed), info("busy", Kind::Active)] }
}

/// Starts the daemon on a socket, and a client of it.
fn daemon(folder: &Path, tasks: &Tasks) -> Arc<Shared> {
    let address = folder.join("daemon.sock");
    let calls = UnixListenerStream::new(UnixListener::bind(&address).unwrap());
    let server =
        Server::builder().add_service(Served(Content)).add_service(Served(Snapshots::default()));
    drop(tasks.spawn("daemon", async { server.serve_with_incoming(calls).await.unwrap() }));
    let deadlines = CallDeadlines { quick: LIMIT, slow: LIMIT };
    let options = Options { address, namespace: "podbay".into(), deadlines };
    Containerd::connect(options).unwrap().0
}

#[tokio::test(start_paused = true)]
async fn a_commit_may_take_longer_than_other_calls() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let shared = daemon(folder.path(), &tasks);
    let bytes = bytes::Bytes::from_static(b"a layer");
    let (digest, lease) = (Digest::of(&bytes), Lease("1".into()));
    let blob = (Some(&digest), bytes.len() as u64);
    let mut writer = blobs::open(Arc::clone(&shared), &lease, "layer", blob).await.unwrap();
    writer.write(bytes.clone()).await.unwrap();
    writer.commit(&StringMap::new()).await.expect("the blob");

    let layer = Descriptor {
        media_type: "layer".into(),
        digest: digest.clone(),
        size: bytes.len() as u64,
        annotations: StringMap::new(),
    };
    let unpack = LayerUnpack {
        lease: &lease,
        snapshotter: "overlayfs",
        layer: &layer,
        parent: None,
        chain: &digest,
        diff_id: &digest,
        labels: &StringMap::new(),
    };
    let committed = unpack::commit(&shared.client, &unpack, "key").await;
    assert!(committed.is_ok(), "the snapshot");
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_measured_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let shared = daemon(folder.path(), &tasks);
    for _ in 0..3 {
        let sum = snapshots::total_usage(&shared.client, &shared.usage, "overlayfs").await;
        assert_eq!(sum.unwrap(), FsUsage { bytes: 1050, inodes: 4 });
    }
}
