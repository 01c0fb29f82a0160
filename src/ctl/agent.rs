//! What `podbay agent` takes.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Flag, Flags};

/// Settings of the agent on the command line: they win over environment and file.
#[derive(Debug, Default, Args)]
pub struct AgentArgs {
    /// Configuration file [default: /etc/podbay/config.toml, which may be absent]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of lasting data
    #[arg(long, value_name = "DIR")]
    pub root: Option<String>,
    /// Folder of run state
    #[arg(long, value_name = "DIR")]
    pub state: Option<String>,
    /// Socket that CRI clients connect to
    #[arg(long, value_name = "PATH")]
    pub cri_socket: Option<String>,
    /// Socket of containerd
    #[arg(long, value_name = "PATH")]
    pub containerd_address: Option<String>,
    /// Namespace in containerd
    #[arg(long, value_name = "NAME")]
    pub containerd_namespace: Option<String>,
    /// Level of the agent's log: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Format of the agent's log: text, json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Folder of CNI configurations
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<String>,
    /// Folder of CNI plugins; may be repeated
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Vec<String>,
}

impl AgentArgs {
    /// The same, as the configuration takes it.
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
        ];
        let single = single.into_iter().filter_map(|(key, name, value)| {
            Some(Flag { key, name, values: vec![value.clone()?] })
        });
        let mut settings: Vec<Flag> = single.collect();
        if !self.cni_bin_dir.is_empty() {
            let (key, name) = ("network.bin_dirs", "--cni-bin-dir");
            settings.push(Flag { key, name, values: self.cni_bin_dir.clone() });
        }
        Flags { config: self.config.clone(), settings }
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
        ];
        let mut line = vec!["podbay", "agent", "--config", file.to_str().expect("path")];
        line.extend(given.iter().flat_map(|(_, name, value)| [*name, *value]));
        let Command::Agent(args) = Cli::try_parse_from(line).expect("parse").command else {
            panic!("not the agent")
        };
        let config = Config::load(&FileOnly, &args.flags()).expect("load");
        let shown = config.show();
        for (key, name, value) in given {
            let source = config.source(key).expect(key).to_string();
            assert_eq!(source, format!("flag {name}"), "{key}");
            assert!(shown.contains(value), "{value} in {shown}");
        }
    }
}
