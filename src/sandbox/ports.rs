//! Host ports: each may be published by one pod at a time.
//!
//! CNI's portmap plugin does not refuse a port that is in use: the older rule stays in force, and
//! the new pod would never receive traffic.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::entry::Entry;
use super::error::Error;
use super::{Room, SandboxState};
use crate::model::pod::{PodConfig, PortMapping};

impl Room {
    /// Claims the host ports of a new pod, unless another pod has one of them, or it wants one
    /// twice.
    pub(super) fn claim_host_ports(&self, entry: &Entry) -> Result<(), Error> {
        let new = entry.sandbox();
        check_own_ports(&new.config)?;
        // Under one lock: of two pods created at the same time with the same port, one is refused.
        let entries = self.entries();
        for other in entries.values().filter(|other| other.has_ports.load(Ordering::Relaxed)) {
            let other = other.sandbox();
            if other.state == SandboxState::NotReady {
                continue;
            }
            let taken = |port: &&PortMapping| published(&other.config).any(|it| collide(port, it));
            if let Some(port) = published(&new.config).find(taken) {
                return Err(Error::HostPortInUse {
                    port: port.host_port,
                    protocol: port.protocol.as_str(),
                    id: other.id,
                });
            }
        }
        entry.has_ports.store(published(&new.config).next().is_some(), Ordering::Relaxed);
        Ok(())
    }
}

/// Releases a pod's host ports as soon as its stop is requested: its replacement may be created
/// before its processes have ended.
pub(super) fn release_host_ports(entry: &Entry) {
    entry.has_ports.store(false, Ordering::Relaxed);
}

/// Mapped ports. A pod in the host network has none: it uses the host's ports directly.
fn published(config: &PodConfig) -> impl Iterator<Item = &PortMapping> {
    let mapped = !config.host_network();
    config.port_mappings.iter().filter(move |port| mapped && port.host_port != 0)
}

/// Checks that no host port is mapped twice within a pod. As in Kubernetes, mappings of one port for
/// different host addresses are fine, also if one of them stands for all addresses.
fn check_own_ports(config: &PodConfig) -> Result<(), Error> {
    let mut earlier: Vec<&PortMapping> = Vec::new();
    for (index, port) in config.port_mappings.iter().enumerate() {
        if config.host_network() || port.host_port == 0 {
            continue;
        }
        let same = |it: &&PortMapping| {
            (it.host_port, it.protocol) == (port.host_port, port.protocol)
                && given(it.host_ip) == given(port.host_ip)
        };
        if earlier.iter().any(same) {
            let problem = format!("{}/{} is mapped twice", port.host_port, port.protocol.as_str());
            return Err(Error::invalid(
                format!("config.port_mappings[{index}].host_port"),
                problem,
            ));
        }
        earlier.push(port);
    }
    Ok(())
}

fn collide(a: &PortMapping, b: &PortMapping) -> bool {
    (a.host_port, a.protocol) == (b.host_port, b.protocol) && overlap(a.host_ip, b.host_ip)
}

/// A host address, unless it stands for all addresses.
fn given(ip: Option<IpAddr>) -> Option<IpAddr> {
    ip.filter(|ip| !ip.is_unspecified())
}

/// Whether two host addresses overlap. A missing or unspecified address stands for all addresses.
fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (given(a), given(b)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pod::Protocol;

    fn port(host_port: u16, protocol: Protocol, ip: Option<&str>) -> PortMapping {
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol, container_port: 80, host_port, host_ip }
    }

    #[test]
    fn ports_collide_by_number_protocol_and_address() {
        let web = port(80, Protocol::Tcp, None);
        let cases = [
            (port(80, Protocol::Tcp, None), true),
            (port(80, Protocol::Tcp, Some("10.0.0.1")), true),
            (port(80, Protocol::Tcp, Some("0.0.0.0")), true),
            (port(80, Protocol::Udp, None), false),
            (port(81, Protocol::Tcp, None), false),
        ];
        for (other, expected) in cases {
            assert_eq!(collide(&web, &other), expected, "{other:?}");
            assert_eq!(collide(&other, &web), expected, "{other:?}");
        }
        let (one, two) = (Some("10.0.0.1"), Some("10.0.0.2"));
        assert!(!collide(&port(80, Protocol::Tcp, one), &port(80, Protocol::Tcp, two)));
    }
}
