//! `debug`: adds a container to a running pod and attaches to it.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tonic::Code;

use super::amend::Amend;
use super::connect::Client;
use super::error::Error;
use super::exec::{AttachArgs, Place};
use super::join::join;
use super::scope::{Namespace, pod_name};
use super::screen::Screen;
use super::terminal;
use crate::proto::podbay::v1::container_state::State;
use crate::proto::podbay::v1::{Phase, Pod, Selector, WatchEventType, WatchRequest};

/// Delay between two watches, if the first ended before the wait was over.
const PAUSE: Duration = Duration::from_millis(500);
/// Characters of generated names, as in Kubernetes.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// What `debug` takes.
#[derive(Debug, Clone, Args)]
pub struct DebugArgs {
    /// NAME or pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name)]
    pub pod: String,
    /// Image for the new container
    #[arg(long, value_name = "IMAGE")]
    pub image: String,
    /// Name for the new container [default: generated]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Share the process namespace of this container
    #[arg(long, value_name = "CONTAINER")]
    pub target: Option<String>,
    /// Image pull policy: Always, IfNotPresent or Never [default: as for any container]
    #[arg(long, value_name = "POLICY")]
    pub image_pull_policy: Option<String>,
    /// Environment variable; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Keep standard input open, wait until it runs and attach to it
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Allocate a terminal
    #[arg(short = 't', long, requires = "stdin")]
    pub tty: bool,
    /// Command and arguments, instead of the image's
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<String>,
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Adds an ephemeral container and, with `-i`, attaches to it until it ends.
pub async fn debug(client: &mut Client, args: &DebugArgs, screen: Screen) -> Result<(), Error> {
    let tty = args.tty && terminal::is_terminal();
    if args.tty && !tty {
        screen.note("warning: standard input and output are not a terminal: ignoring -t");
    }
    let name = args.container.clone().unwrap_or_else(|| {
        let name = made_up();
        screen.note(&format!("Defaulting debug container name to {name}."));
        name
    });
    let uid = add(client, args, &container(args, &name, tty), screen).await?;
    if !args.stdin {
        return Ok(());
    }
    let waiting =
        Waiting { namespace: args.namespace.of(client), pod: &args.pod, uid, name: &name };
    if tty {
        screen.note("If you don't see a command prompt, try pressing enter.");
    }
    let place = Place {
        pod: args.pod.clone(),
        container: Some(name.clone()),
        namespace: args.namespace.clone(),
    };
    join(client, &waiting, &AttachArgs { place, stdin: true, tty }, screen).await
}

/// A generated name: `debugger-` and five letters.
fn made_up() -> String {
    let bytes: [u8; 5] = rand::random();
    let letter = |byte: u8| char::from(LETTERS[usize::from(byte) % LETTERS.len()]);
    format!("debugger-{}", bytes.map(letter).iter().collect::<String>())
}

/// The entry for `spec.ephemeralContainers`.
fn container(args: &DebugArgs, name: &str, tty: bool) -> Value {
    let mut container = json!({ "name": name, "image": args.image });
    let mut put = |key: &str, value: Value| container[key] = value;
    if args.stdin {
        put("stdin", true.into());
    }
    if tty {
        put("tty", true.into());
    }
    if !args.command.is_empty() {
        put("command", json!(args.command));
    }
    if !args.env.is_empty() {
        let one = |(name, value): &(String, String)| json!({ "name": name, "value": value });
        put("env", args.env.iter().map(one).collect());
    }
    if let Some(target) = &args.target {
        put("targetContainerName", json!(target));
    }
    if let Some(policy) = &args.image_pull_policy {
        put("imagePullPolicy", json!(policy));
    }
    container
}

/// Adds it to the current pod; returns the pod's uid.
async fn add(
    client: &mut Client,
    args: &DebugArgs,
    container: &Value,
    screen: Screen,
) -> Result<String, Error> {
    let pod = Amend { namespace: &args.namespace, name: &args.pod, dry_run: false };
    let (pod, _) = pod.by(client, |object| with(object, container), screen).await?;
    Ok(pod.uid)
}

/// Adds a container to a pod's object.
fn with(object: &mut Value, container: &Value) -> Result<(), Error> {
    let spec = object.pointer_mut("/spec").and_then(Value::as_object_mut);
    let list = spec.map(|spec| spec.entry("ephemeralContainers").or_insert_with(|| json!([])));
    match list.and_then(Value::as_array_mut) {
        Some(list) => list.push(container.clone()),
        None => return Err(Error::Failed("the agent's object of the pod has no spec".to_owned())),
    }
    Ok(())
}

/// An awaited container.
pub(super) struct Waiting<'a> {
    /// Namespace of its pod.
    pub(super) namespace: String,
    /// Name of its pod.
    pub(super) pod: &'a str,
    /// Uid of its pod.
    pub(super) uid: String,
    /// Its own name.
    pub(super) name: &'a str,
}

impl Waiting<'_> {
    /// Waits until it was started; returns whether it still runs.
    pub(super) async fn runs(&self, client: &mut Client, screen: Screen) -> Result<bool, Error> {
        let _progress = screen.spinner(&format!("waiting for container {} to run", self.name));
        let mut told = String::new();
        loop {
            let selector = Selector {
                namespace: self.namespace.clone(),
                name: self.pod.to_owned(),
                ..Selector::default()
            };
            let request = WatchRequest { selector: Some(selector), after: None };
            let mut news = client.pods.watch(request).await?.into_inner();
            let mut seen = false;
            loop {
                let event = match news.message().await {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    // The watch was too slow: get the state again.
                    Err(status) if status.code() == Code::ResourceExhausted => break,
                    Err(status) => return Err(status.into()),
                };
                let kind = event.r#type();
                let Some(pod) = event.pod.filter(|pod| pod.uid == self.uid) else {
                    if kind == WatchEventType::Bookmark && !seen {
                        return Err(self.gone());
                    }
                    continue;
                };
                seen = true;
                if kind == WatchEventType::Deleted {
                    return Err(self.gone());
                }
                if let Some(runs) = self.look(&pod, &mut told, screen)? {
                    return Ok(runs);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn gone(&self) -> Error {
        Error::NotFound(format!("pod {}/{} is gone", self.namespace, self.pod))
    }

    /// Whether it runs; `None` before it was started. What it waits for is reported once.
    fn look(&self, pod: &Pod, told: &mut String, screen: Screen) -> Result<Option<bool>, Error> {
        let found = pod.containers.iter().find(|container| container.name == self.name);
        let state = found.and_then(|found| found.state.as_ref()?.state.as_ref());
        match state {
            Some(State::Running(_)) => return Ok(Some(true)),
            Some(State::Terminated(_)) => return Ok(Some(false)),
            Some(State::Waiting(waiting)) if !waiting.message.is_empty() => {
                let text = format!("{}: {}", waiting.reason, waiting.message);
                if *told != text {
                    screen.note(&format!("warning: container {}: {text}", self.name));
                    *told = text;
                }
            }
            Some(State::Waiting(_)) | None => {}
        }
        match pod.phase() {
            Phase::Succeeded | Phase::Failed => {
                let name = format!("{}/{}", self.namespace, self.pod);
                Err(Error::Failed(format!("pod {name} ended before {} ran", self.name)))
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_labels() {
        let name = made_up();
        let ending = name.strip_prefix("debugger-").expect("the prefix");
        assert!(ending.len() == 5 && ending.bytes().all(|byte| LETTERS.contains(&byte)), "{name}");
        assert_ne!((made_up(), made_up()), (name.clone(), name));
    }

    #[test]
    fn variables_have_a_name_and_a_value() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(variable("A=b=c"), pair("A", "b=c"));
        assert_eq!(variable("A="), pair("A", ""));
        assert!(variable("A").is_err());
    }
}
