//! The front hall: gRPC servers on unix sockets. Only here (and in the client commands) are
//! wire types known; behind the handlers everything is podbay's own types.

mod cri;
mod front;
pub mod pods;
mod socket;
mod status;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::time::Duration;

use futures::Stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use cri::{CriServices, Identity};
pub use pods::PodServices;
pub use socket::{SocketError, SocketOptions, bind};

use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::podbay::v1::pods_server::{self, PodsServer};
use crate::proto::runtime::v1::image_service_server::{self, ImageService, ImageServiceServer};
use crate::proto::runtime::v1::runtime_service_server::{
    self, RuntimeService, RuntimeServiceServer,
};

/// Both ways, as kubelet and crictl have it.
const MAX_MESSAGE: usize = 16 << 20;

/// Calls of one connection at a time: a kubelet makes all of its calls on one, and stops of many
/// containers must not hold up a list.
const MAX_STREAMS: u32 = 1024;

/// A silent connection is asked for a sign of life this often, …
const KEEPALIVE: Duration = Duration::from_secs(30);

/// … and closed when none comes.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long calls in flight may take to end once the agent stops. Changing calls go on in the
/// rooms that own them; only their callers do not hear of it any more.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Pause after a failed accept: there may be no file descriptors for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Names that the health service knows; "" stands for all.
const HEALTH_NAMES: [&str; 4] = [
    "",
    runtime_service_server::SERVICE_NAME,
    image_service_server::SERVICE_NAME,
    pods_server::SERVICE_NAME,
];

/// A server that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compiled descriptors cannot be served.
    #[error("build the reflection service")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("serve gRPC")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves the CRI, whole pods, health and reflection on a socket until `shutdown` ends.
///
/// Until `ready` is true every call but the CRI's Version answers Unavailable and health says
/// NOT_SERVING. After `shutdown` nothing new is accepted, endless streams end, and calls in
/// flight have five seconds.
pub async fn serve(
    listener: UnixListener,
    services: CriServices,
    pods: Option<PodServices>,
    ready: watch::Receiver<bool>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let closing = CancellationToken::new();
    let cri = cri::Cri::new(services, closing.clone());
    let mut routes = doors(cri.clone(), cri);
    if let Some(pods) = pods {
        routes = routes.add_service(pods_door(pods::Pods::new(pods, closing.clone())));
    }
    run(listener, routes, ready, closing, shutdown).await
}

/// The service of whole pods with its limits.
fn pods_door(pods: pods::Pods) -> PodsServer<pods::Pods> {
    PodsServer::new(pods)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// The CRI services with their limits.
fn doors(runtime: impl RuntimeService, images: impl ImageService) -> Routes {
    let runtime = RuntimeServiceServer::new(runtime)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let images = ImageServiceServer::new(images)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    Routes::new(runtime).add_service(images)
}

/// Serves `routes` beside health and reflection. `closing` is cancelled when the end begins.
async fn run(
    listener: UnixListener,
    routes: Routes,
    ready: watch::Receiver<bool>,
    closing: CancellationToken,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    report(&health, false).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = routes
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
        .layer(front::FrontLayer::new(ready.clone()))
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections(listener), closing.clone().cancelled_owned());
    // Cancel-safe: whichever ends, the other is not needed any more.
    tokio::select! {
        ended = server => Ok(ended?),
        () = conduct(health, ready, closing, shutdown) => {
            tracing::warn!("calls did not end within {LAST_CALLS:?} and are cut off");
            Ok(())
        }
    }
}

/// Keeps health true, then opens the end; returns when the last calls have had their time.
async fn conduct(
    mut health: HealthReporter,
    ready: watch::Receiver<bool>,
    closing: CancellationToken,
    shutdown: impl Future<Output = ()>,
) {
    // Cancel-safe: following readiness holds nothing.
    tokio::select! {
        () = shutdown => {}
        () = follow(&health, ready) => {}
    }
    report(&health, false).await;
    for name in HEALTH_NAMES {
        // Ends the watches, which are endless otherwise.
        health.clear_service_status(name).await;
    }
    closing.cancel();
    tokio::time::sleep(LAST_CALLS).await;
}

/// Never ends: an agent whose readiness nobody changes any more stays as it is.
async fn follow(health: &HealthReporter, mut ready: watch::Receiver<bool>) {
    loop {
        let serving = *ready.borrow_and_update();
        report(health, serving).await;
        if ready.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn report(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// Accepted connections. A failed accept costs a pause, never the server.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    futures::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(connection), listener)),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}
