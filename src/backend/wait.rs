//! Waits for the end of a process across restarts of the daemon.

use std::time::Duration;

use super::{ErrorKind, Exit, Process, Runtime, TaskState};

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
