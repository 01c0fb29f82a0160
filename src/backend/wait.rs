//! Waiting for a process to end, over restarts of the daemon.

use std::time::Duration;

use super::{ErrorKind, Exit, Process, Runtime, TaskState};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Ends when the process has ended, with its exit as the shim keeps it, or with `None` when
/// nothing below knows the process any more (its shim died).
///
/// A daemon that goes away only makes this wait longer: what ended meanwhile is read from the
/// shim's kept state. Cancel-safe.
pub async fn wait_for_end(runtime: &dyn Runtime, process: Process<'_>) -> Option<Exit> {
    let mut pause = FIRST_PAUSE;
    loop {
        match runtime.wait(process).await {
            Ok(exit) => return Some(exit),
            Err(error) if error.kind == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::debug!(id = process.container, %error, "wait was cut; looking again");
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
                tracing::debug!(id = process.container, %error, "cannot look at the task");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
