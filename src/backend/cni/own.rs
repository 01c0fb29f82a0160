//! The network configuration that podbay writes on a machine that has none.

use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::config::Version;
use super::error::Failure;
use super::exec::{Call, Runner, Verb};
use crate::backend::linux::files;
use crate::backend::{Error, ErrorKind, Result};

/// Name of the file; other files take precedence.
pub(super) const FILE: &str = "10-podbay.conflist";

/// Time limit of a plugin's VERSION command.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// Possible versions of the file, by preference. Plugins from 2021 on support 1.0.0.
const VERSIONS: &[&str] = &["1.0.0", "0.4.0", "0.3.1"];

/// A bridge network with podbay's own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultNetwork {
    /// Name of the bridge (at most 15 bytes), which is also the network's name.
    pub bridge: String,
    /// Subnets of the pod addresses: at most one IPv4 and one IPv6 subnet.
    pub subnets: Vec<IpNet>,
    /// MTU of the bridge; `None` leaves it to the plugin.
    pub mtu: Option<u32>,
}

impl Default for DefaultNetwork {
    fn default() -> Self {
        Self {
            bridge: "podbay0".to_owned(),
            subnets: vec![IpNet::V4(ipnet::Ipv4Net::new_assert([10, 87, 0, 0].into(), 16))],
            mtu: None,
        }
    }
}

impl DefaultNetwork {
    /// Checks the fields.
    pub(super) fn check(&self) -> Result<()> {
        let invalid = |problem: String| {
            Err(Error::new(ErrorKind::InvalidArgument, format!("default_network.{problem}")))
        };
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let first = self.bridge.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if !first || self.bridge.len() > 15 || !self.bridge.bytes().all(letter) {
            return invalid(format!("bridge: {:?} is not an interface name", self.bridge));
        }
        check_subnets(&self.subnets).or_else(|problem| invalid(format!("subnets: {problem}")))
    }

    /// Writes the file if the plugins for it exist.
    pub(super) fn write(&self, conf_dir: &Path, runner: &Runner) -> Result<()> {
        let tried = || format!("write {}", conf_dir.join(FILE).display());
        for kind in ["bridge", "host-local"] {
            runner.find(kind).map_err(|failure| failure.told(tried()))?;
        }
        let version = best_version(runner).map_err(|failure| failure.told(tried()))?;
        let list = self.list(version, runner.find("portmap").is_ok());
        let text = format!("{list:#}\n");
        files::create_dir(conf_dir, 0o755)?;
        files::write(&conf_dir.join(FILE), text.as_bytes(), 0o644)
    }

    /// The network list: with host ports and hairpin, masqueraded to the outside.
    fn list(&self, version: &str, portmap: bool) -> Value {
        let ranges: Vec<Value> =
            self.subnets.iter().map(|net| json!([{"subnet": net.trunc().to_string()}])).collect();
        let routes: Vec<Value> = self
            .subnets
            .iter()
            .map(|net| json!({"dst": if net.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" }}))
            .collect();
        let mut bridge = json!({
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
        });
        if let Some(mtu) = self.mtu {
            bridge["mtu"] = mtu.into();
        }
        let mut plugins = vec![bridge];
        if portmap {
            plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}}));
        }
        json!({"cniVersion": version, "name": self.bridge, "plugins": plugins})
    }
}

/// What is wrong with the subnets of a pod network.
pub(super) fn check_subnets(subnets: &[IpNet]) -> std::result::Result<(), String> {
    let of_family = |v4: bool| subnets.iter().filter(|net| net.addr().is_ipv4() == v4).count();
    if subnets.is_empty() || of_family(true) > 1 || of_family(false) > 1 {
        return Err("more than one subnet of an address family".to_owned());
    }
    let small = |net: &&IpNet| net.max_prefix_len() - net.prefix_len() < 2;
    match subnets.iter().find(small) {
        Some(net) => Err(format!("{net} has no room for pods")),
        None => Ok(()),
    }
}

/// The preferred version that the bridge plugin supports.
fn best_version(runner: &Runner) -> std::result::Result<&'static str, Failure> {
    let call = Call::about_no_pod(Verb::Version);
    let question = format!("{{\"cniVersion\":\"{}\"}}", VERSIONS[0]);
    let answer = runner.run("bridge", &call, question.as_bytes(), VERSION_LIMIT)?;
    let answer = super::exec::answer("bridge", &answer)?;
    let known: Vec<Version> = answer["supportedVersions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|version| Version::parse(version.as_str()?))
        .collect();
    let best =
        VERSIONS.iter().find(|text| Version::parse(text).is_some_and(|v| known.contains(&v)));
    Ok(best.copied().unwrap_or(VERSIONS[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cni::config::Network;
    use crate::backend::cni::testing::Plugins;

    fn subnets(text: &[&str]) -> Vec<IpNet> {
        text.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn writes_a_list_that_the_plugins_present_can_run() {
        let (conf, plugins) = (tempfile::tempdir().unwrap(), Plugins::new());
        let runner = Runner::new(vec![plugins.dir().to_owned()]);
        let own = DefaultNetwork {
            subnets: subnets(&["10.9.0.7/16", "fd00:9::/64"]),
            mtu: Some(1400),
            ..DefaultNetwork::default()
        };
        let error = own.write(conf.path(), &runner).unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition);
        assert!(files::list(conf.path()).unwrap().is_empty());

        plugins.add(
            "bridge",
            r#"echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}'"#,
        );
        plugins.add("host-local", "exit 1");
        own.write(conf.path(), &runner).unwrap();
        let raw = std::fs::read(conf.path().join(FILE)).unwrap();
        let network = Network::from_list(&raw).unwrap();
        assert_eq!((network.name.as_str(), network.version), ("podbay0", Version(0, 4, 0)));
        assert_eq!(network.plugins.len(), 1, "no portmap");
        let list: Value = serde_json::from_slice(&raw).unwrap();
        assert_eq!(
            list["plugins"][0]["ipam"],
            json!({
                "type": "host-local",
                "ranges": [[{"subnet": "10.9.0.0/16"}], [{"subnet": "fd00:9::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            })
        );
        assert_eq!(list["plugins"][0]["mtu"], 1400);

        plugins.add("portmap", "exit 1");
        own.write(conf.path(), &runner).unwrap();
        let raw = std::fs::read(conf.path().join(FILE)).unwrap();
        let network = Network::from_list(&raw).unwrap();
        assert!(network.plugins[1].capabilities.contains("portMappings"));
    }

    #[test]
    fn refuses_names_and_subnets_that_cannot_be() {
        DefaultNetwork::default().check().unwrap();
        for bridge in ["", "a/b", "0123456789abcdef", "-x", "a b"] {
            let own = DefaultNetwork { bridge: bridge.to_owned(), ..DefaultNetwork::default() };
            assert!(own.check().unwrap_err().to_string().contains("bridge"), "{bridge}");
        }
        for bad in [&[][..], &["10.0.0.0/16", "10.1.0.0/16"], &["10.0.0.0/31"], &["fd00::/127"]] {
            let own = DefaultNetwork { subnets: subnets(bad), ..DefaultNetwork::default() };
            assert!(own.check().unwrap_err().to_string().contains("subnets"), "{bad:?}");
        }
    }
}
