//! The streaming server of the CRI. Exec, Attach and PortForward answer with a URL; the client
//! (a kubelet that passes a user's connection on, or crictl) connects to it here.
//!
//! ```text
//! RPC ─► Urls (a token: one use, one minute) ─► URL
//! client ─► Server ─► upgrade ─► SPDY or WebSocket ─► Sessions (runs it in a container or pod)
//! ```
//!
//! What the protocols say is in Kubernetes: `channel.k8s.io` v1 to v5 for commands and
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
pub use server::{Options, Server};
pub use urls::Urls;

use crate::ids::{ContainerId, PodId};
use crate::model::streams::ProcessIo;
use crate::sandbox;

/// The streaming server cannot start, or cannot give out a URL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("listen on {address} for streams")]
    Listen {
        /// The configured address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// So many URLs were given out in the last minute and not used.
    #[error(
        "{0} streaming URLs wait for their clients: maximum number of in-flight requests exceeded"
    )]
    TooManyInFlight(usize),
}

/// A session that failed; its text goes to the client.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The command could not be run, or not to its end.
    #[error("error executing command in container")]
    Exec(#[source] sandbox::Error),
    /// The container's streams could not be had, or not any longer.
    #[error("error attaching to container")]
    Attach(#[source] sandbox::Error),
    /// The client did not do its part of the beginning.
    #[error("the session did not begin")]
    NotStarted(#[source] spdy::NotStarted),
    /// Nothing was sent for so long.
    #[error("the session was idle for {}", humantime::format_duration(*.0))]
    Idle(std::time::Duration),
    /// The agent ends.
    #[error("the agent is stopping")]
    Stopping,
}

/// Runs what clients ask for. Every call must be safe to drop at every await: that is how a
/// session ends whose client is gone.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Runs a command; gives its exit code once all its output was written to `io`.
    async fn exec(&self, exec: &Exec, io: ProcessIo) -> Result<i32, SessionError>;

    /// Joins the streams of a container's first process until it ends.
    async fn attach(&self, attach: &Attach, io: ProcessIo) -> Result<(), SessionError>;

    /// Connects to a port of a pod.
    async fn port_forward(&self, pod: &PodId, port: u16) -> Result<TcpStream, sandbox::Error>;

    /// A socket for a UDP port of a pod.
    async fn port_forward_udp(&self, pod: &PodId, port: u16) -> Result<UdpSocket, sandbox::Error>;
}

/// Which streams a client asked for; at least one of the first three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Where.
    pub container: ContainerId,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What the client sends and reads.
    pub streams: Streams,
}

/// A container to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// Which.
    pub container: ContainerId,
    /// What the client sends and reads.
    pub streams: Streams,
}

/// A pod whose ports are to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// Which.
    pub pod: PodId,
    /// The ports of a WebSocket session, in the order of its channels. SPDY and tunnelled
    /// sessions name each port when they want it.
    pub ports: Vec<u16>,
}

/// What a URL was given out for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a command.
    Exec(Exec),
    /// Join a container.
    Attach(Attach),
    /// Reach ports of a pod.
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
