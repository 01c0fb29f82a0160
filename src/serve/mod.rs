//! gRPC servers on a unix socket, and over TCP for clients with a certificate. Wire types are known
//! only here and in the command line client; behind the handlers there are only podbay's own types.

mod auth;
mod cri;
mod front;
mod images;
pub mod pods;
mod prompt;
mod quota;
mod remote;
mod socket;
mod status;
mod tls;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use auth::{About, Grant, Policy, PolicyFaults, Role, Subject};
pub use cri::{CriServices, Identity};
pub use pods::PodServices;
pub use remote::{Remote, RemoteError, RemoteOptions, serve_remote};
pub use socket::{SocketError, SocketOptions, bind};
pub use tls::{TlsError, TlsFiles};

use crate::lifecycle::ACCEPT_PAUSE;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::podbay::v1::images_server::{self, ImagesServer};
use crate::proto::podbay::v1::pods_server::{self, PodsServer};
use crate::proto::runtime::v1::image_service_server::{self, ImageService, ImageServiceServer};
use crate::proto::runtime::v1::runtime_service_server::{
    self, RuntimeService, RuntimeServiceServer,
};
use crate::telemetry::Seldom;

/// Maximum message size in both directions, the same as in kubelet and crictl.
const MAX_MESSAGE: usize = 16 << 20;

/// Maximum number of concurrent calls per connection. A kubelet makes all its calls on one
/// connection, and many container stops must not block a list.
const MAX_STREAMS: u32 = 1024;

/// Interval of HTTP/2 keep-alive pings on a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection is closed if a ping is not answered within this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long calls in progress may take once the agent stops. Changing calls continue in the rooms
/// that own them; only their callers do not get the result.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// How the two servers (unix socket, TCP) differ.
struct Door {
    auth: auth::AuthLayer,
    /// Service names known to the health service; "" stands for all.
    names: &'static [&'static str],
    /// The file descriptors served by reflection.
    descriptors: Vec<u8>,
}

impl Door {
    /// The unix socket.
    fn local() -> Self {
        let names = &[
            "",
            runtime_service_server::SERVICE_NAME,
            image_service_server::SERVICE_NAME,
            pods_server::SERVICE_NAME,
            images_server::SERVICE_NAME,
        ];
        let auth = auth::AuthLayer::local();
        Self { auth, names, descriptors: FILE_DESCRIPTOR_SET.to_vec() }
    }

    /// TCP, without the CRI.
    fn remote(auth: auth::AuthLayer) -> Self {
        let mut files =
            prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
        files.file.retain(|file| file.package() != "runtime.v1");
        let names = &["", pods_server::SERVICE_NAME, images_server::SERVICE_NAME];
        Self { auth, names, descriptors: files.encode_to_vec() }
    }
}

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compiled descriptors are invalid.
    #[error("build the reflection service")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("serve gRPC")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves the CRI, whole pods, images, health and reflection on a socket until `shutdown`
/// completes.
///
/// Until `ready` is true every call except the CRI's Version is answered with Unavailable, and
/// health reports NOT_SERVING. After `shutdown` no new calls are accepted, endless streams end, and
/// calls in progress get five seconds.
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
        routes = add_ours(routes, pods, closing.clone());
    }
    run(connections(listener), Door::local(), routes, ready, closing, shutdown).await
}

/// The services of the TCP server: whole pods and images. `closing` ends the endless streams.
pub fn pod_routes(pods: PodServices, closing: CancellationToken) -> Routes {
    add_ours(Routes::default(), pods, closing)
}

fn add_ours(routes: Routes, pods: PodServices, closing: CancellationToken) -> Routes {
    let images = images::ImageDoor::new(Arc::clone(&pods.images), closing.clone());
    let images = ImagesServer::new(images)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    routes.add_service(pods_door(pods::Pods::new(pods, closing))).add_service(images)
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

/// Serves `routes`, health and reflection. `closing` is cancelled when the shutdown begins.
async fn run<C>(
    incoming: impl Stream<Item = io::Result<C>>,
    door: Door,
    routes: Routes,
    ready: watch::Receiver<bool>,
    closing: CancellationToken,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let Door { auth, names, descriptors } = door;
    let (health, health_service) = tonic_health::server::health_reporter();
    report(&health, names, false).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(&descriptors)
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
        .layer(auth)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned());
    // Cancel-safe: when one ends, the other is not needed any more.
    tokio::select! {
        ended = server => Ok(ended?),
        () = conduct(health, names, ready, closing, shutdown) => {
            tracing::warn!("calls did not finish within {LAST_CALLS:?}, closing them");
            Ok(())
        }
    }
}

/// Keeps the health status up to date, then runs the shutdown; returns after the time for the last
/// calls.
async fn conduct(
    mut health: HealthReporter,
    names: &[&str],
    ready: watch::Receiver<bool>,
    closing: CancellationToken,
    shutdown: impl Future<Output = ()>,
) {
    // Cancel-safe: following readiness has no state.
    tokio::select! {
        () = shutdown => {}
        () = follow(&health, names, ready) => {}
    }
    report(&health, names, false).await;
    for name in names {
        // Ends the health watches, which would never end otherwise.
        health.clear_service_status(name).await;
    }
    closing.cancel();
    tokio::time::sleep(LAST_CALLS).await;
}

/// Follows `ready`. Never returns: if the sender is gone, the last status is kept.
async fn follow(health: &HealthReporter, names: &[&str], mut ready: watch::Receiver<bool>) {
    loop {
        let serving = *ready.borrow_and_update();
        report(health, names, serving).await;
        if ready.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn report(health: &HealthReporter, names: &[&str], serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in names {
        health.set_service_status(*name, status).await;
    }
}

/// Accepted connections. A failed accept causes a delay and does not end the server.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    let state = (listener, Seldom::default());
    futures::stream::unfold(state, |(listener, mut seldom)| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(connection), (listener, seldom))),
                Err(error) => {
                    if let Some(unsaid) = seldom.pass() {
                        tracing::warn!(%error, unsaid, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}
