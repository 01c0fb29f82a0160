//! `events`: what happened to pods.

use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::connect::Client;
use super::error::Error;
use super::print::table::{Cell, Mood, Table};
use super::print::{self, Output};
use super::scope::{Selection, pod_name};
use super::screen::Screen;
use crate::proto::podbay::v1::{Event, EventType, EventsRequest};

/// What `events` takes.
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Of this pod only: NAME or pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name)]
    pub pod: Option<String>,
    /// The same, as kubectl has it
    #[arg(long = "for", value_name = "POD", value_parser = pod_name, conflicts_with = "pod")]
    pub of: Option<String>,
    /// Of which pods.
    #[command(flatten)]
    pub selection: Selection,
    /// Go on with those to come
    #[arg(short, long)]
    pub watch: bool,
    /// json, yaml, name, jsonpath=... or custom-columns=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// Shows the kept events, and those to come with `-w`.
pub async fn events(client: &mut Client, args: &EventsArgs, screen: Screen) -> Result<(), Error> {
    let pod = args.pod.as_ref().or(args.of.as_ref());
    args.selection.check(&pod.cloned().into_iter().collect::<Vec<_>>())?;
    let output = args.output.clone().unwrap_or_default();
    let selector = args.selection.wire(client, pod.map(String::as_str));
    let request = EventsRequest { selector: Some(selector), follow: args.watch };
    let mut news = client.pods.events(request).await?.into_inner();
    let mut table = Table::new(header(args.selection.all_namespaces), screen.colours);
    let mut kept = Vec::new();
    while let Some(answer) = news.message().await? {
        let Some(event) = answer.event else { continue };
        if !args.watch {
            kept.push(event);
        } else if output.is_table() {
            let row = row(&event, args.selection.all_namespaces, OffsetDateTime::now_utc());
            screen.print(&table.rows(&[row]))?;
        } else {
            screen.print(&output.objects(&[object(&event)], false).map_err(Error::Misuse)?)?;
        }
    }
    if args.watch {
        return Ok(());
    }
    if !output.is_table() {
        let objects: Vec<_> = kept.iter().map(object).collect();
        return screen.print(&output.objects(&objects, true).map_err(Error::Misuse)?);
    }
    if kept.is_empty() {
        screen.note("No events found.");
        return Ok(());
    }
    let now = OffsetDateTime::now_utc();
    let rows: Vec<_> =
        kept.iter().map(|event| row(event, args.selection.all_namespaces, now)).collect();
    screen.print(&table.rows(&rows))
}

/// The kept events of one pod.
pub async fn of_pod(client: &mut Client, namespace: &str, name: &str) -> Result<Vec<Event>, Error> {
    let selector = crate::proto::podbay::v1::Selector {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    };
    let request = EventsRequest { selector: Some(selector), follow: false };
    let mut news = client.pods.events(request).await?.into_inner();
    let mut kept = Vec::new();
    while let Some(answer) = news.message().await? {
        kept.extend(answer.event);
    }
    Ok(kept)
}

fn header(namespace: bool) -> Vec<&'static str> {
    let mut header = if namespace { vec!["NAMESPACE"] } else { Vec::new() };
    header.extend(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    header
}

fn row(event: &Event, namespace: bool, now: OffsetDateTime) -> Vec<Cell> {
    let mood = if event.r#type() == EventType::Warning { Mood::Bad } else { Mood::Plain };
    let mut row: Vec<Cell> = if namespace { vec![(&event.namespace).into()] } else { Vec::new() };
    row.push(age(event, now).into());
    row.push(Cell::new(kind(event), mood));
    row.push((&event.reason).into());
    row.push(format!("pod/{}", event.name).into());
    row.push(event.message.trim().into());
    row
}

/// `Normal` or `Warning`.
pub fn kind(event: &Event) -> &'static str {
    if event.r#type() == EventType::Warning { "Warning" } else { "Normal" }
}

/// How long ago, and how often since when where it was more than once.
pub fn age(event: &Event, now: OffsetDateTime) -> String {
    let ago = |time: &Option<prost_types::Timestamp>| match moment(time) {
        Some(then) => print::age::ago(then, now),
        None => "<unknown>".to_owned(),
    };
    match event.count {
        0 | 1 => ago(&event.last),
        count => format!("{} (x{count} over {})", ago(&event.last), ago(&event.first)),
    }
}

/// A time of the wire.
pub fn moment(time: &Option<prost_types::Timestamp>) -> Option<OffsetDateTime> {
    let time = time.as_ref()?;
    let moment = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?;
    moment.replace_nanosecond(u32::try_from(time.nanos).ok()?).ok()
}

/// The same as text; empty without one.
pub fn stamp(time: &Option<prost_types::Timestamp>) -> String {
    moment(time).and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// An event as a Kubernetes object.
fn object(event: &Event) -> Value {
    let mut involved = json!({
        "apiVersion": "v1", "kind": "Pod", "namespace": event.namespace, "name": event.name,
        "uid": event.uid,
    });
    if !event.container.is_empty() {
        involved["fieldPath"] = json!(format!("spec.containers{{{}}}", event.container));
    }
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {
            "name": format!("{}.{:x}", event.name, event.number), "namespace": event.namespace,
        },
        "involvedObject": involved,
        "type": kind(event), "reason": event.reason, "message": event.message,
        "firstTimestamp": stamp(&event.first), "lastTimestamp": stamp(&event.last),
        "count": event.count,
        "source": {"component": "podbay"},
    })
}
