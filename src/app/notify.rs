//! Notifies the service manager of readiness, of the shutdown, and of progress (watchdog).
//!
//! The protocol is systemd's `sd_notify`: datagrams to the socket named by `NOTIFY_SOCKET`. Without
//! that variable nothing is sent.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::lifecycle::Tasks;

/// The service manager to notify.
#[derive(Debug)]
pub(super) struct Manager {
    socket: UnixDatagram,
    /// The watchdog timeout, after which it kills the agent.
    patience: Option<Duration>,
}

impl Manager {
    /// The manager that started this process, if it wants notifications.
    pub(super) fn of_process() -> Option<Self> {
        let manager = Self::new(|name| std::env::var_os(name), std::process::id())?;
        manager.map_err(|error| tracing::warn!(%error, "cannot notify the service manager")).ok()
    }

    fn new(
        setting: impl Fn(&str) -> Option<std::ffi::OsString>,
        pid: u32,
    ) -> Option<io::Result<Self>> {
        let address = setting("NOTIFY_SOCKET").filter(|address| !address.is_empty())?;
        let number = |name: &str| setting(name)?.to_str()?.parse::<u64>().ok();
        // The variable may be meant for this process's parent.
        let is_meant = number("WATCHDOG_PID").is_none_or(|meant| meant == u64::from(pid));
        let patience = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && is_meant);
        let socket = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
        };
        let connect = |address| {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let patience = patience.map(Duration::from_micros);
        Some(socket.and_then(connect).map(|socket| Self { socket, patience }))
    }

    /// Sends a notification; if the manager is busy it is dropped.
    pub(super) fn tell(&self, what: &str) {
        if let Err(error) = self.socket.send(what.as_bytes()) {
            tracing::debug!(%error, what, "cannot notify the service manager");
        }
    }

    /// Sends watchdog keep-alives until dropped, each only after the runtime has run a new task.
    pub(super) async fn feed(&self, tasks: &Tasks) {
        let Some(patience) = self.patience else { return std::future::pending().await };
        let mut ticks = tokio::time::interval(patience / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if tasks.spawn("progress", std::future::ready(())).join().await.is_some() {
                self.tell("WATCHDOG=1");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::*;

    fn manager(settings: &[(&str, OsString)]) -> Option<io::Result<Manager>> {
        let settings: BTreeMap<_, _> = settings.iter().cloned().collect();
        Manager::new(|name| settings.get(name).cloned(), 7)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_hears_of_the_start_and_of_progress() {
        let world = tempfile::tempdir().unwrap();
        let path = world.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let usec = ("WATCHDOG_USEC", OsString::from("30000"));
        let told = manager(&[("NOTIFY_SOCKET", path.into()), usec]).unwrap().unwrap();
        told.tell("READY=1");
        assert_eq!(heard(&socket), "READY=1");
        let tasks = Tasks::new();
        let feed = tokio::time::timeout(Duration::from_millis(100), told.feed(&tasks));
        assert!(feed.await.is_err());
        assert_eq!((heard(&socket), heard(&socket)), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
        // While the runtime is blocked no keep-alive is sent.
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 64]).is_ok() {}
        std::thread::sleep(Duration::from_millis(50));
        assert!(socket.recv(&mut [0; 64]).is_err());
    }

    #[test]
    fn abstract_sockets_are_found() {
        let name = format!("podbay-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let told = manager(&[("NOTIFY_SOCKET", format!("@{name}").into())]).unwrap().unwrap();
        told.tell("STOPPING=1");
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn who_does_not_want_to_be_told_is_not() {
        assert!(manager(&[]).is_none());
        assert!(manager(&[("NOTIFY_SOCKET", OsString::new())]).is_none());
        assert!(manager(&[("NOTIFY_SOCKET", "/nonexistent/socket".into())]).unwrap().is_err());
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_fed() {
        let world = tempfile::tempdir().unwrap();
        let path = world.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        for (pid, expected) in [("7", true), ("8", false)] {
            let settings = [
                ("NOTIFY_SOCKET", path.clone().into()),
                ("WATCHDOG_USEC", "1000".into()),
                ("WATCHDOG_PID", pid.into()),
            ];
            let told = manager(&settings).unwrap().unwrap();
            assert_eq!(told.patience.is_some(), expected, "{pid}");
        }
    }
}
