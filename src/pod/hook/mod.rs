//! Lifecycle hooks: actions after a container's start and before its end.
//!
//! The rules are the kubelet's (`pkg/kubelet/lifecycle`): an exec hook fails by its exit code, an
//! HTTP hook only if there is no response (with any status), and TCP hooks are not supported. There
//! is no time limit here: the caller drops the future when the container's time is up, which ends
//! the hook.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Pod};

use super::handler::{
    Error, Exec, ExecError, HOOK_AGENT, HttpError, HttpGet, Report, Reporter, Subject, quoted,
};
use crate::ids::ContainerId;

/// Effectively no limit.
const NO_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After the start; the container counts as waiting until the hook is done.
    PostStart,
    /// Before the stop signal.
    PreStop,
}

impl Moment {
    /// Reason of the event for a failed hook.
    pub fn reason(self) -> &'static str {
        match self {
            Self::PostStart => "FailedPostStartHook",
            Self::PreStop => "FailedPreStopHook",
        }
    }

    /// Message of that event. Details are only in the agent's log, since they may quote output of
    /// the application.
    pub fn message(self) -> &'static str {
        match self {
            Self::PostStart => "PostStartHook failed",
            Self::PreStop => "PreStopHook failed",
        }
    }
}

/// A failed hook, with the kubelet's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HookError(String);

/// The container of a hook, and what is needed to run it.
pub struct Context<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Id of the running container.
    pub container_id: &'a ContainerId,
    /// Address of the pod.
    pub pod_ip: Option<&'a str>,
    /// Runs commands.
    pub exec: &'a Arc<dyn Exec>,
    /// Receives the event `LifecycleHTTPFallback`.
    pub report: &'a Reporter,
}

/// Runs a hook to its end. Dropping the future ends it: a command is killed, a connection closed.
///
/// # Errors
/// When the hook failed; the caller handles the consequences.
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
    // The kubelet does not implement TCP hooks, although the field exists.
    let kind = if handler.tcp_socket.is_some() { "tcpSocket" } else { "nothing" };
    Err(HookError(format!("Cannot run handler: invalid handler: {kind}")))
}

/// Runs a command; an error has the problem and the output.
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

/// Any response is success. If the server does not speak TLS, the request is repeated without it.
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
    // Read so that the server can finish normally; the result does not matter.
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
