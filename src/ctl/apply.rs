//! `create`, `apply` and `replace`, which send manifests to the agent unchanged.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::amend::has_changed;
use super::connect::Client;
use super::error::Error;
use super::manifest::{self, Files};
use super::print::Output;
use super::scope::{Namespace, duration, wire_duration};
use super::screen::Screen;
use super::wait::{Until, wait};
use crate::proto::podbay::v1::{
    AppliedPod, ApplyRequest, ApplyResponse, Change, DeleteRequest, Manner, ObjectName, Pod,
    Preconditions, Selector,
};

/// What `create`, `apply` and `replace` take.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// The manifests.
    #[command(flatten)]
    pub files: Files,
    /// The namespace of pods that name none.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Show what would happen without changing anything
    #[arg(long)]
    pub dry_run: bool,
    /// Warn about unknown and unsupported fields instead of refusing them
    #[arg(long)]
    pub lenient: bool,
    /// Only if the pod has this uid
    #[arg(long, value_name = "UID")]
    pub uid: Option<String>,
    /// Only if the pod has this resource version
    #[arg(long, value_name = "VERSION")]
    pub resource_version: Option<String>,
    /// How to handle unknown fields: strict (refuse), warn, ignore
    #[arg(
        long, value_name = "HOW", num_args = 0..=1, require_equals = true,
        default_missing_value = "strict", ignore_case = true
    )]
    pub validate: Option<Validate>,
    /// Those of kubectl that change nothing here.
    #[command(flatten)]
    pub idle: Idle,
    /// Wait until the pods are ready or have succeeded
    #[arg(long)]
    pub wait: bool,
    /// Maximum time to wait, e.g. 90s or 5m; 0 for no limit
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration)]
    pub timeout: Duration,
    /// Output format: json, yaml, name, jsonpath=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// What about unknown fields of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Validate {
    /// Refuse them.
    #[value(alias = "true")]
    Strict,
    /// Warn about them.
    Warn,
    /// Ignore them.
    #[value(alias = "false")]
    Ignore,
}

/// What kubectl takes and podbay has no use for: there is one writer, and it is the server.
#[derive(Debug, Clone, Args)]
pub struct Idle {
    /// No effect: the agent always does it
    #[arg(long, hide = true)]
    pub server_side: bool,
    /// No effect: fields have no owners
    #[arg(long, hide = true)]
    pub force_conflicts: bool,
    /// No effect: fields have no owners
    #[arg(long, hide = true, value_name = "NAME")]
    pub field_manager: Option<String>,
    /// No effect: the manifest always wins
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    pub overwrite: Option<String>,
    /// No effect: the agent keeps the applied manifest
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    pub save_config: Option<String>,
}

/// What `apply` and `replace` take besides.
#[derive(Debug, Clone, Args)]
pub struct ChangeArgs {
    /// As of create.
    #[command(flatten)]
    pub apply: ApplyArgs,
    /// Delete and recreate the pod: replace always, apply if it cannot be changed in place
    #[arg(long)]
    pub force: bool,
    /// Grace period for deleting the old pod in seconds; -1 for the pod's own
    #[arg(long, value_name = "SECONDS", default_value_t = -1, allow_negative_numbers = true)]
    pub grace_period: i64,
    /// No effect: pods have no dependents
    #[arg(long, hide = true, value_name = "HOW", num_args = 0..=1, require_equals = true)]
    pub cascade: Option<String>,
}

/// `apply` and `replace`.
pub async fn change(
    client: &mut Client,
    args: &ChangeArgs,
    manner: Manner,
    screen: Screen,
) -> Result<(), Error> {
    let old = Old { force: args.force, grace: grace(args.grace_period)? };
    apply(client, &args.apply, manner, &old, screen).await
}

/// What to do with a pod that cannot be changed in place.
#[derive(Debug, Clone, Default)]
pub struct Old {
    force: bool,
    grace: Option<Duration>,
}

/// A grace period as typed; `None` for the pod's own.
pub fn grace(seconds: i64) -> Result<Option<Duration>, Error> {
    match seconds {
        -1 => Ok(None),
        seconds => u64::try_from(seconds)
            .map(|seconds| Some(Duration::from_secs(seconds)))
            .map_err(|_| Error::Misuse("--grace-period: must be seconds, or -1".to_owned())),
    }
}

/// Sends the manifests, reports the result for each pod, and waits for them if requested.
pub async fn apply(
    client: &mut Client,
    args: &ApplyArgs,
    manner: Manner,
    old: &Old,
    screen: Screen,
) -> Result<(), Error> {
    let preconditions = Preconditions {
        uid: args.uid.clone().unwrap_or_default(),
        resource_version: args.resource_version.clone().unwrap_or_default(),
    };
    let given = args.files.read_all().await?;
    let request = ApplyRequest {
        manifest: given.text.clone(),
        manner: manner.into(),
        preconditions: Some(preconditions),
        dry_run: args.dry_run,
        lenient: args.lenient || matches!(args.validate, Some(Validate::Warn | Validate::Ignore)),
        namespace: args.namespace.of(client),
        grace: old.grace.map(wire_duration),
        any_version: false,
    };
    let anew = old.force && manner == Manner::Replace && !args.dry_run;
    let answer = if anew {
        recreate(client, request, old, args.timeout, screen).await
    } else {
        send(client, request, old.force).await
    };
    let places = |message: &str| given.places(message).iter().for_each(|place| screen.note(place));
    let mut answer = answer.inspect_err(|error| places(&error.to_string()))?;
    if args.validate == Some(Validate::Ignore) {
        answer.warnings.clear();
    }
    answer.warnings.iter().for_each(|warning| screen.note(&format!("warning: {warning}")));
    places(&answer.warnings.join("\n"));
    match &args.output {
        Some(output) if !output.is_table() => {
            let pods = answer.pods.iter().filter_map(|applied| applied.pod.as_ref());
            let pods = pods.map(object).collect::<Result<Vec<_>, _>>()?;
            screen.print(&output.objects(&pods, false).map_err(Error::Misuse)?)?;
        }
        _ => {
            screen.print(&lines(
                &answer,
                |change| match change {
                    _ if anew => "replaced",
                    _ if args.idle.server_side => "serverside-applied",
                    change => word(change),
                },
                args.dry_run,
            ))?;
        }
    }
    if args.wait && !args.dry_run {
        until_ready(client, answer.pods, args.timeout, screen).await?;
    }
    Ok(())
}

async fn until_ready(
    client: &mut Client,
    applied: Vec<AppliedPod>,
    timeout: Duration,
    screen: Screen,
) -> Result<(), Error> {
    let key = |pod: Pod, change| {
        // The uid of the new pod is not known yet.
        let uid = if change == Change::Replaced { String::new() } else { pod.uid };
        ((pod.namespace, pod.name), uid)
    };
    let pods = applied.into_iter().filter_map(|applied| {
        let change = applied.change();
        applied.pod.map(|pod| key(pod, change))
    });
    let limit = (!timeout.is_zero()).then_some(timeout);
    wait(client, pods.collect(), Until::Ready, limit, screen).await
}

/// Applies; with force, a pod that cannot be changed in place is recreated.
async fn send(
    client: &mut Client,
    mut request: ApplyRequest,
    force: bool,
) -> Result<ApplyResponse, Error> {
    match client.pods.apply(request.clone()).await {
        Err(status) if force && immutable(&status) => {
            request.manner = Manner::Replace.into();
            request.any_version = true;
            Ok(client.pods.apply(request).await?.into_inner())
        }
        answer => Ok(answer?.into_inner()),
    }
}

fn immutable(status: &tonic::Status) -> bool {
    let details = status.get_error_details();
    details.error_info().is_some_and(|info| info.reason == "FIELD_IMMUTABLE")
}

/// Deletes the pods in a manifest and creates them again; nothing is deleted if the agent would
/// refuse the manifest.
async fn recreate(
    client: &mut Client,
    mut request: ApplyRequest,
    old: &Old,
    timeout: Duration,
    screen: Screen,
) -> Result<ApplyResponse, Error> {
    match client.pods.apply(ApplyRequest { dry_run: true, ..request.clone() }).await {
        // A missing pod, or a manifest of an earlier one, does not prevent creating a new one.
        // Preconditions of the caller are checked again by the deletion.
        Err(status) if status.code() != Code::NotFound && !has_changed(&status) => {
            return Err(status.into());
        }
        _ => {}
    }
    let mut ending = BTreeMap::new();
    for (own, name) in manifest::pods(&request.manifest)? {
        let namespace = if own.is_empty() { request.namespace.clone() } else { own };
        let selector = Selector { namespace, name, ..Selector::default() };
        let delete = DeleteRequest {
            selector: Some(selector),
            grace: old.grace.map(wire_duration),
            force: old.grace == Some(Duration::ZERO),
            preconditions: request.preconditions.clone(),
            ..DeleteRequest::default()
        };
        match client.pods.delete(delete).await {
            Err(status) if status.code() == Code::NotFound => {}
            answer => {
                for pod in answer?.into_inner().pods {
                    screen.print(&format!("pod {:?} deleted\n", pod.name))?;
                    ending.insert((pod.namespace, pod.name), pod.uid);
                }
            }
        }
    }
    let limit = (!timeout.is_zero()).then_some(timeout);
    wait(client, ending, Until::Gone, limit, screen).await?;
    // The pods are gone; stored objects are still there.
    request.manner = Manner::Apply.into();
    request.preconditions = None;
    Ok(client.pods.apply(request).await?.into_inner())
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Created => "created",
        Change::Configured => "configured",
        Change::Replaced => "replaced",
        Change::Unchanged | Change::Unspecified => "unchanged",
    }
}

/// A line for each object: config maps and secrets, then pods.
fn lines(answer: &ApplyResponse, word: impl Fn(Change) -> &'static str, dry_run: bool) -> String {
    let how = if dry_run { " (dry run)" } else { "" };
    let objects = answer.objects.iter().map(|applied| {
        let ObjectName { kind, name, .. } = applied.name.clone().unwrap_or_default();
        (kind.to_lowercase(), name, applied.change())
    });
    let pods = answer.pods.iter().map(|applied| {
        let name = applied.pod.as_ref().map(|pod| pod.name.clone()).unwrap_or_default();
        ("pod".to_owned(), name, applied.change())
    });
    let all = objects.chain(pods);
    all.map(|(kind, name, change)| format!("{kind}/{name} {}{how}\n", word(change))).collect()
}

/// The Kubernetes object of a pod.
pub fn object(pod: &Pod) -> Result<Value, Error> {
    serde_json::from_str(&pod.object).map_err(|error| {
        Error::Failed(format!("the agent's object of {} is not valid JSON: {error}", pod.name))
    })
}
