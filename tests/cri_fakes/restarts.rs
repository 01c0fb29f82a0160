//! What an agent finds after it was down for a while.

use std::time::{Duration, Instant};

use podbay::backend::{Process, Runtime as _};
use podbay::proto::runtime::v1 as cri;
use podbay::sandbox::SandboxRecord;
use podbay::store::Batch;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::world::{World, eventually};

#[tokio::test]
async fn what_was_acknowledged_is_there_unchanged() {
    let world = World::new();
    let agent = world.agent().await;
    let ready = agent.run(&pod(&world, "ready")).await.unwrap();
    let stopped = agent.run(&pod(&world, "stopped")).await.unwrap();
    agent.stop_pod(&stopped).await.unwrap();
    let mut ids = vec![
        agent.launch(&ready, "running", &["run"]).await,
        agent.launch(&ready, "ended", &["exit", "3"]).await,
        agent.create(&ready, &container("created", &["run"])).await.unwrap(),
    ];
    agent.ended(&ids[1]).await;
    ids.sort();
    let mut before = Vec::new();
    for id in &ids {
        before.push(agent.status(id).await.unwrap());
    }
    let statuses = async |agent: &super::world::Agent| {
        let mut found = Vec::new();
        for id in [&ready, &stopped] {
            found.push(agent.pod_status(id).await.unwrap().status.unwrap());
        }
        found
    };
    let pods_before = statuses(&agent).await;
    agent.kill().await;
    let agent = world.agent().await;
    assert_eq!(statuses(&agent).await, pods_before);
    for (id, before) in ids.iter().zip(before) {
        assert_eq!(agent.status(id).await.unwrap(), before);
    }
    refused(agent.run(&pod(&world, "stopped")).await, Code::FailedPrecondition, &stopped);
    assert_eq!(agent.run(&pod(&world, "ready")).await.unwrap(), ready);
    let same = agent.create(&ready, &container("created", &["run"])).await.unwrap();
    agent.start(&same).await.unwrap();
    assert!(ids.contains(&same));
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn the_files_of_a_pod_stay_where_an_earlier_agent_made_them() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let mut row = agent.rooms.store.load::<SandboxRecord>().unwrap().records.remove(0);
    let [before, now] = [world.path("state/pods").join(&id), row.files.take().expect("a folder")];
    for file in ["hosts", "resolv.conf", "hostname"] {
        std::fs::rename(now.join(file), before.join(file)).unwrap();
    }
    agent.rooms.store.write(Batch::new().put(&row).unwrap()).await.unwrap();
    agent.kill().await;
    let agent = world.agent().await;
    let app = agent.launch(&id, "app", &["run"]).await;
    let spec = world.fakes.runtime.container(&app).await.unwrap().spec;
    let hosts = before.join("hosts").display().to_string();
    let mounts = spec["mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["source"] == hosts), "{mounts:?}");
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn ends_while_nobody_looked_are_exact() {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let mut ids = Vec::new();
    for code in [0, 3, 137, 255] {
        let id = agent.launch(&pod, &format!("app-{code}"), &["run"]).await;
        let started_at = agent.status(&id).await.unwrap().started_at;
        ids.push((id, code, started_at));
    }
    agent.kill().await;
    for (id, code, _) in &ids {
        world.fakes.runtime.end(Process::init(id), u32::try_from(*code).unwrap());
    }
    let began = Instant::now();
    let agent = world.agent().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    for (id, code, started_at) in &ids {
        let status = agent.ended(id).await;
        assert_eq!((status.exit_code, status.started_at), (*code, *started_at));
        assert!(status.finished_at > *started_at);
    }
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn output_and_stop_work_for_containers_of_an_agent_before() {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let id = agent.launch(&pod, "app", &["ignore-term"]).await;
    agent.kill().await;
    let agent = world.agent().await;
    agent.reopen(&id).await.unwrap();
    assert_eq!(agent.exec(&id, &["echo", "hi"], 0).await.unwrap().stdout, b"hi\n");
    agent.stop(&id, 1).await.unwrap();
    assert_eq!(agent.status(&id).await.unwrap().exit_code, 137);
}

#[tokio::test]
async fn after_a_reboot_nothing_runs() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let running = agent.launch(&id, "running", &["run"]).await;
    let ended = agent.launch(&id, "ended", &["exit", "3"]).await;
    agent.ended(&ended).await;
    agent.kill().await;
    let world = world.rebooted();
    let agent = world.agent().await;
    assert!(!agent.is_ready(&id).await);
    let status = agent.status(&running).await.unwrap();
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!((status.exit_code, &*status.reason), (255, "Unknown"));
    assert_eq!(agent.status(&ended).await.unwrap().exit_code, 3);
    let address = format!("attachment {id}");
    eventually("its address is free though nobody stops it", async || {
        (!world.leftovers().contains(&address)).then_some(())
    })
    .await;
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
    agent.run(&pod(&world, "web")).await.unwrap();
}

#[tokio::test]
async fn a_lost_store_is_rebuilt_from_what_containerd_has() {
    let world = World::with_pause_image();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let running = agent.launch(&id, "running", &["run"]).await;
    let ended = agent.launch(&id, "ended", &["exit", "0"]).await;
    agent.ended(&ended).await;
    let before = agent.status(&running).await.unwrap();
    let ip = agent.pod_status(&id).await.unwrap().status.unwrap().network;
    agent.kill().await;
    world.delete_store();

    let agent = world.agent().await;
    let status = agent.pod_status(&id).await.unwrap().status.unwrap();
    assert_eq!(status.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(status.network, ip);
    let found = agent.status(&running).await.unwrap();
    assert!(found.started_at > 0);
    assert_eq!(cri::ContainerStatus { started_at: before.started_at, ..found }, before);
    // How it ended is lost; it must not look as if it had never run.
    let lost = agent.status(&ended).await.unwrap();
    assert_eq!(lost.state(), cri::ContainerState::ContainerExited);
    assert_eq!((lost.exit_code, &*lost.reason), (255, "Unknown"));
    assert_eq!(agent.rows().len(), 3);

    agent.launch(&id, "next", &["run"]).await;
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
    assert_eq!(agent.rows(), [""; 0]);
}

#[tokio::test]
async fn a_shim_that_gives_no_answer_is_not_taken_for_dead() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    let before = agent.status(&app).await.unwrap();
    agent.kill().await;
    world.fakes.runtime.set_mute(&app, true);
    let agent = world.agent().await;
    let status = agent.status(&app).await.unwrap();
    assert_eq!(status, before, "its process runs");
    let running = cri::ContainerState::ContainerRunning;
    assert_eq!(agent.containers().await[0].state(), running);
    world.fakes.runtime.set_mute(&app, false);
    // Stopped as ever: it can end by itself.
    agent.stop(&app, 30).await.unwrap();
    assert_eq!(agent.status(&app).await.unwrap().exit_code, 143);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_shim_that_gives_no_answer_for_a_process_that_nobody_knows_is_asked_again() {
    let world = World::with_pause_image();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    agent.kill().await;
    // With the store the identity of the process is lost.
    world.delete_store();
    world.fakes.runtime.set_mute(&app, true);
    let agent = world.agent().await;
    let status = agent.status(&app).await.unwrap();
    assert_eq!(status.state(), cri::ContainerState::ContainerUnknown);
    world.fakes.runtime.set_mute(&app, false);
    super::world::eventually("it answers again", async || {
        let state = agent.status(&app).await.unwrap().state();
        (state == cri::ContainerState::ContainerRunning).then_some(())
    })
    .await;
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}
