//! Tests of calls with a daemon that answers oddly.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use containerd_client::services::v1::snapshots::{
    Info, Kind, ListSnapshotsRequest, ListSnapshotsResponse, UsageRequest, UsageResponse,
};
use futures::future::BoxFuture;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::*;
use crate::backend::FsUsage;
use crate::lifecycle::Tasks;

/// The time limit of calls.
const LIMIT: Duration = Duration::from_millis(200);

/// The daemon's snapshot service, with a snapshot that it can measure once only.
#[derive(Clone, Default)]
struct Snapshots {
    measured: Arc<AtomicBool>,
}

impl NamedService for Snapshots {
    const NAME: &'static str = "containerd.services.snapshots.v1.Snapshots";
}

type Answer = std::result::Result<http::Response<Body>, Infallible>;

impl tower::Service<http::Request<Body>> for Snapshots {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let measured = Arc::clone(&self.measured);
        Box::pin(async move {
            let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match call.as_str() {
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
            })
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
    let server = Server::builder().add_service(Snapshots::default());
    drop(tasks.spawn("daemon", async { server.serve_with_incoming(calls).await.unwrap() }));
    let deadlines = CallDeadlines { quick: LIMIT, slow: LIMIT };
    let options = Options { address, namespace: "podbay".into(), deadlines };
    Containerd::connect(options).unwrap().0
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
