//! containerd goes away and comes back.

use std::time::{Duration, Instant};

use podbay::backend::Process;
use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::world::{World, eventually};

#[tokio::test]
async fn while_containerd_is_away_podbay_answers_and_changes_nothing() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let idle = agent.create(&id, &container("idle", &["run"])).await.unwrap();
    let before = world.leftovers();
    world.fakes.set_away(true);

    let began = Instant::now();
    assert_eq!(agent.pods().await.len(), 1);
    assert_eq!(agent.containers().await.len(), 2);
    assert!(agent.is_ready(&id).await);
    let state = agent.status(&app).await.unwrap().state();
    assert_eq!(state, cri::ContainerState::ContainerRunning);
    let node = agent.cri.clone().status(cri::StatusRequest { verbose: true }).await.unwrap();
    let conditions = node.into_inner().status.unwrap().conditions;
    let runtime = conditions.iter().find(|condition| condition.r#type == "RuntimeReady").unwrap();
    assert!(!runtime.status, "{runtime:?}");

    refused(agent.run(&pod(&world, "next")).await, Code::Unavailable, "away");
    let next = agent.create(&id, &container("next", &["run"])).await;
    refused(next, Code::Unavailable, "away");
    refused(agent.stop(&app, 10).await, Code::Unavailable, "away");
    refused(agent.remove(&app).await, Code::Unavailable, "away");
    refused(agent.exec(&app, &["echo"], 0).await, Code::Unavailable, "away");
    refused(agent.start(&idle).await, Code::Unavailable, "away");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    world.fakes.set_away(false);
    let next = pod(&world, "next");
    eventually("what failed is undone and works again", async || agent.run(&next).await.ok()).await;
    for item in agent.pods().await.iter().filter(|item| item.id != id) {
        agent.remove_pod(&item.id).await.unwrap();
    }
    agent.remove(&idle).await.unwrap();
    eventually("nothing but what was there", async || {
        world.leftovers().iter().all(|left| before.contains(left)).then_some(())
    })
    .await;
    agent.stop(&app, 10).await.unwrap();
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_stop_of_a_pod_while_containerd_is_away_is_finished_afterwards() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.launch(&id, "app", &["run"]).await;
    world.fakes.set_away(true);
    refused(agent.stop_pod(&id).await, Code::Unavailable, "away");
    refused(agent.remove_pod(&id).await, Code::Unavailable, "away");
    assert!(!agent.is_ready(&id).await);
    world.fakes.set_away(false);
    agent.stop_pod(&id).await.unwrap();
    agent.remove_pod(&id).await.unwrap();
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn ends_while_containerd_is_away_are_found_when_it_is_back() {
    let world = World::new();
    let agent = world.agent().await;
    let pod_id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&pod_id, "app", &["run"]).await;
    let calls = world.fakes.steps.count("task");
    world.fakes.set_away(true);
    world.fakes.runtime.end(Process::init(&app), 7);
    world.fakes.runtime.end(Process::init(&pod_id), 1);
    // Both watchers have seen that it is away.
    world.fakes.steps.called("task", calls + 2).await;
    world.fakes.set_away(false);
    assert_eq!(agent.ended(&app).await.exit_code, 7);
    eventually("not ready", async || (!agent.is_ready(&pod_id).await).then_some(())).await;
}

#[tokio::test]
async fn while_containerd_hangs_crictl_gets_its_answers() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    for step in ["container", "probe", "features"] {
        world.fakes.steps.hang(step);
    }
    let mut cri = agent.cri.clone();
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: true };
    let of_pod = cri.pod_sandbox_status(of_crictl(request)).await.unwrap().into_inner();
    let request = cri::ContainerStatusRequest { container_id: app, verbose: true };
    let of_app = cri.container_status(of_crictl(request)).await.unwrap().into_inner();
    for info in [&of_pod.info["info"], &of_app.info["info"]] {
        let info: serde_json::Value = serde_json::from_str(info).unwrap();
        assert!(info["pid"].as_u64() > Some(0) && info["runtimeSpec"].is_null(), "{info}");
    }
    let node = cri.status(of_crictl(cri::StatusRequest { verbose: true })).await;
    let conditions = node.unwrap().into_inner().status.unwrap().conditions;
    let runtime = conditions.iter().find(|condition| condition.r#type == "RuntimeReady").unwrap();
    assert!(!runtime.status, "{runtime:?}");
}

/// A request that is given up after two seconds, as crictl does.
fn of_crictl<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_secs(2));
    request
}
