//! The agent dies at every step of every changing call. The next one takes over: what was
//! acknowledged is unchanged, what was half-made is gone, nothing is left over.

use std::time::Duration;

use podbay::backend::{NewTask, Process, Runtime as _, Stdio};
use podbay::proto::runtime::v1 as cri;

use super::calls::{container, pod};
use super::failures::{CREATE, RUN, START, demanding};
use super::world::{Agent, World, eventually};

/// Kills the agent while `work` waits at `step`.
pub async fn die_at<T>(
    world: &World,
    agent: Agent,
    step: &str,
    work: impl AsyncFnOnce(&Agent) -> T,
) {
    let calls = world.fakes.steps.count(step);
    world.fakes.steps.hang(step);
    tokio::select! {
        _ = work(&agent) => panic!("{step}: it did not wait"),
        () = world.fakes.steps.called(step, calls + 1) => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{step}: never called"),
    }
    agent.kill().await;
    world.fakes.steps.release(step);
}

/// A witness: a pod with a running container that nothing may touch.
async fn witness(world: &World, agent: &Agent) -> (String, cri::ContainerStatus, Vec<u32>) {
    let pod = agent.run(&pod(world, "witness")).await.unwrap();
    let id = agent.launch(&pod, "witness", &["run"]).await;
    let status = agent.status(&id).await.unwrap();
    let pids = pids(world, &[&pod, &id]).await;
    (pod, status, pids)
}

async fn pids(world: &World, ids: &[&str]) -> Vec<u32> {
    let mut pids = Vec::new();
    for id in ids {
        pids.extend(world.fakes.runtime.pids(id).await.unwrap());
    }
    pids
}

async fn untouched(
    world: &World,
    agent: &Agent,
    (pod, status, before): &(String, cri::ContainerStatus, Vec<u32>),
) {
    assert!(agent.is_ready(pod).await);
    assert_eq!(agent.status(&status.id).await.unwrap(), *status);
    assert_eq!(pids(world, &[pod, &status.id]).await, *before);
}

#[tokio::test]
async fn a_run_that_was_cut_leaves_nothing_and_can_be_repeated() {
    let world = World::with_pause_image();
    for step in RUN.into_iter().chain(["prepare_rootfs"]) {
        let agent = world.agent().await;
        let witness = witness(&world, &agent).await;
        let before = world.leftovers();
        let config = pod(&world, "web");
        die_at(&world, agent, step, async |agent| agent.run(&config).await).await;
        let agent = world.agent().await;
        assert_eq!(agent.pods().await.len(), 1, "{step}");
        assert_eq!(world.leftovers(), before, "{step}");
        untouched(&world, &agent, &witness).await;
        agent.run(&config).await.unwrap();
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{step}");
        agent.kill().await;
    }
}

#[tokio::test]
async fn a_creation_that_was_cut_leaves_nothing_and_can_be_repeated() {
    let world = World::new();
    for step in CREATE {
        let agent = world.agent().await;
        let witness = witness(&world, &agent).await;
        // The next agent has not read the image's users yet.
        agent.kill().await;
        let agent = world.agent().await;
        let before = world.leftovers();
        let config = demanding(&world, "app");
        let create = async |agent: &Agent| agent.create(&witness.0, &config).await;
        die_at(&world, agent, step, create).await;
        let agent = world.agent().await;
        assert_eq!(agent.containers().await.len(), 1, "{step}");
        assert_eq!(world.leftovers(), before, "{step}");
        untouched(&world, &agent, &witness).await;
        let id = agent.create(&witness.0, &config).await.unwrap();
        agent.start(&id).await.unwrap();
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{step}");
        agent.kill().await;
    }
}

#[tokio::test]
async fn a_creation_that_was_stored_and_not_carried_out_is_undone() {
    let world = World::new();
    for step in ["prepare_rootfs", "create_container"] {
        let agent = world.agent().await;
        let witness = witness(&world, &agent).await;
        let before = world.leftovers();
        // Needs no file of its image, so that its parts are made at once.
        let config = container("app", &["run"]);
        let create = async |agent: &Agent| agent.create(&witness.0, &config).await;
        die_at(&world, agent, step, create).await;
        let agent = world.agent().await;
        assert_eq!(agent.containers().await.len(), 1, "{step}");
        assert_eq!(world.leftovers(), before, "{step}");
        untouched(&world, &agent, &witness).await;
        let id = agent.create(&witness.0, &config).await.unwrap();
        agent.start(&id).await.unwrap();
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{step}");
        agent.kill().await;
    }
}

#[tokio::test]
async fn a_start_that_was_cut_can_be_repeated() {
    let world = World::new();
    for step in START {
        let agent = world.agent().await;
        let witness = witness(&world, &agent).await;
        let id = agent.create(&witness.0, &container("app", &["echo", "hi"])).await.unwrap();
        let created = agent.status(&id).await.unwrap();
        die_at(&world, agent, step, async |agent| agent.start(&id).await).await;
        let agent = world.agent().await;
        assert_eq!(agent.status(&id).await.unwrap(), created, "{step}");
        untouched(&world, &agent, &witness).await;
        agent.start(&id).await.unwrap();
        assert_eq!(agent.ended(&id).await.exit_code, 0, "{step}");
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{step}");
        agent.kill().await;
    }
}

#[tokio::test]
async fn a_container_whose_start_was_not_acknowledged_is_what_it_became() {
    for (command, state) in [
        ("run", cri::ContainerState::ContainerRunning),
        ("exit", cri::ContainerState::ContainerExited),
    ] {
        let world = World::new();
        let agent = world.agent().await;
        let pod = agent.run(&pod(&world, "web")).await.unwrap();
        let id = agent.create(&pod, &container("app", &[command, "7"])).await.unwrap();
        agent.kill().await;
        // As an agent that died between the start and its record.
        start_below(&world, &id).await;
        let agent = world.agent().await;
        eventually("it is known", async || {
            (agent.status(&id).await.unwrap().state() == state).then_some(())
        })
        .await;
        let status = agent.status(&id).await.unwrap();
        assert_eq!(status.exit_code, if command == "exit" { 7 } else { 0 });
        assert!(status.finished_at == 0 || status.finished_at >= status.started_at, "{status:?}");
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

#[tokio::test]
async fn a_cgroup_that_a_killed_runtime_left_goes_with_its_container() {
    let world = World::new();
    let agent = world.agent().await;
    let mut config = pod(&world, "web");
    config.linux.get_or_insert_default().cgroup_parent = "/pods/web".to_owned();
    let leave = || {
        let calls = world.fakes.steps.calls();
        let last = calls.iter().rfind(|call| call.step == "create_task").expect("one was created");
        world.fakes.host.put_cgroup(&std::path::Path::new("/pods/web").join(&last.subject));
    };
    die_at(&world, agent, "create_task", async |agent| agent.run(&config).await).await;
    leave();
    let agent = world.agent().await;
    assert_eq!(world.leftovers(), [""; 0]);
    let id = agent.run(&config).await.unwrap();
    let before = world.leftovers();
    let app = agent.create(&id, &container("app", &["run"])).await.unwrap();
    die_at(&world, agent, "create_task", async |agent| agent.start(&app).await).await;
    leave();
    let agent = world.agent().await;
    agent.remove(&app).await.unwrap();
    assert_eq!(world.leftovers(), before);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

async fn start_below(world: &World, id: &str) {
    let runtime = &world.fakes.runtime;
    let task = NewTask { id: id.to_owned(), rootfs: Vec::new(), stdio: Stdio::default() };
    runtime.create_task(&task).await.unwrap();
    runtime.start(Process::init(id)).await.unwrap();
}

#[tokio::test]
async fn a_teardown_that_was_cut_is_finished() {
    let stop = ["netns_state", "detach", "kill", "unmount", "remove_netns"];
    let remove = ["delete_container", "remove_tree", "remove_rootfs"];
    for step in stop.into_iter().chain(remove) {
        let world = World::with_pause_image();
        let agent = world.agent().await;
        let id = agent.run(&pod(&world, "web")).await.unwrap();
        agent.launch(&id, "app", &["ignore-term"]).await;
        let work = async |agent: &Agent| {
            agent.stop_pod(&id).await.unwrap();
            agent.remove_pod(&id).await
        };
        die_at(&world, agent, step, work).await;
        let agent = world.agent().await;
        if remove.contains(&step) {
            assert!(agent.pods().await.is_empty(), "{step}: the removal is finished");
            assert_eq!(world.leftovers(), [""; 0], "{step}");
        }
        agent.stop_pod(&id).await.unwrap();
        agent.remove_pod(&id).await.unwrap();
        assert_eq!(world.leftovers(), [""; 0], "{step}");
        assert_eq!(agent.rows(), [""; 0], "{step}");
        agent.kill().await;
    }
}

#[tokio::test]
async fn a_containers_removal_that_was_cut_is_finished() {
    for step in ["delete_task", "delete_container", "remove_tree", "remove_rootfs"] {
        let world = World::new();
        let agent = world.agent().await;
        let witness = witness(&world, &agent).await;
        let before = world.leftovers();
        let id = agent.create(&witness.0, &container("app", &["run"])).await.unwrap();
        die_at(&world, agent, step, async |agent| agent.remove(&id).await).await;
        let agent = world.agent().await;
        assert_eq!(agent.containers().await.len(), 1, "{step}");
        assert_eq!(world.leftovers(), before, "{step}");
        untouched(&world, &agent, &witness).await;
        agent.kill().await;
    }
}

#[tokio::test]
async fn a_start_that_was_cut_behind_a_busy_shim_is_taken_over_with_its_output() {
    let world = World::new();
    for stopped in [false, true] {
        let agent = world.agent().await;
        let id = agent.run(&pod(&world, "web")).await.unwrap();
        // The lines are more than a FIFO holds, so that their writer waits for a reader. The
        // other one never ends by itself.
        let command: &[&str] = if stopped { &["run"] } else { &["lines", "20000"] };
        let app = agent.create(&id, &container("app", command)).await.unwrap();
        die_at(&world, agent, "start", async |agent| agent.start(&app).await).await;
        // What the agent called goes on without it.
        world.fakes.runtime.start(Process::init(&app)).await.unwrap();
        world.fakes.runtime.set_mute(&app, true);
        let agent = world.agent().await;
        // Nobody may end it because its shim is slow. The other one may have ended now that its
        // output is read.
        if stopped {
            let running = cri::ContainerState::ContainerRunning;
            assert_eq!(agent.status(&app).await.unwrap().state(), running);
        }
        world.fakes.runtime.set_mute(&app, false);
        if stopped {
            agent.stop(&app, 30).await.unwrap();
            assert_eq!(agent.ended(&app).await.exit_code, 143);
        } else {
            assert_eq!(agent.ended(&app).await.exit_code, 0);
            let log = super::world::text(&world.path("logs/web/app.log"));
            assert!(log.ends_with(" stdout F line 20000\n"), "{}", log.len());
            assert_eq!(log.lines().count(), 20_000);
        }
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0]);
        agent.kill().await;
    }
}

#[tokio::test]
async fn a_start_that_was_stored_and_not_carried_out_can_be_repeated() {
    let world = World::new();
    for mute in [false, true] {
        let agent = world.agent().await;
        let id = agent.run(&pod(&world, "web")).await.unwrap();
        let app = agent.create(&id, &container("app", &["run"])).await.unwrap();
        die_at(&world, agent, "start", async |agent| agent.start(&app).await).await;
        world.fakes.runtime.set_mute(&app, mute);
        let agent = world.agent().await;
        world.fakes.runtime.set_mute(&app, false);
        let created = async || {
            let state = agent.status(&app).await.unwrap().state();
            (state == cri::ContainerState::ContainerCreated).then_some(())
        };
        eventually("created again", created).await;
        agent.start(&app).await.unwrap();
        agent.stop(&app, 30).await.unwrap();
        assert_eq!(agent.ended(&app).await.exit_code, 143);
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0]);
        agent.kill().await;
    }
}
