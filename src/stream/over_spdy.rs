//! Sessions over SPDY, and the choice of the session type for a request.

use std::future::Future;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::outcome::{status_json, status_text};
use super::session::{Command, FAREWELL, Outcome, Talk};
use super::spdy::{self, Agreement, Connection, ErrorStream, Incoming, NotStarted, Version};
use super::upgrade::Protocol;
use super::websocket::tunnel;
use super::{PortForward, Request, SessionError};
use crate::telemetry::error_chain;

/// Maximum number of concurrent connections in a port-forward session.
const MAX_PAIRS: usize = 100;

impl Talk {
    /// Runs the session with the negotiated protocol until it ends.
    pub async fn session<Io>(&self, connection: Io, protocol: Protocol, request: Request)
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let command = match request {
            Request::PortForward(forward) => {
                return match protocol {
                    Protocol::Channels(dialect) => {
                        self.channels_ports(connection, dialect, &forward).await;
                    }
                    Protocol::Tunnel => self.spdy_ports(tunnel(connection).await, forward).await,
                    Protocol::SpdyPorts | Protocol::SpdyCommand(_) => {
                        self.spdy_ports(connection, forward).await;
                    }
                };
            }
            Request::Exec(exec) => Command::Exec(exec),
            Request::Attach(attach) => Command::Attach(attach),
        };
        match protocol {
            Protocol::Channels(dialect) => {
                self.channels_command(connection, dialect, command).await;
            }
            Protocol::SpdyCommand(version) => self.spdy_command(connection, version, command).await,
            // These are never negotiated for a command.
            Protocol::SpdyPorts | Protocol::Tunnel => {}
        }
    }

    async fn spdy_command<Io>(&self, connection: Io, version: Version, command: Command)
    where
        Io: AsyncRead + AsyncWrite,
    {
        let (connection, incoming) = Connection::server(connection, self.limits());
        converse(connection, self.process(incoming, version, &command)).await;
    }

    async fn process(&self, incoming: Incoming, version: Version, command: &Command) {
        let streams = command.streams();
        let agreement = Agreement {
            version,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            tty: streams.tty,
            creation: self.creation_timeout,
        };
        let client = match spdy::remote_command(incoming, agreement).await {
            Ok(client) => client,
            Err(mut late) => {
                tracing::debug!(error = error_chain(&late), "SPDY client failed");
                if let NotStarted::TimedOut { errors, .. } = &mut late
                    && let Some(errors) = errors.take()
                {
                    tell(errors, version, &Err(SessionError::NotStarted(late))).await;
                }
                return;
            }
        };
        // The connection itself has an idle limit.
        let idle = std::future::pending();
        let outcome = self.outcome(command, client.io, &client.gone, idle).await;
        if let Some(outcome) = outcome {
            tell(client.errors, version, &outcome).await;
        }
    }

    async fn spdy_ports<Io>(&self, connection: Io, forward: PortForward)
    where
        Io: AsyncRead + AsyncWrite,
    {
        let (connection, incoming) = Connection::server(connection, self.limits());
        let forward = Arc::new(forward);
        let dial = |port| {
            let (sessions, forward) = (self.sessions.clone(), forward.clone());
            async move {
                let connected = sessions.port_forward(&forward.pod, port).await;
                connected.map_err(|error| error_chain(&error))
            }
        };
        let options = spdy::PortForward { creation: self.creation_timeout, pairs: MAX_PAIRS };
        let session = async {
            // Cancel-safe: connections may be dropped at any time.
            tokio::select! {
                () = spdy::port_forward(incoming, options, dial) => {}
                () = self.tasks.draining() => {}
            }
        };
        converse(connection, session).await;
    }

    fn limits(&self) -> spdy::Limits {
        spdy::Limits { idle: self.idle_timeout, ..spdy::Limits::default() }
    }
}

/// Sends the result of the process to the client, within a limit.
async fn tell(errors: ErrorStream, version: Version, outcome: &Outcome) {
    let text = match version {
        Version::V4 => status_json(outcome),
        Version::V1 | Version::V2 | Version::V3 => {
            status_text(outcome).unwrap_or_default().into_bytes()
        }
    };
    // An error means that the client is gone, or does not read.
    let _ = tokio::time::timeout(FAREWELL, errors.finish(&text)).await;
}

/// Drives the connection until its session has ended, and then until the client has read the rest,
/// within a limit.
async fn converse<Io>(connection: Connection<Io>, session: impl Future<Output = ()>)
where
    Io: AsyncRead + AsyncWrite,
{
    tokio::pin!(session);
    let running = connection.run();
    tokio::pin!(running);
    // Cancel-safe: both are pinned, and each is awaited after the other.
    tokio::select! {
        ended = &mut running => {
            if let Err(error) = ended {
                tracing::debug!(error = error_chain(&error), "SPDY connection failed");
            }
            session.await;
        }
        () = &mut session => drop(tokio::time::timeout(FAREWELL, running).await),
    }
}
