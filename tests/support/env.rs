//! The private world of one test: containerd, CNI configuration, bridge, subnet, folders.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use tempfile::TempDir;

use super::containerd::{Line, PrivateContainerd};
use super::{firewall, parts, sweep};

tokio::task_local! {
    /// The OCI runtime of this machine that all worlds made inside use by default; runc if not set.
    pub static RUNTIME: &'static str;
}

/// Who connects the pods of a test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Networking {
    /// A configuration list of the test's own: bridge and portmap.
    #[default]
    Conflist,
    /// The agent's own default network.
    Default,
    /// No configuration, and the default network is off: the network is not ready.
    Missing,
}

/// A number that nobody else on this machine uses while it is held; bridge name and subnet come
/// from it. The lock goes with the process, so nothing needs to be given back.
struct Slot {
    number: u16,
    _lock: Flock<File>,
}

impl Slot {
    fn take() -> Self {
        let folder = Path::new("/tmp/podbay-test-slots");
        std::fs::create_dir_all(folder).expect("the folder of the slots");
        for number in 0..2048 {
            let path = folder.join(number.to_string());
            let file = File::options().create(true).append(true).open(&path).expect("a slot file");
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return Self { number, _lock: lock };
            }
        }
        panic!("2048 test environments at once?");
    }
}

/// The world. Dropping it removes whatever a test left in it, so that a failed test does not
/// disturb the next; finding leaks is the census's task.
pub struct TestEnv {
    /// The test's own containerd; kill and restart it as the test needs.
    pub containerd: PrivateContainerd,
    /// Its line.
    pub line: Line,
    networking: Networking,
    folder: TempDir,
    slot: Slot,
    extra_config: String,
    pods_config: String,
    variables: Vec<(String, String)>,
    deadlines: (&'static str, &'static str),
}

impl TestEnv {
    /// A world on this line of containerd with a network of its own.
    pub async fn start(line: Line) -> Self {
        Self::start_with(line, Networking::Conflist).await
    }

    /// With another kind of network.
    pub async fn start_with(line: Line, networking: Networking) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "tests on a real containerd need root");
        let folder = tempfile::Builder::new().prefix("pbe-").tempdir_in("/tmp").expect("a folder");
        let slot = Slot::take();
        let containerd = PrivateContainerd::start(line);
        let mut env = Self {
            containerd,
            line,
            networking,
            folder,
            slot,
            extra_config: String::new(),
            // Tests run on machines that are short of something.
            pods_config: "eviction = []".to_owned(),
            variables: Vec::new(),
            deadlines: ("10s", "60s"),
        };
        let folders = [
            env.cni_conf_dir(),
            env.netns_dir(),
            env.log_root(),
            env.certs_dir(),
            env.extra_bin_dir(),
            env.manifests_dir(),
        ];
        for dir in folders {
            std::fs::create_dir_all(dir).expect("a folder of the environment");
        }
        if networking == Networking::Conflist {
            env.write_conflist();
        }
        if let Ok(name) = RUNTIME.try_with(|name| *name) {
            env.add_config(&format!(
                "[runtimes]\ndefault = {name:?}\n[runtimes.handlers.{name}]\nbinary = \"/usr/bin/{name}\"",
            ));
        }
        env
    }

    /// More TOML for the agent's configuration, e.g. `[images]\npull_timeout = "5s"`. Tables that
    /// the kit writes itself cannot be given again.
    pub fn add_config(&mut self, toml: &str) {
        self.extra_config.push_str(toml);
        self.extra_config.push('\n');
    }

    /// More of the table `[pods]`, in TOML; nobody is evicted unless it says when.
    pub fn set_pods(&mut self, toml: &str) {
        self.pods_config = toml.to_owned();
    }

    /// Sets a variable of the agent's environment.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// `containerd.quick_timeout` and `containerd.slow_timeout` of the agent.
    pub fn set_deadlines(&mut self, quick: &'static str, slow: &'static str) {
        self.deadlines = (quick, slow);
    }

    /// Everything of this world is below here, but for containerd.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("podbay.sock")
    }

    pub fn cni_conf_dir(&self) -> PathBuf {
        self.path().join("cni/net.d")
    }

    pub fn cni_cache_dir(&self) -> PathBuf {
        self.path().join("cni/cache")
    }

    /// Looked through for CNI plugins before the real ones: for a plugin that misbehaves.
    pub fn extra_bin_dir(&self) -> PathBuf {
        self.path().join("cni/bin")
    }

    /// Where host-local keeps the addresses of the conflist's network.
    pub fn ipam_dir(&self) -> PathBuf {
        self.path().join("cni/ipam")
    }

    pub fn netns_dir(&self) -> PathBuf {
        self.path().join("netns")
    }

    /// For `log_directory` of pods.
    pub fn log_root(&self) -> PathBuf {
        self.path().join("logs")
    }

    /// Where static pods come from.
    pub fn manifests_dir(&self) -> PathBuf {
        self.path().join("manifests")
    }

    /// `hosts.toml` tree of the registries.
    pub fn certs_dir(&self) -> PathBuf {
        self.path().join("certs.d")
    }

    /// For other files of the test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn namespace(&self) -> &'static str {
        "podbay"
    }

    pub fn snapshotter(&self) -> &'static str {
        "overlayfs"
    }

    /// Parent cgroup for the pods of this world.
    pub fn cgroup_parent(&self) -> String {
        format!("/podbay-test-{}", self.slot.number)
    }

    /// Name of the bridge of this world.
    pub fn bridge(&self) -> String {
        format!("pbt{}", self.slot.number)
    }

    /// Name of the conflist's network.
    pub fn network_name(&self) -> String {
        format!("podbay-test-{}", self.slot.number)
    }

    /// First three numbers of the subnet, `10.x.y`.
    pub fn subnet_prefix(&self) -> String {
        let [high, low] = self.slot.number.to_be_bytes();
        format!("10.{}.{low}", 240 + high)
    }

    /// The subnet of the pods, a /24.
    pub fn subnet(&self) -> String {
        format!("{}.0/24", self.subnet_prefix())
    }

    /// Where the CNI plugins of this line are.
    pub fn cni_bin_dir(&self) -> PathBuf {
        match self.line {
            Line::V1 if Path::new("/usr/lib/cni/bridge").exists() => "/usr/lib/cni".into(),
            Line::V1 => "/opt/cni/bin".into(),
            Line::V2 => parts(),
        }
    }

    fn write_conflist(&self) {
        let list = json!({
            "cniVersion": "0.4.0", "name": self.network_name(),
            "plugins": [
                {
                    "type": "bridge", "bridge": self.bridge(), "isGateway": true, "ipMasq": true,
                    "ipam": {
                        "type": "host-local", "dataDir": self.ipam_dir(),
                        "ranges": [[{"subnet": self.subnet()}]], "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
            ],
        });
        std::fs::write(self.cni_conf_dir().join("10-test.conflist"), list.to_string())
            .expect("the CNI configuration");
    }

    /// Writes the agent's configuration file; returns its path.
    pub fn write_config(&self) -> PathBuf {
        let text = format!(
            "root = {root:?}\nstate = {state:?}\n\n\
             [cri]\nsocket = {socket:?}\n\n\
             [containerd]\naddress = {address:?}\nnamespace = {namespace:?}\nsnapshotter = {snapshotter:?}\n\
             quick_timeout = {quick:?}\nslow_timeout = {slow:?}\n\n\
             [network]\nconf_dir = {conf:?}\nbin_dirs = [{extra_bin:?}, {bin:?}]\ncache_dir = {cache:?}\nnetns_dir = {netns:?}\n\
             default_network = {default}\ndefault_bridge = {bridge:?}\ndefault_subnets = [{subnet:?}]\n\n\
             [images]\nconfig_dirs = [{certs:?}]\n\n\
             [pods]\nmanifests = {manifests:?}\nlog_root = {logs:?}\ncgroup_root = {cgroup:?}\n\
             node_name = \"node-1\"\n{pods}\n\n\
             [telemetry]\nlevel = \"debug\"\n\n{extra}",
            root = self.root(),
            state = self.state(),
            socket = self.socket(),
            address = self.containerd.address(),
            namespace = self.namespace(),
            quick = self.deadlines.0,
            slow = self.deadlines.1,
            snapshotter = self.snapshotter(),
            conf = self.cni_conf_dir(),
            extra_bin = self.extra_bin_dir(),
            bin = self.cni_bin_dir(),
            cache = self.cni_cache_dir(),
            netns = self.netns_dir(),
            default = self.networking == Networking::Default,
            bridge = self.bridge(),
            subnet = self.subnet(),
            certs = self.certs_dir(),
            manifests = self.manifests_dir(),
            logs = self.log_root(),
            cgroup = self.cgroup_parent().trim_start_matches('/'),
            pods = self.pods_config,
            extra = self.extra_config,
        );
        let path = self.path().join("podbay.toml");
        std::fs::write(&path, text).expect("the agent's configuration");
        path
    }

    /// Lets containerd serve the CRI itself in this world, with this image for pause containers.
    pub fn serve_cri(&mut self, pause: &str) {
        assert_eq!(self.line, Line::V2, "the configuration below is of version 3");
        let sections = format!(
            "netns_mounts_under_state_dir = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [{bin:?}]\nconf_dir = {conf:?}\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = {pause:?}\n",
            bin = self.cni_bin_dir(),
            conf = self.cni_conf_dir(),
        );
        self.containerd.serve_cri(&sections);
    }

    /// Words of firewall rules that belong to this world.
    pub fn firewall_words(&self) -> Vec<String> {
        vec![
            format!("{}.", self.subnet_prefix()),
            format!("\"{}\"", self.bridge()),
            format!(" {} ", self.bridge()),
            self.network_name(),
        ]
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        self.containerd.kill9();
        sweep::kill_shims(&self.containerd.address());
        sweep::kill_cgroups(&self.cgroup_parent());
        sweep::unmount_below(self.path());
        sweep::unmount_below(self.containerd.root());
        firewall::remove(&self.firewall_words());
        sweep::delete_bridge(&self.bridge());
        // Killed processes have left their cgroups by now.
        sweep::kill_cgroups(&self.cgroup_parent());
    }
}
