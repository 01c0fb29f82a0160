//! containerd is killed, restarted and paused while an agent runs.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use crate::rig::{ContainerState, PodSandboxState, Rig, SOON, at_once, signal};
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::{eventually, sweep, wait_until};

/// How long the agent may take to find out that containerd is away or back.
const NOTICED: Duration = Duration::from_secs(10);
/// Random kills of containerd, and the time that they may take together.
const KILLS: usize = 10;
const KILLS_LIMIT: Duration = Duration::from_secs(30);

pub async fn a_killed_containerd_loses_nothing(line: Line) {
    let mut rig = Rig::start(line).await;
    let pod = rig.pod("outage");
    let id = rig.run(&pod).await.expect("run");
    let stays = rig.started(&pod, &id, &rig.waiting("stays")).await;
    let mut ends = Vec::new();
    for code in [0, 3, 255] {
        let script = format!("mkfifo /tmp/go; read x < /tmp/go; exit {code}");
        let container = rig.script(&format!("ends-{code}"), &script);
        let container = rig.started(&pod, &id, &container).await;
        wait_until(SOON, "the container is up", async || {
            rig.exec(&container, "test -p /tmp/go && echo yes").await.is_ok_and(|it| it == "yes\n")
        })
        .await;
        ends.push((rig.pid(&container).await, container, code));
    }
    let before = (rig.pid(&id).await, rig.pid(&stays).await, rig.status(&stays).await);
    rig.agent.env.containerd.kill9();
    for (pid, _, _) in &ends {
        std::fs::write(format!("/proc/{pid}/root/tmp/go"), "x\n").expect("tell it to end");
    }
    answers_at_once(&rig, &id, &stays).await;
    let asked = Instant::now();
    let refused = rig.run(&rig.pod("refused")).await.expect_err("containerd is away");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let refused = rig.stop_container(&stays, 0).await.expect_err("containerd is away");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    wait_until(NOTICED, "not ready", async || !rig.runtime_is_ready().await).await;

    rig.agent.env.containerd.restart();
    wait_until(NOTICED, "ready again", async || rig.runtime_is_ready().await).await;
    for (_, container, code) in &ends {
        assert_eq!(rig.ended(container).await.0, *code);
    }
    let after = (rig.pid(&id).await, rig.pid(&stays).await, rig.status(&stays).await);
    assert_eq!(after, before);
    assert_eq!(rig.exec(&stays, "echo hello").await.expect("exec"), "hello\n");
    let other = rig.pod("refused");
    let other_id = rig.run(&other).await.expect("new work");
    rig.started(&other, &other_id, &rig.waiting("main")).await;
    // Its exit is still waited for.
    signal(rig.pid(&stays).await, Signal::SIGKILL);
    assert_eq!(rig.ended(&stays).await.0, 137);
    rig.clear().await;
}

/// Reads are served from what is known, within a second.
async fn answers_at_once(rig: &Rig, pod: &str, container: &str) {
    let mut runtime = rig.agent.runtime();
    let all = at_once(cri::ListPodSandboxRequest::default());
    let pods = runtime.list_pod_sandbox(all).await.expect("list pods").into_inner().items;
    assert_eq!(pods.len(), 1);
    let all = at_once(cri::ListContainersRequest::default());
    let containers = runtime.list_containers(all).await.expect("list containers").into_inner();
    assert!(containers.containers.iter().any(|it| it.id == container));
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: false };
    let status = runtime.pod_sandbox_status(at_once(request)).await.expect("pod status");
    let status = status.into_inner().status.expect("a status");
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    let request = cri::ContainerStatusRequest { container_id: container.into(), verbose: false };
    let status = runtime.container_status(at_once(request)).await.expect("container status");
    let status = status.into_inner().status.expect("a status");
    assert_eq!(status.state(), ContainerState::ContainerRunning);
}

pub async fn containerd_dies_at_random_moments(line: Line) {
    let mut rig = Rig::start(line).await;
    let pod = rig.pod("stays");
    let stays = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &stays, &rig.waiting("main")).await;
    let before = (rig.pid(&stays).await, rig.pid(&main).await);
    let began = Instant::now();
    for number in 0..KILLS {
        let moment = Duration::from_millis(u64::from(rand::random::<u32>() % 400));
        let pod = rig.pod(&format!("load-{number}"));
        let _cut = tokio::time::timeout(moment, create_and_delete(&rig, &pod)).await;
        rig.agent.env.containerd.kill9();
        rig.agent.env.containerd.restart();
        if began.elapsed() > KILLS_LIMIT {
            break;
        }
    }
    wait_until(NOTICED, "ready again", async || rig.runtime_is_ready().await).await;
    assert_eq!((rig.pid(&stays).await, rig.pid(&main).await), before);
    assert_eq!(rig.status(&main).await.state(), ContainerState::ContainerRunning);
    // What was under way is undone or can be taken away.
    let mut last = String::new();
    let removed = eventually(SOON * 3, async || {
        for pod in rig.pods().await.into_iter().filter(|pod| pod.id != stays) {
            let began = Instant::now();
            let (stopped, removed) = (rig.stop(&pod.id).await, rig.remove(&pod.id).await);
            last = format!("{}: {stopped:?}, {removed:?} in {:?}", pod.id, began.elapsed());
        }
        (rig.pods().await.len() == 1).then_some(())
    });
    assert!(removed.await.is_some(), "not everything can be removed: {last}");
    assert_eq!(rig.exec(&main, "echo hello").await.expect("exec"), "hello\n");
    rig.stop(&stays).await.expect("stop");
    remove_empty_cgroups(&rig);
    rig.clear().await;
}

/// An OCI runtime that was killed between making a cgroup and writing its state leaves an empty
/// cgroup that its own `delete` does not know of. `rmdir` fails for one that is in use.
fn remove_empty_cgroups(rig: &Rig) {
    for cgroup in sweep::cgroups_below(&rig.agent.env.cgroup_parent()) {
        let _in_use = std::fs::remove_dir(cgroup);
    }
}

async fn create_and_delete(rig: &Rig, pod: &crate::support::builders::Pod) {
    loop {
        let Ok(id) = rig.run(pod).await else { continue };
        if let Ok(container) = rig.create(pod, &id, &rig.waiting("main")).await {
            let _ = rig.begin(&container).await;
        }
        let _ = rig.stop(&id).await;
        let _ = rig.remove(&id).await;
    }
}

pub async fn a_hung_containerd_does_not_hang_the_agent(line: Line) {
    let mut env = TestEnv::start(line).await;
    env.set_deadlines("1s", "3s");
    let rig = Rig::start_in(env).await;
    let pod = rig.pod("hang");
    let id = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &id, &rig.waiting("main")).await;
    let daemon = rig.agent.env.containerd.pid();
    signal(daemon, Signal::SIGSTOP);
    let asked = Instant::now();
    answers_at_once(&rig, &id, &main).await;
    wait_until(Duration::from_secs(5), "not ready", async || {
        let asked = Instant::now();
        let ready = rig.runtime_is_ready().await;
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        !ready
    })
    .await;
    let late = rig.run(&rig.pod("late")).await.expect_err("containerd hangs");
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Unavailable), "{late}");
    answers_at_once_again(&rig).await;
    assert!(asked.elapsed() < SOON, "it hung for {:?}", asked.elapsed());
    signal(daemon, Signal::SIGCONT);
    wait_until(NOTICED, "ready again", async || rig.runtime_is_ready().await).await;
    assert_eq!(rig.status(&main).await.state(), ContainerState::ContainerRunning);
    assert_eq!(rig.exec(&main, "echo hello").await.expect("exec"), "hello\n");
    // What was given up is undone as soon as that is possible.
    wait_until(SOON, "the creation that was given up is undone", async || {
        rig.pods().await.len() == 1
    })
    .await;
    let late = rig.pod("late");
    rig.run(&late).await.expect("the same request again");
    rig.clear().await;
}

async fn answers_at_once_again(rig: &Rig) {
    let all = at_once(cri::ListContainersRequest::default());
    rig.agent.runtime().list_containers(all).await.expect("list containers");
}
