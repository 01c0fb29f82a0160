//! A node that runs static pods.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use podbay::proto::runtime::v1 as cri;
use serde_json::Value;

use super::case::{NAMESPACE, Node};
use super::daemon::{Kubelet, NODE};
use super::support::agent::Runtime;

/// How often the kubelet is asked: what it shows lasts for a second at least.
const POLL: Duration = Duration::from_millis(100);

/// A kubelet and the runtime below it, which is asked for what is left of a pod.
pub struct StaticPods {
    kubelet: Kubelet,
    runtime: Runtime,
    /// Pods that are to end at once. A file has no word for that: the runtime is told.
    hurried: Mutex<BTreeSet<String>>,
}

fn full(name: &str) -> String {
    format!("{name}-{NODE}")
}

impl StaticPods {
    pub fn new(kubelet: Kubelet, runtime: Runtime) -> Self {
        Self { kubelet, runtime, hurried: Mutex::default() }
    }

    async fn find(&self, name: &str) -> Result<Option<Pod>, String> {
        let named = |pod: &Pod| pod.metadata.name.as_ref() == Some(&full(name));
        Ok(self.kubelet.pods().await?.into_iter().find(named))
    }

    /// Ids of its containers that run, and the number of its sandboxes that are ready.
    async fn left(&self, name: &str) -> Result<(Vec<String>, usize), tonic::Status> {
        let labels = [("namespace", NAMESPACE.to_owned()), ("name", full(name))];
        let labels = labels.map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value));
        let mut runtime = self.runtime.clone();
        let running = cri::ContainerState::ContainerRunning.into();
        let filter = cri::ContainerFilter {
            state: Some(cri::ContainerStateValue { state: running }),
            label_selector: labels.clone().into(),
            ..Default::default()
        };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let containers = runtime.list_containers(request).await?.into_inner().containers;
        let ready = cri::PodSandboxState::SandboxReady.into();
        let filter = cri::PodSandboxFilter {
            state: Some(cri::PodSandboxStateValue { state: ready }),
            label_selector: labels.into(),
            ..Default::default()
        };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let sandboxes = runtime.list_pod_sandbox(request).await?.into_inner().items;
        Ok((containers.into_iter().map(|it| it.id).collect(), sandboxes.len()))
    }
}

#[async_trait]
impl Node for StaticPods {
    async fn apply(&self, pod: &Value) -> Result<(), String> {
        let name = pod["metadata"]["name"].as_str().ok_or("no name")?;
        // Whole or not at all; names with a dot in front are passed over.
        let folder = &self.kubelet.manifests;
        let (draft, file) = (folder.join(format!(".{name}")), folder.join(format!("{name}.json")));
        let written = std::fs::write(&draft, pod.to_string());
        written.and_then(|()| std::fs::rename(draft, file)).map_err(|error| error.to_string())
    }

    async fn watch(&self, name: &str) -> Result<BoxStream<'_, Result<Pod, String>>, String> {
        let name = name.to_owned();
        let pods = async_stream::stream! {
            loop {
                if let Some(pod) = self.find(&name).await.transpose() {
                    yield pod;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        Ok(pods.boxed())
    }

    async fn delete(&self, name: &str, grace: Option<i64>) -> Result<(), String> {
        match grace {
            None => {}
            Some(0) => drop(self.hurried.lock().expect("no panic").insert(name.to_owned())),
            Some(_) => return Err("a file can only end with the pod's own grace period".into()),
        }
        let file = self.kubelet.manifests.join(format!("{name}.json"));
        std::fs::remove_file(file).map_err(|error| error.to_string())
    }

    async fn is_gone(&self, name: &str) -> bool {
        let Ok((running, sandboxes)) = self.left(name).await else { return false };
        if self.hurried.lock().expect("no panic").contains(name) {
            for container_id in &running {
                let container_id = container_id.clone();
                let request = cri::StopContainerRequest { container_id, timeout: 0 };
                // One that is gone already is as well.
                let _asked_again = self.runtime.clone().stop_container(request).await;
            }
        }
        let known = self.find(name).await.is_ok_and(|pod| pod.is_some());
        running.is_empty() && sandboxes == 0 && !known
    }
}
