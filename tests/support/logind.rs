//! A bus and a minimal systemd-logind for one test, which can announce shutdowns.

use std::io::{ErrorKind, PipeReader, Read};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use zbus::Connection;
use zbus::connection::Builder;

use super::process::Daemon;
use super::wait_until;

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";

/// Anybody may say anything, so that a test can lie.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_type="method_return"/>
    <allow send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="signal"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
  </policy>
</busconfig>
"#;

/// A `dbus-daemon`; it ends with this value.
pub struct Bus {
    daemon: Daemon,
    /// For `DBUS_SYSTEM_BUS_ADDRESS`.
    pub address: String,
}

impl Bus {
    /// Starts it with its files in a folder.
    pub async fn start(folder: &Path) -> Self {
        let (config, socket) = (folder.join("bus.conf"), folder.join("bus.sock"));
        let text = CONFIG.replace("SOCKET", &socket.display().to_string());
        std::fs::write(&config, text).expect("the configuration of the bus");
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg("--nopidfile").arg("--config-file").arg(&config);
        let daemon = Daemon::start(&mut command, &folder.join("bus.log"));
        let limit = Duration::from_secs(60);
        // The file is there a moment before it is listened on.
        let listens = async || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        wait_until(limit, "the bus listens", listens).await;
        Self { daemon, address: format!("unix:path={}", socket.display()) }
    }

    /// A client of it.
    pub async fn connect(&self) -> Connection {
        Builder::address(self.address.as_str()).build().await.expect("a client of the bus")
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.daemon.kill9();
    }
}

/// What somebody asked for who holds a shutdown up, and the other end of its lock.
struct Lock {
    asked: [String; 4],
    end: PipeReader,
}

struct Manager {
    locks: Arc<Mutex<Vec<Lock>>>,
    shutting_down: Arc<Mutex<bool>>,
    patience: Duration,
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    fn inhibit(
        &self,
        what: String,
        who: String,
        why: String,
        mode: String,
    ) -> zbus::fdo::Result<zbus::OwnedFd> {
        let (end, lock) = std::io::pipe().map_err(|e| zbus::fdo::Error::IOError(e.to_string()))?;
        let lock = std::os::fd::OwnedFd::from(lock);
        let mut locks = self.locks.lock().expect("a lock");
        locks.push(Lock { asked: [what, who, why, mode], end });
        Ok(lock.into())
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max(&self) -> u64 {
        self.patience.as_micros().try_into().expect("a short time")
    }

    #[zbus(property)]
    fn preparing_for_shutdown(&self) -> bool {
        *self.shutting_down.lock().expect("a lock")
    }
}

/// systemd-logind.
pub struct Logind {
    bus: Connection,
    locks: Arc<Mutex<Vec<Lock>>>,
    shutting_down: Arc<Mutex<bool>>,
}

impl Logind {
    /// Serves on a bus; waits so long for those who hold a shutdown up.
    pub async fn serve(bus: &Bus, patience: Duration) -> Self {
        let (locks, shutting_down) = (Arc::default(), Arc::default());
        let manager = Manager {
            locks: Arc::clone(&locks),
            shutting_down: Arc::clone(&shutting_down),
            patience,
        };
        let bus = Builder::address(bus.address.as_str()).serve_at(PATH, manager).name(NAME);
        Self { bus: bus.build().await.expect("a logind"), locks, shutting_down }
    }

    /// A shutdown begins, or is taken back.
    pub async fn say(&self, shutting_down: bool) {
        *self.shutting_down.lock().expect("a lock") = shutting_down;
        say(&self.bus, None, shutting_down).await;
    }

    /// What those asked for who hold a shutdown up now.
    pub fn held(&self) -> Vec<[String; 4]> {
        let mut locks = self.locks.lock().expect("a lock");
        locks.retain_mut(|lock| !is_closed(&mut lock.end));
        locks.iter().map(|lock| lock.asked.clone()).collect()
    }
}

/// Says what logind says, whoever it is who says it.
pub async fn say(bus: &Connection, to: Option<&str>, shutting_down: bool) {
    let said = bus.emit_signal(to, PATH, MANAGER, "PrepareForShutdown", &shutting_down);
    said.await.expect("it is said");
}

fn is_closed(end: &mut PipeReader) -> bool {
    let _set = fcntl(&*end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a flag of a pipe");
    match end.read(&mut [0]) {
        Err(error) => error.kind() != ErrorKind::WouldBlock,
        Ok(read) => read == 0,
    }
}
