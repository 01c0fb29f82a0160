//! Arguments of `podbay agent`.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Flag, Flags};

/// Agent settings on the command line; they override the environment and the file.
#[derive(Debug, Default, Args)]
pub struct AgentArgs {
    /// Configuration file [default: /etc/podbay/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for persistent data
    #[arg(long, value_name = "DIR")]
    pub root: Option<String>,
    /// Directory for runtime state
    #[arg(long, value_name = "DIR")]
    pub state: Option<String>,
    /// CRI socket to listen on
    #[arg(long, value_name = "PATH")]
    pub cri_socket: Option<String>,
    /// containerd socket
    #[arg(long, value_name = "PATH")]
    pub containerd_address: Option<String>,
    /// containerd namespace
    #[arg(long, value_name = "NAME")]
    pub containerd_namespace: Option<String>,
    /// Log level: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log format: text, json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Directory of CNI configuration files
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<String>,
    /// Directory of CNI plugins; may be repeated
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Vec<String>,
    /// Directory of static pod manifests
    #[arg(long, value_name = "DIR", alias = "pod-manifest-path")]
    pub manifests: Option<String>,
    /// URL of static pod manifests
    #[arg(long, value_name = "URL", alias = "manifest-url")]
    pub manifests_url: Option<String>,
    /// Name of the node [default: the host name]
    #[arg(long, value_name = "NAME", alias = "hostname-override")]
    pub node_name: Option<String>,
    /// Node label; may be repeated
    #[arg(
        long = "node-label",
        value_name = "KEY=VALUE",
        alias = "node-labels",
        value_delimiter = ','
    )]
    pub node_labels: Vec<String>,
    /// Maximum number of pods on the node
    #[arg(long, value_name = "COUNT")]
    pub max_pods: Option<String>,
    /// IP address of a cluster DNS server; may be repeated
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub cluster_dns: Vec<String>,
    /// Cluster domain
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Address to listen on for remote clients, with mutual TLS
    #[arg(long, value_name = "IP:PORT")]
    pub remote_address: Option<String>,
    /// containerd snapshotter
    #[arg(long, value_name = "NAME")]
    pub snapshotter: Option<String>,
}

impl AgentArgs {
    /// The flags in the form that the configuration takes.
    pub fn flags(&self) -> Flags {
        let single = [
            ("root", "--root", &self.root),
            ("state", "--state", &self.state),
            ("cri.socket", "--cri-socket", &self.cri_socket),
            ("containerd.address", "--containerd-address", &self.containerd_address),
            ("containerd.namespace", "--containerd-namespace", &self.containerd_namespace),
            ("telemetry.level", "--log-level", &self.log_level),
            ("telemetry.format", "--log-format", &self.log_format),
            ("network.conf_dir", "--cni-conf-dir", &self.cni_conf_dir),
            ("pods.manifests", "--manifests", &self.manifests),
            ("pods.manifests_url", "--manifests-url", &self.manifests_url),
            ("pods.node_name", "--node-name", &self.node_name),
            ("pods.max_pods", "--max-pods", &self.max_pods),
            ("pods.cluster_domain", "--cluster-domain", &self.cluster_domain),
            ("remote.address", "--remote-address", &self.remote_address),
            ("containerd.snapshotter", "--snapshotter", &self.snapshotter),
        ];
        let several = [
            ("network.bin_dirs", "--cni-bin-dir", &self.cni_bin_dir),
            ("pods.node_labels", "--node-label", &self.node_labels),
            ("pods.cluster_dns", "--cluster-dns", &self.cluster_dns),
        ];
        let single = single.into_iter().filter_map(|(key, name, value)| {
            Some(Flag { key, name, values: vec![value.clone()?] })
        });
        let several = several
            .into_iter()
            .filter(|(_, _, values)| !values.is_empty())
            .map(|(key, name, values)| Flag { key, name, values: values.clone() });
        Flags { config: self.config.clone(), settings: single.chain(several).collect() }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use crate::config::{Config, FileOnly};

    #[test]
    fn every_flag_sets_its_key() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("empty.toml");
        std::fs::write(&file, "").expect("write");
        let given = [
            ("root", "--root", "/flag/root"),
            ("state", "--state", "/flag/state"),
            ("cri.socket", "--cri-socket", "/flag/cri.sock"),
            ("containerd.address", "--containerd-address", "/flag/containerd.sock"),
            ("containerd.namespace", "--containerd-namespace", "flag"),
            ("telemetry.level", "--log-level", "debug"),
            ("telemetry.format", "--log-format", "json"),
            ("network.conf_dir", "--cni-conf-dir", "/flag/net.d"),
            ("network.bin_dirs", "--cni-bin-dir", "/flag/a"),
            ("network.bin_dirs", "--cni-bin-dir", "/flag/b"),
            ("pods.manifests", "--manifests", "/flag/manifests"),
            ("pods.manifests_url", "--manifests-url", "http://flag.example/pods"),
            ("pods.node_name", "--node-name", "flag-node"),
            ("pods.node_labels", "--node-label", "flag=label"),
            ("pods.max_pods", "--max-pods", "77"),
            ("pods.cluster_dns", "--cluster-dns", "10.9.8.7"),
            ("pods.cluster_domain", "--cluster-domain", "flag.local"),
            ("remote.address", "--remote-address", "127.0.0.1:7443"),
            ("containerd.snapshotter", "--snapshotter", "native"),
        ];
        let mut line = vec!["podbay", "agent", "--config", file.to_str().expect("path")];
        line.extend(given.iter().flat_map(|(_, name, value)| [*name, *value]));
        let Command::Agent(args) = Cli::try_parse_from(line).expect("parse").command else {
            panic!("not the agent")
        };
        let config = Config::load(&FileOnly, &args.flags()).expect("load");
        let shown = config.show();
        let documentation = include_str!("../../docs/configuration.md");
        for (key, name, value) in given {
            let source = config.source(key).expect(key).to_string();
            assert_eq!(source, format!("flag {name}"), "{key}");
            assert!(shown.contains(value), "{value} in {shown}");
            let row = format!("| `{name}` | `{key}`");
            assert!(documentation.contains(&row), "{row} in docs/configuration.md");
        }
    }
}
