//! Ports of containers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ContainerPort;

use super::at::At;
use super::names;

const MOST: i64 = 65535;

/// Host ports already used in the pod: protocol, address, number.
pub(super) type Taken = BTreeSet<String>;

pub(super) fn ports(at: &At<'_>, ports: &[ContainerPort], host_network: bool, taken: &mut Taken) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = at.item(index);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let at = at.field("name");
            at.all(name, names::port(name));
            if !seen.insert(name) {
                at.duplicate(name);
            }
        }
        if port.container_port == 0 {
            at.field("containerPort").required("");
        } else {
            number(&at.field("containerPort"), port.container_port);
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        at.field("protocol").one_of(protocol, &["SCTP", "TCP", "UDP"]);
        let address = port.host_ip.as_deref().unwrap_or_default();
        if !address.is_empty() && address.parse::<IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            at.field("hostIP").invalid(address, why);
        }
        of_host(&at, port, host_network, taken);
    }
}

fn of_host(at: &At<'_>, port: &ContainerPort, host_network: bool, taken: &mut Taken) {
    let Some(number_of_host) = port.host_port.filter(|number| *number != 0) else { return };
    number(&at.field("hostPort"), number_of_host);
    if host_network && number_of_host != port.container_port {
        let why = "must match `hostPort` when `hostNetwork` is true";
        at.field("containerPort").invalid(port.container_port, why);
    }
    let protocol = port.protocol.as_deref().unwrap_or_default();
    let address = port.host_ip.as_deref().unwrap_or_default();
    let key = format!("{protocol}/{address}/{number_of_host}");
    if !taken.insert(key.clone()) {
        at.field("hostPort").duplicate(key);
    }
}

pub(super) fn number(at: &At<'_>, port: i32) {
    at.between(port, 1, MOST);
}
