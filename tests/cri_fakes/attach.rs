//! Attach, as called by a streaming server; and a container's log across a crash.

use podbay::backend::Process;
use podbay::container::Error;
use podbay::model::streams::ProcessIo;
use podbay::proto::runtime::v1 as cri;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::calls::{container, pod};
use super::sessions::{all, end, read_until, session};
use super::world::{Agent, World, eventually, text};

impl Agent {
    fn begin_attach(&self, id: &str, io: ProcessIo) -> JoinHandle<Result<(), Error>> {
        let (room, id) = (self.rooms.containers.clone(), id.to_owned());
        self.inside(async move { room.attach(&id, io).await })
    }

    async fn is_running(&self, id: &str) -> bool {
        self.status(id).await.unwrap().state() == cri::ContainerState::ContainerRunning
    }
}

/// A container that says what it hears.
fn echoing() -> cri::ContainerConfig {
    cri::ContainerConfig { stdin: true, ..container("app", &["cat"]) }
}

async fn start(config: cri::ContainerConfig) -> (World, Agent, String) {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let id = agent.create(&pod, &config).await.unwrap();
    agent.start(&id).await.unwrap();
    (world, agent, id)
}

#[tokio::test]
async fn several_clients_share_a_container() {
    let (world, agent, id) = start(echoing()).await;
    let (io, mut first) = session(false);
    let first_session = agent.begin_attach(&id, io);
    first.stdin.write_all(b"one\n").await.unwrap();
    assert_eq!(read_until(&mut first.stdout, "one\n").await, "one\n");
    // No replay: the second client hears what comes from now on.
    let (io, mut second) = session(false);
    let second_session = agent.begin_attach(&id, io);
    second.stdin.write_all(b"two\n").await.unwrap();
    assert_eq!(read_until(&mut second.stdout, "two\n").await, "two\n");
    assert_eq!(read_until(&mut first.stdout, "two\n").await, "two\n");
    first_session.abort();
    second.stdin.write_all(b"three\n").await.unwrap();
    assert_eq!(read_until(&mut second.stdout, "three\n").await, "three\n");
    // The end of a client's input is the end of its session, not of the container's stdin.
    drop(second.stdin);
    end(second_session).await.unwrap();
    assert!(agent.is_running(&id).await);
    let (io, mut third) = session(false);
    let third_session = agent.begin_attach(&id, io);
    third.stdin.write_all(b"four\n").await.unwrap();
    assert_eq!(read_until(&mut third.stdout, "four\n").await, "four\n");
    agent.stop(&id, 0).await.unwrap();
    end(third_session).await.unwrap();
    assert_eq!((all(third.stdout).await, all(third.stderr).await), (String::new(), String::new()));
    let log = text(&world.path("logs/web/app.log"));
    let words: Vec<_> = log.lines().filter_map(|line| line.split(' ').nth(3)).collect();
    assert_eq!(words, ["one", "two", "three", "four"]);
}

#[tokio::test]
async fn a_container_without_a_log_can_be_attached() {
    let config = cri::ContainerConfig { log_path: String::new(), ..echoing() };
    let (_world, agent, id) = start(config).await;
    let (io, mut client) = session(false);
    let _session = agent.begin_attach(&id, io);
    client.stdin.write_all(b"hello\n").await.unwrap();
    assert_eq!(read_until(&mut client.stdout, "\n").await, "hello\n");
}

#[tokio::test]
async fn stdin_once_ends_with_its_first_client() {
    // By the end of the client's input: the output goes on.
    let once = || cri::ContainerConfig { stdin_once: true, ..echoing() };
    let (_world, agent, id) = start(once()).await;
    let (io, mut client) = session(false);
    let attached = agent.begin_attach(&id, io);
    client.stdin.write_all(b"last words").await.unwrap();
    drop(client.stdin);
    assert_eq!(all(client.stdout).await, "last words");
    end(attached).await.unwrap();
    assert_eq!(agent.ended(&id).await.exit_code, 0);
    // By the client's death, while another one only listens and a third writes, too.
    let (world, agent, id) = start(once()).await;
    let (mut io, listener) = session(false);
    io.stdin = None;
    let listening = agent.begin_attach(&id, io);
    let (io, mut writer) = session(false);
    let _writing = agent.begin_attach(&id, io);
    writer.stdin.write_all(b"a").await.unwrap();
    assert_eq!(read_until(&mut writer.stdout, "a").await, "a");
    let (io, mut client) = session(false);
    let attached = agent.begin_attach(&id, io);
    client.stdin.write_all(b"b").await.unwrap();
    assert_eq!(read_until(&mut client.stdout, "b").await, "b");
    attached.abort();
    assert_eq!(agent.ended(&id).await.exit_code, 0);
    end(listening).await.unwrap();
    assert!(all(listener.stdout).await.ends_with('b'));
    // Each client with a stdin makes sure of it: one that leaves may not take the end along.
    assert!(world.fakes.steps.count("close_stdin") >= 1);
}

#[tokio::test]
async fn a_terminal_is_not_hung_up_when_its_client_leaves() {
    let config = cri::ContainerConfig { stdin_once: true, tty: true, ..echoing() };
    let (world, agent, id) = start(config).await;
    for _ in 0..2 {
        let (io, mut client) = session(true);
        let attached = agent.begin_attach(&id, io);
        client.stdin.write_all(b"word\n").await.unwrap();
        assert_eq!(read_until(&mut client.stdout, "\n").await, "word\n");
        drop(client.stdin);
        end(attached).await.unwrap();
    }
    assert!(agent.is_running(&id).await);
    assert_eq!(world.fakes.steps.count("close_stdin"), 0);
}

#[tokio::test]
async fn a_slow_client_is_cut_and_holds_up_nothing() {
    const MUCH: usize = 2 << 20;
    let (world, agent, id) = start(echoing()).await;
    let (io, _idle) = session(false);
    let slow = agent.begin_attach(&id, io);
    let (mut io, mut writer) = session(false);
    (io.stdout, io.stderr) = (None, None);
    let writing = agent.begin_attach(&id, io);
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    for _ in 0..MUCH / line.len() {
        writer.stdin.write_all(&line).await.unwrap();
    }
    drop(writer.stdin);
    end(writing).await.unwrap();
    let cut = end(slow).await.unwrap_err();
    assert!(matches!(cut, Error::TooSlow(_)), "{cut:?}");
    let log = world.path("logs/web/app.log");
    let lines = || text(&log).lines().count();
    eventually("the log has all", async || (lines() == MUCH / line.len()).then_some(())).await;
    assert!(agent.is_running(&id).await);
}

#[tokio::test]
async fn a_client_must_fit_the_container() {
    let (_world, agent, id) = start(container("app", &["run"])).await;
    let room = &agent.rooms.containers;
    assert_eq!(room.check_attach(&id[..12], false).unwrap().as_str(), id);
    let wrong = room.check_attach(&id, true).unwrap_err();
    assert_eq!(wrong.to_string(), format!("tty: container {id} did not allocate a terminal"));
    assert!(matches!(room.check_attach("unknown", false), Err(Error::NotFound(_))));
    // It has no stdin: the client's is not read, and does not end the session.
    let (io, client) = session(false);
    let attached = agent.begin_attach(&id, io);
    drop(client.stdin);
    agent.stop(&id, 0).await.unwrap();
    end(attached).await.unwrap();
    assert!(matches!(room.check_attach(&id, false), Err(Error::WrongState { .. })));
}

#[tokio::test]
async fn a_next_agent_takes_clients_too() {
    let (world, agent, id) = start(echoing()).await;
    let (io, mut client) = session(false);
    let _attached = agent.begin_attach(&id, io);
    client.stdin.write_all(b"before\n").await.unwrap();
    assert_eq!(read_until(&mut client.stdout, "\n").await, "before\n");
    agent.kill().await;
    let agent = world.agent().await;
    let (io, mut client) = session(false);
    let _attached = agent.begin_attach(&id, io);
    client.stdin.write_all(b"after\n").await.unwrap();
    assert_eq!(read_until(&mut client.stdout, "\n").await, "after\n");
    assert!(agent.is_running(&id).await);
}

#[tokio::test]
async fn output_that_a_shim_still_holds_is_logged_after_a_crash() {
    let (world, agent, id) = start(container("app", &["run"])).await;
    world.fakes.steps.forget();
    world.fakes.steps.hang("delete_task");
    world.fakes.runtime.end(Process::init(&id), 3);
    // The exit is stored by now, and not told yet.
    world.fakes.steps.called("delete_task", 1).await;
    agent.kill().await;
    let fifo = world.path("state/containers").join(&id).join("stdout");
    // Opening both ends never blocks.
    let mut held = std::fs::File::options().read(true).write(true).open(fifo).unwrap();
    std::io::Write::write_all(&mut held, b"last words\n").unwrap();
    world.fakes.steps.release("delete_task");
    let log = world.path("logs/web/app.log");
    let (agent, ()) = tokio::join!(world.agent(), async {
        eventually("the log", async || text(&log).contains("last words").then_some(())).await;
        drop(held);
    });
    assert_eq!(agent.ended(&id).await.exit_code, 3);
    agent.remove_all().await;
    world.clean().await;
}
