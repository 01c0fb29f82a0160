//! Tasks and their processes (containerd's Tasks service).

use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1::{
    CloseIoRequest, CreateTaskRequest, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest,
    ExecProcessRequest, GetRequest, KillRequest, ListPidsRequest, ListTasksRequest,
    PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, StartRequest, UpdateTaskRequest,
    WaitRequest,
};
use containerd_client::types::v1::{Process as WireProcess, Status};
use serde_json::Value;
use tokio::time::Instant;

use super::client::Client;
use super::failure;
use super::types::{PROCESS_URL, RESOURCES_URL, json_any, nanos, wire_mounts, wire_path};
use crate::backend::{
    Error, ErrorKind, Exit, GoneIsFine, NewExec, NewTask, Process, Result, Stdio, TaskState,
    TaskStatus,
};
use crate::model::signal::Signal;

/// How long the daemon may take to remove the task of a shim that has died.
const DEAD_SHIM_LIMIT: Duration = Duration::from_secs(5);
const DEAD_SHIM_PAUSE: Duration = Duration::from_millis(50);

/// Creates a task. Its options are left unset: they would replace those of the record.
pub(super) async fn create(client: &Client, task: &NewTask) -> Result<u32> {
    let streams = Streams::of(&task.stdio)?;
    let message = CreateTaskRequest {
        container_id: task.id.clone(),
        rootfs: wire_mounts(&task.rootfs),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        terminal: task.stdio.terminal,
        ..CreateTaskRequest::default()
    };
    let tried = || format!("create task {}", task.id);
    Ok(client.slow(tried, client.tasks().create(client.request(message))).await?.pid)
}

pub(super) async fn exec(client: &Client, exec: &NewExec) -> Result<()> {
    let streams = Streams::of(&exec.stdio)?;
    let message = ExecProcessRequest {
        container_id: exec.id.clone(),
        exec_id: exec.exec_id.clone(),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        terminal: exec.stdio.terminal,
        spec: Some(json_any(PROCESS_URL, &exec.process)),
    };
    let tried = || format!("register {}", named(Process::exec(&exec.id, &exec.exec_id)));
    client.slow(tried, client.tasks().exec(client.request(message))).await?;
    Ok(())
}

pub(super) async fn start(client: &Client, process: Process<'_>) -> Result<u32> {
    let message = StartRequest { container_id: container(process), exec_id: exec_id(process) };
    let tried = || format!("start {}", named(process));
    Ok(client.slow(tried, client.tasks().start(client.request(message))).await?.pid)
}

/// Waits for the end, without a time limit.
pub(super) async fn wait(client: &Client, process: Process<'_>) -> Result<Exit> {
    let message = WaitRequest { container_id: container(process), exec_id: exec_id(process) };
    let tried = || format!("wait for {}", named(process));
    let answer = client.endless(tried, client.tasks().wait(client.request(message))).await?;
    Ok(Exit { code: answer.exit_status, at: nanos(answer.exited_at) })
}

pub(super) async fn kill(
    client: &Client,
    process: Process<'_>,
    signal: i32,
    all: bool,
) -> Result<()> {
    let tried = || format!("send signal {signal} to {}", named(process));
    let number = u32::try_from(signal).map_err(|_| Error::new(ErrorKind::InvalidArgument, tried()));
    let message = KillRequest {
        container_id: container(process),
        exec_id: exec_id(process),
        signal: number?,
        all,
    };
    client.slow(tried, client.tasks().kill(client.request(message))).await?;
    Ok(())
}

/// Deletes an ended process; `None` when it was gone.
pub(super) async fn delete(
    client: &Client,
    process: Process<'_>,
    kill: bool,
) -> Result<Option<Exit>> {
    let until = Instant::now() + DEAD_SHIM_LIMIT;
    loop {
        match try_delete(client, process, kill).await {
            // The daemon is about to remove what the shim had.
            Err(error) if failure::is_of_dead_shim(&error) && Instant::now() < until => {
                tokio::time::sleep(DEAD_SHIM_PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn try_delete(client: &Client, process: Process<'_>, kill: bool) -> Result<Option<Exit>> {
    if kill {
        kill_and_wait(client, process).await?;
    }
    let first = found(delete_once(client, process).await)?;
    let last = match (first, process.exec) {
        // "Not found" may come from a shim whose task is gone while the daemon still keeps the
        // shim; a second call releases it.
        (None, None) => found(delete_once(client, process).await)?,
        (first, _) => first,
    };
    Ok(last.map(|gone| Exit { code: gone.exit_status, at: nanos(gone.exited_at) }))
}

/// Kills a process and waits for its end. For init all processes of the container are killed, since
/// with a shared PID namespace its children would survive.
async fn kill_and_wait(client: &Client, process: Process<'_>) -> Result<()> {
    match kill(client, process, Signal::KILL.number(), process.exec.is_none()).await {
        Ok(()) => {}
        // It has ended already, or is an exec that was never started: nothing to wait for.
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::FailedPrecondition) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let limit = client.slow_limit();
    match tokio::time::timeout(limit, wait(client, process)).await {
        Ok(ended) => ended.map(drop).gone_is_fine(),
        Err(_) => {
            Err(failure::late(format!("wait for the end of killed {}", named(process)), limit))
        }
    }
}

async fn delete_once(client: &Client, process: Process<'_>) -> Result<DeleteResponse> {
    let tried = || format!("delete {}", named(process));
    let container_id = container(process);
    match process.exec {
        None => {
            let message = DeleteTaskRequest { container_id };
            client.slow(tried, client.tasks().delete(client.request(message))).await
        }
        Some(exec) => {
            let message = DeleteProcessRequest { container_id, exec_id: exec.to_owned() };
            client.slow(tried, client.tasks().delete_process(client.request(message))).await
        }
    }
}

pub(super) async fn get(client: &Client, process: Process<'_>) -> Result<Option<TaskStatus>> {
    let Some(wire) = found(look_up(client, process).await)? else { return Ok(None) };
    Ok(Some(TaskStatus { id: container(process), ..status(wire) }))
}

async fn look_up(client: &Client, process: Process<'_>) -> Result<WireProcess> {
    let message = GetRequest { container_id: container(process), exec_id: exec_id(process) };
    let tried = || format!("get state of {}", named(process));
    let answer = client.quick(tried, client.tasks().get(client.request(message))).await?;
    answer.process.ok_or_else(|| failure::senseless(tried(), "no process in it"))
}

pub(super) async fn list(client: &Client) -> Result<Vec<TaskStatus>> {
    let all = client.request(ListTasksRequest::default());
    let answer = client.quick(|| "list tasks".to_owned(), client.tasks().list(all)).await?;
    Ok(answer.tasks.into_iter().map(status).collect())
}

pub(super) async fn close_stdin(client: &Client, process: Process<'_>) -> Result<()> {
    let message =
        CloseIoRequest { container_id: container(process), exec_id: exec_id(process), stdin: true };
    let tried = || format!("close stdin of {}", named(process));
    client.quick(tried, client.tasks().close_io(client.request(message))).await
}

/// Sets the terminal size. A size of 0 is sent by clients that do not know it yet, and is ignored.
pub(super) async fn resize(
    client: &Client,
    process: Process<'_>,
    width: u32,
    height: u32,
) -> Result<()> {
    if width == 0 || height == 0 {
        return Ok(());
    }
    let message = ResizePtyRequest {
        container_id: container(process),
        exec_id: exec_id(process),
        width,
        height,
    };
    let tried = || format!("resize terminal of {}", named(process));
    client.quick(tried, client.tasks().resize_pty(client.request(message))).await
}

pub(super) async fn update(client: &Client, id: &str, resources: &Value) -> Result<()> {
    let message = UpdateTaskRequest {
        container_id: id.to_owned(),
        resources: Some(json_any(RESOURCES_URL, resources)),
        ..UpdateTaskRequest::default()
    };
    let tried = || format!("update resources of task {id}");
    client.slow(tried, client.tasks().update(client.request(message))).await
}

pub(super) async fn pause(client: &Client, id: &str) -> Result<()> {
    let message = PauseTaskRequest { container_id: id.to_owned() };
    let tried = || format!("freeze task {id}");
    client.quick(tried, client.tasks().pause(client.request(message))).await
}

/// Resumes a frozen task. For one that is not frozen the call fails without a specific code, so its
/// state is checked.
pub(super) async fn resume(client: &Client, id: &str) -> Result<()> {
    let message = ResumeTaskRequest { container_id: id.to_owned() };
    let tried = || format!("resume task {id}");
    let resumed = client.quick(tried, client.tasks().resume(client.request(message))).await;
    let Err(error) = resumed else { return Ok(()) };
    match found(look_up(client, Process::init(id)).await)? {
        Some(task) if matches!(task.status(), Status::Paused | Status::Pausing) => Err(error),
        Some(_) | None => Ok(()),
    }
}

pub(super) async fn pids(client: &Client, id: &str) -> Result<Vec<u32>> {
    let message = ListPidsRequest { container_id: id.to_owned() };
    let tried = || format!("list processes of task {id}");
    let answer = client.quick(tried, client.tasks().list_pids(client.request(message))).await?;
    Ok(answer.processes.into_iter().map(|process| process.pid).collect())
}

/// The paths of the streams in the form that the shim expects. If there are none the process gets
/// /dev/null; but if there is one, the shim opens both outputs (one with a terminal) in any case.
struct Streams {
    stdin: String,
    stdout: String,
    stderr: String,
}

const NOWHERE: &str = "/dev/null";

impl Streams {
    fn of(stdio: &Stdio) -> Result<Self> {
        let path =
            |path: &Option<PathBuf>| path.as_deref().map_or_else(|| Ok(String::new()), wire_path);
        let mut streams = Self {
            stdin: path(&stdio.stdin)?,
            stdout: path(&stdio.stdout)?,
            stderr: path(&stdio.stderr)?,
        };
        let any = [&streams.stdin, &streams.stdout, &streams.stderr].iter().any(|s| !s.is_empty());
        if any && !stdio.terminal {
            for output in [&mut streams.stdout, &mut streams.stderr] {
                if output.is_empty() {
                    NOWHERE.clone_into(output);
                }
            }
        }
        Ok(streams)
    }
}

/// Restores a stream's path from [`Streams`].
fn stream_path(text: String) -> Option<PathBuf> {
    (!text.is_empty() && text != NOWHERE).then(|| PathBuf::from(text))
}

fn container(process: Process<'_>) -> String {
    process.container.to_owned()
}

fn exec_id(process: Process<'_>) -> String {
    process.exec.unwrap_or_default().to_owned()
}

fn named(process: Process<'_>) -> String {
    match process.exec {
        None => format!("task {}", process.container),
        Some(exec) => format!("exec {exec} of task {}", process.container),
    }
}

/// Converts "not found" to `None`.
fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// In lists the daemon leaves `container_id` empty, and `id` is the container's id.
fn status(wire: WireProcess) -> TaskStatus {
    let state = match wire.status() {
        Status::Unknown => TaskState::Unknown,
        Status::Created => TaskState::Created,
        Status::Running | Status::Paused | Status::Pausing => TaskState::Running,
        Status::Stopped => {
            TaskState::Stopped(Exit { code: wire.exit_status, at: nanos(wire.exited_at) })
        }
    };
    TaskStatus {
        pid: if matches!(state, TaskState::Stopped(_)) { 0 } else { wire.pid },
        state,
        stdio: Stdio {
            stdin: stream_path(wire.stdin),
            stdout: stream_path(wire.stdout),
            stderr: stream_path(wire.stderr),
            terminal: wire.terminal,
        },
        id: if wire.container_id.is_empty() { wire.id } else { wire.container_id },
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn process(status: Status) -> WireProcess {
        WireProcess {
            id: "c1".into(),
            pid: 77,
            status: status.into(),
            stdout: "/run/x/out".into(),
            exit_status: 3,
            exited_at: Some(Timestamp { seconds: 2, nanos: 1 }),
            ..WireProcess::default()
        }
    }

    #[test]
    fn states_are_told_apart() {
        let state = |wire| status(process(wire)).state;
        assert_eq!(state(Status::Unknown), TaskState::Unknown);
        assert_eq!(state(Status::Created), TaskState::Created);
        assert_eq!(state(Status::Paused), TaskState::Running);
        let exit = Exit { code: 3, at: 2_000_000_001 };
        assert_eq!(state(Status::Stopped), TaskState::Stopped(exit));
    }

    #[test]
    fn an_ended_task_has_no_pid_and_keeps_its_streams() {
        let ended = status(process(Status::Stopped));
        assert_eq!((ended.id.as_str(), ended.pid), ("c1", 0));
        assert_eq!(ended.stdio.stdout, Some(PathBuf::from("/run/x/out")));
        assert_eq!(ended.stdio.stdin, None);
        assert_eq!(status(process(Status::Running)).pid, 77);
    }

    #[test]
    fn outputs_that_nobody_wants_are_thrown_away() {
        let wire = |stdio: &Stdio| {
            let streams = Streams::of(stdio).unwrap();
            (streams.stdin, streams.stdout, streams.stderr)
        };
        let texts = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(wire(&Stdio::default()), texts("", "", ""));
        let input = Stdio { stdin: Some("/in".into()), ..Stdio::default() };
        assert_eq!(wire(&input), texts("/in", NOWHERE, NOWHERE));
        let terminal = Stdio { stdout: Some("/out".into()), terminal: true, ..Stdio::default() };
        assert_eq!(wire(&terminal), texts("", "/out", ""));
        assert_eq!(stream_path(NOWHERE.to_owned()), None);
    }

    #[test]
    fn a_state_from_a_later_daemon_is_unknown() {
        let later = WireProcess { status: 99, ..process(Status::Running) };
        assert_eq!(status(later).state, TaskState::Unknown);
    }
}
