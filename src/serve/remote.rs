//! The TCP server: podbay.v1 with mutual TLS 1.3. The CRI is never served here.
//!
//! A client must complete the TLS handshake within ten seconds. The number of concurrent handshakes
//! is limited; beyond it the oldest is dropped, so that strangers cannot keep others out. Key and
//! policy files are checked every second; an invalid new one is reported in the log, and the last
//! valid one stays in use. A connection is closed when its certificate expires, is revoked, or
//! loses its authority, and when a new policy gives its caller fewer permissions.

mod guests;

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::Connected;

use super::Door;
use super::auth::{AuthLayer, Caller, Policy, PolicyFaults};
use super::quota::{Full, Place, Quota};
use super::tls::{Stamp, Tls, TlsError, TlsFiles};
use crate::lifecycle::Handshakes;
use crate::telemetry::{Seldom, error_chain};
use guests::{Guest, Guests};

/// Time limit of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Maximum number of connections with a verified certificate.
const MAX_CONNECTIONS: usize = 1024;

/// Interval of checking the files for changes.
const LOOK: Duration = Duration::from_secs(1);

/// After this many checks, all open connections are verified again: intermediate certificates may
/// expire too, and the clock may be set.
const RECHECK: u32 = 30;

/// Listening address, and the files with keys and policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteOptions {
    /// Address; port 0 selects a free port.
    pub address: SocketAddr,
    /// Keys and certificates.
    pub tls: TlsFiles,
    /// The policy file.
    pub policy: PathBuf,
}

/// Why the TCP server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Keys or certificates are invalid.
    #[error("set up TLS")]
    Tls(#[from] TlsError),
    /// The policy cannot be read.
    #[error("read the policy {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The policy is invalid.
    #[error("parse the policy")]
    Policy(#[from] PolicyFaults),
    /// Listening on the address failed.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A TCP server that listens but does not accept connections yet.
#[derive(Debug)]
pub struct Remote {
    listener: TcpListener,
    tls: watch::Sender<Arc<Tls>>,
    policy: watch::Sender<Arc<Policy>>,
    files: Files,
}

/// The files as last read.
#[derive(Debug)]
struct Files {
    options: RemoteOptions,
    tls: Stamp,
    policy: Stamp,
    /// How often they were checked.
    #[cfg(test)]
    looked: watch::Sender<u32>,
}

impl Remote {
    /// Reads all files and listens.
    pub async fn open(options: RemoteOptions) -> Result<Self, RemoteError> {
        // The time stamps are taken before reading, so that a change in between is detected later.
        let files = Files::new(options);
        let tls = files.options.tls.load()?;
        let policy = read_policy(&files.options.policy)?;
        let address = files.options.address;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| RemoteError::Listen { address, source })?;
        let (tls, policy) =
            (watch::Sender::new(Arc::new(tls)), watch::Sender::new(Arc::new(policy)));
        Ok(Self { listener, tls, policy, files })
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.files.options.address)
    }
}

/// Serves `routes`, health and reflection until `shutdown` completes; then `closing` is cancelled,
/// which must end endless streams, and calls in progress get five seconds.
///
/// Every request that reaches a handler has a [`super::Grant`] in its extensions.
pub async fn serve_remote(
    remote: Remote,
    routes: Routes,
    ready: watch::Receiver<bool>,
    closing: CancellationToken,
    shutdown: impl Future<Output = ()>,
) -> Result<(), super::Error> {
    let Remote { listener, tls, policy, files } = remote;
    let door = Door::remote(AuthLayer::remote(policy.subscribe()));
    let hall = Hall { tls: tls.subscribe(), guests: Arc::default() };
    let guests = Arc::clone(&hall.guests);
    let incoming = connections(listener, hall);
    let server = super::run(incoming, door, routes, ready, closing, shutdown);
    // Cancel-safe: checking the files has no state.
    tokio::select! {
        ended = server => ended,
        never = files.follow(tls, policy, guests) => match never {},
    }
}

fn read_policy(path: &Path) -> Result<Policy, RemoteError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| RemoteError::Read { path: path.to_owned(), source })?;
    Ok(Policy::parse(path, &text)?)
}

impl Files {
    fn new(options: RemoteOptions) -> Self {
        let (tls, policy) = Self::look(&options);
        Self {
            options,
            tls,
            policy,
            #[cfg(test)]
            looked: watch::Sender::default(),
        }
    }

    fn look(options: &RemoteOptions) -> (Stamp, Stamp) {
        (Stamp::of(&options.tls.paths()), Stamp::of(std::slice::from_ref(&options.policy)))
    }

    /// Applies changes of the files, to open connections as well.
    async fn follow(
        mut self,
        tls: watch::Sender<Arc<Tls>>,
        policy: watch::Sender<Arc<Policy>>,
        guests: Arc<Guests>,
    ) -> std::convert::Infallible {
        let mut looks = 0_u32;
        loop {
            tokio::time::sleep(LOOK).await;
            looks = looks.wrapping_add(1);
            let (new_tls, new_policy) = Self::look(&self.options);
            let changed = new_tls != self.tls;
            if changed {
                self.tls = new_tls;
                replace(&tls, "keys and certificates", self.options.tls.load());
            }
            if new_policy != self.policy {
                self.policy = new_policy;
                let before = Arc::clone(&policy.borrow());
                replace(&policy, "the policy", read_policy(&self.options.policy));
                guests.narrow(&before, &policy.borrow());
            }
            guests.expire(SystemTime::now());
            if changed || looks.is_multiple_of(RECHECK) {
                guests.recheck(&tls.borrow());
            }
            #[cfg(test)]
            self.looked.send_modify(|looked| *looked += 1);
        }
    }
}

fn replace<T, E: std::error::Error>(
    place: &watch::Sender<Arc<T>>,
    what: &'static str,
    read: Result<T, E>,
) {
    match read {
        Ok(new) => {
            place.send_replace(Arc::new(new));
            tracing::info!("reloaded {what} of the remote API");
        }
        Err(error) => tracing::error!(
            error = error_chain(&error),
            "cannot reload {what} of the remote API: keeping the old ones"
        ),
    }
}

/// What handshakes are verified with, and where their connections are registered.
#[derive(Clone)]
struct Hall {
    tls: watch::Receiver<Arc<Tls>>,
    guests: Arc<Guests>,
}

/// Limits what the log tells of connections that are not accepted.
#[derive(Default)]
struct Rejects {
    accepts: Seldom,
    handshakes: Seldom,
}

/// A connection whose handshake failed.
struct Refused {
    address: SocketAddr,
    error: io::Error,
}

impl Rejects {
    fn not_accepted(&mut self, error: &io::Error, pending: usize) {
        if let Some(unsaid) = self.accepts.pass() {
            tracing::warn!(%error, pending, unsaid, "cannot accept a remote connection");
        }
    }

    fn refused(&mut self, Refused { address, error }: &Refused) {
        if let Some(unsaid) = self.handshakes.pass() {
            tracing::info!(%address, %error, unsaid, "remote connection refused");
        }
    }
}

/// Connections with a verified certificate.
fn connections(listener: TcpListener, hall: Hall) -> impl Stream<Item = io::Result<Connection>> {
    let places = Quota::new(MAX_CONNECTIONS);
    let state = (listener, hall, places, Handshakes::default(), Rejects::default());
    futures::stream::unfold(
        state,
        |(listener, hall, places, mut handshakes, mut rejects)| async move {
            loop {
                // Cancel-safe: an accepted connection is stored at once, and a ready one stays in the
                // set until it is taken out.
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, address)) => {
                            handshakes.begin(meet(stream, address, hall.clone(), places.clone()));
                        }
                        Err(error) => {
                            rejects.not_accepted(&error, handshakes.pending());
                            tokio::time::sleep(handshakes.make_room()).await;
                        }
                    },
                    made = handshakes.next() => match made {
                        Some(Ok(connection)) => {
                            let state = (listener, hall, places, handshakes, rejects);
                            return Some((Ok(connection), state));
                        }
                        Some(Err(refused)) => rejects.refused(&refused),
                        None => {}
                    }
                }
            }
        },
    )
}

/// A handshake within its time limit.
async fn meet(
    stream: TcpStream,
    address: SocketAddr,
    hall: Hall,
    places: Quota,
) -> Result<Connection, Refused> {
    let made = tokio::time::timeout(HANDSHAKE, handshake(stream, address, hall, places)).await;
    let late = || io::Error::other(format!("no certificate within {HANDSHAKE:?}"));
    made.unwrap_or_else(|_| Err(late())).map_err(|error| Refused { address, error })
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    hall: Hall,
    places: Quota,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let tls = Arc::clone(&hall.tls.borrow());
    let stream = TlsAcceptor::from(Arc::clone(&tls.server)).accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let caller = certificates.first().and_then(|first| Caller::new(first, address));
    let caller = caller.ok_or_else(|| io::Error::other("the certificate cannot be parsed"))?;
    let place = places.take(Some(&caller)).map_err(|full| {
        io::Error::other(match full {
            Full::All(most) => format!("{most} connections are open"),
            Full::Yours(most) => format!("{most} connections of {caller} are open"),
        })
    })?;
    let guest = hall.guests.enter(&caller, certificates);
    // From here on later checks include it; but the files may have changed just before.
    let now = Arc::clone(&hall.tls.borrow());
    if !Arc::ptr_eq(&now, &tls) {
        now.check(certificates).map_err(io::Error::other)?;
    }
    Ok(Connection { stream, caller, guest, _place: place })
}

/// A connection with its caller.
struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    guest: Guest,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.guest.poll_ended(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Checked even if the connection is not read any more.
        if self.guest.poll_ended(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
