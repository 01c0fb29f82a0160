//! The real binary on real containerds of both lines: the lifecycle of a pod, restarts, and
//! shutdown.

mod support;

use std::time::Duration;

use podbay::proto::runtime::v1 as cri;
use support::agent::TestAgent;
use support::builders::{Container, Pod};
use support::containerd::Line;
use support::env::{Networking, TestEnv};
use support::images::ImageBuilder;
use support::registry::Registry;
use support::wait_until;

const LIMIT: Duration = Duration::from_secs(30);

macro_rules! on_both_lines {
    ($($name:ident)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn v1() {
                super::$name(Line::V1).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn v2() {
                super::$name(Line::V2).await;
            }
        })*
    };
}

on_both_lines! {
    a_pod_comes_and_goes_and_leaves_nothing
    a_killed_agent_finds_its_pods_again
    a_second_agent_is_refused_and_disturbs_nobody
}

/// An agent with the busybox image pulled, and its name.
async fn agent_with_image(line: Line, networking: Networking) -> (TestAgent, Registry, String) {
    let registry = Registry::start().await;
    let bundle = ImageBuilder::busybox().build();
    let image = registry.push(&bundle, "test/busybox", "1").await;
    let mut agent = TestAgent::start(TestEnv::start_with(line, networking).await).await;
    let spec = cri::ImageSpec { image: image.clone(), ..Default::default() };
    let request = cri::PullImageRequest { image: Some(spec), ..Default::default() };
    let answer = agent.images().pull_image(request).await.expect("PullImage").into_inner();
    assert_eq!(answer.image_ref, bundle.id);
    // The first pod brings the pause image and the bridge; they stay.
    let pod = Pod::new(&agent.env, "first");
    let id = run(&agent, &pod).await;
    remove(&agent, &id).await;
    agent.count_from_here().await;
    (agent, registry, image)
}

async fn run(agent: &TestAgent, pod: &Pod) -> String {
    let answer = agent.runtime().run_pod_sandbox(pod.run()).await;
    answer.expect("RunPodSandbox").into_inner().pod_sandbox_id
}

async fn start(agent: &TestAgent, pod: &Pod, pod_id: &str, container: &Container) -> String {
    let answer = agent.runtime().create_container(container.create(pod, pod_id)).await;
    let id = answer.expect("CreateContainer").into_inner().container_id;
    let request = cri::StartContainerRequest { container_id: id.clone() };
    agent.runtime().start_container(request).await.expect("StartContainer");
    id
}

async fn status(agent: &TestAgent, id: &str) -> cri::ContainerStatus {
    let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
    let answer = agent.runtime().container_status(request).await;
    answer.expect("ContainerStatus").into_inner().status.expect("a status")
}

async fn remove(agent: &TestAgent, pod_id: &str) {
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: pod_id.into() };
    agent.runtime().stop_pod_sandbox(request).await.expect("StopPodSandbox");
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod_id.into() };
    agent.runtime().remove_pod_sandbox(request).await.expect("RemovePodSandbox");
}

async fn wait_for_exit(agent: &TestAgent, id: &str) -> cri::ContainerStatus {
    wait_until(LIMIT, "the container ends", async || {
        status(agent, id).await.state() == cri::ContainerState::ContainerExited
    })
    .await;
    status(agent, id).await
}

fn log_of(pod: &Pod, name: &str) -> Vec<String> {
    let path = format!("{}/{name}.log", pod.config.log_directory);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).collect()
}

async fn a_pod_comes_and_goes_and_leaves_nothing(line: Line) {
    let (mut agent, _registry, image) = agent_with_image(line, Networking::Default).await;
    let pod = Pod::new(&agent.env, "life").port(0, 80).dns(&["10.9.9.9"], &["a.test"], &[]);
    let pod_id = run(&agent, &pod).await;
    let script = "cat /etc/resolv.conf; hostname; exit 7";
    let init = Container::script("init", &image, script).memory_limit(32 << 20);
    let init_id = start(&agent, &pod, &pod_id, &init).await;
    assert_eq!(wait_for_exit(&agent, &init_id).await.exit_code, 7);
    let log = log_of(&pod, "init");
    assert!(log.iter().any(|line| line.contains("10.9.9.9")), "{log:?}");
    assert!(log.contains(&"life".to_owned()), "{log:?}");

    let app_id = start(&agent, &pod, &pod_id, &Container::waiting("app", &image)).await;
    let request = cri::StopContainerRequest { container_id: app_id.clone(), timeout: 20 };
    agent.runtime().stop_container(request).await.expect("StopContainer");
    assert_eq!(status(&agent, &app_id).await.exit_code, 0);
    remove(&agent, &pod_id).await;
    agent.assert_clean().await;
    agent.stop().await;
}

async fn a_killed_agent_finds_its_pods_again(line: Line) {
    let (mut agent, _registry, image) = agent_with_image(line, Networking::Conflist).await;
    let pod = Pod::new(&agent.env, "kept");
    let pod_id = run(&agent, &pod).await;
    let script = "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.1; done";
    let app_id = start(&agent, &pod, &pod_id, &Container::script("app", &image, script)).await;
    let brief = Container::script("brief", &image, "sleep 1; exit 42");
    let brief_id = start(&agent, &pod, &pod_id, &brief).await;
    let before = status(&agent, &app_id).await;

    agent.kill9();
    let went_on = agent.env.containerd.shims();
    assert!(!went_on.is_empty(), "containers outlive the agent");
    agent.restart().await;

    let after = status(&agent, &app_id).await;
    assert_eq!(after.state(), cri::ContainerState::ContainerRunning);
    assert_eq!(after.started_at, before.started_at);
    assert_eq!(wait_for_exit(&agent, &brief_id).await.exit_code, 42);
    let seen = log_of(&pod, "app").len();
    wait_until(LIMIT, "the log goes on", async || log_of(&pod, "app").len() > seen + 3).await;
    remove(&agent, &pod_id).await;
    agent.assert_clean().await;
    agent.stop().await;
}

async fn a_second_agent_is_refused_and_disturbs_nobody(line: Line) {
    let mut agent = TestAgent::start(TestEnv::start(line).await).await;
    let (ended, output) = agent.second().await;
    let ended = ended.expect("the second agent ends by itself");
    assert!(!ended.success(), "{output}");
    let root = agent.env.root().display().to_string();
    assert!(output.contains(&root), "the message names the root:\n{output}");
    let request = cri::StatusRequest { verbose: false };
    agent.runtime().status(request).await.expect("the first agent goes on");
    agent.stop().await;
}
