//! Slices of systemd (`org.freedesktop.systemd1`), over the system bus, or over systemd's own socket
//! where there is no bus.
//!
//! systemd owns the limits of its cgroups. When it starts a scope in a slice, it sets the slice's
//! limits to those that it knows, so limits that are only written to files do not last.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use zbus::{Connection, DynamicType, Message, MessageStream, OwnedObjectPath, Variant};

use super::bus::{connect, connect_directly, failed, signals};
use super::cgroup_tree::PERIOD;
use crate::backend::{CgroupVersion, Error, ErrorKind, Result};
use crate::model::resources::{CgroupDriver, CgroupLimits};

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const JOB_REMOVED: [&str; 4] = [NAME, PATH, MANAGER, "JobRemoved"];
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// The socket of systemd itself, which only root may use.
const DIRECT: &str = "/run/systemd/private";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Time limit of a change.
const LIMIT: Duration = Duration::from_secs(30);

/// What systemd does with a job that conflicts with another one.
const MODE: &str = "replace";

/// No limit, as systemd names it.
const INFINITY: u64 = u64::MAX;

/// Microseconds per second of which systemd makes one percent of a CPU: it rounds to these.
const PERCENT: u64 = 10_000;

type Property = (&'static str, Variant<'static>);

/// The slices of this host.
#[derive(Debug, Clone, Default)]
pub struct Slices {
    /// Address of the bus; `None` for the system's: `DBUS_SYSTEM_BUS_ADDRESS` or the usual socket.
    pub bus: Option<String>,
    /// The socket on which systemd itself listens to root; `None` for the usual one.
    pub direct: Option<PathBuf>,
}

impl Slices {
    /// Starts a slice with these limits, or sets those of a slice that exists. `name` is that of
    /// the unit. Huge pages are not known to systemd.
    ///
    /// # Errors
    /// `Unsupported` without systemd, `DeadlineExceeded` after half a minute.
    pub async fn make(
        &self,
        name: &str,
        limits: &CgroupLimits,
        version: CgroupVersion,
    ) -> Result<()> {
        let limits = properties(limits, version);
        let mut all = vec![
            ("Description", Variant::from("pods of podbay")),
            ("DefaultDependencies", Variant::from(false)),
        ];
        all.extend(limits.iter().cloned());
        let companions: Vec<(&str, Vec<Property>)> = Vec::new();
        within(&format!("set the limits of {name}"), async |tried| {
            let bus = self.connect().await?;
            let mut ended = signals(&bus, JOB_REMOVED).await?;
            match call(&bus, "StartTransientUnit", &(name, MODE, all, companions)).await {
                Err(error) if is(&error, UNIT_EXISTS) => {
                    let set = call(&bus, "SetUnitProperties", &(name, true, limits)).await;
                    set.map(drop).map_err(|error| failed(tried, error))
                }
                started => end_of_job(tried, started, &mut ended).await,
            }
        })
        .await
    }

    /// A connection to systemd. It serves its own socket before there is a bus, and without one.
    async fn connect(&self) -> Result<Connection> {
        let no_bus = match connect(self.bus.as_deref()).await {
            Err(error) if error.kind == ErrorKind::Unsupported => error,
            connected => return connected,
        };
        match connect_directly(self.direct.as_deref().unwrap_or(Path::new(DIRECT))).await {
            Err(error) if error.kind == ErrorKind::Unsupported => Err(no_bus),
            connected => connected,
        }
    }

    /// Ends a slice; a missing one is fine.
    ///
    /// # Errors
    /// As [`Slices::make`].
    pub async fn stop(&self, name: &str) -> Result<()> {
        within(&format!("stop {name}"), async |tried| {
            let bus = self.connect().await?;
            let mut ended = signals(&bus, JOB_REMOVED).await?;
            match call(&bus, "StopUnit", &(name, MODE)).await {
                Err(error) if is(&error, NO_SUCH_UNIT) => Ok(()),
                stopped => end_of_job(tried, stopped, &mut ended).await,
            }
        })
        .await
    }
}

/// The unit of a cgroup, if systemd makes it.
pub(in crate::backend) fn unit(driver: CgroupDriver, path: &Path) -> Result<Option<&str>> {
    if driver == CgroupDriver::Cgroupfs {
        return Ok(None);
    }
    let name = path.file_name().and_then(OsStr::to_str);
    let name = name.filter(|name| name.ends_with(".slice")).ok_or_else(|| {
        let problem = format!("cgroup: {} is not a slice of systemd", path.display());
        Error::new(ErrorKind::InvalidArgument, problem)
    });
    name.map(Some)
}

async fn within(tried: &str, work: impl AsyncFnOnce(&str) -> Result<()>) -> Result<()> {
    let done = tokio::time::timeout(LIMIT, work(tried)).await;
    done.unwrap_or_else(|_| {
        let slow = format!("{tried}: systemd did not do it within {LIMIT:?}");
        Err(Error::new(ErrorKind::DeadlineExceeded, slow))
    })
}

async fn call<B>(bus: &Connection, method: &str, body: &B) -> zbus::Result<Message>
where
    B: serde::Serialize + DynamicType + Sync,
{
    bus.call_method(Some(NAME), PATH, Some(MANAGER), method, body).await
}

fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, ..) if found.as_str() == name)
}

/// Waits for the end of the job that `answer` names. Listening has begun before it was asked for.
async fn end_of_job(
    tried: &str,
    answer: zbus::Result<Message>,
    ended: &mut MessageStream,
) -> Result<()> {
    let failed = |error| failed(tried, error);
    let answer = answer.map_err(failed)?;
    let job = answer.body().deserialize::<OwnedObjectPath>().map_err(failed)?;
    while let Some(message) = ended.next().await {
        let message = message.map_err(failed)?;
        // One that was sent to us alone need not be from systemd.
        if message.header().destination().is_some() {
            continue;
        }
        let body = message.body();
        let (_, removed, _, result) =
            body.deserialize::<(u32, OwnedObjectPath, String, String)>().map_err(failed)?;
        match result.as_str() {
            _ if removed != job => {}
            "done" => return Ok(()),
            other => {
                let problem = format!("{tried}: systemd reports {other:?}");
                return Err(Error::new(ErrorKind::Other, problem));
            }
        }
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        format!("{tried}: the connection to systemd was closed"),
    ))
}

/// The limits as systemd names them: each is given, so that an earlier one does not remain.
fn properties(limits: &CgroupLimits, version: CgroupVersion) -> Vec<Property> {
    let on = || Variant::from(true);
    let or_none = |limit: Option<i64>| {
        let limit = limit.and_then(|limit| u64::try_from(limit).ok());
        Variant::from(limit.unwrap_or(INFINITY))
    };
    let mut all = match version {
        CgroupVersion::V1 => vec![
            ("BlockIOAccounting", on()),
            ("CPUShares", Variant::from(limits.cpu_shares.clamp(2, 262_144))),
            ("MemoryLimit", or_none(limits.memory)),
        ],
        CgroupVersion::V2 => vec![
            ("IOAccounting", on()),
            ("CPUWeight", Variant::from(limits.cpu_weight())),
            ("MemoryMax", or_none(limits.memory)),
        ],
    };
    all.extend([
        ("CPUAccounting", on()),
        ("MemoryAccounting", on()),
        ("TasksAccounting", on()),
        ("TasksMax", or_none(limits.pids)),
        ("CPUQuotaPerSecUSec", Variant::from(quota(limits))),
    ]);
    let period = u64::try_from(limits.cpu_period).unwrap_or_default();
    // Its default is the same. systemd has known the setting only since version 242.
    if limits.cpu_period > 0 && limits.cpu_period != PERIOD {
        all.push(("CPUQuotaPeriodUSec", Variant::from(period)));
    }
    all
}

/// CPU time per second, in microseconds. systemd rounds to whole percents of a CPU; rounding up
/// leaves the containers their quotas.
fn quota(limits: &CgroupLimits) -> u64 {
    let period = if limits.cpu_period > 0 { limits.cpu_period } else { PERIOD };
    match (limits.cpu_quota.map(u64::try_from), u64::try_from(period)) {
        (Some(Ok(quota)), Ok(period)) if quota > 0 => {
            (quota.saturating_mul(1_000_000) / period).next_multiple_of(PERCENT)
        }
        _ => INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limits: &CgroupLimits, version: CgroupVersion) -> Vec<String> {
        let all = properties(limits, version);
        all.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn limits_have_the_names_of_systemd() {
        let limits = CgroupLimits {
            cpu_shares: 1024,
            cpu_quota: Some(150_500),
            cpu_period: 100_000,
            memory: Some(64 << 20),
            pids: Some(100),
            ..CgroupLimits::default()
        };
        let common = [
            "CPUAccounting=true",
            "MemoryAccounting=true",
            "TasksAccounting=true",
            "TasksMax=uint64 100",
            "CPUQuotaPerSecUSec=uint64 1510000",
        ];
        let v2 = ["IOAccounting=true", "CPUWeight=uint64 39", "MemoryMax=uint64 67108864"];
        assert_eq!(of(&limits, CgroupVersion::V2), [&v2[..], &common].concat());
        let v1 = ["BlockIOAccounting=true", "CPUShares=uint64 1024", "MemoryLimit=uint64 67108864"];
        assert_eq!(of(&limits, CgroupVersion::V1), [&v1[..], &common].concat());
    }

    #[test]
    fn missing_limits_are_taken_back() {
        let none = of(&CgroupLimits::default(), CgroupVersion::V2).join(" ");
        for name in ["MemoryMax", "TasksMax", "CPUQuotaPerSecUSec"] {
            assert!(none.contains(&format!("{name}=uint64 18446744073709551615")), "{none}");
        }
        assert!(none.contains("CPUWeight=uint64 1 "), "{none}");
        let own = CgroupLimits { cpu_period: 50_000, cpu_quota: Some(1), ..Default::default() };
        let own = of(&own, CgroupVersion::V2).join(" ");
        assert!(own.contains("CPUQuotaPerSecUSec=uint64 10000"), "{own}");
        assert!(own.ends_with("CPUQuotaPeriodUSec=uint64 50000"), "{own}");
    }

    #[test]
    fn the_unit_is_the_last_part_of_the_path() {
        use CgroupDriver::{Cgroupfs, Systemd};
        let slice = Path::new("/kubepods.slice/kubepods-pod1_2.slice");
        assert_eq!(unit(Systemd, slice).unwrap(), Some("kubepods-pod1_2.slice"));
        assert_eq!(unit(Cgroupfs, slice).unwrap(), None);
        for path in ["/kubepods/pod1", "/", "/a.slice/b"] {
            assert!(unit(Systemd, Path::new(path)).is_err(), "{path}");
        }
    }
}
