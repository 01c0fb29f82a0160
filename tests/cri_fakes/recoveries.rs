//! Starts of the agent on a host where something hangs, is damaged, or cannot be read.

use std::time::{Duration, Instant};

use podbay::backend::{ErrorKind, Host, NetnsState, Process};
use podbay::proto::runtime::v1 as cri;
use podbay::store::{Batch, Record};
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::calls::{container, pod, refused};
use super::crashes::die_at;
use super::world::{Agent, World, eventually};

/// In which an agent has to serve, whatever hangs.
const SERVING: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_del_that_hangs_holds_up_no_start() {
    let world = World::new();
    let agent = world.agent().await;
    let witness = agent.run(&pod(&world, "witness")).await.unwrap();
    let app = agent.launch(&witness, "app", &["run"]).await;
    let before = world.leftovers();
    let config = pod(&world, "cut");
    die_at(&world, agent, "attach", async |agent| agent.run(&config).await).await;
    world.fakes.steps.hang("detach");
    world.fakes.steps.forget();
    let began = Instant::now();
    let agent = world.agent().await;
    assert!(began.elapsed() < SERVING, "{:?}", began.elapsed());
    // What the agent before was waiting for is ended first.
    let calls: Vec<_> = world.fakes.steps.calls().iter().map(|call| call.step).collect();
    let first = |step| calls.iter().position(|call| *call == step).expect("called");
    assert!(first("end_cut_calls") < first("detach"), "{calls:?}");
    let cut = agent.pods().await.into_iter().find(|found| found.id != witness).expect("listed");
    assert_eq!(cut.state(), cri::PodSandboxState::SandboxNotready);
    assert!(agent.is_ready(&witness).await);
    assert_eq!(agent.exec(&app, &["echo", "hi"], 0).await.unwrap().stdout, b"hi\n");
    let new = agent.run(&pod(&world, "new")).await.unwrap();
    world.fakes.steps.release("detach");
    agent.remove_pod(&new).await.unwrap();
    eventually("it is undone", async || (world.leftovers() == before).then_some(())).await;
    eventually("it is forgotten", async || (agent.pods().await.len() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_shim_that_hangs_holds_up_no_start() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let other = agent.launch(&id, "other", &["run"]).await;
    let cut = container("cut", &["run"]);
    die_at(&world, agent, "create_container", async |agent| agent.create(&id, &cut).await).await;
    world.fakes.runtime.end(Process::init(&app), 3);
    world.fakes.steps.hang("delete_task");
    let began = Instant::now();
    let agent = world.agent().await;
    assert!(began.elapsed() < SERVING, "{:?}", began.elapsed());
    let running = cri::ContainerState::ContainerRunning;
    assert_eq!(agent.status(&other).await.unwrap().state(), running);
    assert_eq!(agent.ended(&app).await.exit_code, 3);
    assert_eq!(agent.containers().await.len(), 3, "the one to be undone is listed meanwhile");
    world.fakes.steps.release("delete_task");
    eventually("it is undone", async || (agent.containers().await.len() == 2).then_some(())).await;
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn what_was_taken_over_is_not_taken_over_again() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let status = agent.status(&app).await.unwrap();
    world.fakes.steps.forget();
    agent.recover().await;
    assert_eq!(world.fakes.steps.count("list_tasks"), 0);
    assert_eq!(agent.status(&app).await.unwrap(), status);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_failed_creation_is_undone_by_the_next_agent() {
    let world = World::new();
    let agent = world.agent().await;
    // The address is taken and the answer lost; then DEL fails as long as this agent lives.
    world.fakes.steps.lose_answer("attach", ErrorKind::Other, 1);
    world.fakes.steps.fail("detach", ErrorKind::Other, usize::MAX);
    refused(agent.run(&pod(&world, "web")).await, Code::Unknown, "attach");
    assert_eq!(agent.pods().await.len(), 1);
    agent.kill().await;
    world.fakes.steps.fail("detach", ErrorKind::Other, 1);
    let agent = world.agent().await;
    world.clean().await;
    eventually("it is forgotten", async || agent.pods().await.is_empty().then_some(())).await;
    assert_eq!(agent.rows(), [""; 0]);
}

/// A row of a later agent, which this one does not understand.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Later<const POD: bool> {
    id: String,
}

impl<const POD: bool> Record for Later<POD> {
    const TABLE: &'static str = if POD { "sandboxes" } else { "containers" };
    const VERSION: u16 = 9;

    fn key(&self) -> &str {
        &self.id
    }
}

async fn replace_rows(agent: &Agent, id: &str, app: &str) {
    let batch = Batch::new().put(&Later::<true> { id: id.to_owned() }).unwrap();
    let batch = batch.put(&Later::<false> { id: app.to_owned() }).unwrap();
    agent.rooms.store.write(batch).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_is_left_alone() {
    let world = World::with_pause_image();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let before = world.leftovers();
    replace_rows(&agent, &id, &app).await;
    agent.kill().await;
    let agent = world.agent().await;
    assert!(agent.pods().await.is_empty() && agent.containers().await.is_empty());
    assert_eq!(world.leftovers(), before);
    // The same without a record in containerd.
    agent.kill().await;
    world.fakes.runtime.forget_container(&app);
    let before = world.leftovers();
    let _agent = world.agent().await;
    assert_eq!(world.leftovers(), before);
}

#[tokio::test]
async fn a_process_that_ended_behind_a_mute_shim_is_not_shown_as_running_for_ever() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let other = agent.launch(&id, "other", &["run"]).await;
    // A shim that is mute says nothing against a process that runs.
    world.fakes.runtime.set_mute(&other, true);
    world.fakes.runtime.end_unheard(&app);
    let ended = agent.ended(&app).await;
    assert_eq!((ended.exit_code, &*ended.reason), (255, "Unknown"));
    let running = cri::ContainerState::ContainerRunning;
    assert_eq!(agent.status(&other).await.unwrap().state(), running);
    world.fakes.runtime.set_mute(&other, false);
    world.fakes.runtime.set_mute(&app, false);
    agent.remove_all().await;
    world.clean().await;
}

#[tokio::test]
async fn a_list_of_tasks_that_never_comes_holds_up_no_start() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let running = agent.launch(&id, "running", &["run"]).await;
    let before = agent.status(&running).await.unwrap();
    let ends = agent.launch(&id, "ends", &["run"]).await;
    let mute = agent.launch(&id, "mute", &["run"]).await;
    agent.kill().await;
    world.fakes.runtime.end(Process::init(&ends), 3);
    world.fakes.runtime.set_mute(&mute, true);
    for hangs in [false, true] {
        match hangs {
            false => world.fakes.steps.fail("list_tasks", ErrorKind::DeadlineExceeded, 1),
            true => world.fakes.steps.hang("list_tasks"),
        }
        let began = Instant::now();
        let agent = world.agent().await;
        assert!(began.elapsed() < SERVING, "{:?}", began.elapsed());
        assert!(agent.is_ready(&id).await);
        assert_eq!(agent.status(&running).await.unwrap(), before);
        assert_eq!(agent.ended(&ends).await.exit_code, 3);
        agent.kill().await;
    }
    world.fakes.steps.release("list_tasks");
    world.fakes.runtime.set_mute(&mute, false);
    let agent = world.agent().await;
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_shim_that_is_busy_with_a_start_is_not_taken_for_mute() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let slow = agent.create(&id, &container("slow", &["run"])).await.unwrap();
    let steps = &world.fakes.steps;
    steps.hang("create_task");
    let asked = steps.count("probe");
    let ends = async {
        world.fakes.runtime.end_unheard(&app);
        // Asked twice, it has given no answer.
        steps.called("probe", asked + 2).await;
        let running = cri::ContainerState::ContainerRunning;
        assert_eq!(agent.status(&app).await.unwrap().state(), running);
        world.fakes.runtime.set_mute(&app, false);
        world.fakes.runtime.end(Process::init(&app), 3);
        assert_eq!(agent.ended(&app).await.exit_code, 3);
        steps.release("create_task");
    };
    let (started, ()) = tokio::join!(agent.start(&slow), ends);
    started.unwrap();
    agent.remove_all().await;
    world.clean().await;
}

#[tokio::test]
async fn a_pod_whose_pause_process_ended_behind_a_mute_shim_is_not_ready() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let other = agent.run(&pod(&world, "other")).await.unwrap();
    world.fakes.runtime.set_mute(&other, true);
    world.fakes.runtime.end_unheard(&id);
    eventually("it is not ready", async || (!agent.is_ready(&id).await).then_some(())).await;
    assert!(agent.is_ready(&other).await, "its pause process runs");
    world.fakes.runtime.set_mute(&id, false);
    world.fakes.runtime.set_mute(&other, false);
    agent.remove_all().await;
    world.clean().await;
}

#[tokio::test]
async fn a_pod_whose_network_namespace_is_taken_away_is_not_ready() {
    let world = World::new();
    let agent = world.agent().await;
    let sandboxes = agent.rooms.sandboxes.clone();
    let watch = async move { sandboxes.watch_netns(Duration::from_millis(5)).await };
    drop(agent.inside(watch));
    let host_network =
        cri::NamespaceOption { network: cri::NamespaceMode::Node.into(), ..Default::default() };
    let mut of_host = pod(&world, "host");
    of_host
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
        .namespace_options = Some(host_network);
    let stays =
        [agent.run(&of_host).await.unwrap(), agent.run(&pod(&world, "stays")).await.unwrap()];
    let loses = agent.run(&pod(&world, "loses")).await.unwrap();
    take_netns(&world, &loses).await;
    eventually("it is not ready", async || (!agent.is_ready(&loses).await).then_some(())).await;
    let status = agent.pod_status(&loses).await.unwrap().status.unwrap();
    assert_eq!(status.network.unwrap().ip, "");
    for id in &stays {
        assert!(agent.is_ready(id).await);
    }

    // The same while no agent runs.
    agent.kill().await;
    take_netns(&world, &stays[1]).await;
    let agent = world.agent().await;
    assert!(agent.is_ready(&stays[0]).await && !agent.is_ready(&stays[1]).await);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

/// Removes the network namespace of a pod behind the agent's back.
async fn take_netns(world: &World, pod: &str) {
    let netns = world.path("netns").join(format!("podbay-{pod}"));
    assert_eq!(world.fakes.host.netns_state(&netns).await.unwrap(), NetnsState::Live);
    world.fakes.host.remove_netns(&netns).await.unwrap();
}
