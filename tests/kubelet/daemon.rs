//! A kubelet without an API server in a test's private world.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::json;

use super::support::env::TestEnv;
use super::support::process::Daemon;
use super::support::{eventually, parts};

/// Name of its node; static pods have it at the end of their names.
pub const NODE: &str = "node";

const HEALTHY: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(30);

/// A running kubelet. Dropping it kills it; its pods go with the world.
pub struct Kubelet {
    daemon: Daemon,
    /// Where its static pods come from.
    pub manifests: PathBuf,
    client: reqwest::Client,
    pods: String,
}

#[derive(Deserialize)]
struct PodList {
    #[serde(default)]
    items: Option<Vec<Pod>>,
}

impl Kubelet {
    /// Starts it over the CRI at `socket` and waits until it is healthy.
    pub async fn start(env: &TestEnv, socket: &Path) -> Self {
        let folder = env.file("kubelet");
        let manifests = folder.join("manifests");
        std::fs::create_dir_all(&manifests).expect("a folder for manifests");
        let [health, api, read_only] = free_ports();
        let root = format!("{}/kubelet", env.cgroup_parent());
        make_cgroups(&root);
        let configuration = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", socket.display()),
            "staticPodPath": manifests,
            "podLogsDir": folder.join("logs"),
            "volumePluginDir": folder.join("plugins"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": root,
            "failSwapOn": false,
            "failCgroupV1": false,
            "enforceNodeAllocatable": [],
            "evictionHard": {},
            "localStorageCapacityIsolation": false,
            "makeIPTablesUtilChains": false,
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "address": "127.0.0.1",
            "port": api,
            "readOnlyPort": read_only,
            "healthzPort": health,
            "fileCheckFrequency": "1s",
        });
        let file = folder.join("kubelet.json");
        std::fs::write(&file, configuration.to_string()).expect("the kubelet's configuration");
        let binary = binary();
        let mut command = Command::new(&binary);
        command.arg("--config").arg(file).arg("--hostname-override").arg(NODE);
        command.arg("--root-dir").arg(folder.join("root"));
        command.arg("--cert-dir").arg(folder.join("pki"));
        // Where its cAdvisor finds containerd; kubelets from 1.37 on have no such flag.
        let help = Command::new(&binary).arg("--help").output().expect("the kubelet's help");
        if String::from_utf8_lossy(&help.stdout).contains("--containerd ") {
            command.arg("--containerd").arg(env.containerd.address());
        }
        let daemon = Daemon::start(&mut command, &folder.join("kubelet.log"));
        let pods = format!("http://127.0.0.1:{read_only}/pods");
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build();
        let client = client.expect("an HTTP client");
        let mut kubelet = Self { daemon, manifests, client, pods };
        kubelet.wait_for(&format!("http://127.0.0.1:{health}/healthz")).await;
        kubelet
    }

    async fn wait_for(&mut self, url: &str) {
        let healthy = eventually(HEALTHY, async || {
            if self.daemon.ended().is_some() {
                return Some(false);
            }
            let answer = self.client.get(url).send().await.ok()?;
            answer.status().is_success().then_some(true)
        });
        let healthy = healthy.await;
        assert!(healthy == Some(true), "the kubelet is not up:\n{}", self.daemon.last_words());
    }

    /// Its static pods with the states that it knows.
    pub async fn pods(&self) -> Result<Vec<Pod>, String> {
        let asked = async {
            let answer = self.client.get(&self.pods).send().await?.error_for_status()?;
            answer.bytes().await
        };
        let list = asked.await.map_err(|error| format!("the kubelet's pods: {error}"))?;
        let list: PodList = serde_json::from_slice(&list)
            .map_err(|error| format!("the kubelet's pods: {error}"))?;
        Ok(list.items.unwrap_or_default())
    }
}

fn binary() -> PathBuf {
    let binary = parts().join("kubelet");
    assert!(binary.exists(), "{} is missing: run scripts/setup.sh kubelet", binary.display());
    binary
}

/// Held until all are known, so that they differ.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

/// The kubelet wants its root to be there in each hierarchy.
fn make_cgroups(root: &str) {
    let base = Path::new("/sys/fs/cgroup");
    let unified = base.join("cgroup.controllers").exists();
    let tops: Vec<PathBuf> = if unified {
        vec![base.to_owned()]
    } else {
        let entries = std::fs::read_dir(base).expect("the cgroups").flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    for top in tops {
        let path = top.join(root.trim_start_matches('/'));
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}
