//! The system bus, over which systemd and its services are asked.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream, fdo};

use crate::backend::{Error, ErrorKind, Result};

/// Time limit of a call over the bus.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How many signals wait for whoever listens; a full queue stops the connection.
const QUEUE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// A connection to the bus with this address; `None` for the system's: `DBUS_SYSTEM_BUS_ADDRESS` or
/// the usual socket.
pub(super) async fn connect(address: Option<&str>) -> Result<Connection> {
    let bus = address.map_or_else(Builder::system, Builder::address);
    let bus = bus.method_timeout(CALL_LIMIT).build().await;
    bus.map_err(|error| failed("connect to the system bus", error))
}

/// A connection to a service that listens on this socket itself, without a bus.
pub(super) async fn connect_directly(socket: &Path) -> Result<Connection> {
    let address = format!("unix:path={}", socket.display());
    let service = Builder::address(address.as_str()).p2p().method_timeout(CALL_LIMIT).build().await;
    service.map_err(|error| failed(&format!("connect to {}", socket.display()), error))
}

/// One kind of signal of a service: the bus delivers only those sent by the owner of the name, and
/// without a bus there is only the service.
pub(super) async fn signals(
    bus: &Connection,
    [name, path, interface, signal]: [&'static str; 4],
) -> Result<MessageStream> {
    let failed = |error| failed(&format!("listen to {name}"), error);
    let rule = MatchRule::builder().msg_type(Type::Signal);
    let rule = rule.sender(name).path(path).interface(interface).member(signal).build();
    let stream = MessageStream::for_match_rule(rule.map_err(failed)?, bus, Some(QUEUE)).await;
    stream.map_err(failed)
}

/// Without the socket or the service, this host has none and will not have one soon: `Unsupported`.
pub(super) fn failed(tried: &str, error: zbus::Error) -> Error {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let absent = |kind| matches!(kind, NotFound | ConnectionRefused);
    let kind = match &error {
        zbus::Error::Connection(io, _) | zbus::Error::InputOutput(io) if absent(io.kind()) => {
            ErrorKind::Unsupported
        }
        zbus::Error::FDO(fdo) => match **fdo {
            fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        },
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, tried).because(error)
}
