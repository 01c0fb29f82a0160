//! Commands in containers.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Container;
use tokio::time::timeout;

use super::{Error, MOST_READ, Outcome};
use crate::ids::ContainerId;
use crate::pod::translate::expand;

/// Additional time for killing a command at its limit and reading its output; after that the
/// runtime is considered hung.
const LATE: Duration = Duration::from_secs(10);

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecEnd {
    /// Exit code.
    pub code: i32,
    /// Output: stdout, then stderr.
    pub output: Vec<u8>,
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It exceeded the time limit and was killed.
    #[error("the command did not end in time")]
    Timeout,
    /// It could not be run.
    #[error("{0}")]
    Other(String),
}

/// Runs commands in containers. Dropping the future kills the command.
#[async_trait]
pub trait Exec: Send + Sync + 'static {
    /// Runs a command to its end, or until `limit`.
    async fn exec_sync(
        &self,
        container: &ContainerId,
        command: &[String],
        limit: Option<Duration>,
    ) -> Result<ExecEnd, ExecError>;
}

/// Runs a command: success is exit code 0 within the limit.
pub(super) async fn probe(
    exec: &dyn Exec,
    id: &ContainerId,
    command: &[String],
    limit: Duration,
) -> Result<Outcome, Error> {
    let run = timeout(limit + LATE, exec.exec_sync(id, command, Some(limit))).await;
    match run {
        Ok(Ok(end)) if end.code == 0 => Ok(Outcome::Success),
        Ok(Ok(end)) => Ok(Outcome::Failure(text(&end.output))),
        Ok(Err(ExecError::Timeout)) => {
            Ok(Outcome::Failure(format!("command {:?} timed out", command.join(" "))))
        }
        Ok(Err(error)) => Err(Error::Exec(error)),
        Err(_) => Err(Error::Exec(ExecError::Other("the runtime does not answer".to_owned()))),
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(&output[..output.len().min(MOST_READ)]).into_owned()
}

/// Output, quoted for a message.
pub(crate) fn quoted(output: &[u8]) -> String {
    format!("{:?}", text(output))
}

/// Replaces `$(NAME)` by the literal values of a container's variables. Variables with another
/// source are empty, unknown ones are left unchanged, `$$` becomes `$`.
pub(crate) fn expand_static(command: &[String], container: &Container) -> Vec<String> {
    let value = |name: &str| {
        let mut env = container.env.iter().flatten().rev();
        env.find(|var| var.name == name).map(|var| var.value.clone().unwrap_or_default())
    };
    command.iter().map(|word| expand(word, value)).collect()
}
