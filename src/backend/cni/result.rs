//! Results of plugins: CNI specification, section 5, in all its versions.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

/// Which address becomes the pod's IP when a network assigns several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpPreference {
    /// The first IPv4 address.
    #[default]
    Ipv4,
    /// The first IPv6 address.
    Ipv6,
    /// The first one in the plugins' result.
    Cni,
}

impl IpPreference {
    /// Moves the preferred address to the front; the order of the others is kept.
    pub(super) fn order(self, mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
        match self {
            Self::Ipv4 => ips.sort_by_key(IpAddr::is_ipv6),
            Self::Ipv6 => ips.sort_by_key(IpAddr::is_ipv4),
            Self::Cni => {}
        }
        ips
    }
}

/// What is wrong with a result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("not valid JSON")]
    Json(#[source] serde_json::Error),
    #[error("not a JSON object")]
    NotAnObject,
    #[error("no usable address: {0}")]
    Address(String),
}

/// An error as plugins print it.
#[derive(Debug, Deserialize)]
pub(super) struct PluginError {
    #[serde(default)]
    pub code: u32,
    #[serde(default)]
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

/// Parses the output of a successful plugin.
pub(super) fn parse(stdout: &[u8]) -> Result<Value, Malformed> {
    match serde_json::from_slice(stdout).map_err(Malformed::Json)? {
        object @ Value::Object(_) => Ok(object),
        _ => Err(Malformed::NotAnObject),
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Shape {
    // Go encodes an empty list as null.
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
    // Used in versions before 0.3.0.
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Interface {
    name: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    interface: Option<usize>,
}

#[derive(Deserialize)]
struct OldIp {
    ip: String,
}

/// The addresses that a plugin's output assigns to an interface, for the fuzz tests.
#[doc(hidden)]
pub fn printed_addresses(stdout: &[u8], if_name: &str) -> Result<Vec<IpAddr>, String> {
    parse(stdout)
        .and_then(|result| addresses(&result, if_name))
        .map_err(|malformed| malformed.to_string())
}

/// Addresses that a result assigns to the pod's interface `if_name`. An address without an
/// interface counts too.
pub(super) fn addresses(result: &Value, if_name: &str) -> Result<Vec<IpAddr>, Malformed> {
    let malformed = |error: serde_json::Error| Malformed::Address(error.to_string());
    let shape = Shape::deserialize(result).map_err(malformed)?;
    let parse = |text: &str| {
        let net: Result<IpNet, _> = text.parse();
        net.map(|net| net.addr()).map_err(|_| Malformed::Address(format!("{text:?}")))
    };
    let old = [shape.ip4, shape.ip6].into_iter().flatten();
    let mut found = old.map(|old| parse(&old.ip)).collect::<Result<Vec<IpAddr>, _>>()?;
    let interfaces = shape.interfaces.unwrap_or_default();
    for ip in shape.ips.unwrap_or_default() {
        let name = match ip.interface {
            None => if_name,
            Some(index) => match interfaces.get(index) {
                Some(interface) => &interface.name,
                None => return Err(Malformed::Address(format!("there is no interface {index}"))),
            },
        };
        let address = parse(&ip.address)?;
        if name == if_name && !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ips(result: &Value) -> Vec<String> {
        addresses(result, "eth0").unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_form_of_result() {
        let v02 = json!({"ip4": {"ip": "10.1.0.5/24"}, "ip6": {"ip": "fd00::5/64"}});
        assert_eq!(ips(&v02), ["10.1.0.5", "fd00::5"]);
        let v04 = json!({
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "br0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/n"}],
            "ips": [{"version": "4", "interface": 2, "address": "10.1.0.6/24"}],
        });
        assert_eq!(ips(&v04), ["10.1.0.6"]);
        let v10 = json!({
            "interfaces": [{"name": "eth0"}, {"name": "br0"}],
            "ips": [
                {"interface": 1, "address": "10.1.0.1/24"},
                {"interface": 0, "address": "fd00::7/64"},
                {"address": "10.1.0.7/24"},
            ],
        });
        assert_eq!(ips(&v10), ["fd00::7", "10.1.0.7"]);
        assert!(ips(&json!({"interfaces": [{"name": "eth0"}], "ips": null})).is_empty());
    }

    #[test]
    fn refuses_garbage() {
        assert!(matches!(parse(b""), Err(Malformed::Json(_))));
        assert!(matches!(parse(b"ok"), Err(Malformed::Json(_))));
        assert!(matches!(parse(b"[]"), Err(Malformed::NotAnObject)));
        for bad in [
            json!({"ips": [{"address": "10.1.0.5"}]}),
            json!({"ips": [{"address": "nonsense/24"}]}),
            json!({"ips": "10.1.0.5/24"}),
            json!({"ips": [{"address": "10.1.0.5/24", "interface": 3}]}),
            json!({"ips": [{"address": "10.1.0.5/24", "interface": -1}]}),
        ] {
            assert!(addresses(&bad, "eth0").is_err(), "{bad}");
        }
    }

    #[test]
    fn preference_moves_one_family_to_the_front() {
        let all: Vec<IpAddr> =
            ["fd00::1", "10.0.0.1", "fd00::2"].iter().map(|ip| ip.parse().unwrap()).collect();
        let first = |preference: IpPreference| preference.order(all.clone())[0].to_string();
        assert_eq!(first(IpPreference::Ipv4), "10.0.0.1");
        assert_eq!(first(IpPreference::Ipv6), "fd00::1");
        assert_eq!(first(IpPreference::Cni), "fd00::1");
    }
}
