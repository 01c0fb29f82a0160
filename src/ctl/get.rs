//! `get`: shows pods, the node and events, and with `-w` their changes.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;
use tonic::Code;

use super::apply::object;
use super::connect::Client;
use super::error::Error;
use super::events::{self, EventsArgs};
use super::manifest::Files;
use super::node;
use super::print::labels::Labels;
use super::print::pods::PodColumns;
use super::print::sort::SortBy;
use super::print::table::Table;
use super::print::{self, Output};
use super::scope::{Kind, Namespace, Selection, groups};
use super::screen::Screen;
use crate::proto::podbay::v1::{
    GetRequest, ListRequest, Pod, Revision, WatchEventType, WatchRequest,
};

/// Number of pods per request.
const PAGE: u32 = 500;

/// What `get` takes.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// pods, pod NAME..., pod/NAME..., node, events, or several such as pods,node
    #[arg(value_name = "WHAT", required_unless_present = "files")]
    pub words: Vec<String>,
    /// Pods in these manifests: file, directory, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',')]
    #[arg(conflicts_with = "words")]
    pub files: Vec<PathBuf>,
    /// Process directories recursively
    #[arg(short = 'R', long, requires = "files")]
    pub recursive: bool,
    /// Of which pods.
    #[command(flatten)]
    pub selection: Selection,
    /// Output format: wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=NAME:PATH,...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Sort by this field, e.g. .metadata.creationTimestamp
    #[arg(long, value_name = "PATH")]
    pub sort_by: Option<SortBy>,
    /// Watch for changes after listing
    #[arg(short, long)]
    pub watch: bool,
    /// Watch for changes without listing first
    #[arg(long)]
    pub watch_only: bool,
    /// Labels to show as columns
    #[arg(short = 'L', long, value_name = "KEY", value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// Show all labels in a column
    #[arg(long)]
    pub show_labels: bool,
    /// Show the kind in names, e.g. pod/NAME
    #[arg(long)]
    pub show_kind: bool,
    /// Do not print headers
    #[arg(long)]
    pub no_headers: bool,
    /// Do not fail if the pod does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
    /// No effect: lists are always read in pages
    #[arg(long, hide = true, value_name = "COUNT")]
    pub chunk_size: Option<u64>,
}

/// Shows pods, the node or events.
pub async fn get(client: &mut Client, args: &GetArgs, screen: Screen) -> Result<(), Error> {
    let mut groups = if args.files.is_empty() { groups(&args.words)? } else { Vec::new() };
    if args.watch || args.watch_only {
        let Some((kind, names)) = groups.pop().filter(|_| groups.is_empty()) else {
            return Err(Error::Misuse("only one kind can be watched, without -f".to_owned()));
        };
        return watched(client, args, kind, &names, screen).await;
    }
    let mut found = Vec::new();
    let mut fault = None;
    let mut as_list = !args.files.is_empty();
    if as_list {
        let namespace = args.selection.namespace.of(client);
        let of_files = Files::new(&args.files, args.recursive).pods(&namespace).await?;
        as_list = of_files.len() > 1;
        found.push((Kind::Pod, by_name(client, &of_files, args, &mut fault, screen).await));
    }
    let several = groups.len() > 1;
    as_list |= several;
    for (kind, names) in &groups {
        as_list |= names.len() != 1;
        found.push((*kind, gather(client, args, *kind, names, &mut fault, screen).await?));
    }
    if let Some(by) = &args.sort_by {
        for (_, objects) in &mut found {
            by.sort(objects).map_err(Error::Misuse)?;
        }
    }
    let all = groups.iter().all(|(_, names)| names.is_empty());
    show(client, args, found, Asked { as_list, all }, screen)?;
    fault.map_or(Ok(()), Err)
}

/// What was asked for.
struct Asked {
    /// More than one object, which are printed as a list.
    as_list: bool,
    /// No name, but all that there is.
    all: bool,
}

/// Prints what was found: objects together, tables below each other.
fn show(
    client: &Client,
    args: &GetArgs,
    found: Vec<(Kind, Vec<Value>)>,
    Asked { as_list, all }: Asked,
    screen: Screen,
) -> Result<(), Error> {
    let output = args.output.clone().unwrap_or_default().headers(!args.no_headers);
    if !output.is_table() {
        let objects: Vec<_> = found.into_iter().flat_map(|(_, objects)| objects).collect();
        if objects.is_empty() && !(as_list && all) {
            return Ok(());
        }
        return screen.print(&output.objects(&objects, as_list).map_err(Error::Misuse)?);
    }
    if found.iter().all(|(_, objects)| objects.is_empty()) {
        if all && args.files.is_empty() {
            screen.note(&nothing(client, &args.selection));
        }
        return Ok(());
    }
    let several = found.len() > 1;
    let mut first = true;
    for (kind, objects) in found.iter().filter(|(_, objects)| !objects.is_empty()) {
        if !std::mem::take(&mut first) {
            screen.print("\n")?;
        }
        View::new(args, *kind, several, screen).rows(objects)?;
    }
    Ok(())
}

/// Fetches everything of one kind.
async fn gather(
    client: &mut Client,
    args: &GetArgs,
    kind: Kind,
    names: &[String],
    fault: &mut Option<Error>,
    screen: Screen,
) -> Result<Vec<Value>, Error> {
    match kind {
        Kind::Pod if names.is_empty() => {
            let (pods, _) = list(client, &args.selection, None).await?;
            pods.iter().map(object).collect()
        }
        Kind::Pod => {
            args.selection.check(names)?;
            let namespace = args.selection.namespace.of(client);
            let names: Vec<_> =
                names.iter().map(|name| (namespace.clone(), name.clone())).collect();
            Ok(by_name(client, &names, args, fault, screen).await)
        }
        Kind::Node => {
            args.selection.of_pods_only()?;
            let node = node::object(client).await?;
            let own = print::text(&node, "/metadata/name").to_owned();
            for name in names.iter().filter(|name| **name != own && !args.ignore_not_found) {
                tell(fault, Error::NotFound(format!("node {name} is not found")), screen);
            }
            Ok(if names.is_empty() || names.contains(&own) { vec![node] } else { Vec::new() })
        }
        Kind::Event => events::kept(client, &of_events(args, names)?).await,
    }
}

/// One error is kept for the end; earlier ones are reported.
fn tell(fault: &mut Option<Error>, error: Error, screen: Screen) {
    if let Some(earlier) = fault.replace(error) {
        screen.note(earlier.report().trim_end());
    }
}

/// Pods by namespace and name.
async fn by_name(
    client: &mut Client,
    names: &[(String, String)],
    args: &GetArgs,
    fault: &mut Option<Error>,
    screen: Screen,
) -> Vec<Value> {
    let mut pods = Vec::new();
    for (namespace, name) in names {
        let request = GetRequest { namespace: namespace.clone(), name: name.clone() };
        let pod = match client.pods.get(request).await {
            Ok(answer) => answer.into_inner().pod.as_ref().map(object).transpose(),
            Err(status) if status.code() == Code::NotFound && args.ignore_not_found => Ok(None),
            Err(status) => Err(status.into()),
        };
        match pod {
            Ok(pod) => pods.extend(pod),
            Err(error) => tell(fault, error, screen),
        }
    }
    pods
}

/// Converts the arguments of `get events` to those of `events`.
fn of_events(args: &GetArgs, names: &[String]) -> Result<EventsArgs, Error> {
    Ok(EventsArgs {
        pod: one(names)?,
        selection: args.selection.clone(),
        watch: args.watch || args.watch_only,
        no_headers: args.no_headers,
        sort_by: args.sort_by.clone(),
        output: args.output.clone(),
        ..EventsArgs::default()
    })
}

/// `get -w`.
async fn watched(
    client: &mut Client,
    args: &GetArgs,
    kind: Kind,
    names: &[String],
    screen: Screen,
) -> Result<(), Error> {
    if args.sort_by.is_some() {
        screen.note("warning: --watch requested, --sort-by will be ignored");
    }
    match kind {
        Kind::Pod => {
            args.selection.check(names)?;
            let mut view = View::new(args, kind, false, screen);
            watch(client, args, one(names)?.as_deref(), &mut view).await
        }
        Kind::Node => Err(Error::Misuse("the node cannot be watched, only pods and events".into())),
        Kind::Event => events::events(client, &of_events(args, names)?, screen).await,
    }
}

fn one(names: &[String]) -> Result<Option<String>, Error> {
    match names {
        [] => Ok(None),
        [name] => Ok(Some(name.clone())),
        _ => Err(Error::Misuse("only one name is allowed".to_owned())),
    }
}

/// The message if there is nothing.
pub fn nothing(client: &Client, selection: &Selection) -> String {
    match selection.all_namespaces {
        true => "No resources found".to_owned(),
        false => format!("No resources found in {} namespace.", selection.namespace.of(client)),
    }
}

/// All pods in a selection, page by page, and the revision for a watch.
pub async fn list(
    client: &mut Client,
    selection: &Selection,
    name: Option<&str>,
) -> Result<(Vec<Pod>, Option<Revision>), Error> {
    let mut request = ListRequest {
        selector: Some(selection.wire(client, name)),
        limit: PAGE,
        continue_token: String::new(),
    };
    let mut pods = Vec::new();
    loop {
        let answer = client.pods.list(request.clone()).await?.into_inner();
        pods.extend(answer.pods);
        if answer.continue_token.is_empty() {
            return Ok((pods, answer.revision));
        }
        request.continue_token = answer.continue_token;
    }
}

/// Shows the current state and then each change, until the stream ends.
async fn watch(
    client: &mut Client,
    args: &GetArgs,
    name: Option<&str>,
    view: &mut View,
) -> Result<(), Error> {
    loop {
        let (pods, after) = list(client, &args.selection, name).await?;
        if !args.watch_only {
            if let (Some(name), []) = (name, pods.as_slice()) {
                let namespace = args.selection.namespace.of(client);
                return Err(Error::NotFound(format!("pod {namespace}/{name} is not found")));
            }
            if !pods.is_empty() {
                view.each(&pods)?;
            }
        }
        let selector = Some(args.selection.wire(client, name));
        let request = WatchRequest { selector, after };
        let mut news = client.pods.watch(request).await?.into_inner();
        loop {
            match news.message().await {
                Ok(Some(event)) if event.r#type() == WatchEventType::Bookmark => {}
                Ok(Some(event)) => view.each(event.pod.as_slice())?,
                Ok(None) => return Ok(()),
                // Too old or too slow: the current state contains what was missed.
                Err(status) if again(&status) => break,
                Err(status) => return Err(status.into()),
            }
        }
    }
}

fn again(status: &tonic::Status) -> bool {
    [Code::OutOfRange, Code::ResourceExhausted].contains(&status.code())
}

/// How to show objects of one kind.
struct View {
    kind: Kind,
    output: Output,
    columns: PodColumns,
    labels: Labels,
    table: Table,
    screen: Screen,
}

impl View {
    fn new(args: &GetArgs, kind: Kind, several: bool, screen: Screen) -> Self {
        let output = args.output.clone().unwrap_or_default().headers(!args.no_headers);
        let wide = matches!(output, Output::Wide);
        let namespace = args.selection.all_namespaces;
        let columns = PodColumns { namespace, wide, kind: several || args.show_kind };
        let labels = Labels { keys: args.label_columns.clone(), all: args.show_labels };
        let header = match kind {
            Kind::Pod => columns.header(),
            Kind::Node => node::header(wide),
            Kind::Event => events::header(namespace),
        };
        let header = header.into_iter().map(str::to_owned).chain(labels.header());
        let header = header.filter(|_| !args.no_headers);
        let table = Table::new(header, screen.colours);
        Self { kind, output, columns, labels, table, screen }
    }

    /// Prints each pod by itself, for a watch.
    fn each(&mut self, pods: &[Pod]) -> Result<(), Error> {
        let objects = pods.iter().map(object).collect::<Result<Vec<_>, _>>()?;
        if self.output.is_table() {
            return self.rows(&objects);
        }
        for object in objects {
            let text = self.output.objects(&[object], false).map_err(Error::Misuse)?;
            let separator = if matches!(self.output, Output::Yaml) { "---\n" } else { "" };
            self.screen.print(&format!("{text}{separator}"))?;
        }
        Ok(())
    }

    fn rows(&mut self, objects: &[Value]) -> Result<(), Error> {
        let now = OffsetDateTime::now_utc();
        let row = |object: &Value| match self.kind {
            Kind::Pod => self.columns.row(object, now),
            Kind::Node => node::row(object, self.columns, now),
            Kind::Event => events::row(object, self.columns.namespace, now),
        };
        let mut rows: Vec<_> = objects.iter().map(row).collect();
        for (row, object) in rows.iter_mut().zip(objects) {
            row.extend(self.labels.cells(object));
        }
        self.screen.print(&self.table.rows(&rows))
    }
}

/// One pod.
pub async fn pod(
    client: &mut Client,
    namespace: &Namespace,
    name: &str,
) -> Result<Option<Pod>, Error> {
    let request = GetRequest { namespace: namespace.of(client), name: name.to_owned() };
    Ok(client.pods.get(request).await?.into_inner().pod)
}
