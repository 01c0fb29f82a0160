//! `delete`: pods by name, selector or manifest.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::apply::grace;
use super::connect::Client;
use super::error::Error;
use super::manifest::{self, Files};
use super::scope::{Selection, duration, pod_names, wire_duration};
use super::screen::Screen;
use super::wait::{Until, wait};
use crate::proto::podbay::v1::{DeleteRequest, ObjectName, Pod, Preconditions, Selector};

/// What `delete` takes.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// pod NAME..., pod/NAME..., or pods with --all or a selector
    #[arg(value_name = "POD", required_unless_present = "files")]
    pub words: Vec<String>,
    /// Pods in these manifests: file, directory, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',')]
    #[arg(conflicts_with = "words")]
    pub files: Vec<std::path::PathBuf>,
    /// Process directories recursively
    #[arg(short = 'R', long, requires = "files")]
    pub recursive: bool,
    /// Which, when none is named.
    #[command(flatten)]
    pub selection: Selection,
    /// Select all pods in the namespace
    #[arg(long)]
    pub all: bool,
    /// Remove from the API immediately and clean up in the background; needs --grace-period=0
    #[arg(long)]
    pub force: bool,
    /// Grace period in seconds; -1 for each pod's own
    #[arg(long, value_name = "SECONDS", default_value_t = -1, allow_negative_numbers = true)]
    pub grace_period: i64,
    /// Same as --grace-period=1
    #[arg(long, conflicts_with_all = ["grace_period", "force"])]
    pub now: bool,
    /// Only if the pod has this uid
    #[arg(long, value_name = "UID")]
    pub uid: Option<String>,
    /// Show what would happen without changing anything
    #[arg(long)]
    pub dry_run: bool,
    /// Do not fail if the pod does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
    /// No effect: pods have no dependents
    #[arg(long, hide = true, value_name = "HOW", num_args = 0..=1, require_equals = true)]
    pub cascade: Option<String>,
    /// Output format: name prints only pod/NAME
    #[arg(short, long, value_name = "FORMAT", value_parser = ["name"])]
    pub output: Option<String>,
    /// Wait until the pods are gone; --wait=false returns immediately
    #[arg(
        long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set
    )]
    pub wait: bool,
    /// Maximum time to wait, e.g. 90s or 5m; 0 for no limit
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration)]
    pub timeout: Duration,
}

impl DeleteArgs {
    /// The grace period, unless each pod's own is used.
    fn grace(&self) -> Result<Option<Duration>, Error> {
        if self.now { Ok(Some(Duration::from_secs(1))) } else { grace(self.grace_period) }
    }
}

/// Deletes, reports it, and waits for the end.
pub async fn delete(client: &mut Client, args: &DeleteArgs, screen: Screen) -> Result<(), Error> {
    let (selectors, objects) = asked(client, args).await?;
    let grace = args.grace()?;
    let mut begun = BTreeMap::new();
    let mut fault = None;
    for selector in selectors {
        let request = DeleteRequest {
            selector: Some(selector),
            all: args.all,
            grace: grace.map(wire_duration),
            force: args.force,
            preconditions: Some(Preconditions {
                uid: args.uid.clone().unwrap_or_default(),
                resource_version: String::new(),
            }),
            dry_run: args.dry_run,
            objects: Vec::new(),
        };
        // A failure does not keep others from being deleted.
        match client.pods.delete(request).await {
            Ok(answer) => {
                let pods = answer.into_inner().pods;
                screen.print(&pods.iter().map(|pod| told(pod, args)).collect::<String>())?;
                begun.extend(pods.into_iter().map(|pod| ((pod.namespace, pod.name), pod.uid)));
            }
            Err(status) if status.code() == tonic::Code::NotFound && args.ignore_not_found => {}
            Err(status) => {
                if let Some(earlier) = fault.replace(Error::from(status)) {
                    screen.note(earlier.report().trim_end());
                }
            }
        }
    }
    let had_objects = !objects.is_empty();
    if had_objects {
        forget(client, objects, args, screen).await?;
    }
    if begun.is_empty() && fault.is_none() && !had_objects {
        screen.note("no pods found");
    }
    if args.wait && !args.dry_run && !args.force && !begun.is_empty() {
        let limit = (!args.timeout.is_zero()).then_some(args.timeout);
        wait(client, begun, Until::Gone, limit, screen).await?;
    }
    fault.map_or(Ok(()), Err)
}

/// Deletes stored config maps and secrets.
async fn forget(
    client: &mut Client,
    objects: Vec<ObjectName>,
    args: &DeleteArgs,
    screen: Screen,
) -> Result<(), Error> {
    let how = if args.dry_run { " (dry run)" } else { "" };
    let told = |it: &ObjectName| format!("{} {:?} deleted{how}\n", it.kind.to_lowercase(), it.name);
    let told: String = objects.iter().map(told).collect();
    let request = DeleteRequest { objects, dry_run: args.dry_run, ..DeleteRequest::default() };
    client.pods.delete(request).await?;
    screen.print(&told)
}

fn told(pod: &Pod, args: &DeleteArgs) -> String {
    if args.output.is_some() {
        return format!("pod/{}\n", pod.name);
    }
    let how = if args.force { "force deleted" } else { "deleted" };
    format!("pod {:?} {how}{}\n", pod.name, if args.dry_run { " (dry run)" } else { "" })
}

/// The requests, one for each call.
async fn asked(
    client: &Client,
    args: &DeleteArgs,
) -> Result<(Vec<Selector>, Vec<ObjectName>), Error> {
    if !args.files.is_empty() {
        let namespace = args.selection.namespace.of(client);
        let files = Files::new(&args.files, args.recursive).read().await?;
        let of = |own: String| if own.is_empty() { namespace.clone() } else { own };
        let pods = manifest::pods(&files)?.into_iter();
        let pods =
            pods.map(|(own, name)| Selector { namespace: of(own), name, ..Selector::default() });
        let mut objects = Vec::new();
        for kind in ["ConfigMap", "Secret"] {
            let named = manifest::named(&files, kind)?.into_iter();
            objects.extend(named.map(|(own, name)| ObjectName {
                kind: kind.to_owned(),
                namespace: of(own),
                name,
            }));
        }
        return Ok((pods.collect(), objects));
    }
    Ok((by_words(client, args)?, Vec::new()))
}

/// The pods named or selected on the command line.
fn by_words(client: &Client, args: &DeleteArgs) -> Result<Vec<Selector>, Error> {
    let names = pod_names(&args.words)?;
    args.selection.check(&names)?;
    let chosen = args.selection.selector.is_some() || args.selection.field_selector.is_some();
    match (names.is_empty(), args.all || chosen) {
        (true, false) => Err(Error::Misuse("specify pods, --all or a selector".to_owned())),
        (false, true) => Err(Error::Misuse("a name and --all cannot be combined".to_owned())),
        (true, true) => Ok(vec![args.selection.wire(client, None)]),
        (false, false) => {
            Ok(names.iter().map(|name| args.selection.wire(client, Some(name))).collect())
        }
    }
}
