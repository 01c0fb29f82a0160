//! An agent in its world, a registry with images, and the calls that tests make.

use std::path::PathBuf;
use std::time::Duration;

use podbay::proto::runtime::v1 as cri;
use serde_json::Value;
use tonic::Status;

use crate::support::agent::{Images, Runtime, TestAgent};
use crate::support::builders::{Container, Pod};
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::eventually;
use crate::support::images::ImageBuilder;
use crate::support::registry::Registry;

/// How long anything may take that should be quick.
pub const SOON: Duration = Duration::from_secs(30);

/// An agent, its world, and a registry.
pub struct Rig {
    pub agent: TestAgent,
    pub registry: Registry,
    /// Reference of the busybox image, pulled.
    pub image: String,
}

/// A sandbox that runs, with what it was made from.
pub struct LivePod {
    pub spec: Pod,
    pub id: String,
}

impl Rig {
    pub async fn start(line: Line) -> Self {
        Self::start_in(TestEnv::start(line).await).await
    }

    pub async fn start_in(env: TestEnv) -> Self {
        let registry = Registry::start().await;
        Self::join(TestAgent::start(env).await, registry).await
    }

    /// The same rig over containerd's own CRI plugin, for the twin.
    #[allow(dead_code)]
    pub async fn start_plugin() -> Self {
        let registry = Registry::start().await;
        let pause = ImageBuilder::busybox().entrypoint(&["/bin/sleep", "864000"]).build();
        let pause = registry.push(&pause, "pause", "1").await;
        let agent = TestAgent::start_plugin(TestEnv::start(Line::V2).await, &pause).await;
        Self::join(agent, registry).await
    }

    async fn join(agent: TestAgent, registry: Registry) -> Self {
        let mut rig = Self { agent, registry, image: String::new() };
        rig.image = rig.add_image("busybox", ImageBuilder::busybox()).await;
        rig
    }

    /// Pushes and pulls one more image; the census counts from here.
    pub async fn add_image(&mut self, name: &str, builder: ImageBuilder) -> String {
        let reference = self.registry.push(&builder.build(), name, "1").await;
        self.pull(&reference).await.expect("the pull");
        self.agent.count_from_here().await;
        reference
    }

    pub fn env(&self) -> &TestEnv {
        &self.agent.env
    }

    pub fn runtime(&self) -> Runtime {
        self.agent.runtime()
    }

    pub fn images(&self) -> Images {
        self.agent.images()
    }

    /// Configuration of a pod of this world.
    pub fn pod_spec(&self, name: &str) -> Pod {
        Pod::new(self.env(), name)
    }

    pub async fn try_run(&self, spec: &Pod) -> Result<String, Status> {
        let answer = self.runtime().run_pod_sandbox(spec.run()).await?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    pub async fn run(&self, spec: Pod) -> LivePod {
        let id = self.try_run(&spec).await.expect("RunPodSandbox");
        LivePod { spec, id }
    }

    pub async fn create(&self, pod: &LivePod, spec: &Container) -> Result<String, Status> {
        let answer = self.runtime().create_container(spec.create(&pod.spec, &pod.id)).await?;
        Ok(answer.into_inner().container_id)
    }

    pub async fn start_created(&self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: id.into() };
        self.runtime().start_container(request).await.map(drop)
    }

    /// Creates and starts.
    pub async fn launch(&self, pod: &LivePod, spec: &Container) -> String {
        let id = self.create(pod, spec).await.expect("CreateContainer");
        self.start_created(&id).await.expect("StartContainer");
        id
    }

    /// A busybox container that waits.
    pub async fn launch_waiting(&self, pod: &LivePod, name: &str) -> String {
        self.launch(pod, &Container::waiting(name, &self.image)).await
    }

    /// Runs a container to its end.
    pub async fn run_to_end(&self, pod: &LivePod, spec: &Container) -> cri::ContainerStatus {
        let id = self.launch(pod, spec).await;
        self.ended(&id).await
    }

    /// Runs a container to its end and returns what it said, and its exit code.
    pub async fn output(&self, pod: &LivePod, spec: &Container) -> (String, i32) {
        let status = self.run_to_end(pod, spec).await;
        let log = std::fs::read_to_string(&status.log_path).expect("the log");
        let texts: Vec<_> = entries(&log).into_iter().map(|entry| entry.text).collect();
        (texts.join("\n"), status.exit_code)
    }

    /// Waits until a container has exited.
    pub async fn ended(&self, id: &str) -> cri::ContainerStatus {
        let ended = eventually(SOON, async || {
            let status = self.status(id).await;
            (status.state() == cri::ContainerState::ContainerExited).then_some(status)
        });
        ended.await.unwrap_or_else(|| panic!("container {id} does not end"))
    }

    pub async fn try_status(&self, id: &str) -> Result<cri::ContainerStatusResponse, Status> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
        Ok(self.runtime().container_status(request).await?.into_inner())
    }

    pub async fn status(&self, id: &str) -> cri::ContainerStatus {
        self.try_status(id).await.expect("ContainerStatus").status.expect("a status")
    }

    pub async fn try_pod_status(&self, id: &str) -> Result<cri::PodSandboxStatusResponse, Status> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        Ok(self.runtime().pod_sandbox_status(request).await?.into_inner())
    }

    pub async fn pod_status(&self, id: &str) -> cri::PodSandboxStatus {
        self.try_pod_status(id).await.expect("PodSandboxStatus").status.expect("a status")
    }

    pub async fn pod_ip(&self, id: &str) -> String {
        self.pod_status(id).await.network.expect("a network").ip
    }

    /// Verbose facts of a container.
    pub async fn info(&self, id: &str) -> Value {
        facts(&self.try_status(id).await.expect("ContainerStatus").info)
    }

    /// Verbose facts of a pod.
    pub async fn pod_info(&self, id: &str) -> Value {
        facts(&self.try_pod_status(id).await.expect("PodSandboxStatus").info)
    }

    /// Pid of a running container's first process.
    pub async fn pid(&self, id: &str) -> i32 {
        let pid = self.info(id).await["pid"].as_i64().expect("a pid");
        i32::try_from(pid).expect("a pid")
    }

    pub async fn try_exec(
        &self,
        id: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let request = cri::ExecSyncRequest { container_id: id.into(), cmd, timeout };
        Ok(self.runtime().exec_sync(request).await?.into_inner())
    }

    /// Runs a shell script that must succeed; returns what it said, trimmed.
    pub async fn exec(&self, id: &str, script: &str) -> String {
        let done = self.try_exec(id, &["/bin/sh", "-c", script], 20).await;
        let done = done.unwrap_or_else(|e| panic!("{script}: {e}"));
        let (out, err) = (lossy(&done.stdout), lossy(&done.stderr));
        assert_eq!(done.exit_code, 0, "{script}: {out}{err}");
        out.trim().to_owned()
    }

    pub async fn stop(&self, id: &str, timeout: i64) {
        let request = cri::StopContainerRequest { container_id: id.into(), timeout };
        self.runtime().stop_container(request).await.expect("StopContainer");
    }

    pub async fn remove(&self, id: &str) {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.runtime().remove_container(request).await.expect("RemoveContainer");
    }

    pub async fn try_stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime().stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn stop_pod(&self, id: &str) {
        self.try_stop_pod(id).await.expect("StopPodSandbox");
    }

    pub async fn remove_pod(&self, id: &str) {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime().remove_pod_sandbox(request).await.expect("RemovePodSandbox");
    }

    pub async fn pods(&self, filter: cri::PodSandboxFilter) -> Vec<cri::PodSandbox> {
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        self.runtime().list_pod_sandbox(request).await.expect("a list").into_inner().items
    }

    pub async fn containers(&self, filter: cri::ContainerFilter) -> Vec<cri::Container> {
        let request = cri::ListContainersRequest { filter: Some(filter) };
        self.runtime().list_containers(request).await.expect("a list").into_inner().containers
    }

    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        self.pull_with(image, None).await
    }

    pub async fn pull_with(
        &self,
        image: &str,
        auth: Option<cri::AuthConfig>,
    ) -> Result<String, Status> {
        let image = Some(image_spec(image));
        let request = cri::PullImageRequest { image, auth, sandbox_config: None };
        Ok(self.images().pull_image(request).await?.into_inner().image_ref)
    }

    pub async fn image_status(&self, image: &str) -> Option<cri::Image> {
        let request = cri::ImageStatusRequest { image: Some(image_spec(image)), verbose: true };
        self.images().image_status(request).await.expect("ImageStatus").into_inner().image
    }

    pub async fn remove_image(&self, image: &str) {
        let request = cri::RemoveImageRequest { image: Some(image_spec(image)) };
        self.images().remove_image(request).await.expect("RemoveImage");
    }

    /// Log of a container as it is now.
    pub fn log(&self, pod: &LivePod, container: &str) -> String {
        let path = PathBuf::from(&pod.spec.config.log_directory).join(format!("{container}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Removes all pods; nothing of them may be left.
    pub async fn finish(self) {
        for pod in self.pods(cri::PodSandboxFilter::default()).await {
            self.remove_pod(&pod.id).await;
        }
        assert!(self.containers(cri::ContainerFilter::default()).await.is_empty());
        self.agent.assert_clean().await;
    }
}

pub fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: image.into(), ..Default::default() }
}

fn facts(info: &std::collections::BTreeMap<String, String>) -> Value {
    serde_json::from_str(&info["info"]).expect("verbose facts are JSON")
}

pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub time: String,
    pub stream: String,
    pub tag: String,
    pub text: String,
}

/// Entries of a log; each line must have the format.
pub fn entries(log: &str) -> Vec<LogEntry> {
    let format = regex::Regex::new(
        r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([PF]) (.*)$",
    )
    .expect("a pattern");
    assert!(log.is_empty() || log.ends_with('\n'), "the last entry is torn: {log:?}");
    let entry = |line: &str| {
        let parts = format.captures(line).unwrap_or_else(|| panic!("not an entry: {line:?}"));
        let part = |n: usize| parts[n].to_owned();
        LogEntry { time: part(1), stream: part(2), tag: part(3), text: part(4) }
    };
    log.lines().map(entry).collect()
}
