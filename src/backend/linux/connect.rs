//! Connections into network namespaces.
//!
//! A socket belongs to the namespace of the thread that makes it, for its whole life. So a thread
//! of its own goes there, makes the sockets and ends; all the rest is ordinary network work.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpSocket, TcpStream};

use super::super::{Error, ErrorKind, Result};
use super::{failed, netns};
use crate::backend::NetnsState;

/// How long a connection may take to be made.
const LIMIT: Duration = Duration::from_secs(10);

/// Unconnected sockets of both families; the second fails where there is no IPv6.
struct Sockets {
    v4: io::Result<TcpSocket>,
    v6: io::Result<TcpSocket>,
}

impl Sockets {
    fn new() -> Self {
        Self { v4: TcpSocket::new_v4(), v6: TcpSocket::new_v6() }
    }
}

/// Connects with a port of localhost in `netns`, or in the agent's own namespace.
pub(super) async fn to_localhost(netns: Option<&Path>, port: u16) -> Result<TcpStream> {
    let place = netns.map_or("the host".into(), |netns| netns.display().to_string());
    let tried = || format!("connect with port {port} on localhost of {place}");
    let sockets = match netns {
        None => Sockets::new(),
        Some(netns) => sockets_in(netns.to_owned()).await?,
    };
    match tokio::time::timeout(LIMIT, connect(sockets, port)).await {
        Ok(connected) => connected.map_err(|error| Error::io(tried(), error)),
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, tried())
            .because(format!("nobody answered within {LIMIT:?}"))),
    }
}

/// Tells of IPv4 when both fail: it is what is expected to work.
async fn connect(sockets: Sockets, port: u16) -> io::Result<TcpStream> {
    let v4 = attempt(sockets.v4, Ipv4Addr::LOCALHOST.into(), port).await;
    match v4 {
        Ok(stream) => Ok(stream),
        Err(error) => {
            attempt(sockets.v6, Ipv6Addr::LOCALHOST.into(), port).await.map_err(|_| error)
        }
    }
}

async fn attempt(socket: io::Result<TcpSocket>, ip: IpAddr, port: u16) -> io::Result<TcpStream> {
    socket?.connect(SocketAddr::new(ip, port)).await
}

/// Makes sockets on a thread that goes into the namespace and never comes back.
async fn sockets_in(path: PathBuf) -> Result<Sockets> {
    let (answer, wait) = tokio::sync::oneshot::channel();
    let work = move || {
        // Nobody may be waiting any more; then the sockets close.
        let _ = answer.send(enter(&path).map(|()| Sockets::new()));
    };
    std::thread::Builder::new()
        .name("netns-dial".to_owned())
        .stack_size(128 << 10)
        .spawn(work)
        .map_err(|error| Error::io("start a thread for a network namespace", error))?;
    wait.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "make a socket")))
}

/// Moves this thread into a pinned namespace.
fn enter(path: &Path) -> Result<()> {
    if netns::state(path)? == NetnsState::Gone {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("enter network namespace {}", path.display()),
        )
        .because("it is gone"));
    }
    let namespace = File::open(path).map_err(|error| failed("open", path, error))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(|error| failed("enter network namespace", path, io::Error::from(error)))
}
