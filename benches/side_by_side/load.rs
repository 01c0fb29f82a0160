//! The load generator: the same CRI calls for both sides, each timed in milliseconds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};
use podbay::proto::runtime::v1 as cri;
use podbay::proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::images::ImageBuilder;
use super::registry::Registry;
use super::world::Side;

type Client = RuntimeServiceClient<Channel>;
/// Name of a call and how long it took, in milliseconds.
pub type Times = Vec<(&'static str, f64)>;

/// References of the images that both sides use.
pub struct Images {
    /// Pause container of the plugin's side; podbay brings its own.
    pub pause: String,
    /// Busybox.
    pub app: String,
}

impl Images {
    pub async fn push(registry: &Registry) -> Self {
        let app = ImageBuilder::busybox().build();
        let pause = ImageBuilder::busybox().entrypoint(&["/bin/sleep", "864000"]).build();
        Self {
            app: registry.push(&app, "bench/app", "1").await,
            pause: registry.push(&pause, "bench/pause", "1").await,
        }
    }

    pub async fn pull(&mut self, side: &Side) -> Result<()> {
        for image in [&self.app, &self.pause] {
            let image = cri::ImageSpec { image: image.clone(), ..Default::default() };
            let request = cri::PullImageRequest { image: Some(image), ..Default::default() };
            side.images().pull_image(request).await.context("PullImage")?;
        }
        Ok(())
    }
}

/// Times one call.
macro_rules! timed {
    ($times:expr, $name:literal, $call:expr) => {{
        let begun = Instant::now();
        let answer = $call.await.context($name)?.into_inner();
        $times.push(($name, begun.elapsed().as_secs_f64() * 1000.0));
        answer
    }};
}

/// What a container runs that ends at once with code 0 when it is told to.
const SLEEPER: &str = "trap 'exit 0' TERM; sleep 864000 & wait";

/// One pod with its containers, as the load generator holds it.
pub struct Pod {
    name: String,
    id: String,
    pub containers: Vec<String>,
}

/// What pods are made of on one side.
#[derive(Clone)]
pub struct Recipe {
    client: Client,
    image: String,
    logs: String,
    cgroup_parent: String,
}

impl Recipe {
    pub fn new(side: &Side, images: &Images) -> Self {
        Self {
            client: side.runtime(),
            image: images.app.clone(),
            logs: side.log_root().to_string_lossy().into_owned(),
            cgroup_parent: side.cgroup_parent(),
        }
    }

    fn pod_config(&self, name: &str) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "bench".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: format!("{}/{name}", self.logs),
            labels: [("app".to_owned(), "bench".to_owned())].into(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container_config(&self, number: usize, script: &str) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: format!("c{number}"), attempt: 0 }),
            image: Some(cri::ImageSpec { image: self.image.clone(), ..Default::default() }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("c{number}.log"),
            linux: Some(cri::LinuxContainerConfig::default()),
            ..Default::default()
        }
    }

    pub async fn start(&mut self, name: &str, containers: usize, times: &mut Times) -> Result<Pod> {
        self.start_with(name, &vec![SLEEPER; containers], times).await
    }

    /// A pod with a container for each of these shell scripts.
    pub async fn start_with(
        &mut self,
        name: &str,
        scripts: &[&str],
        times: &mut Times,
    ) -> Result<Pod> {
        let config = self.pod_config(name);
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let answer = timed!(times, "RunPodSandbox", self.client.run_pod_sandbox(request));
        let mut pod =
            Pod { name: name.to_owned(), id: answer.pod_sandbox_id, containers: Vec::new() };
        for (number, script) in scripts.iter().enumerate() {
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: pod.id.clone(),
                config: Some(self.container_config(number, script)),
                sandbox_config: Some(config.clone()),
            };
            let answer = timed!(times, "CreateContainer", self.client.create_container(request));
            let request = cri::StartContainerRequest { container_id: answer.container_id.clone() };
            timed!(times, "StartContainer", self.client.start_container(request));
            pod.containers.push(answer.container_id);
        }
        Ok(pod)
    }

    pub async fn status(&mut self, id: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.client.container_status(request).await?.into_inner();
        answer.status.context("no status")
    }

    /// In the order of a kubelet: stop all, then remove all.
    pub async fn end(&mut self, pod: Pod, times: &mut Times) -> Result<()> {
        for id in &pod.containers {
            let request = cri::StopContainerRequest { container_id: id.clone(), timeout: 30 };
            timed!(times, "StopContainer", self.client.stop_container(request));
        }
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        timed!(times, "StopPodSandbox", self.client.stop_pod_sandbox(request));
        for id in &pod.containers {
            let request = cri::RemoveContainerRequest { container_id: id.clone() };
            timed!(times, "RemoveContainer", self.client.remove_container(request));
        }
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.id };
        timed!(times, "RemovePodSandbox", self.client.remove_pod_sandbox(request));
        Ok(())
    }
}

/// One pod with one container from start to end.
pub async fn one_life(side: &Side, images: &Images, name: &str) -> Result<Times> {
    let mut recipe = Recipe::new(side, images);
    let mut times = Times::new();
    let pod = recipe.start(name, 1, &mut times).await?;
    recipe.end(pod, &mut times).await?;
    Ok(times)
}

/// Many pods of one side.
pub struct Crowd {
    recipe: Recipe,
    round: usize,
    pods: Vec<Pod>,
}

impl Crowd {
    pub fn new(side: &Side, images: &Images, round: usize) -> Self {
        Self { recipe: Recipe::new(side, images), round, pods: Vec::new() }
    }

    /// Starts the pods, so many at a time. The rate is in pods per second.
    pub async fn fill(&mut self, pods: usize, parallel: usize) -> Result<(Times, f64)> {
        let first = self.pods.len();
        let names: VecDeque<_> =
            (first..first + pods).map(|number| format!("crowd-{}-{number}", self.round)).collect();
        let names = Arc::new(Mutex::new(names));
        let begun = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..parallel {
            let (mut recipe, names) = (self.recipe.clone(), names.clone());
            workers.spawn(async move {
                let (mut times, mut mine) = (Times::new(), Vec::new());
                while let Some(name) = take(&names) {
                    mine.push(recipe.start(&name, 2, &mut times).await?);
                }
                anyhow::Ok((times, mine))
            });
        }
        let mut all = Times::new();
        for outcome in workers.join_all().await {
            let (times, mine) = outcome?;
            all.extend(times);
            self.pods.extend(mine);
        }
        Ok((all, pods as f64 / begun.elapsed().as_secs_f64()))
    }

    /// List and status calls while all pods are there.
    pub async fn query(&mut self, times_each: usize) -> Result<Times> {
        let mut times = Times::new();
        let client = &mut self.recipe.client;
        for number in 0..times_each {
            let pod = &self.pods[number % self.pods.len()];
            let container = pod.containers[0].clone();
            let request = cri::ListContainersRequest { filter: None };
            timed!(times, "ListContainers", client.list_containers(request));
            let request = cri::ListPodSandboxRequest { filter: None };
            timed!(times, "ListPodSandbox", client.list_pod_sandbox(request));
            let request = cri::ContainerStatusRequest { container_id: container, verbose: false };
            timed!(times, "ContainerStatus", client.container_status(request));
            let request =
                cri::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
            timed!(times, "PodSandboxStatus", client.pod_sandbox_status(request));
            let request = cri::ExecSyncRequest {
                container_id: pod.containers[0].clone(),
                cmd: ["/bin/sh", "-c", ":"].map(str::to_owned).to_vec(),
                timeout: 30,
            };
            timed!(times, "ExecSync", client.exec_sync(request));
            let request = cri::ListContainerStatsRequest { filter: None };
            timed!(times, "ListContainerStats", client.list_container_stats(request));
            let request = cri::ListPodSandboxStatsRequest { filter: None };
            timed!(times, "ListPodSandboxStats", client.list_pod_sandbox_stats(request));
        }
        Ok(times)
    }

    /// Lists of so many containers: those that run, and more that are only created, which are
    /// taken away again.
    pub async fn list_many(&mut self, containers: usize, times_each: usize) -> Result<Times> {
        let running: usize = self.pods.iter().map(|pod| pod.containers.len()).sum();
        let mut more = Vec::new();
        for number in 0..containers.saturating_sub(running) {
            let pod = number % self.pods.len();
            let id = self.pods[pod].id.clone();
            let sandbox_config = Some(self.recipe.pod_config(&self.pods[pod].name));
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: id,
                config: Some(self.recipe.container_config(100 + number, SLEEPER)),
                sandbox_config,
            };
            let answer = self.recipe.client.create_container(request).await;
            more.push(answer.context("CreateContainer")?.into_inner().container_id);
        }
        let mut times = Times::new();
        for _ in 0..times_each {
            let request = cri::ListContainersRequest { filter: None };
            timed!(times, "ListContainers", self.recipe.client.list_containers(request));
        }
        for container_id in more {
            let request = cri::RemoveContainerRequest { container_id };
            self.recipe.client.remove_container(request).await.context("RemoveContainer")?;
        }
        Ok(times)
    }

    /// Stops and removes all pods but the first `kept`, so many at a time. The rate is in pods per
    /// second.
    pub async fn shrink(&mut self, kept: usize, parallel: usize) -> Result<(Times, f64)> {
        let pods = self.pods.split_off(kept);
        let count = pods.len() as f64;
        let pods = Arc::new(Mutex::new(VecDeque::from(pods)));
        let begun = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..parallel {
            let (mut recipe, pods) = (self.recipe.clone(), pods.clone());
            workers.spawn(async move {
                let mut times = Times::new();
                while let Some(pod) = take(&pods) {
                    recipe.end(pod, &mut times).await?;
                }
                anyhow::Ok(times)
            });
        }
        let mut all = Times::new();
        for outcome in workers.join_all().await {
            all.extend(outcome?);
        }
        Ok((all, count / begun.elapsed().as_secs_f64()))
    }
}

fn take<T>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    queue.lock().expect("no worker panics with the queue").pop_front()
}
