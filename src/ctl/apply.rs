//! `create`, `apply` and `replace`: manifests go to the agent as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::connect::Client;
use super::error::Error;
use super::manifest::Files;
use super::print::Output;
use super::scope::{Namespace, duration, wire_duration};
use super::screen::Screen;
use super::wait::{Until, wait};
use crate::proto::podbay::v1::{AppliedPod, ApplyRequest, Change, Manner, Pod, Preconditions};

/// What `create`, `apply` and `replace` take.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// The manifests.
    #[command(flatten)]
    pub files: Files,
    /// The namespace of pods that name none.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Say what would happen, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Warn of unknown and unsupported fields in place of refusing them
    #[arg(long)]
    pub lenient: bool,
    /// Do it only to the pod that has this uid
    #[arg(long, value_name = "UID")]
    pub uid: Option<String>,
    /// Do it only to the pod that has this resource version
    #[arg(long, value_name = "VERSION")]
    pub resource_version: Option<String>,
    /// Wait until the pods are ready, or have ended well
    #[arg(long)]
    pub wait: bool,
    /// Longest wait, e.g. 90s or 5m; 0 for ever
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration)]
    pub timeout: Duration,
    /// What to print in place of what was done: json, yaml, name, jsonpath=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// What `replace` takes besides.
#[derive(Debug, Clone, Args)]
pub struct ReplaceArgs {
    /// As of apply.
    #[command(flatten)]
    pub apply: ApplyArgs,
    /// Grace period of the old pod in seconds [default: its own]
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u64>,
}

/// Sends the manifests, tells what became of each pod, waits for them when that is wanted.
pub async fn apply(
    client: &mut Client,
    args: &ApplyArgs,
    manner: Manner,
    grace: Option<u64>,
    screen: Screen,
) -> Result<(), Error> {
    let preconditions = Preconditions {
        uid: args.uid.clone().unwrap_or_default(),
        resource_version: args.resource_version.clone().unwrap_or_default(),
    };
    let request = ApplyRequest {
        manifest: args.files.read()?,
        manner: manner.into(),
        preconditions: Some(preconditions),
        dry_run: args.dry_run,
        lenient: args.lenient,
        namespace: args.namespace.of(client),
        grace: grace.map(Duration::from_secs).map(wire_duration),
    };
    let answer = client.pods.apply(request).await?.into_inner();
    answer.warnings.iter().for_each(|warning| screen.note(&format!("warning: {warning}")));
    match &args.output {
        Some(output) if !output.is_table() => {
            let pods = answer.pods.iter().filter_map(|applied| applied.pod.as_ref());
            let pods = pods.map(object).collect::<Result<Vec<_>, _>>()?;
            screen.print(&output.objects(&pods, false).map_err(Error::Misuse)?)?;
        }
        _ => {
            let line = |applied| told(applied, args.dry_run);
            screen.print(&answer.pods.iter().map(line).collect::<String>())?;
        }
    }
    if !args.wait || args.dry_run {
        return Ok(());
    }
    let key = |pod: Pod, change| {
        // The uid of the one that follows is not known yet.
        let uid = if change == Change::Replaced { String::new() } else { pod.uid };
        ((pod.namespace, pod.name), uid)
    };
    let pods = answer.pods.into_iter().filter_map(|applied| {
        let change = applied.change();
        applied.pod.map(|pod| key(pod, change))
    });
    let pods: BTreeMap<_, _> = pods.collect();
    let limit = (!args.timeout.is_zero()).then_some(args.timeout);
    wait(client, pods, Until::Ready, limit, screen).await
}

fn told(applied: &AppliedPod, dry_run: bool) -> String {
    let name = applied.pod.as_ref().map(|pod| pod.name.as_str()).unwrap_or_default();
    let change = match applied.change() {
        Change::Created => "created",
        Change::Configured => "configured",
        Change::Replaced => "replaced",
        Change::Unchanged | Change::Unspecified => "unchanged",
    };
    format!("pod/{name} {change}{}\n", if dry_run { " (dry run)" } else { "" })
}

/// The Kubernetes object of a pod.
pub fn object(pod: &Pod) -> Result<Value, Error> {
    serde_json::from_str(&pod.object).map_err(|error| {
        Error::Failed(format!("the agent's object of {} is no JSON: {error}", pod.name))
    })
}
