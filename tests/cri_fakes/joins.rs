//! NRI plugins joining, leaving and reconnecting.

use std::time::Duration;

use podbay::backend::nri::proto::{Container, ContainerState};
use tokio::sync::watch;

use super::calls::{container, pod};
use super::hooks::{answering, joined, world};
use super::plugin::{Plugin, Reply, subscribed, synchronized};
use super::world::World;

#[tokio::test]
async fn who_comes_back_is_told_what_is_there() {
    let world = world();
    let agent = world.agent().await;
    let socket = world.nri_socket();
    let plugin = Plugin::listening(&socket, "10", "back").await;
    assert_eq!(plugin.hears("Synchronize", 1).await.all().pods.len(), 0);
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let stopped_pod = agent.run(&pod(&world, "old")).await.unwrap();
    agent.stop_pod(&stopped_pod).await.unwrap();
    plugin.leave();
    joined(&agent, &[]).await;
    let running = agent.launch(&id, "running", &["run"]).await;
    let created = agent.create(&id, &container("created", &["run"])).await.unwrap();
    let ended = agent.launch(&id, "ended", &["exit", "3"]).await;
    agent.ended(&ended).await;

    let again = Plugin::listening(&socket, "10", "back").await;
    let all = again.hears("Synchronize", 1).await.all();
    let mut pods: Vec<_> = all.pods.iter().map(|pod| pod.id.clone()).collect();
    pods.sort();
    let mut expected = vec![id.clone(), stopped_pod];
    expected.sort();
    assert_eq!(pods, expected);
    let mut live: Vec<_> = all.containers.iter().map(|c| (c.id.clone(), c.state())).collect();
    live.sort();
    let mut expected = vec![
        (running.clone(), ContainerState::ContainerRunning),
        (created, ContainerState::ContainerCreated),
    ];
    expected.sort();
    assert_eq!(live, expected);
    let shown = |c: &&Container| c.id == running;
    let shown = all.containers.iter().find(shown).unwrap();
    assert_eq!(shown.args, ["run"]);
    assert!(shown.pid > 0 && shown.pod_sandbox_id == id);
    agent.remove_all().await;
    let told = again.events();
    let count = |event: &str| told.iter().filter(|told| *told == event).count();
    assert_eq!((count("StopContainer"), count("RemoveContainer")), (2, 3), "{told:?}");
    assert_eq!((count("StopPodSandbox"), count("RemovePodSandbox")), (1, 2), "{told:?}");
}

#[tokio::test]
async fn plugins_survive_the_agent_by_coming_back() {
    let world = world();
    let agent = world.agent().await;
    let plugin = Plugin::listening(&world.nri_socket(), "10", "back").await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let app = agent.launch(&id, "app", &["run"]).await;
    agent.kill().await;
    plugin.gone().await;
    let agent = world.agent().await;
    let plugin = Plugin::listening(&world.nri_socket(), "10", "back").await;
    let all = plugin.hears("Synchronize", 1).await.all();
    assert_eq!((all.pods[0].id.as_str(), all.containers[0].id.as_str()), (&*id, &*app));
    agent.stop(&app, 0).await.unwrap();
    agent.remove_all().await;
    assert_eq!(
        plugin.events(),
        ["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"]
    );
    world.clean().await;
}

#[tokio::test]
async fn a_container_made_while_a_plugin_takes_its_time_to_join_is_not_lost_on_it() {
    let world = World::with_plugins(|nri| nri.request_timeout = Duration::from_secs(2));
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let (open, gate) = watch::channel(false);
    let slow = answering("Synchronize", move |_| Reply::Once(gate.clone()));
    let plugin = Plugin::connect(&world.nri_socket(), slow).await;
    plugin.register("10", "slow").await.unwrap();
    plugin.hears("Synchronize", 1).await;
    let app = container("app", &["run"]);
    let create = agent.create(&id, &app);
    let look = async {
        // Longer than a request may take.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(plugin.events(), Vec::<String>::new());
        open.send_replace(true);
    };
    let (created, ()) = tokio::join!(create, look);
    let told = plugin.hears("CreateContainer", 1).await.container.unwrap();
    assert_eq!(told.id, created.unwrap());
    joined(&agent, &["10-slow"]).await;
    agent.remove_all().await;
    world.clean().await;
}

#[tokio::test]
async fn much_is_synchronised_in_several_messages() {
    let world = world();
    let agent = world.agent().await;
    let mut ids = Vec::new();
    for index in 0..6 {
        let mut config = pod(&world, &format!("big-{index}"));
        config.annotations.insert("big".into(), "x".repeat(1 << 20));
        ids.push(agent.run(&config).await.unwrap());
    }
    let socket = world.nri_socket();
    let taking = Plugin::connect(&socket, |heard| match heard.call.as_str() {
        "Synchronize" => synchronized(heard),
        _ => Reply::Done,
    });
    let taking = taking.await;
    taking.register("10", "taking").await.unwrap();
    joined(&agent, &["10-taking"]).await;
    let parts: Vec<_> = taking.heard().into_iter().filter(|h| h.call == "Synchronize").collect();
    assert!(parts.len() >= 2, "{}", parts.len());
    let mut told: Vec<_> =
        parts.iter().flat_map(|part| part.all().pods).map(|pod| pod.id).collect();
    told.sort();
    ids.sort();
    assert_eq!(told, ids);

    // One that does not say that it takes parts has not understood.
    let deaf = Plugin::connect(&socket, |_| Reply::Done).await;
    deaf.register("20", "deaf").await.unwrap();
    deaf.gone().await;
    joined(&agent, &["10-taking"]).await;
    agent.remove_all().await;
}

#[tokio::test]
async fn bad_plugins_are_not_let_in() {
    let world = World::with_plugins(|nri| nri.registration_timeout = Duration::from_secs(3));
    let agent = world.agent().await;
    let socket = world.nri_socket();
    for (index, name) in [("1", "a"), ("xx", "a"), ("00", ""), ("00", "a/b"), ("", "")] {
        let plugin = Plugin::connect(&socket, |_| Reply::Done).await;
        plugin.register(index, name).await.unwrap_err();
        plugin.gone().await;
    }
    let silent = Plugin::connect(&socket, |_| Reply::Done).await;
    silent.gone().await;
    for call in ["Configure", "Synchronize"] {
        let refusing = answering(call, |_| Reply::Refuse("no".into()));
        let plugin = Plugin::connect(&socket, refusing).await;
        plugin.register("10", "bad").await.unwrap();
        plugin.gone().await;
    }
    let unknown = answering("Configure", |_| subscribed(1 << 20));
    let plugin = Plugin::connect(&socket, unknown).await;
    plugin.register("10", "bad").await.unwrap();
    plugin.gone().await;
    let twice = Plugin::listening(&socket, "10", "twice").await;
    twice.register("11", "again").await.unwrap_err();
    joined(&agent, &["10-twice"]).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    assert!(agent.is_ready(&id).await);
    agent.remove_all().await;
}

#[tokio::test]
async fn programs_are_started_only_when_nobody_else_could_have_written_them() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::with_plugins(|nri| nri.registration_timeout = Duration::from_secs(3));
    let folder = world.path("nri/plugins");
    std::fs::create_dir_all(&folder).unwrap();
    let mark = |name: &str| world.path(&format!("started-{name}"));
    for (name, mode) in
        [("10-good", 0o755), ("20-open", 0o777), ("plain", 0o755), ("30-data", 0o644)]
    {
        let path = folder.join(name);
        let script = format!(
            "#!/bin/sh\necho \"$NRI_PLUGIN_NAME $NRI_PLUGIN_IDX $NRI_PLUGIN_SOCKET\" >{}\nexec sleep 1000\n",
            mark(name).display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let agent = world.agent().await;
    // It never registers, so it was given up, and the agent is ready without it.
    assert_eq!(std::fs::read_to_string(mark("10-good")).unwrap(), "good 10 3\n");
    for name in ["20-open", "plain", "30-data"] {
        assert!(!mark(name).exists(), "{name}");
    }
    joined(&agent, &[]).await;
    agent.run(&pod(&world, "web")).await.unwrap();
    agent.remove_all().await;
}

#[tokio::test]
async fn a_socket_that_another_runtime_serves_is_left_alone() {
    let world = world();
    let theirs = tokio::net::UnixListener::bind(world.nri_socket()).unwrap();
    let agent = world.agent().await;
    agent.run(&pod(&world, "web")).await.unwrap();
    // Only the look whether anybody listens there.
    let (looked, _) = theirs.accept().await.unwrap();
    drop((looked, theirs));
    // Once it is free it is taken.
    let plugin = Plugin::listening(&world.nri_socket(), "10", "patient").await;
    assert_eq!(plugin.hears("Synchronize", 1).await.all().pods.len(), 1);
    agent.remove_all().await;
}
