//! Connecting within a time limit.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::join_host_port;

/// Maximum number of concurrent name lookups: a lookup cannot be cancelled and blocks a thread, so
/// slow name servers must not exhaust the pool.
static LOOKUPS: Semaphore = Semaphore::const_new(8);

/// Connecting failed; the complete message, worded as in Go programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dial tcp {address}: {problem}")]
pub(super) struct DialError {
    address: String,
    problem: String,
}

/// Connects to the first address of `host` that accepts.
pub(super) async fn dial(host: &str, port: u16, limit: Duration) -> Result<TcpStream, DialError> {
    let failed = |problem: String| DialError { address: join_host_port(host, port), problem };
    match timeout(limit, connect(host, port)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed("i/o timeout".to_owned())),
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let mut last = "no such host".to_owned();
    for address in addresses(host, port).await.map_err(|error| format!("lookup: {error}"))? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("connect: {}", plain(&error)),
        }
    }
    Err(last)
}

async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let host = host.to_owned();
    let look = move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        drop(permit);
        found
    };
    tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
}

/// An error text without the error number: `connection refused`.
pub(super) fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
