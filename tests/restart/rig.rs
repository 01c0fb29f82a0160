//! An agent with a busybox image, and helpers for the tests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbay::proto::runtime::v1 as cri;
use tonic::{Request, Status};

use crate::support::agent::TestAgent;
use crate::support::builders::{Container, Pod};
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::images::ImageBuilder;
use crate::support::registry::Registry;
use crate::support::wait_until;

/// Longest wait for what should come at once.
pub const SOON: Duration = Duration::from_secs(20);

pub use cri::{ContainerState, PodSandboxState};

pub struct Rig {
    pub agent: TestAgent,
    pub image: String,
}

impl Rig {
    pub async fn start(line: Line) -> Self {
        Self::start_in(TestEnv::start(line).await).await
    }

    /// In a world that the test has changed before.
    pub async fn start_in(env: TestEnv) -> Self {
        let registry = Registry::start().await;
        let image = registry.push(&ImageBuilder::busybox().build(), "test/busybox", "1").await;
        let agent = TestAgent::start(env).await;
        let mut rig = Self { agent, image };
        let spec = cri::ImageSpec { image: rig.image.clone(), ..Default::default() };
        let pull = cri::PullImageRequest { image: Some(spec), ..Default::default() };
        rig.agent.images().pull_image(pull).await.expect("the image is pulled");
        rig.agent.count_from_here().await;
        rig
    }

    pub fn pod(&self, name: &str) -> Pod {
        Pod::new(&self.agent.env, name)
    }

    pub fn script(&self, name: &str, script: &str) -> Container {
        Container::script(name, &self.image, script)
    }

    pub fn waiting(&self, name: &str) -> Container {
        Container::waiting(name, &self.image)
    }

    pub async fn run(&self, pod: &Pod) -> Result<String, Status> {
        let answer = self.agent.runtime().run_pod_sandbox(pod.run()).await?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    pub async fn create(&self, pod: &Pod, id: &str, it: &Container) -> Result<String, Status> {
        let answer = self.agent.runtime().create_container(it.create(pod, id)).await?;
        Ok(answer.into_inner().container_id)
    }

    pub async fn begin(&self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: id.into() };
        self.agent.runtime().start_container(request).await.map(drop)
    }

    /// A started container.
    pub async fn started(&self, pod: &Pod, pod_id: &str, container: &Container) -> String {
        let id = self.create(pod, pod_id, container).await.expect("create a container");
        self.begin(&id).await.expect("start a container");
        id
    }

    pub async fn stop_container(&self, id: &str, seconds: i64) -> Result<(), Status> {
        let request = cri::StopContainerRequest { container_id: id.into(), timeout: seconds };
        self.agent.runtime().stop_container(request).await.map(drop)
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.agent.runtime().remove_container(request).await.map(drop)
    }

    pub async fn stop(&self, id: &str) -> Result<(), Status> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.agent.runtime().stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.agent.runtime().remove_pod_sandbox(request).await.map(drop)
    }

    /// Stops and removes every pod, and looks whether anything is left.
    pub async fn clear(&self) {
        for pod in self.pods().await {
            self.stop(&pod.id).await.expect("stop a pod");
            self.remove(&pod.id).await.expect("remove a pod");
        }
        assert!(self.containers().await.is_empty());
        self.agent.assert_clean().await;
    }

    pub async fn pods(&self) -> Vec<cri::PodSandbox> {
        let all = cri::ListPodSandboxRequest::default();
        self.agent.runtime().list_pod_sandbox(all).await.expect("list pods").into_inner().items
    }

    pub async fn containers(&self) -> Vec<cri::Container> {
        let all = cri::ListContainersRequest::default();
        let answer = self.agent.runtime().list_containers(all).await.expect("list containers");
        answer.into_inner().containers
    }

    pub async fn pod_status(&self, id: &str) -> cri::PodSandboxStatus {
        let request =
            cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), ..Default::default() };
        let answer = self.agent.runtime().pod_sandbox_status(request).await.expect("a pod");
        answer.into_inner().status.expect("a status")
    }

    pub async fn status(&self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer = self.agent.runtime().container_status(request).await.expect("a container");
        answer.into_inner().status.expect("a status")
    }

    /// PID of a container's or a pod's first process, from the verbose status.
    pub async fn pid(&self, id: &str) -> u32 {
        let mut runtime = self.agent.runtime();
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
        let info = match runtime.container_status(request).await {
            Ok(answer) => answer.into_inner().info,
            Err(_) => {
                let request =
                    cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
                runtime.pod_sandbox_status(request).await.expect("a pod").into_inner().info
            }
        };
        let info: serde_json::Value = serde_json::from_str(&info["info"]).expect("JSON");
        u32::try_from(info["pid"].as_u64().expect("a pid")).expect("a pid")
    }

    /// Waits for the end of a container: code and reason.
    pub async fn ended(&self, id: &str) -> (i32, String) {
        let exited = i32::from(ContainerState::ContainerExited);
        wait_until(SOON, "the container has exited", async || {
            self.status(id).await.state == exited
        })
        .await;
        let status = self.status(id).await;
        (status.exit_code, status.reason)
    }

    pub async fn exec(&self, id: &str, script: &str) -> Result<String, Status> {
        let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = cri::ExecSyncRequest { container_id: id.into(), cmd, timeout: 10 };
        let answer = self.agent.runtime().exec_sync(request).await?.into_inner();
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// Condition `RuntimeReady` of Status.
    pub async fn runtime_is_ready(&self) -> bool {
        let answer = self.agent.runtime().status(cri::StatusRequest::default()).await;
        let conditions = answer.expect("a status").into_inner().status.expect("it").conditions;
        conditions.iter().any(|it| it.r#type == "RuntimeReady" && it.status)
    }

    pub fn log_of(&self, pod: &str, container: &str) -> PathBuf {
        self.agent.env.log_root().join(pod).join(format!("{container}.log"))
    }

    /// PID of the shim of a pod or container.
    pub fn shim_of(&self, id: &str) -> Option<u32> {
        let address = self.agent.env.containerd.address();
        let words = ["containerd-shim", address.to_str().expect("UTF-8"), id];
        crate::support::process::processes_with(&words).first().copied()
    }
}

/// A request whose answer must come within a second.
pub fn at_once<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(1));
    request
}

pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal).expect("the process is there");
}

/// What a container wrote to stdout, line by line, with partial records put together.
pub fn lines_of(log: &Path) -> Vec<String> {
    let mut lines = vec![String::new()];
    for record in std::fs::read_to_string(log).unwrap_or_default().lines() {
        let mut parts = record.splitn(4, ' ').skip(2);
        let (tag, text) = (parts.next().expect("a tag"), parts.next().unwrap_or_default());
        lines.last_mut().expect("there is one").push_str(text);
        if tag == "F" {
            lines.push(String::new());
        }
    }
    assert_eq!(lines.pop().as_deref(), Some(""), "the log ends in the middle of a line");
    lines
}

/// Writes a program of the test.
pub fn write_program(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{script}\n")).expect("write a program");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
}
