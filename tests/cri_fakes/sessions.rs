//! Exec with a client's streams, and port-forward, as called by a streaming server.

use std::time::Duration;

use podbay::backend::{ErrorKind, Process, Runtime as _, TaskState};
use podbay::container::Error;
use podbay::model::streams::{Output, ProcessIo, TerminalSize};
use podbay::sandbox;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::calls::{container, pod};
use super::execs::start;
use super::world::{Agent, PATIENCE, World, eventually};

/// The other ends of a session's streams.
pub struct Client {
    pub stdin: DuplexStream,
    pub stdout: DuplexStream,
    pub stderr: DuplexStream,
    pub resize: mpsc::Sender<TerminalSize>,
}

/// A session with all streams; little output fits between its ends.
pub fn session(tty: bool) -> (ProcessIo, Client) {
    let (stdin, from_client) = duplex(64 << 10);
    let (to_stdout, stdout) = duplex(64);
    let (to_stderr, stderr) = duplex(64);
    let (resize, sizes) = mpsc::channel(4);
    let io = ProcessIo {
        stdin: Some(Box::pin(from_client)),
        stdout: Some(Box::pin(to_stdout)),
        stderr: (!tty).then(|| Box::pin(to_stderr) as Output),
        tty,
        resize: Some(sizes),
    };
    (io, Client { stdin, stdout, stderr, resize })
}

/// Reads until the text ends like this.
pub async fn read_until(stream: &mut DuplexStream, end: &str) -> String {
    let mut text = Vec::new();
    let reading = async {
        while !text.ends_with(end.as_bytes()) {
            text.push(stream.read_u8().await.expect("more output"));
        }
    };
    let ended = tokio::time::timeout(PATIENCE, reading).await;
    let text = String::from_utf8(text).expect("text");
    assert!(ended.is_ok(), "too late: {end:?}; there was {text:?}");
    text
}

pub async fn all(mut stream: DuplexStream) -> String {
    let mut text = String::new();
    let reading = stream.read_to_string(&mut text);
    tokio::time::timeout(PATIENCE, reading).await.expect("an end of output").expect("output");
    text
}

/// What a session ended with.
pub async fn end<T>(session: JoinHandle<T>) -> T {
    tokio::time::timeout(PATIENCE, session).await.expect("an end of the session").expect("no panic")
}

impl Agent {
    fn begin_exec(
        &self,
        id: &str,
        words: &[&str],
        io: ProcessIo,
    ) -> JoinHandle<Result<i32, Error>> {
        let (room, id) = (self.rooms.containers.clone(), id.to_owned());
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        self.inside(async move { room.exec(&id, &words, io).await })
    }
}

/// Folders of execs of a container.
fn folders(world: &World, id: &str) -> Vec<String> {
    let names = std::fs::read_dir(world.path("state/containers").join(id)).into_iter().flatten();
    let names = names.map(|entry| entry.expect("a name").file_name().into_string().expect("text"));
    names.filter(|name| name.starts_with("exec-")).collect()
}

async fn no_execs(world: &World, id: &str) {
    eventually("no exec is left", async || {
        let execs = world.leftovers().into_iter().filter(|left| left.contains("exec-")).count();
        (execs == 0 && folders(world, id).is_empty()).then_some(())
    })
    .await;
}

/// Waits until the only exec of a container runs; its id.
async fn running(world: &World, id: &str) -> String {
    eventually("the exec runs", async || {
        let exec = folders(world, id).pop()?;
        let task = world.fakes.runtime.task(Process::exec(id, &exec)).await.ok()??;
        (task.state == TaskState::Running).then_some(exec)
    })
    .await
}

#[tokio::test]
async fn a_command_talks_with_its_client() {
    let (world, agent, id) = start().await;
    let (io, mut client) = session(false);
    let exec = agent.begin_exec(&id, &["cat"], io);
    client.stdin.write_all(b"to and fro\n").await.unwrap();
    assert_eq!(read_until(&mut client.stdout, "\n").await, "to and fro\n");
    client.stdin.write_all(b"the rest").await.unwrap();
    drop(client.stdin);
    assert_eq!(all(client.stdout).await, "the rest");
    assert_eq!(all(client.stderr).await, "");
    assert_eq!(end(exec).await.unwrap(), 0);
    no_execs(&world, &id).await;
    let cases: [(&[&str], bool, &str, &str, i32); 4] = [
        (&["echo", "out"], false, "out\n", "", 0),
        (&["echo-err", "err"], false, "", "err\n", 0),
        (&["exit", "42"], false, "", "", 42),
        // A terminal has one output.
        (&["echo-err", "both"], true, "both\n", "", 0),
    ];
    for (words, tty, stdout, stderr, code) in cases {
        let (io, client) = session(tty);
        let exec = agent.begin_exec(&id, words, io);
        assert_eq!(all(client.stdout).await, stdout, "{words:?}");
        assert_eq!(all(client.stderr).await, stderr, "{words:?}");
        assert_eq!(end(exec).await.unwrap(), code, "{words:?}");
    }
    no_execs(&world, &id).await;
}

#[tokio::test]
async fn a_slow_client_gets_everything() {
    let (world, agent, id) = start().await;
    // Fits into the pipes: the command ends long before its output is read.
    let (io, client) = session(false);
    let exec = agent.begin_exec(&id, &["lines", "4000"], io);
    eventually("the command has ended", async || {
        let exec = folders(&world, &id).pop()?;
        let task = world.fakes.runtime.task(Process::exec(&id, &exec)).await.ok()??;
        matches!(task.state, TaskState::Stopped(_)).then_some(())
    })
    .await;
    assert!(!exec.is_finished());
    let text = all(client.stdout).await;
    assert_eq!((text.lines().count(), text.lines().last()), (4000, Some("line 4000")));
    assert_eq!(end(exec).await.unwrap(), 0);
    // Does not fit: the command waits for its reader.
    let (io, mut client) = session(false);
    let exec = agent.begin_exec(&id, &["lines", "200000"], io);
    assert_eq!(read_until(&mut client.stdout, "\n").await, "line 1\n");
    running(&world, &id).await;
    assert_eq!(all(client.stdout).await.lines().count(), 199_999);
    assert_eq!(end(exec).await.unwrap(), 0);
    no_execs(&world, &id).await;
}

#[tokio::test]
async fn the_last_size_of_the_terminal_counts() {
    let (world, agent, id) = start().await;
    let (io, client) = session(true);
    let exec = agent.begin_exec(&id, &["run"], io);
    for (width, height) in [(10, 10), (80, 25), (100, 30)] {
        client.resize.send(TerminalSize { width, height }).await.unwrap();
    }
    let name = running(&world, &id).await;
    let size = || world.fakes.runtime.terminal_size(Process::exec(&id, &name));
    eventually("the size", async || (size() == Some((100, 30))).then_some(())).await;
    exec.abort();
    no_execs(&world, &id).await;
}

#[tokio::test]
async fn without_a_client_a_command_is_killed() {
    let (world, agent, id) = start().await;
    // The caller drops its call.
    let (io, _client) = session(false);
    let exec = agent.begin_exec(&id, &["ignore-term"], io);
    running(&world, &id).await;
    exec.abort();
    no_execs(&world, &id).await;
    assert_eq!(world.fakes.steps.count("kill_tree"), 1);
    // The client takes neither output any more.
    let (io, client) = session(false);
    let exec = agent.begin_exec(&id, &["cat"], io);
    let Client { mut stdin, stdout, stderr, resize: _resize } = client;
    drop((stdout, stderr));
    let (ended, ()) = tokio::join!(end(exec), async {
        // Who has only lost its stdout may still want stderr; this one says nothing there.
        let _ = stdin.write_all(b"anything").await;
        drop(stdin);
    });
    // `cat` ends by itself as well: both ends are good, but nothing may stay.
    assert!(matches!(ended, Ok(0) | Err(Error::ClientGone)), "{ended:?}");
    let (mut io, client) = session(true);
    io.stdin = None;
    let exec = agent.begin_exec(&id, &["lines", "1000000"], io);
    drop(client);
    assert!(matches!(end(exec).await, Err(Error::ClientGone)));
    no_execs(&world, &id).await;
    // Nobody waits for an ExecSync without a limit.
    let (room, of) = (agent.rooms.containers.clone(), id.clone());
    let command = ["ignore-term".to_owned()];
    let exec = agent.inside(async move { room.exec_sync(&of, &command, None).await });
    running(&world, &id).await;
    exec.abort();
    no_execs(&world, &id).await;
}

#[tokio::test]
async fn sessions_end_when_the_agent_does() {
    let (world, agent, id) = start().await;
    let (io, _client) = session(false);
    let exec = agent.begin_exec(&id, &["ignore-term"], io);
    let (io, _other) = session(false);
    let room = agent.rooms.containers.clone();
    let of = id.clone();
    let attach = agent.inside(async move { room.attach(&of, io).await });
    running(&world, &id).await;
    agent.rooms.tasks.drain(Duration::ZERO).await;
    assert!(matches!(end(exec).await, Err(Error::ShuttingDown)));
    assert!(matches!(end(attach).await, Err(Error::ShuttingDown)));
    no_execs(&world, &id).await;
}

#[tokio::test]
async fn commands_that_cannot_start_leave_nothing() {
    let (world, agent, id) = start().await;
    let mut sessions = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..100 {
        let (io, client) = session(true);
        client.resize.send(TerminalSize { width: 80, height: 25 }).await.unwrap();
        clients.push(client);
        sessions.push(agent.begin_exec(&id, &["fail-start"], io));
    }
    for session in sessions {
        let ended = end(session).await;
        assert!(matches!(ended, Err(Error::Backend { step: "start the exec", .. })), "{ended:?}");
    }
    no_execs(&world, &id).await;
    let (io, _client) = session(false);
    let ended = end(agent.begin_exec(&id, &[], io)).await;
    assert!(matches!(ended, Err(Error::Spec(_))), "{ended:?}");
    world.fakes.steps.lose_answer("start", ErrorKind::Unavailable, 1);
    let (io, _client) = session(false);
    end(agent.begin_exec(&id, &["ignore-term"], io)).await.expect_err("the answer was lost");
    no_execs(&world, &id).await;
}

#[tokio::test]
async fn a_deletion_that_fails_is_tried_again() {
    let (world, agent, id) = start().await;
    world.fakes.steps.forget();
    world.fakes.steps.fail("delete_task", ErrorKind::Unavailable, 2);
    let answer = agent.exec(&id, &["exit", "3"], 10).await.unwrap();
    assert_eq!(answer.exit_code, 3);
    no_execs(&world, &id).await;
    assert_eq!(world.fakes.steps.count("delete_task"), 3);
}

#[tokio::test]
async fn execs_of_a_killed_agent_are_taken_away() {
    let (world, agent, id) = start().await;
    let (io, _client) = session(false);
    let _exec = agent.begin_exec(&id, &["ignore-term"], io);
    let old = running(&world, &id).await;
    let foreign = world.path("state/containers").join(&id).join("exec-of-somebody");
    std::fs::create_dir(&foreign).unwrap();
    agent.kill().await;
    world.fakes.steps.forget();
    let agent = world.agent().await;
    eventually("the old exec is gone", async || {
        (folders(&world, &id) == ["exec-of-somebody"]).then_some(())
    })
    .await;
    assert!(!world.leftovers().iter().any(|left| left.contains(&old)));
    assert_eq!(world.fakes.steps.count("kill_tree"), 1);
    std::fs::remove_dir(foreign).unwrap();
    // The container itself was not touched.
    assert_eq!(agent.exec(&id, &["exit", "4"], 10).await.unwrap().exit_code, 4);
    no_execs(&world, &id).await;
}

#[tokio::test]
async fn sessions_need_a_running_container() {
    let (_world, agent, id) = start().await;
    let pod = agent.pods().await[0].id.clone();
    let created = agent.create(&pod, &container("created", &["run"])).await.unwrap();
    let room = &agent.rooms.containers;
    assert_eq!(room.check_exec(&id[..12]).unwrap().as_str(), id);
    assert!(matches!(room.check_exec(&created), Err(Error::WrongState { .. })));
    assert!(matches!(room.check_exec("unknown"), Err(Error::NotFound(_))));
    assert!(matches!(room.check_exec(""), Err(Error::NotFound(_))));
    agent.stop(&id, 0).await.unwrap();
    let (io, _client) = session(false);
    let refused = end(agent.begin_exec(&id, &["echo"], io)).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("cannot exec in container {id}: it is exited"));
}

#[tokio::test]
async fn ports_of_a_ready_pod_are_reached() {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let sandboxes = agent.rooms.sandboxes.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(sandboxes.check_port_forward(&pod[..12]).unwrap().as_str(), pod);
    let (near, far) = tokio::join!(sandboxes.port_forward(&pod, port), listener.accept());
    let (mut near, (mut far, _)) = (near.unwrap(), far.unwrap());
    far.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    near.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    drop(listener);
    let refused = sandboxes.port_forward(&pod, port).await.unwrap_err();
    assert!(matches!(refused, sandbox::Error::Backend { .. }), "{refused:?}");
    let refused = sandboxes.port_forward(&pod, 0).await.unwrap_err();
    assert!(matches!(refused, sandbox::Error::Invalid { .. }), "{refused:?}");
    agent.stop_pod(&pod).await.unwrap();
    let refused = sandboxes.check_port_forward(&pod).unwrap_err();
    assert_eq!(refused.to_string(), format!("pod {pod} is not ready"));
    sandboxes.port_forward(&pod, port).await.expect_err("the pod is not ready");
    let unknown = sandboxes.check_port_forward("unknown").unwrap_err();
    assert!(matches!(unknown, sandbox::Error::NotFound(_)), "{unknown:?}");
}
