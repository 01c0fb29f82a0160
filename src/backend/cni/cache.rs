//! The inputs and results of ADD, kept for DEL in the files and format that other CNI runtimes use
//! too (`cniCacheV1`), so that podbay and they can take over each other's attachments.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::chain::Link;
use crate::backend::Result;
use crate::backend::linux::files;
use crate::ids::PodId;

const KIND: &str = "cniCacheV1";

/// Maximum size of a cache file: a result is limited to 1 MiB, the rest is small.
const FILE_LIMIT: usize = 4 << 20;

/// One attachment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Entry {
    kind: String,
    pub container_id: String,
    /// The network list as JSON, base64.
    config: String,
    pub if_name: String,
    pub network_name: String,
    pub netns: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cni_args: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub capability_args: Map<String, Value>,
    /// The result of the last plugin.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub result: Value,
}

impl Entry {
    /// The network list as JSON, decoded.
    pub(super) fn config(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.config).ok()
    }

    /// An entry for the inputs of a link's plugins and their result.
    pub(super) fn new(link: &Link<'_>, result: &Value) -> Self {
        let netns = link.netns.unwrap_or(Path::new(""));
        Self {
            kind: KIND.to_owned(),
            container_id: link.container.to_owned(),
            config: STANDARD.encode(&link.network.raw),
            if_name: link.if_name.to_owned(),
            network_name: link.network.name.clone(),
            netns: netns.to_string_lossy().into_owned(),
            cni_args: link.args.to_vec(),
            capability_args: link.capabilities.clone(),
            result: result.clone(),
        }
    }
}

/// The directory of cached results.
#[derive(Debug)]
pub(super) struct Cache(PathBuf);

impl Cache {
    /// The cache below a directory such as `/var/lib/cni`.
    pub(super) fn new(dir: &Path) -> Self {
        Self(dir.join("results"))
    }

    /// Stores an attachment. Without fsync: DEL works without it too, only less precisely.
    pub(super) fn store(&self, entry: &Entry) -> Result<()> {
        let content = serde_json::json!(entry).to_string();
        let path = self.path(&entry.network_name, &entry.container_id, &entry.if_name);
        files::write(&path, content.as_bytes(), 0o600)
    }

    fn path(&self, network: &str, container: &str, interface: &str) -> PathBuf {
        self.0.join(format!("{network}-{container}-{interface}"))
    }

    /// Removes an attachment; a missing one is fine.
    pub(super) fn remove(&self, network: &str, pod: &PodId, interface: &str) {
        let path = self.path(network, pod.as_str(), interface);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error,
                    "cannot remove stale CNI cache file");
            }
            _ => {}
        }
    }

    /// All attachments of a pod on any network: the configuration may have changed since. Malformed
    /// files are treated as missing.
    pub(super) fn of_pod(&self, pod: &PodId) -> Result<Vec<Entry>> {
        let part = format!("-{pod}-");
        let mut found = Vec::new();
        for name in files::list(&self.0)? {
            let Some((network, interface)) = name.split_once(&part) else { continue };
            let path = self.0.join(&name);
            let Some(content) = files::read(&path, FILE_LIMIT)? else { continue };
            let Ok(entry) = serde_json::from_slice::<Entry>(&content) else { continue };
            // The contents must match the file's name, or they are not trusted.
            if entry.kind == KIND
                && entry.container_id == pod.as_str()
                && entry.network_name == network
                && entry.if_name == interface
            {
                found.push(entry);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::backend::cni::config::Network;

    #[test]
    fn writes_the_common_format_and_finds_it_by_pod() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let pod = PodId::random();
        assert!(cache.of_pod(&pod).unwrap().is_empty());
        let raw = br#"{"cniVersion":"1.0.0","name":"my-net","plugins":[{"type":"x"}]}"#;
        let network = Network::from_list(raw).unwrap();
        let args = [("IgnoreUnknown".to_owned(), "1".to_owned())];
        let link = Link {
            network: &network,
            container: pod.as_str(),
            netns: Some(Path::new("/var/run/netns/x")),
            if_name: "eth0",
            args: &args,
            capabilities: &Map::new(),
        };
        let entry = Entry::new(&link, &json!({"cniVersion": "1.0.0"}));
        assert_eq!(entry.config().unwrap(), raw);
        cache.store(&entry).unwrap();

        let path = dir.path().join(format!("results/my-net-{pod}-eth0"));
        let on_disk: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            on_disk,
            json!({
                "kind": "cniCacheV1",
                "containerId": pod.as_str(),
                "config": STANDARD.encode(raw),
                "ifName": "eth0",
                "networkName": "my-net",
                "netns": "/var/run/netns/x",
                "cniArgs": [["IgnoreUnknown", "1"]],
                "result": {"cniVersion": "1.0.0"},
            })
        );
        assert_eq!(cache.of_pod(&pod).unwrap(), [entry]);
        assert!(cache.of_pod(&PodId::random()).unwrap().is_empty());
    }

    #[test]
    fn does_not_trust_a_file_that_lies_about_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let pod = PodId::random();
        let results = dir.path().join("results");
        std::fs::create_dir_all(&results).unwrap();
        std::fs::write(results.join(format!("net-{pod}-eth0")), "half a fi").unwrap();
        let lie = json!({
            "kind": KIND, "containerId": pod.as_str(), "networkName": "other", "ifName": "eth1",
        });
        std::fs::write(results.join(format!("net-{pod}-eth1")), lie.to_string()).unwrap();
        assert!(cache.of_pod(&pod).unwrap().is_empty());
    }
}
