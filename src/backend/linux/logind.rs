//! Shutdown notifications of systemd-logind (`org.freedesktop.login1`) over the system bus.
//!
//! A `delay` lock delays a shutdown for up to logind's `InhibitDelayMaxSec`; closing our end of its
//! pipe releases it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use zbus::{Connection, DynamicType, MessageStream, OwnedVariant};

use super::bus::{connect, failed, signals};
use crate::backend::{Error, ErrorKind, Notice, Result, Shutdown};

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const SIGNAL: &str = "PrepareForShutdown";

/// Name and reason of the lock, as listed by `systemd-inhibit --list`.
const WHO: &str = "podbay";
const WHY: &str = "podbay ends its pods before the host shuts down";

/// systemd-logind.
#[derive(Debug, Clone, Default)]
pub struct Logind {
    /// Address of the bus; `None` for the system's: `DBUS_SYSTEM_BUS_ADDRESS` or the usual socket.
    pub bus: Option<String>,
}

#[async_trait]
impl Shutdown for Logind {
    async fn notice(&self) -> Result<Box<dyn Notice>> {
        let bus = connect(self.bus.as_deref()).await?;
        let signals = signals(&bus, [NAME, PATH, MANAGER, SIGNAL]).await?;
        let micros = property::<u64>(&bus, "InhibitDelayMaxUSec").await?;
        let begun = property::<bool>(&bus, "PreparingForShutdown").await?;
        let patience = Duration::from_micros(micros);
        Ok(Box::new(Promise { bus, signals, patience, first: Some(begun), lock: None }))
    }
}

async fn call<B>(bus: &Connection, interface: &str, method: &str, body: &B) -> Result<zbus::Message>
where
    B: serde::Serialize + DynamicType + Sync,
{
    let answer = bus.call_method(Some(NAME), PATH, Some(interface), method, body).await;
    answer.map_err(|error| failed(&format!("ask systemd-logind: {method}"), error))
}

async fn property<T>(bus: &Connection, name: &str) -> Result<T>
where
    T: TryFrom<OwnedVariant>,
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let answer = call(bus, PROPERTIES, "Get", &(MANAGER, name)).await?;
    let strange = format!("read {name} of systemd-logind");
    let value = answer.body().deserialize::<OwnedVariant>();
    let value = value.map_err(|error| failed(&strange, error))?;
    T::try_from(value).map_err(|error| Error::new(ErrorKind::Other, strange).because(error))
}

struct Promise {
    bus: Connection,
    signals: MessageStream,
    patience: Duration,
    /// The first answer of [`Notice::next`].
    first: Option<bool>,
    lock: Option<OwnedFd>,
}

#[async_trait]
impl Notice for Promise {
    fn patience(&self) -> Duration {
        self.patience
    }

    async fn hold(&mut self) -> Result<()> {
        if self.lock.is_none() {
            let answer = call(&self.bus, MANAGER, "Inhibit", &("shutdown", WHO, WHY, "delay"));
            let lock = answer.await?.body().deserialize::<zbus::OwnedFd>();
            let lock = lock.map_err(|error| failed("take logind's lock", error))?;
            self.lock = Some(lock.into());
        }
        Ok(())
    }

    fn release(&mut self) {
        self.lock = None;
    }

    async fn next(&mut self) -> Result<bool> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let lost = || Error::new(ErrorKind::Unavailable, "listen to systemd-logind");
        loop {
            let message = self.signals.next().await.ok_or_else(lost)?;
            let message = message.map_err(|error| lost().because(error))?;
            // A message sent directly to us did not pass the filter above.
            if message.header().destination().is_some() {
                continue;
            }
            let begun = message.body().deserialize::<bool>();
            return begun.map_err(|error| lost().because(error));
        }
    }
}
