//! Every step of a stop and a removal fails once: the caller gets the error, the failed step stays
//! owed, and the next call completes it.

use podbay::backend::ErrorKind;
use podbay::backend::fake::Steps;
use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::world::{Agent, World, eventually};

#[tokio::test]
async fn a_failing_step_of_a_pods_stop_is_made_up_for_by_the_next() {
    for step in ["netns_state", "detach", "unmount", "remove_netns", "kill"] {
        for lose in [false, true] {
            let world = World::new();
            let agent = world.agent().await;
            let id = agent.run(&pod(&world, "web")).await.unwrap();
            let app = agent.launch(&id, "app", &["run"]).await;
            let steps = &world.fakes.steps;
            match lose {
                true => steps.lose_answer(step, ErrorKind::Other, 1),
                false => steps.fail(step, ErrorKind::Other, 1),
            }
            refused(agent.stop_pod(&id).await, Code::Unknown, step);
            assert!(!agent.is_ready(&id).await, "{step}");
            let late = agent.create(&id, &container("late", &["run"])).await;
            refused(late, Code::FailedPrecondition, "not ready");
            agent.stop_pod(&id).await.unwrap();
            assert_ne!(agent.status(&app).await.unwrap().finished_at, 0, "{step}");
            agent.stop_pod(&id).await.unwrap();
            agent.remove_pod(&id).await.unwrap();
            assert_eq!(world.leftovers(), [""; 0], "{step}");
            assert_eq!(agent.rows(), [""; 0], "{step}");
        }
    }
}

#[tokio::test]
async fn a_stop_that_its_caller_gives_up_is_finished() {
    for step in ["detach", "remove_netns"] {
        let world = World::new();
        let agent = world.agent().await;
        let id = agent.run(&pod(&world, "web")).await.unwrap();
        let before = world.leftovers();
        world.fakes.steps.fail(step, ErrorKind::Other, 2);
        refused(agent.stop_pod(&id).await, Code::Unknown, step);
        assert_ne!(world.leftovers(), [""; 0], "{before:?}");
        // The second failure is that of the first repetition.
        eventually("it is made up for", async || {
            let left = world.leftovers();
            let is_left = |kind: &str| left.iter().any(|it| it.starts_with(kind));
            (!["attachment ", "netns ", "task "].into_iter().any(is_left)).then_some(())
        })
        .await;
        agent.remove_pod(&id).await.unwrap();
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

#[tokio::test]
async fn the_tasks_of_a_stopped_pod_are_deleted_behind_the_stop() {
    let world = World::new();
    let agent = world.agent().await;
    let tasks = || world.fakes.leftovers().iter().filter(|it| it.starts_with("task ")).count();
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.launch(&id, "app", &["run"]).await;
    world.fakes.steps.hang("delete_task");
    agent.stop_pod(&id).await.unwrap();
    assert!(!agent.is_ready(&id).await);
    assert_eq!(tasks(), 2);
    // The next agent has to find what this one did not do.
    agent.kill().await;
    world.fakes.steps.release("delete_task");
    let agent = world.agent().await;
    eventually("they are deleted", async || (tasks() == 0).then_some(())).await;
    agent.remove_pod(&id).await.unwrap();
    assert_eq!(world.leftovers(), [""; 0]);

    for fails in [true, false] {
        let id = agent.run(&pod(&world, "web")).await.unwrap();
        agent.launch(&id, "app", &["run"]).await;
        if fails {
            // The container's, and that of the pause process.
            world.fakes.steps.fail("delete_task", ErrorKind::Other, 2);
        }
        agent.stop_pod(&id).await.unwrap();
        if !fails {
            eventually("they are deleted", async || (tasks() == 0).then_some(())).await;
        }
        agent.remove_pod(&id).await.unwrap();
        assert_eq!(world.leftovers(), [""; 0]);
        assert_eq!(agent.rows(), [""; 0]);
    }
}

#[tokio::test]
async fn a_failing_step_of_a_pods_removal_is_made_up_for_by_the_next() {
    for step in ["delete_container", "remove_tree", "remove_rootfs"] {
        for lose in [false, true] {
            let world = World::with_pause_image();
            let agent = world.agent().await;
            let id = agent.run(&pod(&world, "web")).await.unwrap();
            agent.launch(&id, "app", &["run"]).await;
            agent.stop_pod(&id).await.unwrap();
            match lose {
                true => world.fakes.steps.lose_answer(step, ErrorKind::Other, 1),
                false => world.fakes.steps.fail(step, ErrorKind::Other, 1),
            }
            refused(agent.remove_pod(&id).await, Code::Unknown, step);
            assert!(!agent.is_ready(&id).await, "{step}");
            agent.remove_pod(&id).await.unwrap();
            assert_eq!(world.leftovers(), [""; 0], "{step}");
            assert_eq!(agent.rows(), [""; 0], "{step}");
        }
    }
}

#[tokio::test]
async fn a_failing_step_of_a_containers_stop_or_removal_is_made_up_for_by_the_next() {
    for step in ["kill", "delete_task", "delete_container", "remove_tree", "remove_rootfs"] {
        for lose in [false, true] {
            let world = World::new();
            let agent = world.agent().await;
            let pod = agent.run(&pod(&world, "web")).await.unwrap();
            let id = match step {
                "kill" => agent.launch(&pod, "app", &["ignore-term"]).await,
                _ => agent.create(&pod, &container("app", &["run"])).await.unwrap(),
            };
            match lose {
                true => world.fakes.steps.lose_answer(step, ErrorKind::Other, 1),
                false => world.fakes.steps.fail(step, ErrorKind::Other, 1),
            }
            if step == "kill" {
                refused(agent.stop(&id, 1).await, Code::Unknown, step);
                agent.stop(&id, 0).await.unwrap();
            } else {
                refused(agent.remove(&id).await, Code::Unknown, step);
                refused(agent.start(&id).await, Code::FailedPrecondition, "cannot start");
            }
            agent.remove(&id).await.unwrap();
            assert_eq!(agent.rows(), [pod], "{step}");
            agent.remove_all().await;
            assert_eq!(world.leftovers(), [""; 0], "{step}");
        }
    }
}

#[tokio::test]
async fn a_stop_that_waited_for_a_removal_brings_nothing_back() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    world.fakes.steps.hang("detach");
    let removal = agent.remove_pod(&id);
    let stop = async {
        world.fakes.steps.called("detach", 1).await;
        let (sandboxes, id) = (agent.rooms.sandboxes.clone(), id.clone());
        // Polled once, so that it is in the queue before the removal goes on.
        let mut stop = Box::pin(async move { sandboxes.stop(&id).await });
        assert!(futures::poll!(&mut stop).is_pending());
        world.fakes.steps.release("detach");
        stop.await
    };
    let (removed, stopped) = tokio::join!(removal, stop);
    removed.unwrap();
    stopped.unwrap();
    assert!(agent.pods().await.is_empty());
    assert_eq!(world.leftovers(), [""; 0]);
    assert_eq!(agent.rows(), [""; 0]);
}

#[tokio::test]
async fn removing_a_pod_that_runs_stops_it_with_its_containers() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.launch(&id, "app", &["ignore-term"]).await;
    agent.create(&id, &container("idle", &["run"])).await.unwrap();
    let (one, two) = tokio::join!(agent.remove_pod(&id), agent.remove_pod(&id));
    one.unwrap();
    two.unwrap();
    assert_eq!(world.leftovers(), [""; 0]);
    assert_eq!(agent.rows(), [""; 0]);
}

#[tokio::test]
async fn a_creation_that_waits_for_the_removal_of_its_name_succeeds() {
    let world = World::new();
    let agent = world.agent().await;
    let config = pod(&world, "web");
    let old = agent.run(&config).await.unwrap();
    agent.stop_pod(&old).await.unwrap();
    let steps = &world.fakes.steps;
    steps.hang("delete_container");
    steps.forget();
    let again = while_removed(&agent, steps, agent.run(&config));
    let (removed, new) = tokio::join!(agent.remove_pod(&old), again);
    removed.unwrap();
    let id = new.unwrap();
    assert_ne!(id, old);

    let config = container("app", &["run"]);
    let old = agent.create(&id, &config).await.unwrap();
    steps.hang("delete_container");
    steps.forget();
    let again = while_removed(&agent, steps, agent.create(&id, &config));
    let (removed, new) = tokio::join!(agent.remove(&old), again);
    removed.unwrap();
    assert_ne!(new.unwrap(), old);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

/// Makes a call while a removal hangs, which then goes on.
async fn while_removed<T>(agent: &Agent, steps: &Steps, call: impl Future<Output = T>) -> T {
    steps.called("delete_container", 1).await;
    let release = async {
        // The call waits when as many later ones were answered; else it has nothing to wait for.
        for _ in 0..50 {
            agent.pods().await;
        }
        steps.release("delete_container");
    };
    tokio::join!(call, release).0
}

#[tokio::test]
async fn a_hung_shim_keeps_nobody_from_stopping_and_removing() {
    let world = World::new();
    let (runtime, host) = (&world.fakes.runtime, &world.fakes.host);
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let other = agent.launch(&id, "other", &["run"]).await;
    host.put_lost_shim(70_001, &id);
    let all = [&id, &app, &other];
    all.iter().for_each(|task| runtime.set_mute(task, true));
    // Neither signal gets through, so the process is killed without the shim.
    agent.stop(&app, 1).await.unwrap();
    let ended = agent.status(&app).await.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_str()), (255, "Unknown"));
    agent.stop_pod(&id).await.unwrap();
    assert_eq!(agent.status(&other).await.unwrap().exit_code, 255);
    let left = world.leftovers();
    assert!(
        !left.iter().any(|it| it.starts_with("process") || it.starts_with("netns")),
        "{left:?}"
    );
    assert_eq!(host.lost_shims(), [id.clone()], "it may answer again");
    // What it still has goes with it.
    let (removed, ()) = tokio::join!(agent.remove_pod(&id), when_killed(&world, &all));
    removed.unwrap();
    world.clean().await;
    assert_eq!(agent.rows(), [""; 0]);
}

#[tokio::test]
async fn a_shim_that_answers_again_after_the_stop_is_not_killed() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    world.fakes.host.put_lost_shim(70_001, &id);
    world.fakes.runtime.set_mute(&id, true);
    agent.stop_pod(&id).await.unwrap();
    world.fakes.runtime.set_mute(&id, false);
    agent.remove_pod(&id).await.unwrap();
    assert_eq!(world.fakes.host.lost_shims(), [id]);
    assert_eq!(agent.rows(), [""; 0]);
}

/// What containerd does once the shim of these tasks was killed.
async fn when_killed(world: &World, tasks: &[&String]) {
    let host = &world.fakes.host;
    eventually("the shim is killed", async || host.lost_shims().is_empty().then_some(())).await;
    tasks.iter().for_each(|task| world.fakes.runtime.lose_task(task));
}

#[tokio::test]
async fn a_container_whose_shim_hangs_can_be_removed_alone() {
    for stopped in [false, true] {
        let world = World::new();
        let agent = world.agent().await;
        let id = agent.run(&pod(&world, "web")).await.unwrap();
        let app = agent.launch(&id, "app", &["run"]).await;
        let other = agent.create(&id, &container("idle", &["run"])).await.unwrap();
        world.fakes.host.put_lost_shim(70_001, &id);
        let tasks = [&id, &app];
        tasks.iter().for_each(|task| world.fakes.runtime.set_mute(task, true));
        if stopped {
            // As a kubelet does, which removes a pod only when it has no containers.
            agent.stop_pod(&id).await.unwrap();
        }
        let (removed, ()) = tokio::join!(agent.remove(&app), when_killed(&world, &tasks));
        removed.unwrap();
        assert!(!agent.is_ready(&id).await, "its pause process ended with the shim");
        let left = world.leftovers();
        assert!(!left.iter().any(|it| it.contains(&app)), "{left:?}");
        assert!(!left.iter().any(|it| it.starts_with("process")), "{left:?}");
        assert_eq!(agent.rows(), [id.clone(), other.clone()]);
        agent.remove(&other).await.unwrap();
        agent.stop_pod(&id).await.unwrap();
        agent.remove_pod(&id).await.unwrap();
        world.clean().await;
        assert_eq!(agent.rows(), [""; 0]);
    }
}

#[tokio::test]
async fn a_hung_shim_in_which_another_container_runs_is_left_alone() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let other = agent.launch(&id, "other", &["run"]).await;
    world.fakes.host.put_lost_shim(70_001, &id);
    let all = [&id, &app, &other];
    all.iter().for_each(|task| world.fakes.runtime.set_mute(task, true));
    refused(agent.remove(&app).await, Code::FailedPrecondition, "other containers");
    assert_eq!(world.fakes.host.lost_shims(), [id.clone()]);
    assert!(agent.is_ready(&id).await);
    // It is removed once the shim answers again.
    all.iter().for_each(|task| world.fakes.runtime.set_mute(task, false));
    agent.remove(&app).await.unwrap();
    assert_eq!(agent.status(&other).await.unwrap().state(), cri::ContainerState::ContainerRunning);
    agent.remove_all().await;
    world.clean().await;
}

/// The next agent removes what this one could not: also when the removal was only half done.
#[tokio::test]
async fn a_removal_that_a_hung_shim_has_cut_can_be_repeated_after_a_restart() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let other = agent.launch(&id, "other", &["run"]).await;
    let all = [&id, &app, &other];
    all.iter().for_each(|task| world.fakes.runtime.set_mute(task, true));
    refused(agent.remove(&app).await, Code::FailedPrecondition, "other containers");
    agent.kill().await;
    let agent = world.agent().await;
    world.fakes.host.put_lost_shim(70_001, &id);
    agent.stop(&other, 0).await.unwrap();
    let (removed, ()) = tokio::join!(agent.remove(&app), when_killed(&world, &all));
    removed.unwrap();
    assert_eq!(agent.rows(), [id, other]);
    agent.remove_all().await;
    world.clean().await;
}
