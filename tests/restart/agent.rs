//! The agent is killed while pods run, and at random moments.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use podbay::proto::runtime::v1 as cri;
use tonic::{Code, Status};

use crate::rig::{ContainerState, PodSandboxState, Rig, SOON, lines_of, signal};
use crate::support::containerd::Line;
use crate::support::wait_until;

/// Random kills of the agent.
const KILLS: usize = 8;

/// Writes numbered lines for ever, one at a time.
const NUMBERS: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";

pub async fn running_pods_are_taken_over(line: Line) {
    let mut rig = Rig::start(line).await;
    let mut before = BTreeMap::new();
    let mut ends = BTreeMap::new();
    for number in 0..3 {
        let name = format!("pod-{number}");
        let pod = rig.pod(&name);
        let pod_id = rig.run(&pod).await.expect("run a pod");
        let numbers = rig.started(&pod, &pod_id, &rig.script("numbers", NUMBERS)).await;
        // Two end with a code of their own, one is killed by a signal.
        let (script, code) = match number {
            0 => ("exit 0", 0),
            1 => ("exit 7", 7),
            _ => ("sleep 60", 137),
        };
        let script = format!("mkfifo /tmp/go; read x < /tmp/go; {script}");
        let ending = rig.started(&pod, &pod_id, &rig.script("ending", &script)).await;
        wait_until(SOON, "the container is up", async || {
            rig.exec(&ending, "test -p /tmp/go && echo yes").await.is_ok_and(|it| it == "yes\n")
        })
        .await;
        let pid = rig.pid(&ending).await;
        ends.insert(ending, (pid, code));
        before.insert(pod_id, (name, numbers));
    }
    let mut seen = Vec::new();
    for (pod, (_, container)) in &before {
        seen.push(look_at(&rig, pod, container).await);
    }
    rig.agent.kill9();
    for (pid, code) in ends.values() {
        match code {
            137 => signal(*pid, Signal::SIGKILL),
            _ => std::fs::write(format!("/proc/{pid}/root/tmp/go"), "x\n").expect("tell it to end"),
        }
    }
    for (pid, _) in ends.values() {
        wait_until(SOON, "it has ended while nobody looked", async || {
            !std::path::Path::new(&format!("/proc/{pid}/ns/pid")).exists()
        })
        .await;
    }
    rig.agent.restart().await;
    assert_eq!(rig.pods().await.len(), 3);
    assert_eq!(rig.containers().await.len(), 6);
    for ((pod, (_, container)), then) in before.iter().zip(seen) {
        assert_eq!(look_at(&rig, pod, container).await, then);
    }
    for (id, (_, code)) in &ends {
        let (found, reason) = rig.ended(id).await;
        assert_eq!((found, reason != "Unknown"), (*code, true), "reason {reason}");
    }
    for (name, container) in before.values() {
        let log = rig.log_of(name, "numbers");
        let then = lines_of(&log).len();
        wait_until(SOON, "the log goes on", async || lines_of(&log).len() > then + 10).await;
        assert_eq!(rig.exec(container, "echo hello").await.expect("exec"), "hello\n");
        rig.stop_container(container, 0).await.expect("stop");
        check_numbers(&lines_of(&log));
        rig.remove_container(container).await.expect("remove");
    }
    rig.clear().await;
}

/// No number is doubled, torn or out of order, and none is missing, except what the killed agent had
/// read and not yet written: one read, which is a line or two at this pace.
fn check_numbers(lines: &[String]) {
    let numbers: Vec<u64> = lines.iter().map(|line| line.parse().expect("a whole line")).collect();
    assert_eq!(numbers.first(), Some(&1));
    let steps: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
    let one_read = |pair: &[u64]| pair[0] < pair[1] && pair[1] - pair[0] <= 3;
    assert!(steps.len() <= 1 && steps.iter().all(|pair| one_read(pair)), "{steps:?}");
}

/// All of a running pod and container that a restart may not change.
async fn look_at(
    rig: &Rig,
    pod: &str,
    container: &str,
) -> (u32, u32, String, cri::ContainerStatus) {
    let status = rig.pod_status(pod).await;
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    let ip = status.network.expect("a network").ip;
    let status = rig.status(container).await;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    (rig.pid(pod).await, rig.pid(container).await, ip, status)
}

/// What a client knows to be there.
#[derive(Default)]
struct Promised {
    pods: Vec<String>,
    containers: Vec<String>,
}

pub async fn kills_at_random_moments_lose_nothing(line: Line) {
    let mut rig = Rig::start(line).await;
    for number in 0..KILLS {
        let mut promised = Promised::default();
        let moment = Duration::from_millis(u64::from(rand::random::<u32>() % 400));
        let load = work(&rig, number, &mut promised);
        // The load may be dropped anywhere: its calls go on in the agent until that is killed.
        let cut = tokio::time::timeout(moment, load).await;
        drop(cut);
        rig.agent.restart().await;
        let pods: Vec<_> = rig.pods().await;
        for id in &promised.pods {
            let pod = pods.iter().find(|pod| pod.id == *id);
            let pod = pod.unwrap_or_else(|| panic!("kill {number}: pod {id} is lost"));
            assert_eq!(pod.state(), PodSandboxState::SandboxReady);
        }
        let containers = rig.containers().await;
        for id in &promised.containers {
            assert!(containers.iter().any(|it| it.id == *id), "container {id} is lost");
        }
        // The same request again finds its own work, or does it now.
        let mut again = Promised::default();
        let redone = work(&rig, number, &mut again).await;
        for id in &promised.pods {
            assert!(again.pods.contains(id), "kill {number}: not found again: {id}: {redone:?}");
        }
        for pod in &rig.pods().await {
            rig.stop(&pod.id).await.expect("stop");
            rig.remove(&pod.id).await.expect("remove");
        }
    }
    rig.clear().await;
}

/// Runs two pods with a container each, and notes what is acknowledged.
async fn work(rig: &Rig, number: usize, promised: &mut Promised) -> Result<(), Status> {
    for place in 0..2 {
        let pod = rig.pod(&format!("load-{number}-{place}"));
        let id = rig.run(&pod).await?;
        promised.pods.push(id.clone());
        let running = i32::from(ContainerState::ContainerRunning);
        let container = match rig.create(&pod, &id, &rig.waiting("main")).await {
            // Only a container that was not started yet is created again as itself.
            Err(taken) if taken.code() == Code::FailedPrecondition => {
                let all = rig.containers().await;
                let found = all.iter().find(|it| it.pod_sandbox_id == id && it.state == running);
                found.ok_or(taken)?.id.clone()
            }
            created => created?,
        };
        promised.containers.push(container.clone());
        match rig.begin(&container).await {
            Err(_) if rig.status(&container).await.state == running => {}
            started => started?,
        }
    }
    Ok(())
}
