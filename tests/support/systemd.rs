//! A minimal systemd for one test, which starts and stops slices without making cgroups.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use zbus::connection::Builder;
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant};

use super::logind::Bus;

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

type Properties = Vec<(String, OwnedVariant)>;

/// The units with their properties.
type Units = Arc<Mutex<BTreeMap<String, BTreeMap<String, String>>>>;

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
    NoSuchUnit(String),
}

#[derive(Clone)]
struct Manager {
    units: Units,
    /// How jobs end.
    result: &'static str,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn start_transient_unit(
        &self,
        name: String,
        mode: String,
        properties: Properties,
        companions: Vec<(String, Properties)>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<OwnedObjectPath, Refusal> {
        assert!(mode == "replace" && companions.is_empty());
        {
            let mut units = self.units.lock().expect("a lock");
            if units.contains_key(&name) {
                return Err(Refusal::UnitExists(format!("Unit {name} was already loaded.")));
            }
            units.insert(name.clone(), properties.iter().map(shown).collect());
        }
        Ok(self.job(bus, name).await)
    }

    fn set_unit_properties(
        &self,
        name: String,
        runtime: bool,
        properties: Properties,
    ) -> Result<(), Refusal> {
        assert!(runtime, "no unit of the administrator is changed");
        let mut units = self.units.lock().expect("a lock");
        let unit = units.get_mut(&name).ok_or_else(|| not_loaded(&name))?;
        unit.extend(properties.iter().map(shown));
        Ok(())
    }

    async fn stop_unit(
        &self,
        name: String,
        mode: String,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<OwnedObjectPath, Refusal> {
        assert_eq!(mode, "replace");
        let stopped = self.units.lock().expect("a lock").remove(&name);
        stopped.ok_or_else(|| not_loaded(&name))?;
        Ok(self.job(bus, name).await)
    }
}

impl Manager {
    /// Another job fails before this one ends.
    async fn job(&self, bus: &Connection, unit: String) -> OwnedObjectPath {
        removed(bus, "/org/freedesktop/systemd1/job/1", "other.slice", "failed").await;
        let path = "/org/freedesktop/systemd1/job/2";
        let (bus, result) = (bus.clone(), self.result);
        drop(tokio::spawn(async move { removed(&bus, path, &unit, result).await }));
        ObjectPath::try_from(path).expect("a path").into()
    }
}

async fn removed(bus: &Connection, job: &str, unit: &str, result: &str) {
    let job = ObjectPath::try_from(job).expect("a path");
    let body = (1_u32, job, unit, result);
    let said = bus.emit_signal(None::<&str>, PATH, MANAGER, "JobRemoved", &body);
    said.await.expect("it is said");
}

fn not_loaded(unit: &str) -> Refusal {
    Refusal::NoSuchUnit(format!("Unit {unit} not loaded."))
}

fn shown((name, value): &(String, OwnedVariant)) -> (String, String) {
    (name.clone(), value.to_string())
}

/// systemd.
pub struct Systemd {
    served: JoinHandle<std::convert::Infallible>,
    units: Units,
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.served.abort();
    }
}

impl Systemd {
    /// Serves on a bus; its jobs end with `result`.
    pub async fn serve(bus: &Bus, result: &'static str) -> Self {
        let units = Units::default();
        let manager = Manager { units: Arc::clone(&units), result };
        let bus = Builder::address(bus.address.as_str()).serve_at(PATH, manager).name(NAME);
        let bus = bus.build().await.expect("a systemd");
        let served = tokio::spawn(async move {
            let _bus = bus;
            std::future::pending().await
        });
        Self { served, units }
    }

    /// Serves every client of a socket of its own, without a bus; jobs end with `result`.
    pub async fn serve_directly(socket: &Path, result: &'static str) -> Self {
        let units = Units::default();
        let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
        let manager = Manager { units: Arc::clone(&units), result };
        let served = tokio::spawn(async move {
            let mut clients = Vec::new();
            loop {
                let (client, _) = listener.accept().await.expect("a client");
                let client = client.into_std().expect("a socket");
                let service = Builder::unix_stream(client).p2p().server(zbus::Guid::generate());
                let service = service.serve_at(PATH, manager.clone()).build().await;
                clients.push(service.expect("a systemd"));
            }
        });
        Self { served, units }
    }

    /// A property of a unit, in zbus' notation; `None` without the unit.
    pub fn property(&self, unit: &str, name: &str) -> Option<String> {
        let units = self.units.lock().expect("a lock");
        units.get(unit).map(|unit| unit.get(name).cloned().unwrap_or_default())
    }
}
