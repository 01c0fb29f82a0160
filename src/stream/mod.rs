//! The streaming server of the CRI. Exec, Attach and PortForward answer with a URL, to which the
//! client (crictl, or a kubelet that proxies a user's connection) then connects.
//!
//! ```text
//! RPC ─► Urls (a token: one use, one minute) ─► URL
//! client ─► Server ─► upgrade ─► SPDY or WebSocket ─► Sessions (runs it in a container or pod)
//! ```
//!
//! The protocols are those of Kubernetes: `channel.k8s.io` v1 to v5 for commands and
//! `portforward.k8s.io` for ports, over SPDY/3.1 or WebSocket (RFC 6455).

pub mod outcome;
mod over_spdy;
mod pods;
mod resize;
mod server;
mod session;
pub mod spdy;
mod tokens;
mod upgrade;
mod urls;
mod websocket;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use tokio::net::{TcpStream, UdpSocket};

pub use pods::Pods;
pub use server::{MAX_SESSIONS, Options, Server};
pub use urls::Urls;

use crate::ids::{ContainerId, PodId};
use crate::model::streams::ProcessIo;
use crate::sandbox;

/// Why the streaming server cannot start or cannot issue a URL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Listening on the address failed.
    #[error("listen on {address} for streams")]
    Listen {
        /// The configured address.
        address: std::net::SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Too many URLs were issued in the last minute and not used.
    #[error(
        "{0} streaming URLs wait for their clients: maximum number of in-flight requests exceeded"
    )]
    TooManyInFlight(usize),
}

/// Why a session failed; the text is sent to the client.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The command could not be run to its end.
    #[error("error executing command in container")]
    Exec(#[source] sandbox::Error),
    /// Attaching to the container failed, or was interrupted.
    #[error("error attaching to container")]
    Attach(#[source] sandbox::Error),
    /// The client did not open its streams.
    #[error("the session did not begin")]
    NotStarted(#[source] spdy::NotStarted),
    /// Nothing was sent for this long.
    #[error("the session was idle for {}", humantime::format_duration(*.0))]
    Idle(std::time::Duration),
    /// The agent is shutting down.
    #[error("the agent is stopping")]
    Stopping,
}

/// Runs sessions. Every call must be cancel-safe at every await, because a session whose client is
/// gone is dropped.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Runs a command; returns its exit code after all its output was written to `io`.
    async fn exec(&self, exec: &Exec, io: ProcessIo) -> Result<i32, SessionError>;

    /// Attaches to the streams of a container's first process until it ends.
    async fn attach(&self, attach: &Attach, io: ProcessIo) -> Result<(), SessionError>;

    /// Connects to a port of a pod.
    async fn port_forward(&self, pod: &PodId, port: u16) -> Result<TcpStream, sandbox::Error>;

    /// Opens a socket for a UDP port of a pod.
    async fn port_forward_udp(&self, pod: &PodId, port: u16) -> Result<UdpSocket, sandbox::Error>;
}

/// The streams requested by a client; at least one of the first three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never together with a terminal.
    pub stderr: bool,
    /// Whether to use a terminal.
    pub tty: bool,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The container to run it in.
    pub container: ContainerId,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The requested streams.
    pub streams: Streams,
}

/// A container to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The container.
    pub container: ContainerId,
    /// The requested streams.
    pub streams: Streams,
}

/// A pod whose ports to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// The pod.
    pub pod: PodId,
    /// The ports of a WebSocket session, in the order of its channels. SPDY and tunnelled sessions
    /// name each port when they connect to it.
    pub ports: Vec<u16>,
}

/// The request that a URL was issued for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a command.
    Exec(Exec),
    /// Attach to a container.
    Attach(Attach),
    /// Connect to ports of a pod.
    PortForward(PortForward),
}

impl Request {
    /// First part of the URL's path.
    pub fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}
