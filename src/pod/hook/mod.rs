//! Lifecycle hooks: what a container is told after its start and before its end.
//!
//! The rules are the kubelet's (`pkg/kubelet/lifecycle`): an exec hook fails by its exit code, an
//! HTTP hook only when no answer comes (whatever its status), a TCP hook is no hook. Nothing here
//! limits the time: who runs a hook drops the future when the container's time is up, and that
//! ends the hook.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Pod};

use super::handler::{
    Error, Exec, ExecError, HOOK_AGENT, HttpError, HttpGet, Report, Reporter, Subject, quoted,
};
use crate::ids::ContainerId;

/// So long that a hook's own limit is never felt.
const NO_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After the start; the container counts as waiting until it is done.
    PostStart,
    /// Before the stop signal.
    PreStop,
}

impl Moment {
    /// Reason of the event of a hook that failed.
    pub fn reason(self) -> &'static str {
        match self {
            Self::PostStart => "FailedPostStartHook",
            Self::PreStop => "FailedPreStopHook",
        }
    }

    /// Message of that event. What went wrong is for the agent's log alone: it may quote what
    /// the application says.
    pub fn message(self) -> &'static str {
        match self {
            Self::PostStart => "PostStartHook failed",
            Self::PreStop => "PreStopHook failed",
        }
    }
}

/// A hook failed; says all there is to say, in the kubelet's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HookError(String);

/// Whose hook is run, and how.
pub struct Context<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// The container that runs.
    pub container_id: &'a ContainerId,
    /// Address of the pod.
    pub pod_ip: Option<&'a str>,
    /// Runs commands.
    pub exec: &'a Arc<dyn Exec>,
    /// Takes the event `LifecycleHTTPFallback`.
    pub report: &'a Reporter,
}

/// Runs a hook to its end. Dropping the future ends it: a command is killed, a connection closed.
///
/// # Errors
/// When the hook failed; what follows from it is the caller's matter.
pub async fn run(handler: &LifecycleHandler, ctx: &Context<'_>) -> Result<(), HookError> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let Err((problem, output)) = run_command(command, ctx).await else { return Ok(()) };
        let hook = format!("Exec lifecycle hook ([{}])", command.join(" "));
        let output = quoted(&output);
        return Err(ctx.failed(&hook, &format!("{problem}, message: {output}")));
    }
    if let Some(get) = &handler.http_get {
        let hook = format!("HTTP lifecycle hook ({})", get.path.as_deref().unwrap_or_default());
        return ask(get, ctx).await.map_err(|problem| ctx.failed(&hook, &problem));
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    // The kubelet has none by TCP, whatever the field says.
    let kind = if handler.tcp_socket.is_some() { "tcpSocket" } else { "nothing" };
    Err(HookError(format!("Cannot run handler: invalid handler: {kind}")))
}

/// What went wrong with a command, and what it said.
async fn run_command(command: &[String], ctx: &Context<'_>) -> Result<(), (String, Vec<u8>)> {
    match ctx.exec.exec_sync(ctx.container_id, command, None).await {
        Ok(end) if end.code == 0 => Ok(()),
        Ok(end) => {
            let problem = format!("command '{}' exited with {}", command.join(" "), end.code);
            Err((problem, end.output))
        }
        Err(ExecError::Timeout) => {
            Err((format!("command {:?} timed out", command.join(" ")), Vec::new()))
        }
        Err(ExecError::Other(problem)) => Err((problem, Vec::new())),
    }
}

/// Any answer is a good one. Who does not speak TLS is asked again without it.
async fn ask(get: &HTTPGetAction, ctx: &Context<'_>) -> Result<(), String> {
    let subject = Subject { container: ctx.container, id: ctx.container_id, pod_ip: ctx.pod_ip };
    let get = HttpGet::new(get, &subject, HOOK_AGENT).map_err(|error: Error| error.to_string())?;
    let first = match send(get.clone()).await {
        Err(error) if error.plain_server => error,
        result => return result.map_err(|error| error.to_string()),
    };
    send(get.without_tls()).await.map_err(|_| first.to_string())?;
    let host = get.authority();
    ctx.tell(format!(
        "request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
    ));
    Ok(())
}

async fn send(get: HttpGet) -> Result<(), HttpError> {
    let answer = get.send(NO_LIMIT).await?;
    // Taken, so that the server can end in peace; how it ends is no matter.
    let _ = answer.body().await;
    Ok(())
}

impl Context<'_> {
    fn failed(&self, hook: &str, problem: &str) -> HookError {
        let meta = &self.pod.metadata;
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        HookError(format!(
            "{hook} for Container {:?} in Pod \"{}_{}({})\" failed - error: {problem}",
            self.container.name,
            part(&meta.name),
            part(&meta.namespace),
            part(&meta.uid),
        ))
    }

    fn tell(&self, message: String) {
        let uid = self.pod.metadata.uid.clone().unwrap_or_default();
        let (container, reason) = (self.container.name.clone(), "LifecycleHTTPFallback");
        (self.report)(Report { uid, container, reason, message });
    }
}

#[cfg(test)]
mod tests;
