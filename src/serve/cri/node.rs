//! Version, Status and RuntimeConfig.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::{Identity, convert};
use crate::backend::{HandlerFeatures, Network, NetworkReadiness, Runtime, RuntimeInfo};
use crate::locks::Mutex;
use crate::proto::runtime::v1;
use crate::sandbox::Sandboxes;
use crate::serve::status::chain;

/// How long an answer of containerd is cached.
const FRESH: Duration = Duration::from_secs(2);

/// How long Status waits for others altogether; crictl gives up after two seconds.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The last result of querying containerd, or the error.
type Health = Arc<Result<RuntimeInfo, String>>;

/// Answers questions about the node.
pub(super) struct Node {
    runtime: Arc<dyn Runtime>,
    network: Arc<dyn Network>,
    identity: Identity,
    sandboxes: Arc<Sandboxes>,
    health: Mutex<Option<(Instant, Health)>>,
}

impl Node {
    pub fn new(
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn Network>,
        identity: Identity,
        sandboxes: Arc<Sandboxes>,
    ) -> Self {
        Self { runtime, network, identity, sandboxes, health: Mutex::default() }
    }

    pub fn runtime_config(&self) -> v1::RuntimeConfigResponse {
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: driver(&self.identity).into() };
        v1::RuntimeConfigResponse { linux: Some(linux) }
    }

    pub async fn update_runtime_config(
        &self,
        request: v1::UpdateRuntimeConfigRequest,
    ) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
        if let Some(cidr) = convert::pod_cidr(request) {
            self.network.set_pod_cidr(&cidr).await?;
        }
        Ok(v1::UpdateRuntimeConfigResponse {})
    }

    pub async fn status(&self, request: v1::StatusRequest) -> Result<v1::StatusResponse, Status> {
        let late = Instant::now() + PATIENCE;
        let (health, network) = tokio::join!(self.health(), self.network_readiness());
        if health.is_ok() {
            // What is not known in time is queried again by the next call.
            let _ = timeout_at(late, self.sandboxes.learn_features()).await;
        }
        let known = self.sandboxes.features();
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions: conditions(&health, &network) }),
            info: if request.verbose { self.info(&health) } else { BTreeMap::new() },
            runtime_handlers: handlers(&self.identity, &known),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                // If any handler supports user namespaces.
                user_namespaces_host_network: known.values().any(|f| f.user_namespaces),
                mount_options: false,
            }),
        })
    }

    /// Queries containerd unless the last answer is fresh.
    async fn health(&self) -> Health {
        let last = self.health.lock().clone();
        if let Some((at, health)) = last
            && at.elapsed() < FRESH
        {
            return health;
        }
        let health = Arc::new(match timeout(PATIENCE, self.runtime.probe()).await {
            Ok(answer) => answer.map_err(|error| chain(&error)),
            Err(_) => Err(format!("containerd did not answer within {PATIENCE:?}")),
        });
        let now = Some((Instant::now(), Arc::clone(&health)));
        *self.health.lock() = now;
        health
    }

    async fn network_readiness(&self) -> NetworkReadiness {
        timeout(PATIENCE, self.network.readiness()).await.unwrap_or_else(|_| {
            NetworkReadiness::NotReady(format!("no answer within {PATIENCE:?}"))
        })
    }

    fn info(&self, health: &Health) -> BTreeMap<String, String> {
        let containerd = match &**health {
            Err(error) => json!({ "error": error }),
            Ok(found) => json!({
                "version": found.version,
                "revision": found.revision,
                "uuid": found.uuid,
                "criPluginEnabled": found.cri_plugin_enabled,
                "snapshotters": found.snapshotters.iter().map(|s| json!({
                    "name": s.name,
                    "root": s.root,
                    "capabilities": s.capabilities,
                })).collect::<Vec<_>>(),
            }),
        };
        let store = match self.sandboxes.store_trouble() {
            Some(error) => json!({ "error": error }),
            None => json!({}),
        };
        BTreeMap::from([
            ("config".to_owned(), self.identity.config.to_string()),
            ("containerd".to_owned(), containerd.to_string()),
            ("store".to_owned(), store.to_string()),
        ])
    }
}

/// Name and version of podbay. Constant, and available before recovery has ended.
pub(in crate::serve) fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        // The version of the interface on the kubelet's side; kubelets refuse any other.
        version: "0.1.0".to_owned(),
        runtime_name: "podbay".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

/// The cgroup driver, which the kubelet queries once and must use too.
fn driver(identity: &Identity) -> v1::CgroupDriver {
    let mut handlers = identity.handlers.iter();
    match handlers.find(|handler| handler.name == identity.default_handler) {
        Some(handler) if handler.systemd_cgroup => v1::CgroupDriver::Systemd,
        Some(_) | None => v1::CgroupDriver::Cgroupfs,
    }
}

/// Both conditions, which are always reported.
fn conditions(health: &Health, network: &NetworkReadiness) -> Vec<v1::RuntimeCondition> {
    let condition = |kind: &str, fault: Option<(&str, &str)>| {
        let (reason, message) = fault.unwrap_or_default();
        v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: fault.is_none(),
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    };
    let runtime = health.as_ref().as_ref().err().map(|error| ("ContainerdNotReady", &**error));
    let network = match network {
        NetworkReadiness::Ready => None,
        NetworkReadiness::NotReady(why) => Some(("NetworkPluginNotReady", why.as_str())),
    };
    vec![condition("RuntimeReady", runtime), condition("NetworkReady", network)]
}

/// First "" for the default handler, then all handlers by name. The order never changes, because a
/// kubelet rewrites its Node status on each change.
fn handlers(
    identity: &Identity,
    known: &BTreeMap<String, HandlerFeatures>,
) -> Vec<v1::RuntimeHandler> {
    let entry = |name: &str, features: Option<&HandlerFeatures>| v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: features.is_some_and(|f| f.recursive_read_only_mounts),
            user_namespaces: features.is_some_and(|f| f.user_namespaces),
        }),
    };
    let default = entry("", known.get(&identity.default_handler));
    let named = identity.handlers.iter().map(|h| entry(&h.name, known.get(&h.name)));
    std::iter::once(default).chain(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::RuntimeHandler;

    fn identity() -> Identity {
        let handler = |name: &str| RuntimeHandler { name: name.into(), ..Default::default() };
        Identity {
            handlers: vec![handler("runc"), handler("crun")],
            default_handler: "runc".into(),
            config: json!({}),
        }
    }

    #[test]
    fn handlers_are_the_default_and_then_each_in_its_order() {
        let rro = HandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: true,
            ..Default::default()
        };
        let known = BTreeMap::from([("runc".to_owned(), rro)]);
        let found: Vec<_> = handlers(&identity(), &known)
            .into_iter()
            .map(|h| (h.name, h.features.unwrap_or_default()))
            .collect();
        let features = |has| v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: has,
            user_namespaces: has,
        };
        let wanted = [("", true), ("runc", true), ("crun", false)];
        assert_eq!(found, wanted.map(|(name, rro)| (name.to_owned(), features(rro))));
    }

    #[test]
    fn the_cgroup_driver_is_that_of_the_default_handler() {
        let mut identity = identity();
        assert_eq!(driver(&identity), v1::CgroupDriver::Cgroupfs);
        identity.handlers[1].systemd_cgroup = true;
        assert_eq!(driver(&identity), v1::CgroupDriver::Cgroupfs);
        identity.handlers[0].systemd_cgroup = true;
        assert_eq!(driver(&identity), v1::CgroupDriver::Systemd);
    }

    #[test]
    fn conditions_name_what_is_wrong() {
        let away: Health = Arc::new(Err("probe containerd: connection refused".into()));
        let no_config = NetworkReadiness::NotReady("no network configuration".into());
        let found = conditions(&away, &no_config);
        let flat: Vec<_> = found
            .iter()
            .map(|c| (c.r#type.as_str(), c.status, c.reason.as_str(), c.message.as_str()))
            .collect();
        assert_eq!(
            flat,
            [
                (
                    "RuntimeReady",
                    false,
                    "ContainerdNotReady",
                    "probe containerd: connection refused"
                ),
                ("NetworkReady", false, "NetworkPluginNotReady", "no network configuration"),
            ]
        );
        let well: Health = Arc::new(Ok(RuntimeInfo::default()));
        let found = conditions(&well, &NetworkReadiness::Ready);
        assert!(found.iter().all(|c| c.status && c.reason.is_empty() && c.message.is_empty()));
    }
}
