//! Requests with common values, and short functions to send them.

use podbay::proto::runtime::v1 as cri;
use tonic::{Code, Status};

use super::world::{Agent, IMAGE, World, eventually};

pub type Answer<T> = Result<T, Status>;

/// A pod with a log folder.
pub fn pod(world: &World, name: &str) -> cri::PodSandboxConfig {
    let logs = world.path(&format!("logs/{name}"));
    std::fs::create_dir_all(&logs).expect("log folder");
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "test".into(),
            attempt: 0,
        }),
        log_directory: logs.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// A container that does this (see the programs of the fake runtime) and logs to `NAME.log`.
pub fn container(name: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}

impl Agent {
    pub async fn run(&self, config: &cri::PodSandboxConfig) -> Answer<String> {
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let answer = self.cri.clone().run_pod_sandbox(request).await?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.cri.clone().stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.cri.clone().remove_pod_sandbox(request).await.map(drop)
    }

    /// Stops and removes all pods.
    pub async fn remove_all(&self) {
        for item in self.pods().await {
            self.stop_pod(&item.id).await.expect("stop");
            self.remove_pod(&item.id).await.expect("remove");
        }
    }

    pub async fn pods(&self) -> Vec<cri::PodSandbox> {
        let all = cri::ListPodSandboxRequest::default();
        self.cri.clone().list_pod_sandbox(all).await.expect("list").into_inner().items
    }

    pub async fn pod_status(&self, id: &str) -> Answer<cri::PodSandboxStatusResponse> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        self.cri.clone().pod_sandbox_status(request).await.map(|answer| answer.into_inner())
    }

    pub async fn is_ready(&self, id: &str) -> bool {
        let status = self.pod_status(id).await.expect("status").status.expect("status");
        status.state() == cri::PodSandboxState::SandboxReady
    }

    pub async fn create(&self, pod: &str, config: &cri::ContainerConfig) -> Answer<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config.clone()),
            sandbox_config: None,
        };
        Ok(self.cri.clone().create_container(request).await?.into_inner().container_id)
    }

    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = cri::StartContainerRequest { container_id: id.into() };
        self.cri.clone().start_container(request).await.map(drop)
    }

    /// Creates and starts a container.
    pub async fn launch(&self, pod: &str, name: &str, command: &[&str]) -> String {
        let id = self.create(pod, &container(name, command)).await.expect("create");
        self.start(&id).await.expect("start");
        id
    }

    pub async fn stop(&self, id: &str, seconds: i64) -> Answer<()> {
        let request = cri::StopContainerRequest { container_id: id.into(), timeout: seconds };
        self.cri.clone().stop_container(request).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.cri.clone().remove_container(request).await.map(drop)
    }

    pub async fn containers(&self) -> Vec<cri::Container> {
        let all = cri::ListContainersRequest::default();
        self.cri.clone().list_containers(all).await.expect("list").into_inner().containers
    }

    pub async fn status(&self, id: &str) -> Answer<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
        let answer = self.cri.clone().container_status(request).await?.into_inner();
        Ok(answer.status.expect("status"))
    }

    /// Waits until a container has ended.
    pub async fn ended(&self, id: &str) -> cri::ContainerStatus {
        eventually("the container ends", async || {
            let status = self.status(id).await.expect("status");
            (status.state() == cri::ContainerState::ContainerExited).then_some(status)
        })
        .await
    }

    pub async fn exec(
        &self,
        id: &str,
        command: &[&str],
        seconds: i64,
    ) -> Answer<cri::ExecSyncResponse> {
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: seconds,
        };
        self.cri.clone().exec_sync(request).await.map(|answer| answer.into_inner())
    }

    pub async fn reopen(&self, id: &str) -> Answer<()> {
        let request = cri::ReopenContainerLogRequest { container_id: id.into() };
        self.cri.clone().reopen_container_log(request).await.map(drop)
    }
}

/// The code and message of a call that must fail.
#[track_caller]
pub fn refused<T>(answer: Answer<T>, code: Code, words: &str) {
    let Err(status) = answer else { panic!("it succeeded; expected {code:?} {words:?}") };
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(status.message().contains(words), "{words:?} is not in {:?}", status.message());
}
