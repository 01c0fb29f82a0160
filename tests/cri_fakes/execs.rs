//! ExecSync.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tonic::Code;

use super::calls::{container, pod, refused};
use super::world::{Agent, World, eventually};

/// An agent with a running container.
pub async fn start() -> (World, Agent, String) {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let id = agent.launch(&pod, "app", &["run"]).await;
    (world, agent, id)
}

async fn no_execs(world: &World) {
    let execs = || world.leftovers().into_iter().any(|left| left.contains("exec-"));
    eventually("no exec is left", async || (!execs()).then_some(())).await;
}

#[tokio::test]
async fn a_command_has_its_output_and_its_code() {
    let (world, agent, id) = start().await;
    let cases: [(&[&str], &str, &str, i32); 4] = [
        (&["echo", "out"], "out\n", "", 0),
        (&["echo-err", "err"], "", "err\n", 0),
        (&["exit", "42"], "", "", 42),
        (&["lines", "2"], "line 1\nline 2\n", "", 0),
    ];
    for (command, stdout, stderr, code) in cases {
        let answer = agent.exec(&id, command, 10).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.stdout), stdout, "{command:?}");
        assert_eq!(String::from_utf8_lossy(&answer.stderr), stderr, "{command:?}");
        assert_eq!(answer.exit_code, code, "{command:?}");
    }
    no_execs(&world).await;
}

#[tokio::test]
async fn more_output_than_an_answer_can_hold_is_cut() {
    let (world, agent, id) = start().await;
    // About 20 MB.
    let answer = agent.exec(&id, &["lines", "1600000"], 0).await.unwrap();
    assert_eq!(answer.exit_code, 0);
    assert!(answer.stdout.len() > 15 << 20 && answer.stdout.len() < 16 << 20);
    assert!(answer.stdout.starts_with(b"line 1\nline 2\n"));
    no_execs(&world).await;
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_alone() {
    let (world, agent, id) = start().await;
    let (slow, neighbour) =
        tokio::join!(agent.exec(&id, &["ignore-term"], 1), agent.exec(&id, &["sleep", "2"], 0));
    refused(slow, Code::DeadlineExceeded, "timed out after 1s");
    assert_eq!(neighbour.unwrap().exit_code, 0);
    no_execs(&world).await;
}

#[tokio::test]
async fn a_child_that_holds_the_output_does_not_hold_the_answer() {
    let (world, agent, id) = start().await;
    world.fakes.steps.hang("wait");
    let began = Instant::now();
    let (answer, _held) = tokio::join!(agent.exec(&id, &["exit", "5"], 60), async {
        // The last exec folder is the one of this command: a writer of its stdout stays.
        let held = eventually("the FIFO", async || hold_stdout(&world, &id)).await;
        world.fakes.steps.release("wait");
        held
    });
    assert_eq!(answer.unwrap().exit_code, 5);
    assert!(began.elapsed() < Duration::from_secs(30));
    no_execs(&world).await;
}

/// The stdout of the exec of a container.
fn stdout_of(world: &World, id: &str) -> Option<PathBuf> {
    let folder = world.path("state/containers").join(id);
    let exec = std::fs::read_dir(folder)
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("exec-"))?;
    Some(exec.path().join("stdout"))
}

fn hold_stdout(world: &World, id: &str) -> Option<std::fs::File> {
    // Opening both ends never blocks.
    let both = std::fs::File::options().read(true).write(true).open(stdout_of(world, id)?);
    both.ok()
}

#[tokio::test]
async fn a_start_that_is_given_up_has_readers_until_it_is_deleted() {
    let (world, agent, id) = start().await;
    world.fakes.steps.forget();
    world.fakes.steps.hang("start");
    world.fakes.steps.hang("delete_task");
    let slow = agent.exec(&id, &["echo", "late"], 1).await;
    refused(slow, Code::DeadlineExceeded, "timed out after 1s");
    world.fakes.steps.called("delete_task", 1).await;
    let stdout = stdout_of(&world, &id).expect("the exec is not deleted yet");
    // A shim that is still in the start opens it so: without a reader it would wait for one.
    let opened = podbay::logs::open_fifo_guard(&stdout).expect("the agent still reads");
    let mut opened = std::fs::File::from(opened);
    opened.write_all(b"late").expect("the agent still reads");

    world.fakes.steps.release("delete_task");
    no_execs(&world).await;
    let closed = eventually("the agent's end is closed", async || opened.write_all(b"x").err());
    assert_eq!(closed.await.kind(), std::io::ErrorKind::BrokenPipe);
    assert!(!stdout.exists());
    world.fakes.steps.release("start");
    let next = agent.exec(&id, &["echo", "next"], 10).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&next.stdout), "next\n");
    no_execs(&world).await;
}

#[tokio::test]
async fn commands_need_a_running_container() {
    let (_world, agent, id) = start().await;
    let pod = agent.status(&id).await.map(|_| agent.pods()).unwrap().await[0].id.clone();
    let created = agent.create(&pod, &container("created", &["run"])).await.unwrap();
    agent.stop(&id, 10).await.unwrap();
    for id in [&id, &created] {
        refused(agent.exec(id, &["echo"], 0).await, Code::FailedPrecondition, "exec in");
    }
    refused(agent.exec("unknown", &["echo"], 0).await, Code::NotFound, "unknown");
    refused(agent.exec(&id, &[], 0).await, Code::InvalidArgument, "cmd");
    let negative = agent.exec(&id, &["echo"], -1).await;
    refused(negative, Code::FailedPrecondition, "exec in");
}
