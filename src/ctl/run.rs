//! `run`: creates a single-container pod from command line arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::apply::object;
use super::connect::Client;
use super::context::ContextArgs;
use super::debug::{Waiting, variable};
use super::error::Error;
use super::exec::{AttachArgs, Place};
use super::join::join;
use super::print::{Output, items, number, text};
use super::scope::Namespace;
use super::screen::Screen;
use super::wait::{Until, wait};
use super::{get, terminal};
use crate::config::Process;
use crate::proto::podbay::v1::{ApplyRequest, DeleteRequest, Manner, Preconditions, Selector};

/// Polling interval for the end of a container whose streams have ended.
const LOOK: Duration = Duration::from_millis(200);

/// What `run` takes.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Name of the pod and of its container
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Image of the container
    #[arg(long, value_name = "IMAGE")]
    pub image: String,
    /// Restart policy
    #[arg(long, value_name = "POLICY", default_value = "Always", value_parser = ["Always", "OnFailure", "Never"])]
    pub restart: String,
    /// Environment variable; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Container port; may be repeated
    #[arg(long, value_name = "PORT")]
    pub port: Vec<u16>,
    /// Labels of the pod [default: run=NAME]
    #[arg(short = 'l', long, value_name = "KEY=VALUE", value_parser = variable, value_delimiter = ',')]
    pub labels: Vec<(String, String)>,
    /// Annotation of the pod; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    pub annotations: Vec<(String, String)>,
    /// Image pull policy: Always, IfNotPresent or Never [default: as for any container]
    #[arg(long, value_name = "POLICY")]
    pub image_pull_policy: Option<String>,
    /// Run a privileged container
    #[arg(long)]
    pub privileged: bool,
    /// JSON to merge into the generated pod
    #[arg(long, value_name = "JSON")]
    pub overrides: Option<String>,
    /// Use the words after -- as the command instead of its arguments
    #[arg(long)]
    pub command: bool,
    /// Keep standard input open, wait until it runs and attach to it
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Allocate a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Wait until it runs and attach to it
    #[arg(long)]
    pub attach: bool,
    /// Delete the pod when the attached session ends
    #[arg(long)]
    pub rm: bool,
    /// Print less
    #[arg(short, long)]
    pub quiet: bool,
    /// Show what would happen: client checks locally, server asks the agent
    #[arg(long, value_name = "WHO", num_args = 0..=1, require_equals = true, default_missing_value = "server")]
    pub dry_run: Option<DryRun>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Output format: json, yaml, name, jsonpath=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Arguments for the container
    #[arg(value_name = "ARGUMENT", last = true)]
    pub arguments: Vec<String>,
}

/// Where a dry run happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// No dry run.
    None,
    /// In this program.
    Client,
    /// In the agent.
    Server,
}

/// The pod; a missing namespace is set by the call.
fn pod(args: &RunArgs, namespace: Option<&str>) -> Result<Value, Error> {
    let mut container = json!({"name": args.name, "image": args.image});
    let mut put = |key: &str, value: Value| container[key] = value;
    if !args.arguments.is_empty() {
        put(if args.command { "command" } else { "args" }, json!(args.arguments));
    }
    if !args.env.is_empty() {
        let one = |(name, value): &(String, String)| json!({"name": name, "value": value});
        put("env", args.env.iter().map(one).collect());
    }
    if !args.port.is_empty() {
        put("ports", args.port.iter().map(|port| json!({"containerPort": port})).collect());
    }
    if let Some(policy) = &args.image_pull_policy {
        put("imagePullPolicy", json!(policy));
    }
    if args.privileged {
        put("securityContext", json!({"privileged": true}));
    }
    if args.stdin {
        put("stdin", true.into());
        put("stdinOnce", true.into());
    }
    if args.tty {
        put("tty", true.into());
    }
    let map = |pairs: &[(String, String)]| json!(pairs.iter().cloned().collect::<BTreeMap<_, _>>());
    let labels = if args.labels.is_empty() { json!({"run": args.name}) } else { map(&args.labels) };
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": args.name, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": args.restart},
    });
    if let Some(namespace) = namespace {
        pod["metadata"]["namespace"] = json!(namespace);
    }
    if !args.annotations.is_empty() {
        pod["metadata"]["annotations"] = map(&args.annotations);
    }
    if let Some(overrides) = &args.overrides {
        let overrides: Value = serde_json::from_str(overrides)
            .map_err(|error| Error::Misuse(format!("--overrides: {error}")))?;
        json_patch::merge(&mut pod, &overrides);
    }
    Ok(pod)
}

/// `--dry-run=client`: prints the pod that would be sent.
pub fn show(agent: &ContextArgs, args: &RunArgs, screen: Screen) -> Result<(), Error> {
    let namespace = args.namespace.namespace.clone();
    let namespace = namespace.or_else(|| agent.resolve(&Process).ok().and_then(|it| it.namespace));
    let pod = pod(args, namespace.as_deref())?;
    match &args.output {
        Some(output) if !output.is_table() => {
            screen.print(&output.objects(&[pod], false).map_err(Error::Misuse)?)
        }
        _ => screen.print(&format!("pod/{} created (dry run)\n", args.name)),
    }
}

/// Creates the pod and attaches to it if requested; returns the exit code.
pub async fn run(client: &mut Client, args: &RunArgs, screen: Screen) -> Result<u8, Error> {
    let attach = args.attach || args.stdin;
    if args.rm && !attach {
        return Err(Error::Misuse("--rm should only be used for attached containers".to_owned()));
    }
    if args.tty && !args.stdin {
        return Err(Error::Misuse(
            "-i/--stdin is required for containers with -t/--tty".to_owned(),
        ));
    }
    let dry_run = args.dry_run == Some(DryRun::Server);
    let namespace = args.namespace.of(client);
    let request = ApplyRequest {
        manifest: pod(args, Some(&namespace))?.to_string(),
        manner: Manner::Create.into(),
        dry_run,
        namespace: namespace.clone(),
        ..ApplyRequest::default()
    };
    let answer = client.pods.apply(request).await?.into_inner();
    answer.warnings.iter().for_each(|warning| screen.note(&format!("warning: {warning}")));
    let made = answer.pods.into_iter().find_map(|applied| applied.pod).unwrap_or_default();
    match &args.output {
        Some(output) if !output.is_table() => {
            screen.print(&output.objects(&[object(&made)?], false).map_err(Error::Misuse)?)?;
        }
        _ if attach && !dry_run => {}
        _ => {
            let end = if dry_run { " (dry run)" } else { "" };
            screen.print(&format!("pod/{} created{end}\n", args.name))?;
        }
    }
    if !attach || dry_run {
        return Ok(0);
    }
    let waiting = Waiting { namespace, pod: &args.name, uid: made.uid.clone(), name: &args.name };
    if args.tty && terminal::is_terminal() && !args.quiet {
        screen.note("If you don't see a command prompt, try pressing enter.");
    }
    let place = Place {
        pod: args.name.clone(),
        container: Some(args.name.clone()),
        namespace: args.namespace.clone(),
    };
    let session = AttachArgs { place, stdin: args.stdin, tty: args.tty };
    let joined = join(client, &waiting, &session, screen).await;
    let code = match &joined {
        Ok(()) if args.restart != "Always" => code(client, args).await,
        Ok(()) => Ok(0),
        Err(_) => Ok(1),
    };
    if args.rm {
        remove(client, args, &waiting, screen).await?;
    }
    joined.and(code)
}

/// The exit code of the container, which usually ends with its streams.
async fn code(client: &mut Client, args: &RunArgs) -> Result<u8, Error> {
    loop {
        let pod = get::pod(client, &args.namespace, &args.name).await?.unwrap_or_default();
        let object = object(&pod)?;
        let statuses = items(&object, "/status/containerStatuses");
        let own = statuses.iter().find(|status| text(status, "/name") == args.name);
        match own.and_then(|status| status.pointer("/state/terminated")) {
            Some(end) => return Ok(u8::try_from(number(end, "/exitCode")).unwrap_or(255)),
            // Closed streams do not mean that it has ended.
            None if args.restart == "OnFailure" => return Ok(0),
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn remove(
    client: &mut Client,
    args: &RunArgs,
    made: &Waiting<'_>,
    screen: Screen,
) -> Result<(), Error> {
    let selector = Selector {
        namespace: made.namespace.clone(),
        name: args.name.clone(),
        ..Selector::default()
    };
    let request = DeleteRequest {
        selector: Some(selector),
        preconditions: Some(Preconditions { uid: made.uid.clone(), ..Preconditions::default() }),
        ..DeleteRequest::default()
    };
    client.pods.delete(request).await?;
    if !args.quiet {
        screen.print(&format!("pod {:?} deleted\n", args.name))?;
    }
    let gone = BTreeMap::from([((made.namespace.clone(), args.name.clone()), made.uid.clone())]);
    wait(client, gone, Until::Gone, None, screen).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn made(line: &[&str]) -> Value {
        let words = ["podbay", "run", "web", "--image=nginx"].iter().chain(line);
        let Command::Run(args) = Cli::try_parse_from(words).expect("parse").command else {
            panic!("not run")
        };
        pod(&args, Some("ns")).expect("pod")
    }

    #[test]
    fn words_become_a_pod() {
        assert_eq!(
            made(&[]),
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "web", "namespace": "ns", "labels": {"run": "web"}},
                "spec": {"containers": [{"name": "web", "image": "nginx"}], "restartPolicy": "Always"}})
        );
        let full = made(&[
            "-it",
            "--restart=Never",
            "--env=A=b=c",
            "--port=80",
            "--labels=a=1,b=2",
            "--command",
            "--overrides={\"spec\":{\"hostNetwork\":true,\"restartPolicy\":null}}",
            "--",
            "sh",
            "-c",
            "x",
        ]);
        assert_eq!(full["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        assert_eq!(full["spec"]["hostNetwork"], true);
        assert_eq!(full["spec"].get("restartPolicy"), None);
        let container = &full["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["sh", "-c", "x"]));
        assert_eq!(container["env"], json!([{"name": "A", "value": "b=c"}]));
        assert_eq!(container["ports"], json!([{"containerPort": 80}]));
        assert_eq!((&container["stdin"], &container["tty"]), (&json!(true), &json!(true)));
        assert_eq!(made(&["--", "a"])["spec"]["containers"][0]["args"], json!(["a"]));
    }
}
