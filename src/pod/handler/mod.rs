//! The actions of probes and hooks: run a command, HTTP request, TCP connection, gRPC health check.
//!
//! The peer is not trusted: at most `MOST_READ` bytes of its answer are kept, redirects to other
//! hosts are not followed, and everything has a time limit.

mod dial;
mod exec;
mod grpc;
mod http;
mod tls;

pub use exec::{Exec, ExecEnd, ExecError};
pub(super) use exec::{expand_static, quoted};
pub(super) use http::{HttpError, HttpGet};

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::ids::ContainerId;

/// Maximum number of bytes kept of a response body or a command's output.
pub(super) const MOST_READ: usize = 10 << 10;

/// `User-Agent` of probes, the same as that of a kubelet of this version.
const PROBE_AGENT: &str = "kube-probe/1.37";

/// `User-Agent` of hooks.
pub(super) const HOOK_AGENT: &str = "kube-lifecycle/1.37";

/// The container that an action is for.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// Its spec, for port names and static variables.
    pub container: &'a Container,
    /// Its id.
    pub id: &'a ContainerId,
    /// The default host.
    pub pod_ip: Option<&'a str>,
}

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Success.
    Success,
    /// Success with a warning.
    Warning(String),
    /// Failure, with the reason.
    Failure(String),
}

/// The action could not be carried out; this says nothing about the container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container has no port with this name.
    #[error("port {0} not found")]
    NoPort(String),
    /// A port outside 1 to 65535.
    #[error("invalid port number: {0}")]
    Port(i64),
    /// The pod has no address yet.
    #[error("the pod has no address")]
    NoAddress,
    /// The given values do not make a valid request.
    #[error("invalid {what}: {value:?}")]
    Request {
        /// Which part of it.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// The body of a response was interrupted or late.
    #[error("read the body of the answer of {url}: {problem}")]
    Body {
        /// The requested URL.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The runtime did not run the command.
    #[error("run the command: {0}")]
    Exec(ExecError),
    /// The action is empty.
    #[error("no handler is given")]
    Nothing,
}

/// A warning event about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Uid of the pod.
    pub uid: String,
    /// The container.
    pub container: String,
    /// Reason in Kubernetes' terms, e.g. `Unhealthy`.
    pub reason: &'static str,
    /// Message; at most 1 KiB.
    pub message: String,
}

/// Receives reports. Called from tasks, so it must not block.
pub type Reporter = Arc<dyn Fn(Report) + Send + Sync>;

impl Subject<'_> {
    /// Runs a command with its static `$(VAR)`s expanded; exit code 0 is success, a time-out is
    /// not.
    pub(super) async fn run(
        &self,
        exec: &dyn Exec,
        command: &[String],
        limit: Duration,
    ) -> Result<Outcome, Error> {
        let command = expand_static(command, self.container);
        exec::probe(exec, self.id, &command, limit).await
    }

    /// HTTP request: 200 to 399 is success.
    pub(super) async fn http(
        &self,
        get: &HTTPGetAction,
        limit: Duration,
    ) -> Result<Outcome, Error> {
        HttpGet::new(get, self, PROBE_AGENT)?.probe(limit).await
    }

    /// TCP connection: connecting is success.
    pub(super) async fn tcp(
        &self,
        socket: &TCPSocketAction,
        limit: Duration,
    ) -> Result<Outcome, Error> {
        let port = self.port(&socket.port)?;
        let host = self.host(socket.host.as_deref())?;
        Ok(match dial::dial(host, port, limit).await {
            Ok(_stream) => Outcome::Success,
            Err(error) => Outcome::Failure(error.to_string()),
        })
    }

    /// Standard gRPC health check: SERVING is success.
    pub(super) async fn grpc(
        &self,
        action: &GRPCAction,
        limit: Duration,
    ) -> Result<Outcome, Error> {
        let port = number(action.port.into())?;
        let host = self.host(None)?;
        grpc::probe(host, port, action, limit).await
    }

    fn host<'h>(&'h self, given: Option<&'h str>) -> Result<&'h str, Error> {
        given.filter(|host| !host.is_empty()).or(self.pod_ip).ok_or(Error::NoAddress)
    }

    /// A port by number or by the name that the container gives it.
    fn port(&self, port: &IntOrString) -> Result<u16, Error> {
        let name = match port {
            IntOrString::Int(port) => return number((*port).into()),
            IntOrString::String(name) => name,
        };
        let mut ports = self.container.ports.iter().flatten();
        match ports.find(|port| port.name.as_deref() == Some(name)) {
            Some(port) => number(port.container_port.into()),
            None => number(name.parse().map_err(|_| Error::NoPort(name.clone()))?),
        }
    }
}

fn number(port: i64) -> Result<u16, Error> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or(Error::Port(port))
}

/// `host:port`, with brackets around an IPv6 address.
fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// At most `most` bytes of a text, cut at a character boundary.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::servers as testing;
