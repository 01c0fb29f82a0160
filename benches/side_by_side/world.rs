//! One side of the bench: a separate containerd, with its CRI plugin or with podbay.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use podbay::proto::runtime::v1 as cri;
use podbay::proto::runtime::v1::image_service_client::ImageServiceClient;
use podbay::proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use serde_json::json;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::cpu::CpuMeter;
use super::eventually;
use super::process::Daemon;
use super::sweep;

/// The shipped binary, by `make build`; `KIT_AGENT` names another.
const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/podbay");
const PARTS: &str = "/opt/podbay-parts/bin";
/// A call that takes longer fails the run.
const CALL_LIMIT: Duration = Duration::from_secs(120);
const MESSAGE_LIMIT: usize = 16 << 20;

/// What serves the CRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `podbay agent`, release build.
    Podbay,
    /// The same with NRI switched on.
    PodbayWithNri,
    /// The plugin inside containerd.
    Plugin,
}

/// A running side.
pub struct Side {
    /// 0 or 1.
    pub number: usize,
    pub kind: Kind,
    /// As the CRI's Version tells it.
    pub version: String,
    agent: Option<Daemon>,
    containerd: Daemon,
    folder: TempDir,
    channel: Channel,
    /// CPU time of both daemons and all that they start. Last: its end comes after theirs.
    pub cpu: CpuMeter,
}

impl Side {
    /// Starts everything and waits until it is ready for pods.
    pub async fn start(number: usize, kind: Kind, pause: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("pbb{number}-")).tempdir()?;
        let at = Layout { dir: folder.path(), number };
        at.write_conflist()?;
        let cpu = CpuMeter::new(&format!("podbay-bench-side-{number}"))?;
        let containerd = at.start_containerd(kind, pause)?;
        cpu.take(containerd.pid())?;
        let up = eventually(Duration::from_secs(30), async || {
            std::os::unix::net::UnixStream::connect(at.containerd_socket()).ok()
        });
        up.await.with_context(|| containerd.last_words())?;
        let agent = match kind {
            Kind::Podbay | Kind::PodbayWithNri => Some(at.start_agent(kind)?),
            Kind::Plugin => None,
        };
        if let Some(agent) = &agent {
            cpu.take(agent.pid())?;
        }
        let socket = if agent.is_some() { at.agent_socket() } else { at.containerd_socket() };
        let (channel, version) = match ready(&socket).await {
            Some(ready) => ready,
            None => bail!("not ready: {}", agent.as_ref().unwrap_or(&containerd).last_words()),
        };
        Ok(Self { number, kind, version, agent, containerd, folder, channel, cpu })
    }

    pub fn name(&self) -> &'static str {
        match (self.kind, self.number) {
            (Kind::Podbay, _) => "podbay",
            (Kind::PodbayWithNri, _) => "podbay with NRI",
            (Kind::Plugin, 0) => "containerd CRI (again)",
            (Kind::Plugin, _) => "containerd CRI",
        }
    }

    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Daemon::pid)
    }

    pub fn containerd_pid(&self) -> u32 {
        self.containerd.pid()
    }

    pub fn log_root(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    pub fn cgroup_parent(&self) -> String {
        format!("/podbay-bench-{}", self.number)
    }

    /// Ends the agent and starts another.
    pub async fn renew_agent(&mut self) -> Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        agent.terminate(Duration::from_secs(15)).await.context("the agent still runs")?;
        let at = Layout { dir: self.folder.path(), number: self.number };
        let agent = at.start_agent(self.kind)?;
        self.cpu.take(agent.pid())?;
        let Some((channel, _)) = ready(&at.agent_socket()).await else {
            bail!("not ready: {}", agent.last_words());
        };
        (self.agent, self.channel) = (Some(agent), channel);
        Ok(())
    }

    /// Ends both daemons in order.
    pub async fn stop(&mut self) -> Result<()> {
        for daemon in self.agent.iter_mut().chain([&mut self.containerd]) {
            let ended = daemon.terminate(Duration::from_secs(15)).await;
            ended.with_context(|| format!("still runs: {}", daemon.last_words()))?;
        }
        Ok(())
    }
}

/// Takes away what is left, which after a failure are whole pods.
impl Drop for Side {
    fn drop(&mut self) {
        for daemon in self.agent.iter_mut().chain([&mut self.containerd]) {
            daemon.kill9();
        }
        let at = Layout { dir: self.folder.path(), number: self.number };
        sweep::kill_shims(&at.containerd_socket());
        sweep::kill_cgroups(&self.cgroup_parent());
        sweep::unmount_below(self.folder.path());
        sweep::delete_bridge(&at.bridge());
        sweep::kill_cgroups(&self.cgroup_parent());
    }
}

/// Waits until the CRI says that runtime and network are ready.
async fn ready(socket: &Path) -> Option<(Channel, String)> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).ok()?;
    let endpoint = endpoint.timeout(CALL_LIMIT);
    let answer = eventually(Duration::from_secs(30), async || {
        let channel = endpoint.connect().await.ok()?;
        let mut client = RuntimeServiceClient::new(channel.clone());
        let status = client.status(cri::StatusRequest { verbose: false }).await.ok()?;
        let conditions = status.into_inner().status?.conditions;
        if conditions.is_empty() || conditions.iter().any(|it| !it.status && is_needed(&it.r#type))
        {
            return None;
        }
        let version = client.version(cri::VersionRequest::default()).await.ok()?.into_inner();
        Some((channel, format!("{} {}", version.runtime_name, version.runtime_version)))
    });
    answer.await
}

fn is_needed(condition: &str) -> bool {
    ["RuntimeReady", "NetworkReady"].contains(&condition)
}

/// Where the parts of a side are.
struct Layout<'a> {
    dir: &'a Path,
    number: usize,
}

impl Layout<'_> {
    fn parts() -> String {
        std::env::var("KIT_PARTS").unwrap_or_else(|_| PARTS.into())
    }

    fn containerd_socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    fn agent_socket(&self) -> PathBuf {
        self.dir.join("podbay.sock")
    }

    fn bridge(&self) -> String {
        format!("pbbench{}", self.number)
    }

    fn subnet(&self) -> String {
        format!("10.239.{}.0/22", self.number * 4)
    }

    /// The same list on both sides, but for names and addresses.
    fn write_conflist(&self) -> Result<()> {
        let list = json!({
            "cniVersion": "1.0.0", "name": format!("podbay-bench-{}", self.number),
            "plugins": [
                {
                    "type": "bridge", "bridge": self.bridge(), "isGateway": true, "ipMasq": true,
                    "ipam": {
                        "type": "host-local", "dataDir": self.dir.join("ipam"),
                        "ranges": [[{"subnet": self.subnet()}]], "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        std::fs::create_dir_all(self.dir.join("net.d"))?;
        Ok(std::fs::write(self.dir.join("net.d/10-bench.conflist"), list.to_string())?)
    }

    fn start_containerd(&self, kind: Kind, pause: &str) -> Result<Daemon> {
        let at = self.dir.display();
        let parts = Self::parts();
        let mut text = format!(
            "version = 3\nroot = '{at}/containerd'\nstate = '{at}/containerd-state'\n\
             [grpc]\naddress = '{at}/containerd.sock'\n[ttrpc]\naddress = '{at}/containerd.ttrpc'\n\
             [plugins.'io.containerd.nri.v1.nri']\ndisable = true\n"
        );
        text += &match kind {
            Kind::Podbay | Kind::PodbayWithNri => String::new(),
            // Without CAP_SYS_RESOURCE the plugin cannot lower scores; on other hosts this only
            // clamps to what containerd itself has.
            Kind::Plugin => format!(
                "[plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
                 [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['{parts}']\nconf_dir = '{at}/net.d'\n\
                 [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{pause}'\n"
            ),
        };
        if kind != Kind::Plugin {
            let off = "disabled_plugins = ['io.containerd.cri.v1.images', \
                       'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri']\n";
            text = text.replacen("[grpc]", &format!("{off}[grpc]"), 1);
        }
        let config = self.dir.join("containerd.toml");
        std::fs::write(&config, text)?;
        let path = format!("{parts}:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(Path::new(&parts).join("containerd"));
        command.arg("--config").arg(config).env("PATH", path);
        Ok(Daemon::start(&mut command, &self.dir.join("containerd.log")))
    }

    fn start_agent(&self, kind: Kind) -> Result<Daemon> {
        let at = self.dir.display();
        let text = format!(
            "root = '{at}/podbay'\nstate = '{at}/podbay-state'\n\
             [cri]\nsocket = '{at}/podbay.sock'\n\
             [containerd]\naddress = '{at}/containerd.sock'\n\
             [network]\nconf_dir = '{at}/net.d'\nbin_dirs = ['{parts}']\ncache_dir = '{at}/cni-cache'\n\
             netns_dir = '{at}/netns'\n\
             default_network = false\n\
             [nri]\nenable = {nri}\nsocket_path = '{at}/nri.sock'\nplugin_path = '{at}/nri'\n\
             plugin_config_path = '{at}/nri-conf'\n",
            parts = Self::parts(),
            nri = kind == Kind::PodbayWithNri,
        );
        let config = self.dir.join("podbay.toml");
        std::fs::write(&config, text)?;
        let binary = std::env::var("KIT_AGENT").unwrap_or_else(|_| AGENT.to_owned());
        let mut command = Command::new(binary);
        command.args(["agent", "--config"]).arg(config);
        Ok(Daemon::start(&mut command, &self.dir.join("podbay.log")))
    }
}
