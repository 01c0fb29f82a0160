//! gRPC probes with tonic's health service, and with servers that have none.

use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use super::servers::{Reply, acceptor, serve};
use super::*;

fn action(port: u16, service: Option<&str>) -> GRPCAction {
    GRPCAction { port: port.into(), service: service.map(str::to_owned), mode: None }
}

async fn ask(action: &GRPCAction, limit: Duration) -> Result<Outcome, Error> {
    let (container, id) = (container(), id());
    Subject { container: &container, id: &id, pod_ip: Some("127.0.0.1") }.grpc(action, limit).await
}

async fn listen() -> (u16, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap().port(), listener)
}

#[tokio::test]
async fn serving_is_well_and_nothing_else_is() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("up", ServingStatus::Serving).await;
    reporter.set_service_status("down", ServingStatus::NotServing).await;
    let (port, listener) = listen().await;
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    assert_eq!(ask(&action(port, None), SOON).await.unwrap(), Outcome::Success);
    assert_eq!(ask(&action(port, Some("up")), SOON).await.unwrap(), Outcome::Success);
    let said = failure(ask(&action(port, Some("down")), SOON).await);
    assert_eq!(said, "service unhealthy (responded with \"NOT_SERVING\")");
    let said = failure(ask(&action(port, Some("none")), SOON).await);
    assert!(
        said.starts_with("error: health rpc probe failed: rpc error: code = NotFound"),
        "{said}"
    );
}

#[tokio::test]
async fn a_server_without_the_health_service_is_a_failure() {
    let (port, listener) = listen().await;
    let reflection = tonic_reflection::server::Builder::configure().build_v1().unwrap();
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(reflection).serve_with_incoming(incoming));
    let said = failure(ask(&action(port, None), SOON).await);
    assert!(said.starts_with("error: this server does not implement the grpc health"), "{said}");
}

#[tokio::test]
async fn who_does_not_answer_or_speaks_something_else_is_a_failure() {
    let (port, silent) = listen().await;
    let said = failure(ask(&action(port, None), SHORT).await);
    assert!(said.starts_with("timeout: "), "{said}");
    drop(silent);
    let said = failure(ask(&action(port, None), SOON).await);
    assert_eq!(
        said,
        format!(
            "error: failed to connect service at \"127.0.0.1:{port}\": dial tcp \
             127.0.0.1:{port}: connect: connection refused"
        )
    );
    let web = serve(|_| Reply::ok("no HTTP/2 here")).await;
    failure(ask(&action(web.port, None), SOON).await);
    for port in [0, -1, 65536] {
        let action = GRPCAction { port, ..GRPCAction::default() };
        assert!(matches!(ask(&action, SOON).await, Err(Error::Port(_))), "{port}");
    }
}

#[tokio::test]
async fn tls_without_verification_when_asked_for() {
    let (_reporter, service) = tonic_health::server::health_reporter();
    let (port, listener) = listen().await;
    let acceptor = acceptor(&[b"h2"]);
    let incoming = TcpListenerStream::new(listener).then(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream?).await?;
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut theirs).await;
            });
            Ok::<_, std::io::Error>(ours)
        }
    });
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let tls = GRPCAction { mode: Some("TLS".to_owned()), ..action(port, None) };
    assert_eq!(ask(&tls, SOON).await.unwrap(), Outcome::Success);
}
