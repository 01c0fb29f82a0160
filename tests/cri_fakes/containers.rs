//! Containers: lifecycle, exits, names, logs.

use std::time::{Duration, Instant};

use futures::future::join_all;
use podbay::backend::{ErrorKind, Runtime as _};
use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::world::{Agent, World, text};

async fn start() -> (World, Agent, String) {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    (world, agent, id)
}

fn log_of(world: &World, name: &str) -> String {
    text(&world.path("logs/web").join(format!("{name}.log")))
}

#[tokio::test]
async fn ends_are_told_as_they_were() {
    let (world, agent, pod) = start().await;
    let cases: [(&str, &[&str], i32, &str); 4] = [
        ("ok", &["echo", "hello"], 0, "Completed"),
        ("three", &["exit", "3"], 3, "Error"),
        ("killed", &["exit", "137"], 137, "Error"),
        ("big", &["exit", "255"], 255, "Error"),
    ];
    for (name, command, code, reason) in cases {
        let id = agent.launch(&pod, name, command).await;
        let status = agent.ended(&id).await;
        assert_eq!((status.exit_code, &*status.reason), (code, reason), "{name}");
        assert_eq!(status.message, "", "{name}");
        assert!(status.created_at <= status.started_at, "{name}: {status:?}");
        assert!(status.started_at > 0 && status.finished_at > 0, "{name}: {status:?}");
    }
    assert!(log_of(&world, "ok").ends_with(" stdout F hello\n"), "{}", log_of(&world, "ok"));
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_kill_for_lack_of_memory_is_told_apart_from_others() {
    let (world, agent, pod) = start().await;
    let starved = agent.launch(&pod, "starved", &["run"]).await;
    let killed = agent.launch(&pod, "killed", &["run"]).await;
    world.fakes.runtime.oom(&starved);
    agent.stop(&killed, 0).await.unwrap();
    for (id, reason) in [(starved, "OOMKilled"), (killed, "Error")] {
        let status = agent.ended(&id).await;
        assert_eq!((status.exit_code, &*status.reason), (137, reason));
    }
}

#[tokio::test]
async fn times_are_zero_until_they_are_true() {
    let (_world, agent, pod) = start().await;
    let id = agent.create(&pod, &container("app", &["run"])).await.unwrap();
    let created = agent.status(&id).await.unwrap();
    assert_eq!(created.state(), cri::ContainerState::ContainerCreated);
    assert_eq!((created.started_at, created.finished_at), (0, 0));
    agent.start(&id).await.unwrap();
    let running = agent.status(&id).await.unwrap();
    assert_eq!(running.state(), cri::ContainerState::ContainerRunning);
    assert!(running.started_at >= running.created_at && running.finished_at == 0);
    refused(agent.start(&id).await, Code::FailedPrecondition, "running");
    agent.stop(&id, 10).await.unwrap();
    let ended = agent.status(&id).await.unwrap();
    assert_eq!((ended.exit_code, ended.started_at), (143, running.started_at));
    assert!(ended.finished_at >= ended.started_at);
    refused(agent.start(&id).await, Code::FailedPrecondition, "exited");
}

#[tokio::test]
async fn stop_waits_its_grace_and_kills_then() {
    let (world, agent, pod) = start().await;
    let polite = agent.launch(&pod, "polite", &["run"]).await;
    agent.stop(&polite, 60).await.unwrap();
    assert_eq!(agent.status(&polite).await.unwrap().exit_code, 143);
    assert_eq!(world.fakes.steps.count("kill"), 1);

    let stubborn = agent.launch(&pod, "stubborn", &["ignore-term"]).await;
    let began = Instant::now();
    agent.stop(&stubborn, 1).await.unwrap();
    assert!(began.elapsed().as_secs() >= 1, "{:?}", began.elapsed());
    assert_eq!(agent.status(&stubborn).await.unwrap().exit_code, 137);
    assert_eq!(world.fakes.steps.count("kill"), 3);

    let hasty = agent.launch(&pod, "hasty", &["ignore-term"]).await;
    agent.stop(&hasty, 0).await.unwrap();
    assert_eq!(agent.status(&hasty).await.unwrap().exit_code, 137);
    assert_eq!(world.fakes.steps.count("kill"), 4);

    agent.stop(&hasty, 10).await.unwrap();
    agent.stop("unknown", 10).await.unwrap();
    let created = agent.create(&pod, &container("created", &["run"])).await.unwrap();
    agent.stop(&created, 10).await.unwrap();
    let state = agent.status(&created).await.unwrap().state();
    assert_eq!(state, cri::ContainerState::ContainerCreated);
    agent.stop(&created, -1).await.unwrap();
    assert_eq!(world.fakes.steps.count("kill"), 4);
}

#[tokio::test]
async fn a_later_stop_with_less_grace_cuts_the_wait_and_sends_no_second_signal() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["ignore-term"]).await;
    let began = Instant::now();
    let (long, short) = tokio::join!(agent.stop(&id, 600), async {
        world.fakes.steps.called("kill", 1).await;
        agent.stop(&id, 1).await
    });
    long.unwrap();
    short.unwrap();
    assert!(began.elapsed().as_secs() < 60);
    // One SIGTERM, one SIGKILL.
    assert_eq!(world.fakes.steps.count("kill"), 2);
}

#[tokio::test]
async fn remove_ends_what_runs_and_leaves_the_log() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["lines", "3"]).await;
    agent.ended(&id).await;
    let running = agent.launch(&pod, "running", &["run"]).await;
    for id in [&id, &running] {
        agent.remove(id).await.unwrap();
        agent.remove(id).await.unwrap();
        refused(agent.status(id).await, Code::NotFound, id);
    }
    agent.remove("unknown").await.unwrap();
    refused(agent.remove("").await, Code::InvalidArgument, "container_id");
    assert_eq!(log_of(&world, "app").lines().count(), 3);
    assert_eq!(agent.rows(), [pod]);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_container_that_cannot_start_stays_with_the_reason() {
    for program in ["fail-create", "fail-start"] {
        let (world, agent, pod) = start().await;
        let id = agent.create(&pod, &container("app", &[program])).await.unwrap();
        let failed = agent.start(&id).await.unwrap_err();
        let status = agent.status(&id).await.unwrap();
        assert_eq!(status.state(), cri::ContainerState::ContainerExited, "{program}");
        assert_eq!((status.exit_code, &*status.reason), (128, "StartError"), "{program}");
        assert_eq!(status.message, failed.message(), "{program}");
        assert_eq!(status.started_at, 0, "{program}");
        assert!(status.finished_at > 0, "{program}");
        assert_eq!(world.fakes.leftovers().iter().filter(|left| left.contains("task")).count(), 1);
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{program}");
    }
}

#[tokio::test]
async fn one_containers_environment_is_not_another_ones() {
    let (world, agent, _) = start().await;
    let pods = join_all(
        (0..10)
            .map(async |number| agent.run(&pod(&world, &format!("pod-{number}"))).await.unwrap()),
    );
    let pods = pods.await;
    let made = join_all((0..100).map(async |number: usize| {
        let mut config = container(&format!("app-{number}"), &["run"]);
        if number.is_multiple_of(2) {
            let (key, value) = ("SECRET".to_owned(), format!("of-{number}").into_bytes());
            config.envs.push(cri::KeyValue { key, value });
        }
        let id = agent.create(&pods[number % pods.len()], &config).await.unwrap();
        agent.start(&id).await.unwrap();
        (number, id)
    }));
    for (number, id) in made.await {
        let spec = world.fakes.runtime.container(&id).await.unwrap().spec.to_string();
        let found = spec.matches("SECRET=").count();
        assert_eq!(found, usize::from(number.is_multiple_of(2)), "{number}: {spec}");
        assert!(found == 0 || spec.contains(&format!("SECRET=of-{number}\"")), "{spec}");
    }
    agent.remove_all().await;
}

#[tokio::test]
async fn who_shares_the_processes_of_another_starts_only_while_that_one_runs() {
    let (world, agent, pod) = start().await;
    let target = agent.launch(&pod, "target", &["run"]).await;
    let mut late = Vec::new();
    for name in ["first", "second"] {
        let mut config = container(name, &["run"]);
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        let namespaces = security.namespace_options.get_or_insert_default();
        namespaces.pid = cri::NamespaceMode::Target.into();
        namespaces.target_id = target.clone();
        late.push(agent.create(&pod, &config).await.unwrap());
    }
    agent.start(&late[0]).await.unwrap();
    agent.stop(&target, 0).await.unwrap();
    refused(agent.start(&late[1]).await, Code::InvalidArgument, "target_id");
    let status = agent.status(&late[1]).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_start_whose_log_cannot_be_opened_fails() {
    let (world, agent, pod) = start().await;
    std::fs::create_dir(world.path("logs/web/app.log")).unwrap();
    let id = agent.create(&pod, &container("app", &["run"])).await.unwrap();
    refused(agent.start(&id).await, Code::Unknown, "open the log");
    assert_eq!(agent.status(&id).await.unwrap().reason, "StartError");
    // Only that of the pod.
    assert_eq!(world.fakes.steps.count("create_task"), 1);
}

#[tokio::test]
async fn one_request_makes_one_container_until_it_is_started() {
    let (world, agent, pod) = start().await;
    let config = container("app", &["run"]);
    let ids = join_all((0..8).map(|_| agent.create(&pod, &config))).await;
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(agent.containers().await.len(), 1);
    let other = agent.create(&pod, &container("app", &["exit"])).await;
    refused(other, Code::FailedPrecondition, &ids[0]);
    agent.start(&ids[0]).await.unwrap();
    refused(agent.create(&pod, &config).await, Code::FailedPrecondition, "already in use");
    let mut next = config.clone();
    next.metadata.as_mut().unwrap().attempt = 1;
    assert_ne!(agent.create(&pod, &next).await.unwrap(), ids[0]);
    agent.remove(&ids[0]).await.unwrap();
    assert_ne!(agent.create(&pod, &config).await.unwrap(), ids[0]);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn what_a_container_may_not_have_is_refused() {
    let (world, agent, pod) = start().await;
    let mut missing = container("app", &["run"]);
    missing.image.as_mut().unwrap().image = "test.example/missing:1".into();
    refused(agent.create(&pod, &missing).await, Code::NotFound, "test.example/missing:1");

    let mut privileged = container("app", &["run"]);
    let linux = privileged.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let field = "config.linux.security_context.privileged";
    refused(agent.create(&pod, &privileged).await, Code::InvalidArgument, field);

    let mut user = container("app", &["run"]);
    let linux = user.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().run_as_username = "nobody-here".into();
    refused(agent.create(&pod, &user).await, Code::InvalidArgument, "nobody-here");

    refused(agent.create("unknown", &missing).await, Code::NotFound, "unknown");
    refused(agent.create("", &missing).await, Code::InvalidArgument, "pod_sandbox_id");
    assert_eq!(agent.rows(), [pod]);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_privileged_pod_may_have_a_privileged_container() {
    let world = World::new();
    let agent = world.agent().await;
    let mut config = pod(&world, "web");
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = agent.run(&config).await.unwrap();
    let mut privileged = container("app", &["run"]);
    let linux = privileged.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    agent.create(&pod, &privileged).await.unwrap();
}

#[tokio::test]
async fn a_log_is_reopened_only_while_it_is_written() {
    let (world, agent, pod) = start().await;
    let created = agent.create(&pod, &container("created", &["run"])).await.unwrap();
    let ended = agent.launch(&pod, "ended", &["exit", "0"]).await;
    agent.ended(&ended).await;
    let logs = world.path("logs/web");
    std::fs::remove_file(logs.join("ended.log")).unwrap();
    refused(agent.reopen(&created).await, Code::FailedPrecondition, "reopen");
    refused(agent.reopen(&ended).await, Code::FailedPrecondition, "reopen");
    refused(agent.reopen("unknown").await, Code::NotFound, "unknown");
    assert!(std::fs::read_dir(&logs).unwrap().next().is_none(), "no file is made");

    let running = agent.launch(&pod, "running", &["run"]).await;
    std::fs::rename(logs.join("running.log"), logs.join("old.log")).unwrap();
    agent.reopen(&running).await.unwrap();
    assert!(logs.join("running.log").is_file());
}

#[tokio::test]
async fn an_end_is_told_when_the_daemon_loses_the_task() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["run"]).await;
    world.fakes.runtime.lose_task(&id);
    let status = agent.ended(&id).await;
    assert_eq!((status.exit_code, &*status.reason), (255, "Unknown"));
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_start_that_is_not_undone_at_once_is_undone_later() {
    let (world, agent, pod) = start().await;
    let id = agent.create(&pod, &container("app", &["run"])).await.unwrap();
    world.fakes.steps.lose_answer("start", ErrorKind::Other, 1);
    world.fakes.steps.fail("delete_task", ErrorKind::Unavailable, 1);
    refused(agent.start(&id).await, Code::Unknown, "start");
    assert_eq!(agent.status(&id).await.unwrap().reason, "StartError");
    let task = format!("task {id}");
    super::world::eventually("nothing of it runs", async || {
        (!world.fakes.leftovers().contains(&task)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stop_does_not_wait_until_the_task_is_deleted() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["run"]).await;
    world.fakes.steps.hang("delete_task");
    let stopped = tokio::time::timeout(Duration::from_secs(20), agent.stop(&id, 30)).await;
    stopped.expect("it waits for the deletion").unwrap();
    assert_eq!(agent.status(&id).await.unwrap().exit_code, 143);
    world.fakes.steps.release("delete_task");
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}
