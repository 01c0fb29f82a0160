//! What becomes of a pod: a table of pods with what Kubernetes documents of their phases,
//! conditions, restarts, exit codes and of the order of starts and stops, held against the real
//! agent. The rows are in `timelines/table.toml`, each a spec that any kubelet can run.

mod support;

#[path = "timelines/row.rs"]
mod row;
#[path = "timelines/watched.rs"]
mod watched;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use podbay::proto::podbay::v1 as api;
use podbay::proto::podbay::v1::pods_client::PodsClient;
use tonic::transport::Channel;

use row::{Row, Until};
use support::agent::TestAgent;
use support::containerd::Line;
use support::env::TestEnv;
use support::images::ImageBuilder;
use support::registry::Registry;
use support::{eventually, wait_until};
use watched::Watched;

const NAMESPACE: &str = "timelines";

/// How many pods run at a time.
const AT_ONCE: usize = 8;

/// How long a row may wait for anything.
const LIMIT: Duration = Duration::from_secs(90);

/// How long a container that runs may take to its first words.
const SOON: Duration = Duration::from_secs(10);

struct World {
    agent: TestAgent,
    image: String,
    _registry: Registry,
}

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
    let mut images = agent.images();
    let spec = podbay::proto::runtime::v1::ImageSpec { image: image.clone(), ..Default::default() };
    let pull =
        podbay::proto::runtime::v1::PullImageRequest { image: Some(spec), ..Default::default() };
    images.pull_image(pull).await.expect("the image is pulled");
    agent.count_from_here().await;
    let world = Arc::new(World { agent, image, _registry: registry });
    let only = std::env::var("KIT_ROW").unwrap_or_default();
    let rows = row::table().into_iter().enumerate().filter(|(_, row)| row.name.contains(&only));
    let faults: Vec<String> = futures::stream::iter(rows)
        .map(|(number, row)| {
            let world = Arc::clone(&world);
            async move {
                let name = row.name.clone();
                let case = Case::new(&world, number, row);
                let faults = case.run().await;
                faults.into_iter().map(|fault| format!("{name}\n  {fault}")).collect::<Vec<_>>()
            }
        })
        .buffer_unordered(AT_ONCE)
        .concat()
        .await;
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    world.agent.assert_clean().await;
}

/// One row on its way.
struct Case {
    pods: PodsClient<Channel>,
    name: String,
    row: Row,
    marks: PathBuf,
    manifest: String,
}

impl Case {
    fn new(world: &World, number: usize, row: Row) -> Self {
        let name = format!("row-{number}");
        let marks = world.agent.env.file(&format!("marks-{number}"));
        std::fs::create_dir(&marks).expect("a folder for the marks");
        let manifest = row.pod(&name, NAMESPACE, &world.image, &marks);
        Self { pods: PodsClient::new(world.agent.channel()), name, row, marks, manifest }
    }

    /// What is not as the row says.
    async fn run(mut self) -> Vec<String> {
        let request =
            api::ApplyRequest { manifest: self.manifest.clone(), ..api::ApplyRequest::default() };
        if let Err(error) = self.pods.apply(request).await {
            return vec![format!("apply: {error}")];
        }
        let mut watched = Watched::default();
        let mut faults = Vec::new();
        if let Err(fault) = self.follow(&mut watched).await {
            faults.push(fault);
        }
        faults.extend(watched.faults(&self.row));
        if self.row.delete.is_none() {
            // A container runs a moment before its script has written anything.
            let marks = || read_marks(&self.marks.join("order"));
            eventually(SOON, async || self.row.wrong_marks(&marks()).is_none().then_some(())).await;
        }
        faults.extend(self.end(&watched).await);
        let marks = read_marks(&self.marks.join("order"));
        faults.extend(self.row.wrong_marks(&marks));
        faults
    }

    /// Watches the pod until the row's moment.
    async fn follow(&mut self, watched: &mut Watched) -> Result<(), String> {
        let selector = api::Selector {
            namespace: NAMESPACE.to_owned(),
            name: self.name.clone(),
            ..api::Selector::default()
        };
        let request = api::WatchRequest { selector: Some(selector), after: None };
        let watching = async {
            let mut news = self.pods.watch(request).await.map_err(|e| e.to_string())?.into_inner();
            while let Some(event) = news.message().await.map_err(|e| e.to_string())? {
                let Some(pod) = event.pod else { continue };
                watched.see(pod);
                if self.row.until.is_met(watched.last()) {
                    return Ok(());
                }
                // For ever: nothing that the row waits for can come.
                if ["Succeeded", "Failed"].contains(&watched::phase(watched.last())) {
                    return Err(format!("{:?} does not come", self.row.until));
                }
            }
            Err("the watch has ended".to_owned())
        };
        let reached = tokio::time::timeout(LIMIT, watching).await;
        let text = |until: &Until| format!("{until:?} is not reached within {LIMIT:?}");
        reached
            .unwrap_or_else(|_| Err(text(&self.row.until)))
            .map_err(|fault| format!("{fault}; the pod is\n{:#?}", watched.summary()))
    }

    /// Deletes the pod, as the row says or at once, and waits until it is gone.
    async fn end(&mut self, watched: &Watched) -> Vec<String> {
        let wanted = self.row.delete.clone();
        let grace = match &wanted {
            Some(delete) => delete.grace,
            None => Some(0),
        };
        let selector = api::Selector {
            namespace: NAMESPACE.to_owned(),
            name: self.name.clone(),
            ..api::Selector::default()
        };
        let request = api::DeleteRequest {
            selector: Some(selector),
            grace: grace.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            ..api::DeleteRequest::default()
        };
        let began = Instant::now();
        if let Err(error) = self.pods.delete(request).await {
            return vec![format!("delete: {error}; it was {:#?}", watched.summary())];
        }
        let get = api::GetRequest { namespace: NAMESPACE.to_owned(), name: self.name.clone() };
        wait_until(LIMIT, "the pod is gone", async || {
            let found = self.pods.clone().get(get.clone()).await;
            found.is_err_and(|error| error.code() == tonic::Code::NotFound)
        })
        .await;
        let took = began.elapsed();
        let least = wanted.and_then(|delete| delete.took).unwrap_or(0);
        let too_fast = took < Duration::from_secs(least);
        too_fast.then(|| format!("gone after {took:?}, not before {least} s")).into_iter().collect()
    }
}

fn read_marks(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
