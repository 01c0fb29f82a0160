//! Runs the table of `timelines/table.toml` on a real kubelet, to ensure that it describes
//! Kubernetes rather than podbay: once over containerd's own CRI plugin, and once over podbay's
//! CRI, which must make no difference.
//!
//! Not part of `make test`, because building the kubelet takes minutes: `make kubelet` builds and
//! runs it. All pods are static, as a kubelet without an API server supports no others; rows that a
//! static pod cannot express are marked in the table.

mod support;

#[path = "timelines/case.rs"]
mod case;
#[path = "kubelet/daemon.rs"]
mod daemon;
#[path = "kubelet/node.rs"]
mod node;
#[path = "timelines/row.rs"]
mod row;
#[path = "timelines/watched.rs"]
mod watched;

use podbay::proto::runtime::v1 as cri;

use case::Place;
use daemon::Kubelet;
use node::StaticPods;
use support::agent::TestAgent;
use support::containerd::Line;
use support::env::TestEnv;
use support::images::ImageBuilder;
use support::registry::Registry;

/// A kubelet makes pods one step after the other, and two cores are soon busy.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_plugin() {
    let registry = Registry::start().await;
    let pause = ImageBuilder::busybox().entrypoint(&["/bin/sleep", "864000"]).build();
    let pause = registry.push(&pause, "pause", "1").await;
    let agent = TestAgent::start_plugin(TestEnv::start(Line::V2).await, &pause).await;
    let socket = agent.env.containerd.address();
    all(registry, agent, &socket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_podbay() {
    let registry = Registry::start().await;
    let agent = TestAgent::start(TestEnv::start(Line::V2).await).await;
    let socket = agent.env.socket();
    all(registry, agent, &socket).await;
}

async fn all(registry: Registry, agent: TestAgent, socket: &std::path::Path) {
    let image = registry.push(&ImageBuilder::busybox().build(), "busybox", "1").await;
    let spec = cri::ImageSpec { image: image.clone(), ..Default::default() };
    let pull = cri::PullImageRequest { image: Some(spec), ..Default::default() };
    agent.images().pull_image(pull).await.expect("the image is pulled");
    let kubelet = Kubelet::start(&agent.env, socket).await;
    let node = Box::new(StaticPods::new(kubelet, agent.runtime()));
    let folder = agent.env.path().to_owned();
    let place = Place { node, image, folder, at_once: AT_ONCE };
    case::run_table(place, |row| {
        if let Some(why) = &row.kubelet {
            println!("left out: {}: {why}", row.name);
        }
        row.kubelet.is_none()
    })
    .await;
}
