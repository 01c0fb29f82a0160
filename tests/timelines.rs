//! Runs a table of pods on the real agent and compares phases, conditions, restarts, exit codes,
//! and the order of starts and stops with what Kubernetes documents. The rows are in
//! `timelines/table.toml`, each a spec that any kubelet can run; `tests/kubelet.rs` runs them on a
//! real one.

mod support;

#[path = "timelines/case.rs"]
mod case;
#[path = "timelines/row.rs"]
mod row;
#[path = "timelines/watched.rs"]
mod watched;

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::ready;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use podbay::proto::podbay::v1 as api;
use podbay::proto::podbay::v1::pods_client::PodsClient;
use podbay::proto::runtime::v1 as cri;
use serde_json::Value;
use tonic::transport::Channel;

use case::{NAMESPACE, Node, Place};
use support::agent::TestAgent;
use support::containerd::Line;
use support::env::TestEnv;
use support::images::ImageBuilder;
use support::registry::Registry;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1() {
    all(Line::V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2() {
    all(Line::V2).await;
}

async fn all(line: Line) {
    let registry = Registry::start().await;
    let image = registry.push(&ImageBuilder::busybox().build(), "busybox", "1").await;
    let mut agent = TestAgent::start(TestEnv::start(line).await).await;
    let spec = cri::ImageSpec { image: image.clone(), ..Default::default() };
    let pull = cri::PullImageRequest { image: Some(spec), ..Default::default() };
    agent.images().pull_image(pull).await.expect("the image is pulled");
    agent.count_from_here().await;
    let node = Box::new(Podbay { pods: PodsClient::new(agent.channel()) });
    let place = Place { node, image, folder: agent.env.path().to_owned(), at_once: 8 };
    case::run_table(place, |_| true).await;
    agent.assert_clean().await;
}

/// podbay's own API of whole pods.
struct Podbay {
    pods: PodsClient<Channel>,
}

fn selector(name: &str) -> Option<api::Selector> {
    let (namespace, name) = (NAMESPACE.to_owned(), name.to_owned());
    Some(api::Selector { namespace, name, ..api::Selector::default() })
}

#[async_trait]
impl Node for Podbay {
    async fn apply(&self, pod: &Value) -> Result<(), String> {
        let request = api::ApplyRequest { manifest: pod.to_string(), ..Default::default() };
        let answer = self.pods.clone().apply(request).await;
        answer.map(drop).map_err(|error| error.to_string())
    }

    async fn watch(&self, name: &str) -> Result<BoxStream<'_, Result<Pod, String>>, String> {
        let request = api::WatchRequest { selector: selector(name), after: None };
        let news = self.pods.clone().watch(request).await.map_err(|error| error.to_string())?;
        let pods = news.into_inner().filter_map(|event| {
            ready(match event {
                Ok(event) => event.pod.map(|pod| {
                    serde_json::from_str(&pod.object).map_err(|error| error.to_string())
                }),
                Err(error) => Some(Err(error.to_string())),
            })
        });
        Ok(pods.boxed())
    }

    async fn delete(&self, name: &str, grace: Option<i64>) -> Result<(), String> {
        let request = api::DeleteRequest {
            selector: selector(name),
            grace: grace.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            ..api::DeleteRequest::default()
        };
        let answer = self.pods.clone().delete(request).await;
        answer.map(drop).map_err(|error| error.to_string())
    }

    async fn is_gone(&self, name: &str) -> bool {
        let get = api::GetRequest { namespace: NAMESPACE.to_owned(), name: name.to_owned() };
        let found = self.pods.clone().get(get).await;
        found.is_err_and(|error| error.code() == tonic::Code::NotFound)
    }
}
