//! Connections into network namespaces.
//!
//! A socket belongs for its whole life to the network namespace of the thread that created it. So a
//! separate thread enters the namespace, creates the sockets and ends; everything else is ordinary
//! network I/O.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpSocket, TcpStream};

use super::super::{Error, ErrorKind, Result};
use super::{failed, netns};
use crate::backend::NetnsState;

/// Time limit for connecting.
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

/// Connects to a localhost port in `netns`, or in the agent's own namespace.
pub(super) async fn to_localhost(netns: Option<&Path>, port: u16) -> Result<TcpStream> {
    let place = netns.map_or("the host".into(), |netns| netns.display().to_string());
    let tried = || format!("connect to port {port} on localhost of {place}");
    let sockets = match netns {
        None => Sockets::new(),
        Some(netns) => made_in(netns.to_owned(), Sockets::new).await?,
    };
    match tokio::time::timeout(LIMIT, connect(sockets, port)).await {
        Ok(connected) => connected.map_err(|error| Error::io(tried(), error)),
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, tried())
            .because(format!("no answer within {LIMIT:?}"))),
    }
}

/// A socket for a localhost UDP port in `netns`, or in the agent's own namespace.
pub(super) async fn udp_to_localhost(
    netns: Option<&Path>,
    port: u16,
) -> Result<tokio::net::UdpSocket> {
    let place = netns.map_or("the host".into(), |netns| netns.display().to_string());
    let tried = || format!("open a UDP socket for port {port} on localhost of {place}");
    let socket = match netns {
        None => udp(port),
        Some(netns) => made_in(netns.to_owned(), move || udp(port)).await?,
    };
    let socket = socket.and_then(tokio::net::UdpSocket::from_std);
    socket.map_err(|error| Error::io(tried(), error))
}

fn udp(port: u16) -> io::Result<UdpSocket> {
    let to = |ip: IpAddr| {
        let socket = UdpSocket::bind(SocketAddr::new(ip, 0))?;
        socket.connect(SocketAddr::new(ip, port))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let v4 = to(Ipv4Addr::LOCALHOST.into());
    v4.or_else(|error| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| error))
}

/// If both families fail, the IPv4 error is returned, as the more relevant one.
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

/// Creates sockets on a thread that enters the namespace and then ends.
async fn made_in<T: Send + 'static>(
    path: PathBuf,
    make: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (answer, wait) = tokio::sync::oneshot::channel();
    let work = move || {
        // If nobody waits any more, the sockets are closed.
        let _ = answer.send(enter(&path).map(|()| make()));
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
