//! Waits for the end of a process across restarts of the daemon, and for the end of one whose shim
//! hangs.

use std::time::Duration;

use super::{ErrorKind, Exit, Host, Process, Result, Runtime, TaskState};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Waits until the process has ended. Returns its exit from the shim, or `None` when the process is
/// no longer known because its shim died.
///
/// If the daemon goes down the wait only takes longer: the shim keeps exits that occur meanwhile.
/// Cancel-safe.
pub async fn wait_for_end(runtime: &dyn Runtime, process: Process<'_>) -> Option<Exit> {
    let mut pause = FIRST_PAUSE;
    loop {
        match runtime.wait(process).await {
            Ok(exit) => return Some(exit),
            Err(error) if error.kind == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::debug!(id = process.container, %error,
                    "wait was interrupted, checking the task again");
            }
        }
        match runtime.task(process).await {
            Ok(None) => return None,
            Ok(Some(status)) => {
                if let TaskState::Stopped(exit) = status.state {
                    return Some(exit);
                }
            }
            Err(error) => {
                tracing::debug!(id = process.container, %error, "cannot check the task");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// How long a shim may take to report an exit. Together with the time to answer a direct query, ten
/// seconds.
const TELL_LIMIT: Duration = Duration::from_secs(6);
const ASK_LIMIT: Duration = Duration::from_secs(3);
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Delay between two queries to a shim that has not reported an exit.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// What is known of an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Reported by the shim when queried; `None` when the task is gone.
    Told(Option<Exit>),
    /// The shim does not answer.
    Untold,
}

/// Completes some time after a first process has ended on the host, if its shim has not reported
/// that by then; `pid` and `start_time` identify it. A shim that is busy with other work (`is_busy`)
/// is not taken for one that hangs. Fails if the process cannot be watched. Cancel-safe.
pub async fn end_beside_shim(
    runtime: &dyn Runtime,
    host: &dyn Host,
    container: &str,
    (pid, start_time): (u32, u64),
    is_busy: impl Fn() -> bool + Send,
) -> Result<End> {
    host.process_end(pid, start_time).await?;
    tokio::time::sleep(TELL_LIMIT).await;
    loop {
        let was_busy = is_busy();
        match ask_for_end(runtime, Process::init(container)).await {
            Some(End::Untold) if was_busy || is_busy() => {}
            Some(end) => return Ok(end),
            None => {}
        }
        tokio::time::sleep(ASK_PAUSE).await;
    }
}

/// Whether the shim of a task does not answer although the daemon does.
pub async fn shim_hangs(runtime: &dyn Runtime, container: &str) -> bool {
    ask_for_end(runtime, Process::init(container)).await == Some(End::Untold)
}

/// Queries the shim. `None` when nothing is certain: if the daemon is down, nothing is known about
/// the shim.
async fn ask_for_end(runtime: &dyn Runtime, process: Process<'_>) -> Option<End> {
    match tokio::time::timeout(ASK_LIMIT, runtime.task(process)).await {
        Ok(Ok(None)) => return Some(End::Told(None)),
        Ok(Ok(Some(task))) => match task.state {
            TaskState::Stopped(exit) => return Some(End::Told(Some(exit))),
            TaskState::Created | TaskState::Running => return None,
            TaskState::Unknown => {}
        },
        Ok(Err(error)) if error.kind == ErrorKind::NotFound => return Some(End::Told(None)),
        Ok(Err(_)) | Err(_) => {}
    }
    let answers = tokio::time::timeout(PROBE_LIMIT, runtime.probe()).await;
    matches!(answers, Ok(Ok(_))).then_some(End::Untold)
}
