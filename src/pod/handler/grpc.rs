//! The client of `grpc.health.v1.Health`.
//!
//! This is the only place in the pod room that uses wire types: they are those of the probed
//! application, not of podbay's API.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::GRPCAction;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Error, MOST_READ, Outcome, PROBE_AGENT, dial, join_host_port, tls};

/// Queries the health of a service; an empty name means the whole server.
pub(super) async fn probe(
    host: &str,
    port: u16,
    action: &GRPCAction,
    limit: Duration,
) -> Result<Outcome, Error> {
    let deadline = Instant::now() + limit;
    let address = join_host_port(host, port);
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|endpoint| endpoint.user_agent(PROBE_AGENT))
        .map_err(|_| Error::Request { what: "address", value: address.clone() })?;
    let encrypted = action.mode.as_deref() == Some("TLS");
    let channel = match timeout_at(deadline, connect(endpoint, host, port, encrypted, limit)).await
    {
        Ok(Ok(channel)) => channel,
        Ok(Err(problem)) => {
            let text = format!("error: failed to connect service at {address:?}: {problem}");
            return Ok(Outcome::Failure(text));
        }
        Err(_) => {
            let text = format!(
                "timeout: failed to connect service {address:?} within {}: context deadline \
                 exceeded",
                shown(limit)
            );
            return Ok(Outcome::Failure(text));
        }
    };
    let mut client = HealthClient::new(channel).max_decoding_message_size(MOST_READ);
    let service = action.service.clone().unwrap_or_default();
    let answer = timeout_at(deadline, client.check(HealthCheckRequest { service })).await;
    let late = || format!("timeout: health rpc did not complete within {}", shown(limit));
    Ok(match answer {
        Err(_) => Outcome::Failure(late()),
        Ok(Ok(answer)) => verdict(answer.into_inner().status),
        Ok(Err(status)) => Outcome::Failure(match status.code() {
            Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health): {}",
                status.message()
            ),
            Code::DeadlineExceeded => late(),
            code => format!(
                "error: health rpc probe failed: rpc error: code = {code:?} desc = {}",
                status.message()
            ),
        }),
    })
}

async fn connect(
    endpoint: Endpoint,
    host: &str,
    port: u16,
    encrypted: bool,
    limit: Duration,
) -> Result<Channel, String> {
    let stream = dial::dial(host, port, limit).await.map_err(|error| error.to_string())?;
    let stream = if encrypted {
        tls::encrypt(stream, host, true).await.map_err(|error| error.to_string())?
    } else {
        Box::new(stream)
    };
    // Uses the existing connection once: a probe never opens another.
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("the connection was lost")) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| error.to_string())
}

fn verdict(status: i32) -> Outcome {
    match ServingStatus::try_from(status) {
        Ok(ServingStatus::Serving) => Outcome::Success,
        Ok(other) => Outcome::Failure(format!(
            "service unhealthy (responded with {:?})",
            other.as_str_name()
        )),
        Err(_) => Outcome::Failure(format!("service unhealthy (responded with \"{status}\")")),
    }
}

/// A duration in Go's format: `1s`, `250ms`.
pub(super) fn shown(limit: Duration) -> String {
    if limit.subsec_millis() == 0 {
        format!("{}s", limit.as_secs())
    } else {
        format!("{}ms", limit.as_millis())
    }
}
