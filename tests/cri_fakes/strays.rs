//! Shims that the runtime has lost.

use std::time::Duration;

use podbay::backend::ErrorKind;

use super::calls::pod;
use super::world::{World, eventually};

#[tokio::test]
async fn shims_for_which_nobody_has_a_record_are_killed() {
    let world = World::new();
    let (host, steps) = (&world.fakes.host, &world.fakes.steps);
    let agent = world.agent().await;
    let known = agent.run(&pod(&world, "web")).await.unwrap();
    let alone = |left: Vec<String>| (left == [known.clone()]).then_some(());
    host.put_lost_shim(70_001, &known);
    host.put_lost_shim(70_002, &"a".repeat(64));
    let sandboxes = agent.rooms.sandboxes.clone();
    let sweep = async move { sandboxes.sweep_shims(Duration::from_millis(5)).await };
    drop(agent.inside(sweep));
    eventually("the lost one is killed", async || alone(host.lost_shims())).await;

    // Long after the start they are looked for when something has happened.
    let over = || (steps.count("processes_with") >= 6).then_some(());
    eventually("the looking ends", async || over()).await;
    host.put_lost_shim(70_003, &"b".repeat(64));
    steps.fail("attach", ErrorKind::Other, 1);
    agent.run(&pod(&world, "fails")).await.unwrap_err();
    eventually("another one is killed", async || alone(host.lost_shims())).await;
}

/// An OCI runtime outlives the agent that called it, and makes the cgroup late.
#[tokio::test]
async fn a_cgroup_that_is_made_after_the_removal_is_removed() {
    let world = World::new();
    let (host, steps) = (&world.fakes.host, &world.fakes.steps);
    let agent = world.agent().await;
    let sandboxes = agent.rooms.sandboxes.clone();
    let sweep = async move { sandboxes.sweep_shims(Duration::from_millis(20)).await };
    drop(agent.inside(sweep));
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.stop_pod(&id).await.unwrap();
    agent.remove_pod(&id).await.unwrap();
    let of_pod = |call: &podbay::backend::fake::Call| call.step == "remove_cgroup";
    let removed = steps.calls().into_iter().find(of_pod).expect("it is removed").subject;
    host.put_cgroup(std::path::Path::new(&removed));
    assert_ne!(world.fakes.leftovers(), Vec::<String>::new());
    let gone = || world.fakes.leftovers().is_empty().then_some(());
    eventually("the late cgroup is removed", async || gone()).await;
}
