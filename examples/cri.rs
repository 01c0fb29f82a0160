//! One pod, step by step: a plain gRPC client of podbay's CRI socket.
//!
//! It runs one pod through its lifecycle: sandbox (pause container and network), two init
//! containers one after the other, then a web server and a client that talk over localhost. It
//! reads their status and logs, stops them gracefully, removes everything, and checks that nothing
//! is left. Each line is one call with its duration. The exit code is 1 if anything is wrong.
//!
//! ```text
//! cargo run --example cri -- --socket /run/podbay/podbay.sock --image localhost:5000/busybox
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use podbay::proto::runtime::v1 as cri;
use podbay::proto::runtime::v1::image_service_client::ImageServiceClient;
use podbay::proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};

/// Runs one demonstration pod through a CRI socket.
#[derive(Parser)]
struct Arguments {
    /// The CRI socket of the agent.
    #[arg(long, default_value = "/run/podbay/podbay.sock")]
    socket: PathBuf,
    /// An image with busybox in it.
    #[arg(long, default_value = "registry.k8s.io/e2e-test-images/busybox:1.29-4")]
    image: String,
    /// Folder for the pod's shared volume and logs; made when missing.
    #[arg(long, default_value = "/tmp/podbay-cri")]
    folder: PathBuf,
    /// Run this command once the pod is up and show what it prints.
    #[arg(long)]
    while_running: Option<String>,
}

const POD_LABEL: (&str, &str) = ("app", "cri-demo");
const STOP_GRACE_SECONDS: i64 = 10;
const READY_LIMIT: Duration = Duration::from_secs(10);
const CALL_LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cri: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let mut controller = Controller::connect(arguments).await?;
    let outcome = controller.demonstrate(arguments).await;
    if outcome.is_err() {
        controller.remove_everything().await;
    }
    outcome
}

/// The client and the pod in its hands.
struct Controller {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    image: String,
    volume: PathBuf,
    pod: cri::PodSandboxConfig,
    pod_id: String,
}

/// What a container of the demonstration runs.
struct Part {
    name: &'static str,
    script: &'static str,
}

const INIT: [Part; 2] = [
    Part {
        name: "init-page",
        script: "echo 'hello from the pod' > /shared/index.html; echo page written",
    },
    Part {
        name: "init-check",
        script: "grep -q hello /shared/index.html || exit 1; date +%s >> /shared/index.html; echo page checked",
    },
];

// A shell as PID 1 needs its trap: the kernel drops signals that PID 1 has no handler for.
const WEB: Part = Part {
    name: "web",
    script: "trap 'echo web stops; kill %1; exit 0' TERM; \
             httpd -f -p 8080 -h /shared & echo web listens on 8080; wait",
};
const CLIENT: Part = Part {
    name: "client",
    script: "trap 'echo client stops; exit 0' TERM; n=0; \
             while :; do wget -q -O - http://127.0.0.1:8080/ && n=$((n+1)) && echo answer $n; sleep 0.2 & wait $!; done",
};

impl Controller {
    /// Waits until the agent takes calls: just after its start it may still be recovering.
    async fn connect(arguments: &Arguments) -> Result<Self> {
        let address = format!("unix://{}", arguments.socket.display());
        let endpoint = Endpoint::from_shared(address.clone())?.timeout(CALL_LIMIT);
        let deadline = Instant::now() + READY_LIMIT;
        let channel = loop {
            match answering(&endpoint).await {
                Ok(channel) => break channel,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("no agent answers at {address}"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let logs = arguments.folder.join("logs");
        let volume = arguments.folder.join("shared");
        for folder in [&logs, &volume] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
            image: arguments.image.clone(),
            volume,
            pod: pod_config(&logs),
            pod_id: String::new(),
        })
    }

    async fn demonstrate(&mut self, arguments: &Arguments) -> Result<()> {
        self.greet().await?;
        self.pull().await?;
        self.run_sandbox().await?;
        for part in &INIT {
            self.run_to_completion(part).await?;
        }
        let web = self.start(&WEB).await?;
        let client = self.start(&CLIENT).await?;
        self.wait_for_answers(3).await?;
        self.show_status(&[&web, &client]).await?;
        if let Some(command) = &arguments.while_running {
            show_output_of(command).await?;
        }
        self.stop_gracefully(&client, "client").await?;
        self.stop_gracefully(&web, "web").await?;
        self.remove_pod().await?;
        self.nothing_is_left().await
    }

    async fn greet(&mut self) -> Result<()> {
        let step = Step::begin("Version");
        let request = cri::VersionRequest { version: "v1".into() };
        let it = self.runtime.version(request).await.context("Version")?.into_inner();
        step.done(format!(
            "{} {}, CRI {}",
            it.runtime_name, it.runtime_version, it.runtime_api_version
        ));

        let step = Step::begin("Status");
        let answer = self.status_once_ready().await.context("Status")?;
        let conditions = answer.status.unwrap_or_default().conditions;
        for needed in ["RuntimeReady", "NetworkReady"] {
            let found = conditions.iter().find(|condition| condition.r#type == needed);
            let found = found.with_context(|| format!("Status lacks {needed}"))?;
            let why = format!("{}: {}", found.reason, found.message);
            ensure!(found.status, "{needed} is false: {why}");
        }
        step.done("runtime and network are ready");
        Ok(())
    }

    async fn pull(&mut self) -> Result<()> {
        let step = Step::begin("PullImage");
        let request = cri::PullImageRequest {
            image: Some(self.image_spec()),
            sandbox_config: Some(self.pod.clone()),
            ..Default::default()
        };
        let answer = self.images.pull_image(request).await.context("PullImage")?.into_inner();
        step.done(format!("{} -> {}", self.image, short(&answer.image_ref)));
        Ok(())
    }

    async fn run_sandbox(&mut self) -> Result<()> {
        let step = Step::begin("RunPodSandbox");
        let request =
            cri::RunPodSandboxRequest { config: Some(self.pod.clone()), ..Default::default() };
        let answer = self.runtime.run_pod_sandbox(request).await.context("RunPodSandbox")?;
        self.pod_id = answer.into_inner().pod_sandbox_id;
        step.done(format!("{} pause container and network are up", short(&self.pod_id)));

        let step = Step::begin("PodSandboxStatus");
        let request =
            cri::PodSandboxStatusRequest { pod_sandbox_id: self.pod_id.clone(), verbose: false };
        let answer = self.runtime.pod_sandbox_status(request).await.context("PodSandboxStatus")?;
        let status = answer.into_inner().status.context("no pod status")?;
        ensure!(status.state() == cri::PodSandboxState::SandboxReady, "the pod is not ready");
        let ip = status.network.context("no pod network")?.ip;
        ensure!(!ip.is_empty(), "the pod has no address");
        step.done(format!("ready, address {ip}"));
        Ok(())
    }

    async fn start(&mut self, part: &Part) -> Result<String> {
        let step = Step::begin("CreateContainer");
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.pod_id.clone(),
            config: Some(self.container_config(part)),
            sandbox_config: Some(self.pod.clone()),
        };
        let answer = self.runtime.create_container(request).await;
        let id = answer
            .with_context(|| format!("CreateContainer {}", part.name))?
            .into_inner()
            .container_id;
        step.done(format!("{} {}", short(&id), part.name));

        let step = Step::begin("StartContainer");
        let request = cri::StartContainerRequest { container_id: id.clone() };
        let answer = self.runtime.start_container(request).await;
        answer.with_context(|| format!("StartContainer {}", part.name))?;
        step.done(part.name);
        Ok(id)
    }

    async fn run_to_completion(&mut self, part: &Part) -> Result<()> {
        let id = self.start(part).await?;
        let step = Step::begin("(wait for its end)");
        let status = self.wait_until_exited(&id, Duration::from_secs(20)).await?;
        let log = self.log_of(part.name)?;
        step.done(format!(
            "{} ended, code {}, log: {}",
            part.name,
            status.exit_code,
            log.join(" / ")
        ));
        ensure!(status.exit_code == 0, "{} ended with code {}", part.name, status.exit_code);
        Ok(())
    }

    /// A fresh agent answers Unavailable until it has taken over what was there before it.
    async fn status_once_ready(&mut self) -> Result<cri::StatusResponse> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            match self.runtime.status(cri::StatusRequest { verbose: false }).await {
                Err(status)
                    if status.code() == tonic::Code::Unavailable && Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                answer => return Ok(answer?.into_inner()),
            }
        }
    }

    async fn status(&mut self, id: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer = self.runtime.container_status(request).await.context("ContainerStatus")?;
        answer.into_inner().status.context("no container status")
    }

    async fn wait_until_exited(
        &mut self,
        id: &str,
        limit: Duration,
    ) -> Result<cri::ContainerStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status(id).await?;
            if status.state() == cri::ContainerState::ContainerExited {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "container {} still runs after {limit:?}",
                short(id)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the client has logged so many answers of the web server.
    async fn wait_for_answers(&mut self, wanted: usize) -> Result<()> {
        let step = Step::begin("(read the logs)");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let log = self.log_of(CLIENT.name)?;
            let answers = log.iter().filter(|line| line.starts_with("answer ")).count();
            if answers >= wanted && log.iter().any(|line| line == "hello from the pod") {
                step.done(format!("client got {answers} answers over localhost: {:?}", log[0]));
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the client got no answer; its log: {log:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn show_status(&mut self, ids: &[&str]) -> Result<()> {
        for id in ids {
            let step = Step::begin("ContainerStatus");
            let status = self.status(id).await?;
            let name = status.metadata.clone().unwrap_or_default().name;
            ensure!(status.state() == cri::ContainerState::ContainerRunning, "{name} does not run");
            step.done(format!("{name} runs, image {}", status.image_ref));
        }
        Ok(())
    }

    async fn stop_gracefully(&mut self, id: &str, name: &str) -> Result<()> {
        let step = Step::begin("StopContainer");
        let request =
            cri::StopContainerRequest { container_id: id.into(), timeout: STOP_GRACE_SECONDS };
        self.runtime.stop_container(request).await.context("StopContainer")?;
        let status = self.status(id).await?;
        let last = self.log_of(name)?.pop().unwrap_or_default();
        step.done(format!("{name} ended, code {}, last words: {last}", status.exit_code));
        ensure!(
            status.exit_code == 0,
            "{name} was not stopped gracefully: code {}",
            status.exit_code
        );
        ensure!(last.ends_with("stops"), "the last line of {name} is lost: {last:?}");
        Ok(())
    }

    async fn remove_pod(&mut self) -> Result<()> {
        let step = Step::begin("StopPodSandbox");
        let pod_sandbox_id = self.pod_id.clone();
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        self.runtime.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
        step.done("network and pause container are gone");

        let step = Step::begin("RemovePodSandbox");
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id };
        self.runtime.remove_pod_sandbox(request).await.context("RemovePodSandbox")?;
        step.done("containers, snapshots and records are gone");
        Ok(())
    }

    async fn nothing_is_left(&mut self) -> Result<()> {
        let step = Step::begin("List…");
        let answer = self.runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: None });
        let pods = answer.await.context("ListPodSandbox")?.into_inner().items;
        let mine = pods.iter().filter(|pod| pod.id == self.pod_id).count();
        let answer = self.runtime.list_containers(cri::ListContainersRequest { filter: None });
        let containers = answer.await.context("ListContainers")?.into_inner().containers;
        let theirs = containers.iter().filter(|it| it.pod_sandbox_id == self.pod_id).count();
        step.done(format!("{mine} of our pods, {theirs} of our containers left"));
        ensure!(mine == 0 && theirs == 0, "something is left");
        Ok(())
    }

    /// After a failure: best effort, so that a failed demonstration can be repeated.
    async fn remove_everything(&mut self) {
        if self.pod_id.is_empty() {
            return;
        }
        let pod_sandbox_id = self.pod_id.clone();
        let stop = cri::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        let stopped = self.runtime.stop_pod_sandbox(stop).await.map(drop);
        let remove = cri::RemovePodSandboxRequest { pod_sandbox_id };
        let removed = self.runtime.remove_pod_sandbox(remove).await.map(drop);
        if let Err(status) = stopped.and(removed) {
            eprintln!("clean-up after the failure failed too: {status}");
        }
    }

    fn image_spec(&self) -> cri::ImageSpec {
        cri::ImageSpec { image: self.image.clone(), ..Default::default() }
    }

    fn container_config(&self, part: &Part) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: part.name.into(), attempt: 0 }),
            image: Some(self.image_spec()),
            command: vec!["/bin/sh".into(), "-c".into(), part.script.into()],
            mounts: vec![cri::Mount {
                container_path: "/shared".into(),
                host_path: self.volume.to_string_lossy().into_owned(),
                ..Default::default()
            }],
            log_path: format!("{}.log", part.name),
            labels: [(POD_LABEL.0.into(), POD_LABEL.1.into())].into(),
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(cri::LinuxContainerResources {
                    memory_limit_in_bytes: 64 << 20,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The messages in a container's CRI log: `time stream tag message`.
    fn log_of(&self, name: &str) -> Result<Vec<String>> {
        let path = Path::new(&self.pod.log_directory).join(format!("{name}.log"));
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let message = |line: &str| line.splitn(4, ' ').nth(3).map(str::to_owned);
        text.lines()
            .map(|line| message(line).with_context(|| format!("no CRI log line: {line:?}")))
            .collect()
    }
}

async fn answering(endpoint: &Endpoint) -> Result<Channel> {
    let channel = endpoint.connect().await?;
    let request = cri::VersionRequest { version: "v1".into() };
    RuntimeServiceClient::new(channel.clone()).version(request).await?;
    Ok(channel)
}

fn pod_config(logs: &Path) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "cri-demo".into(),
            uid: format!("demo-{}", std::process::id()),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "cri-demo".into(),
        log_directory: logs.to_string_lossy().into_owned(),
        labels: [(POD_LABEL.0.into(), POD_LABEL.1.into())].into(),
        linux: Some(cri::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

async fn show_output_of(command: &str) -> Result<()> {
    let status = tokio::process::Command::new("sh").arg("-c").arg(command).status().await?;
    ensure!(status.success(), "`{command}` ended with {status}");
    Ok(())
}

/// One line of the report: begun before a call, printed after it.
struct Step {
    name: &'static str,
    begun: Instant,
}

impl Step {
    fn begin(name: &'static str) -> Self {
        Self { name, begun: Instant::now() }
    }

    fn done(self, what: impl AsRef<str>) {
        let took = self.begun.elapsed().as_secs_f64() * 1000.0;
        println!("{took:9.1} ms  {:<18}  {}", self.name, what.as_ref());
    }
}

/// The first twelve characters of an id, without the name of its digest.
fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}
