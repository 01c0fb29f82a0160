//! What probes and hooks do: run a command, ask over HTTP, open a connection, ask a gRPC server.
//!
//! The other end is not trusted: no more than `MOST_READ` bytes of what it says are kept, a
//! redirect to another host is not followed, and everything has a time limit.

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

/// What is kept of an answer's body or a command's output.
pub(super) const MOST_READ: usize = 10 << 10;

/// What a probe says of itself in `User-Agent`, as a kubelet of this version does.
const PROBE_AGENT: &str = "kube-probe/1.37";

/// What a hook says of itself.
pub(super) const HOOK_AGENT: &str = "kube-lifecycle/1.37";

/// A container to be asked.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// Its spec: names of ports, static variables.
    pub container: &'a Container,
    /// Its id.
    pub id: &'a ContainerId,
    /// Where it is reached when nothing else is said.
    pub pod_ip: Option<&'a str>,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Well.
    Success,
    /// Well, but somebody should know this.
    Warning(String),
    /// Not well, and why.
    Failure(String),
}

/// The question could not be asked; this says nothing about the container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container has no port of this name.
    #[error("port {0} not found")]
    NoPort(String),
    /// A port outside 1 to 65535.
    #[error("invalid port number: {0}")]
    Port(i64),
    /// The pod has no address yet.
    #[error("the pod has no address")]
    NoAddress,
    /// No request can be made of what is given.
    #[error("invalid {what}: {value:?}")]
    Request {
        /// Which part.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// The body of an answer broke off, or was not there in time.
    #[error("read the body of the answer of {url}: {problem}")]
    Body {
        /// Who was asked.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The runtime did not run the command.
    #[error("run the command: {0}")]
    Exec(ExecError),
    /// It says nothing that can be done.
    #[error("no handler is given")]
    Nothing,
}

/// Something that controllers should see of a container: a warning event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Uid of the pod.
    pub uid: String,
    /// The container.
    pub container: String,
    /// Kubernetes' reason, e.g. `Unhealthy`.
    pub reason: &'static str,
    /// For people; 1 KiB at most.
    pub message: String,
}

/// Who takes reports. Called from tasks: must not block.
pub type Reporter = Arc<dyn Fn(Report) + Send + Sync>;

impl Subject<'_> {
    /// Runs a command with its static `$(VAR)`s expanded; exit code 0 is well, time out is not.
    pub(super) async fn run(
        &self,
        exec: &dyn Exec,
        command: &[String],
        limit: Duration,
    ) -> Result<Outcome, Error> {
        let command = expand_static(command, self.container);
        exec::probe(exec, self.id, &command, limit).await
    }

    /// Asks over HTTP: 200 to 399 is well.
    pub(super) async fn http(
        &self,
        get: &HTTPGetAction,
        limit: Duration,
    ) -> Result<Outcome, Error> {
        HttpGet::new(get, self, PROBE_AGENT)?.probe(limit).await
    }

    /// Opens a connection: open is well.
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

    /// Asks the standard health service: SERVING is well.
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

/// At most `most` bytes of a text, whole characters only.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::servers as testing;
