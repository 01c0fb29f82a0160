//! `events`: pod events.

use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::connect::Client;
use super::error::Error;
use super::print::sort::SortBy;
use super::print::table::{Cell, Mood, Table};
use super::print::{self, Output, number, text};
use super::scope::{Selection, pod_name};
use super::screen::Screen;
use crate::proto::podbay::v1::{Event, EventType, EventsRequest, EventsResponse, Pod, Selector};

/// What `events` takes.
#[derive(Debug, Clone, Default, Args)]
pub struct EventsArgs {
    /// Only events of this pod: NAME or pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name)]
    pub pod: Option<String>,
    /// Same as POD, for kubectl compatibility
    #[arg(long = "for", value_name = "POD", value_parser = pod_name, conflicts_with = "pod")]
    pub of: Option<String>,
    /// Of which pods.
    #[command(flatten)]
    pub selection: Selection,
    /// Only events of these types: Normal, Warning
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<String>,
    /// Watch for new events
    #[arg(short, long)]
    pub watch: bool,
    /// Do not print headers
    #[arg(long)]
    pub no_headers: bool,
    /// Sort by this field, e.g. .lastTimestamp
    #[arg(long, value_name = "PATH")]
    pub sort_by: Option<SortBy>,
    /// Output format: json, yaml, name, jsonpath=... or custom-columns=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// Shows the stored events, and with `-w` new ones.
pub async fn events(client: &mut Client, args: &EventsArgs, screen: Screen) -> Result<(), Error> {
    let namespace = args.selection.all_namespaces;
    let header = if args.no_headers { Vec::new() } else { header(namespace) };
    let mut table = Table::new(header, screen.colours);
    let output = args.output.clone().unwrap_or_default().headers(!args.no_headers);
    if !args.watch {
        let kept = kept(client, args).await?;
        if !output.is_table() {
            return screen.print(&output.objects(&kept, true).map_err(Error::Misuse)?);
        }
        if kept.is_empty() {
            screen.note("No events found.");
            return Ok(());
        }
        return screen.print(&table.rows(&rows(&kept, namespace)));
    }
    let wanted = Wanted::of(args)?;
    let mut news = ask(client, args, &wanted, true).await?;
    while let Some(answer) = news.message().await? {
        let Some(event) = answer.event.as_ref().map(object) else { continue };
        if !wanted.takes(&event) {
            continue;
        }
        if output.is_table() {
            screen.print(&table.rows(&rows(&[event], namespace)))?;
        } else {
            screen.print(&output.objects(&[event], false).map_err(Error::Misuse)?)?;
        }
    }
    Ok(())
}

/// The stored events as objects, in the requested order.
pub async fn kept(client: &mut Client, args: &EventsArgs) -> Result<Vec<Value>, Error> {
    let wanted = Wanted::of(args)?;
    let mut news = ask(client, args, &wanted, false).await?;
    let mut kept = Vec::new();
    while let Some(answer) = news.message().await? {
        kept.extend(answer.event.as_ref().map(object).filter(|event| wanted.takes(event)));
    }
    if let Some(by) = &args.sort_by {
        by.sort(&mut kept).map_err(Error::Misuse)?;
    }
    Ok(kept)
}

async fn ask(
    client: &mut Client,
    args: &EventsArgs,
    wanted: &Wanted,
    follow: bool,
) -> Result<tonic::Streaming<EventsResponse>, Error> {
    let pod = args.pod.as_ref().or(args.of.as_ref());
    if let Some(pod) = pod {
        args.selection.check(std::slice::from_ref(pod))?;
    }
    let selector = args.selection.wire(client, pod.map(String::as_str));
    let selector = Selector { fields: wanted.of_pods.clone(), ..selector };
    let request = EventsRequest { selector: Some(selector), follow };
    Ok(client.pods.events(request).await?.into_inner())
}

/// Filter for events: their own fields, extracted from the field selector.
struct Wanted {
    types: Vec<String>,
    /// Path, value, and whether it must be equal.
    own: Vec<(String, String, bool)>,
    /// The rest of the selector, which concerns pods.
    of_pods: String,
}

impl Wanted {
    fn of(args: &EventsArgs) -> Result<Self, Error> {
        for wanted in &args.types {
            if !["normal", "warning"].contains(&wanted.to_lowercase().as_str()) {
                let why = format!("--types: {wanted:?} is neither Normal nor Warning");
                return Err(Error::Misuse(why));
            }
        }
        let (mut own, mut of_pods) = (Vec::new(), Vec::new());
        let fields = args.selection.field_selector.as_deref().unwrap_or_default();
        for term in fields.split(',').filter(|term| !term.is_empty()) {
            let (key, value, same) = match (term.split_once("!="), term.split_once('=')) {
                (Some((key, value)), _) => (key, value, false),
                (None, Some((key, value))) => (key, value.trim_start_matches('='), true),
                (None, None) => (term, "", true),
            };
            let key = key.trim();
            if ["type", "reason"].contains(&key) || key.starts_with("involvedObject.") {
                let path = format!("/{}", key.replace('.', "/"));
                own.push((path, value.trim().to_owned(), same));
            } else {
                of_pods.push(term);
            }
        }
        Ok(Self { types: args.types.clone(), own, of_pods: of_pods.join(",") })
    }

    fn takes(&self, event: &Value) -> bool {
        let kind = text(event, "/type");
        let fits =
            |(path, value, same): &(String, String, bool)| (text(event, path) == value) == *same;
        let of_type = self.types.is_empty()
            || self.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(kind));
        of_type && self.own.iter().all(fits)
    }
}

/// The stored events of one pod, without those of earlier pods with its name.
pub async fn of_pod(client: &mut Client, pod: &Pod) -> Result<Vec<Event>, Error> {
    let selector = Selector {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        fields: format!("involvedObject.uid={}", pod.uid),
        ..Selector::default()
    };
    let request = EventsRequest { selector: Some(selector), follow: false };
    let mut news = client.pods.events(request).await?.into_inner();
    let mut kept = Vec::new();
    while let Some(answer) = news.message().await? {
        kept.extend(answer.event);
    }
    Ok(kept)
}

/// The header row.
pub fn header(namespace: bool) -> Vec<&'static str> {
    let mut header = if namespace { vec!["NAMESPACE"] } else { Vec::new() };
    header.extend(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    header
}

fn rows(events: &[Value], namespace: bool) -> Vec<Vec<Cell>> {
    let now = OffsetDateTime::now_utc();
    events.iter().map(|event| row(event, namespace, now)).collect()
}

/// The row of an event.
pub fn row(event: &Value, namespace: bool, now: OffsetDateTime) -> Vec<Cell> {
    let of_type = text(event, "/type");
    let mood = if of_type == "Warning" { Mood::Bad } else { Mood::Plain };
    let mut row: Vec<Cell> = Vec::new();
    if namespace {
        row.push(text(event, "/metadata/namespace").into());
    }
    let first = print::age::since(event, "/firstTimestamp", now);
    let last = print::age::since(event, "/lastTimestamp", now);
    row.push(often(&last, &first, number(event, "/count")).into());
    row.push(Cell::new(of_type, mood));
    row.push(text(event, "/reason").into());
    row.push(format!("pod/{}", text(event, "/involvedObject/name")).into());
    row.push(text(event, "/message").trim().into());
    row
}

/// `Normal` or `Warning`.
pub fn kind(event: &Event) -> &'static str {
    if event.r#type() == EventType::Warning { "Warning" } else { "Normal" }
}

/// Age of an event; if it occurred several times, also the count and the time since the first.
pub fn age(event: &Event, now: OffsetDateTime) -> String {
    let ago = |time: &Option<prost_types::Timestamp>| match moment(time) {
        Some(then) => print::age::ago(then, now),
        None => "<unknown>".to_owned(),
    };
    often(&ago(&event.last), &ago(&event.first), event.count.into())
}

fn often(last: &str, first: &str, count: i64) -> String {
    if count > 1 { format!("{last} (x{count} over {first})") } else { last.to_owned() }
}

/// Converts a wire timestamp.
pub fn moment(time: &Option<prost_types::Timestamp>) -> Option<OffsetDateTime> {
    let time = time.as_ref()?;
    let moment = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?;
    moment.replace_nanosecond(u32::try_from(time.nanos).ok()?).ok()
}

/// Formats a wire timestamp; empty without one.
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
            "creationTimestamp": stamp(&event.first),
        },
        "involvedObject": involved,
        "type": kind(event), "reason": event.reason, "message": event.message,
        "firstTimestamp": stamp(&event.first), "lastTimestamp": stamp(&event.last),
        "count": event.count,
        "source": {"component": "podbay"},
    })
}
