//! An agent with a busybox image, and helpers for tests of whole pods.

use std::time::Duration;

use podbay::proto::podbay::v1 as api;
use podbay::proto::podbay::v1::pods_client::PodsClient;
use podbay::proto::runtime::v1 as cri;
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::Channel;

use crate::support::agent::TestAgent;
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::eventually;
use crate::support::images::ImageBuilder;
use crate::support::registry::Registry;

/// Longest wait for what should come soon.
pub const SOON: Duration = Duration::from_secs(60);

pub struct Rig {
    pub agent: TestAgent,
    pub image: String,
}

impl Rig {
    pub async fn start(line: Line) -> Self {
        Self::start_in(TestEnv::start(line).await, ImageBuilder::busybox()).await
    }

    /// In a world that was prepared, with this image.
    pub async fn start_in(env: TestEnv, image: ImageBuilder) -> Self {
        let registry = Registry::start().await;
        let image = registry.push(&image.build(), "test/busybox", "1").await;
        let agent = TestAgent::start(env).await;
        let mut rig = Self { agent, image };
        let spec = cri::ImageSpec { image: rig.image.clone(), ..Default::default() };
        let pull = cri::PullImageRequest { image: Some(spec), ..Default::default() };
        rig.agent.images().pull_image(pull).await.expect("the image is pulled");
        rig.agent.count_from_here().await;
        rig
    }

    pub fn pods(&self) -> PodsClient<Channel> {
        PodsClient::new(self.agent.channel()).max_decoding_message_size(16 << 20)
    }

    /// A container that runs a script.
    pub fn script(&self, name: &str, script: &str) -> Value {
        json!({ "name": name, "image": self.image, "command": ["/bin/sh", "-c", script] })
    }

    pub async fn try_apply(&self, manifest: &str) -> Result<Vec<api::AppliedPod>, Status> {
        let request = api::ApplyRequest { manifest: manifest.to_owned(), ..Default::default() };
        Ok(self.pods().apply(request).await?.into_inner().pods)
    }

    pub async fn apply(&self, pod: &Value) {
        self.try_apply(&pod.to_string()).await.expect("applied");
    }

    pub async fn get(&self, name: &str) -> Option<api::Pod> {
        let request = api::GetRequest { namespace: String::new(), name: name.to_owned() };
        self.pods().get(request).await.ok()?.into_inner().pod
    }

    /// Waits until the pod is so.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&api::Pod) -> bool,
    ) -> api::Pod {
        let mut last = None;
        let found = eventually(SOON, async || {
            last = self.get(name).await;
            last.clone().filter(&wanted)
        });
        let found = found.await;
        found.unwrap_or_else(|| panic!("{name} not {what}: {last:#?}\n{}", self.agent.log()))
    }

    pub async fn phase(&self, name: &str, wanted: api::Phase) -> api::Pod {
        self.until(name, wanted.as_str_name(), |pod| pod.phase() == wanted).await
    }

    /// Whether a condition of the node holds.
    pub async fn node_is(&self, condition: &str) -> bool {
        let node = self.pods().get_node(api::GetNodeRequest {}).await.expect("an answer");
        let node = node.into_inner().node.expect("the node");
        let found = node.conditions.iter().find(|it| it.r#type == condition);
        found.expect("the condition").status() == api::ConditionStatus::True
    }

    pub async fn delete(&self, name: &str, grace: Option<u64>) {
        let selector = api::Selector {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        let grace =
            grace.map(|seconds| prost_types::Duration { seconds: seconds as i64, nanos: 0 });
        let request = api::DeleteRequest { selector: Some(selector), grace, ..Default::default() };
        self.pods().delete(request).await.expect("deleted");
    }

    pub async fn gone(&self, name: &str) {
        let gone = eventually(SOON, async || self.get(name).await.is_none().then_some(()));
        assert!(gone.await.is_some(), "{name} is still there:\n{}", self.agent.log());
    }

    /// The log of a container so far.
    pub async fn log(&self, name: &str, container: &str) -> String {
        let request = api::LogsRequest {
            name: name.to_owned(),
            container: container.to_owned(),
            ..Default::default()
        };
        let Ok(answer) = self.pods().logs(request).await else { return String::new() };
        let mut stream = answer.into_inner();
        let mut text = Vec::new();
        while let Ok(Some(piece)) = stream.message().await {
            text.extend_from_slice(&piece.data);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    pub async fn log_has(&self, name: &str, container: &str, words: &str) -> String {
        let mut last = String::new();
        let found = eventually(SOON, async || {
            last = self.log(name, container).await;
            last.contains(words).then(|| last.clone())
        });
        found.await.unwrap_or_else(|| panic!("no {words:?} in the log of {name}: {last:?}"))
    }
}

/// A pod of these containers, with `more` in its spec.
pub fn pod(name: &str, containers: &[Value], more: Value) -> Value {
    let mut spec = json!({ "containers": containers, "terminationGracePeriodSeconds": 2 });
    let fields = spec.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
}

pub fn container<'p>(pod: &'p api::Pod, name: &str) -> &'p api::Container {
    pod.containers.iter().find(|container| container.name == name).expect("the container")
}

pub fn is_true(pod: &api::Pod, condition: &str) -> bool {
    pod.conditions.iter().any(|c| c.r#type == condition && c.status() == api::ConditionStatus::True)
}
