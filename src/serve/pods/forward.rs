//! PortForward: one TCP connection, or one flow of UDP datagrams, into a pod.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::{Status, Streaming};

use super::command::{no_start, start};
use super::streams::hold;
use super::{Pods, convert};
use crate::proto::podbay::v1;
use crate::proto::podbay::v1::port_forward_request::Input;
use crate::proto::podbay::v1::port_forward_response::Output;
use crate::serve::status::bad_field;
use crate::stream::SessionError;

/// Maximum size of a piece of a TCP connection.
const PIECE: usize = 32 << 10;

/// Maximum size of a datagram (RFC 768 over IPv4).
const DATAGRAM: usize = 65_507;

/// After the caller's last datagram, answers are forwarded until none arrives for this long.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

type Requests = Streaming<v1::PortForwardRequest>;

impl Pods {
    pub(super) async fn port_forward(
        &self,
        mut requests: Requests,
    ) -> Result<BoxStream<v1::PortForwardResponse>, Status> {
        let first = start(&mut requests).await?;
        self.tell(&first);
        let Some(Input::Start(start)) = first.input else { return Err(no_start()) };
        let place = self.places.session()?;
        let key = convert::key(start.namespace, start.name)?;
        let port = u16::try_from(start.port).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| bad_field("start.port", "must be 1 to 65535"))?;
        let closing = self.places.closing().clone();
        let talk = match v1::Protocol::try_from(start.protocol) {
            Ok(v1::Protocol::Unspecified | v1::Protocol::Tcp) => {
                let pod = self.face.sandbox(&key)?;
                tcp(self.sessions.port_forward(&pod, port).await?, requests, closing)
            }
            Ok(v1::Protocol::Udp) => {
                let pod = self.face.sandbox(&key)?;
                udp(self.sessions.port_forward_udp(&pod, port).await?, requests, closing)
            }
            _ => return Err(bad_field("start.protocol", "must be TCP or UDP")),
        };
        Ok(hold(place, talk))
    }
}

fn message(output: Output) -> v1::PortForwardResponse {
    v1::PortForwardResponse { output: Some(output) }
}

/// Ends when the pod closes its side, or the connection fails.
fn tcp(
    stream: TcpStream,
    mut requests: Requests,
    closing: CancellationToken,
) -> BoxStream<v1::PortForwardResponse> {
    let (mut near, mut far) = stream.into_split();
    Box::pin(async_stream::stream! {
        yield Ok(message(Output::Started(v1::PortForwardStarted {})));
        let sending = async move {
            while let Some(bytes) = data(&mut requests).await? {
                far.write_all(&bytes).await.map_err(failed)?;
            }
            // Signals the end of the caller's data to the pod.
            far.shutdown().await.map_err(failed)?;
            std::future::pending::<Result<(), Status>>().await
        };
        tokio::pin!(sending);
        let mut piece = vec![0; PIECE];
        loop {
            // Cancel-safe: a read loses nothing, the others are pinned outside or only wait.
            let ended = tokio::select! {
                read = near.read(&mut piece) => match read {
                    Ok(0) => return,
                    Ok(length) => {
                        yield Ok(message(Output::Data(piece[..length].to_vec())));
                        continue;
                    }
                    Err(error) => Err(failed(error)),
                },
                ended = &mut sending => ended,
                () = closing.cancelled() => Err(SessionError::Stopping.into()),
            };
            if let Err(status) = ended {
                yield Err(status);
            }
            return;
        }
    })
}

/// Ends some time after the caller's last datagram, or when nothing listens on the port.
fn udp(
    socket: UdpSocket,
    requests: Requests,
    closing: CancellationToken,
) -> BoxStream<v1::PortForwardResponse> {
    Box::pin(async_stream::stream! {
        yield Ok(message(Output::Started(v1::PortForwardStarted {})));
        let mut piece = vec![0; DATAGRAM];
        let sending = send_datagrams(&socket, requests);
        tokio::pin!(sending);
        let mut sends = true;
        loop {
            // Cancel-safe: `recv` loses nothing, the others are pinned outside or only wait.
            let ended = tokio::select! {
                received = socket.recv(&mut piece) => match received {
                    Ok(length) => {
                        yield Ok(message(Output::Data(piece[..length].to_vec())));
                        continue;
                    }
                    Err(error) => Err(failed(error)),
                },
                sent = &mut sending, if sends => match sent {
                    Ok(()) => {
                        sends = false;
                        continue;
                    }
                    Err(status) => Err(status),
                },
                () = tokio::time::sleep(LAST_ANSWERS), if !sends => Ok(()),
                () = closing.cancelled() => Err(SessionError::Stopping.into()),
            };
            if let Err(status) = ended {
                yield Err(status);
            }
            return;
        }
    })
}

/// Forwards all datagrams of the caller.
async fn send_datagrams(socket: &UdpSocket, mut requests: Requests) -> Result<(), Status> {
    while let Some(bytes) = data(&mut requests).await? {
        if bytes.len() > DATAGRAM {
            return Err(bad_field("data", format!("a datagram has at most {DATAGRAM} bytes")));
        }
        socket.send(&bytes).await.map_err(failed)?;
    }
    Ok(())
}

/// The next bytes from the caller; `None` at the end of its data.
async fn data(requests: &mut Requests) -> Result<Option<Vec<u8>>, Status> {
    let Some(request) = requests.message().await? else { return Ok(None) };
    match request.input {
        Some(Input::Data(bytes)) => Ok(Some(bytes)),
        Some(Input::Start(_)) => Err(bad_field("start", "only as the first message")),
        None => Err(bad_field("input", "is not known")),
    }
}

fn failed(error: io::Error) -> Status {
    Status::unavailable(format!("the connection into the pod: {error}"))
}
