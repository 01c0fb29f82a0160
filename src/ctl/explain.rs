//! `explain` and `restart`: what a pod is waiting for, and restarting a container.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::apply::object;
use super::connect::Client;
use super::error::Error;
use super::events::{moment, stamp};
use super::print::pods::status_word;
use super::print::{Output, age, items, number, safe, text};
use super::scope::{Kind, Namespace, pod_name, resources};
use super::screen::Screen;
use crate::proto::podbay::v1::{ExplainRequest, RestartContainerRequest, Wait};

/// What `explain` takes.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// NAME, pod NAME or pod/NAME
    #[arg(value_name = "POD", required = true)]
    pub words: Vec<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Output format: json, yaml, jsonpath=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// What `restart` takes.
#[derive(Debug, Clone, Args)]
pub struct RestartArgs {
    /// NAME or pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name)]
    pub pod: String,
    /// Container; optional if there is only one
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
}

/// Shows what a pod is waiting for.
pub async fn explain(client: &mut Client, args: &ExplainArgs, screen: Screen) -> Result<(), Error> {
    let one = || Error::Misuse("explain takes one pod: NAME, pod NAME or pod/NAME".to_owned());
    let name = match args.words.as_slice() {
        [name] if !name.contains('/') && Kind::parse(name).is_none() => name.clone(),
        words => match resources(words)? {
            (Kind::Pod, names) => <[String; 1]>::try_from(names).map_err(|_| one())?.concat(),
            _ => return Err(one()),
        },
    };
    let request = ExplainRequest { namespace: args.namespace.of(client), name };
    let answer = client.pods.explain(request).await?.into_inner();
    let pod = answer.pod.unwrap_or_default();
    let status = status_word(&object(&pod)?);
    let output = args.output.clone().unwrap_or_default();
    if !output.is_table() {
        let waits: Vec<_> = answer.waits.iter().map(wait).collect();
        let whole = json!({"kind": "Explanation", "metadata": {"name": pod.name,
            "namespace": pod.namespace, "uid": pod.uid}, "status": status, "waits": waits});
        return screen.print(&output.objects(&[whole], false).map_err(Error::Misuse)?);
    }
    let name = format!("{}/{}", pod.namespace, pod.name);
    screen.print(&story(&name, &status, &answer.waits, OffsetDateTime::now_utc()))
}

fn wait(wait: &Wait) -> Value {
    json!({
        "container": wait.container, "step": wait.step, "since": stamp(&wait.since),
        "lastError": wait.last_error, "nextTry": stamp(&wait.next_try), "unblocks": wait.unblocks,
    })
}

fn story(name: &str, status: &str, waits: &[Wait], now: OffsetDateTime) -> String {
    let mut text = format!("pod {name} is {status}");
    if waits.is_empty() {
        text.push_str(" and waits for nothing\n");
    } else {
        text.push('\n');
    }
    for wait in waits {
        let who = match wait.container.as_str() {
            "" => "the pod".to_owned(),
            container => format!("container {container}"),
        };
        let since = moment(&wait.since).map(|then| format!(", for {}", age::ago(then, now)));
        let _ = writeln!(text, "  {who}: {}{}", wait.step, since.unwrap_or_default());
        let mut tell = |label: &str, value: &str| {
            if !value.is_empty() {
                let _ =
                    writeln!(text, "    {label}: {}", value.trim_end().replace('\n', "\n      "));
            }
        };
        tell("last error", &wait.last_error);
        if let Some(next) = moment(&wait.next_try) {
            let left = (next - now).whole_seconds();
            let when = if left > 0 { format!("in {}", age::human(left)) } else { "now".to_owned() };
            tell("next try", &when);
        }
        tell("goes on when", &wait.unblocks);
    }
    safe(&text)
}

/// Ends a container, which then restarts.
pub async fn restart(client: &mut Client, args: &RestartArgs, screen: Screen) -> Result<(), Error> {
    let namespace = args.namespace.of(client);
    let pod = super::get::pod(client, &args.namespace, &args.pod).await?.unwrap_or_default();
    let pod = object(&pod)?;
    let container = match &args.container {
        Some(container) => container.clone(),
        None => only_container(&pod)?,
    };
    if let Some(why) = over(&pod, &container) {
        return Err(Error::Failed(why));
    }
    let request =
        RestartContainerRequest { namespace, name: args.pod.clone(), container: container.clone() };
    client.pods.restart_container(request).await?;
    screen.print(&format!("container {container} of pod/{} restarts\n", args.pod))
}

/// Why a restart would have no effect: an init container that is done runs again only when the pod
/// is restarted.
fn over(pod: &Value, container: &str) -> Option<String> {
    let of = |list: &str| {
        let mut list = items(pod, list).iter();
        list.find(|found| text(found, "/name") == container)
    };
    let is_sidecar = text(of("/spec/initContainers")?, "/restartPolicy") == "Always";
    let end = of("/status/initContainerStatuses")?.pointer("/state/terminated")?;
    (!is_sidecar && number(end, "/exitCode") == 0).then(|| {
        format!(
            "init container {container} has ended with exit code 0: it is not restarted, and runs \
             again only if the pod is recreated"
        )
    })
}

fn only_container(object: &Value) -> Result<String, Error> {
    let containers = items(object, "/spec/containers");
    let names: Vec<_> = containers.iter().map(|container| text(container, "/name")).collect();
    match names.as_slice() {
        [one] => Ok((*one).to_owned()),
        all => Err(Error::Misuse(format!("-c: must be one of the containers {}", all.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_container_that_is_done_is_not_restarted() {
        let pod = json!({
            "spec": {"containers": [{"name": "app"}], "initContainers": [
                {"name": "done"}, {"name": "failed"}, {"name": "side", "restartPolicy": "Always"},
            ]},
            "status": {"initContainerStatuses": [
                {"name": "done", "state": {"terminated": {"exitCode": 0}}},
                {"name": "failed", "state": {"terminated": {"exitCode": 1}}},
                {"name": "side", "state": {"terminated": {"exitCode": 0}}},
            ]},
        });
        assert!(over(&pod, "done").expect("done").contains("init container done has ended"));
        for other in ["app", "failed", "side", "none"] {
            assert_eq!(over(&pod, other), None, "{other}");
        }
    }

    #[test]
    fn what_a_pod_waits_for_in_words() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let now = OffsetDateTime::from_unix_timestamp(1_000_000).expect("time");
        let waits = [
            Wait { step: "start the containers".to_owned(), since: at(999_910), ..Wait::default() },
            Wait {
                container: "app".to_owned(),
                step: "wait for back-off".to_owned(),
                since: at(999_990),
                last_error: "exit code 1:\nno such file\u{1b}[1m".to_owned(),
                next_try: at(1_000_030),
                unblocks: "nothing but time".to_owned(),
            },
        ];
        insta::assert_snapshot!(story("default/web", "CrashLoopBackOff", &waits, now));
        assert_eq!(story("a/b", "Running", &[], now), "pod a/b is Running and waits for nothing\n");
    }
}
