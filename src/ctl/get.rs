//! `get` and `describe`: pods, the node and events as they are now, and with `-w` as they become.

use clap::Args;
use time::OffsetDateTime;
use tonic::Code;

use super::apply::object;
use super::connect::Client;
use super::error::Error;
use super::events::{self, EventsArgs};
use super::print::Output;
use super::print::pods::PodColumns;
use super::print::table::Table;
use super::scope::{Kind, Namespace, Selection, resources};
use super::screen::Screen;
use super::{describe, node};
use crate::proto::podbay::v1::{
    GetRequest, ListRequest, Pod, Revision, WatchEventType, WatchRequest,
};

/// Pods asked for at a time.
const PAGE: u32 = 500;

/// What `get` takes.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// pods, pod NAME..., pod/NAME..., node or events
    #[arg(value_name = "WHAT", required = true)]
    pub words: Vec<String>,
    /// Of which pods.
    #[command(flatten)]
    pub selection: Selection,
    /// wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=NAME:PATH,...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Show every change from now on too
    #[arg(short, long)]
    pub watch: bool,
    /// Show the changes only
    #[arg(long)]
    pub watch_only: bool,
    /// A column with the labels
    #[arg(long)]
    pub show_labels: bool,
    /// No header row
    #[arg(long)]
    pub no_headers: bool,
    /// It is no error when there is no such pod
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// What `describe` takes.
#[derive(Debug, Clone, Args)]
pub struct DescribeArgs {
    /// pod NAME..., pod/NAME..., pods or node
    #[arg(value_name = "WHAT", required = true)]
    pub words: Vec<String>,
    /// Of which pods.
    #[command(flatten)]
    pub selection: Selection,
}

/// Shows pods, the node or events.
pub async fn get(client: &mut Client, args: &GetArgs, screen: Screen) -> Result<(), Error> {
    let (kind, names) = resources(&args.words)?;
    match kind {
        Kind::Pod => {}
        Kind::Node => {
            return node::get(client, args.output.clone().unwrap_or_default(), screen).await;
        }
        Kind::Event => {
            let events = EventsArgs {
                pod: one(&names)?,
                of: None,
                selection: args.selection.clone(),
                watch: args.watch || args.watch_only,
                output: args.output.clone(),
            };
            return events::events(client, &events, screen).await;
        }
    }
    args.selection.check(&names)?;
    let mut view = View::new(args, screen);
    if args.watch || args.watch_only {
        let name = one(&names)?;
        return watch(client, args, name.as_deref(), &mut view).await;
    }
    if names.is_empty() {
        let (pods, _) = list(client, &args.selection, None).await?;
        if pods.is_empty() && view.output.is_table() {
            screen.note(&nothing(client, &args.selection));
            return Ok(());
        }
        return view.all(&pods, true);
    }
    let namespace = args.selection.namespace.of(client);
    let mut pods = Vec::new();
    let mut fault = None;
    for name in &names {
        let request = GetRequest { namespace: namespace.clone(), name: name.clone() };
        match client.pods.get(request).await {
            Ok(answer) => pods.extend(answer.into_inner().pod),
            Err(status) if status.code() == Code::NotFound && args.ignore_not_found => {}
            Err(status) => {
                if let Some(earlier) = fault.replace(Error::from(status)) {
                    screen.note(earlier.report().trim_end());
                }
            }
        }
    }
    if !pods.is_empty() {
        view.all(&pods, names.len() > 1)?;
    }
    fault.map_or(Ok(()), Err)
}

fn one(names: &[String]) -> Result<Option<String>, Error> {
    match names {
        [] => Ok(None),
        [name] => Ok(Some(name.clone())),
        _ => Err(Error::Misuse("one name only".to_owned())),
    }
}

fn nothing(client: &Client, selection: &Selection) -> String {
    match selection.all_namespaces {
        true => "No resources found".to_owned(),
        false => format!("No resources found in {} namespace.", selection.namespace.of(client)),
    }
}

/// All pods of a selection, page by page, and where a watch goes on.
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

/// Shows the state now and then each change, until the stream ends.
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
                // Too old or too slow: what was missed is in the state now.
                Err(status) if again(&status) => break,
                Err(status) => return Err(status.into()),
            }
        }
    }
}

fn again(status: &tonic::Status) -> bool {
    [Code::OutOfRange, Code::ResourceExhausted].contains(&status.code())
}

/// How pods are shown.
struct View {
    output: Output,
    columns: PodColumns,
    table: Table,
    screen: Screen,
}

impl View {
    fn new(args: &GetArgs, screen: Screen) -> Self {
        let output = args.output.clone().unwrap_or_default();
        let columns = PodColumns {
            namespace: args.selection.all_namespaces,
            wide: matches!(output, Output::Wide),
            labels: args.show_labels,
        };
        let header = if args.no_headers { Vec::new() } else { columns.header() };
        Self { output, columns, table: Table::new(header, screen.colours), screen }
    }

    /// These together.
    fn all(&mut self, pods: &[Pod], as_list: bool) -> Result<(), Error> {
        if self.output.is_table() {
            return self.rows(pods);
        }
        let objects = pods.iter().map(object).collect::<Result<Vec<_>, _>>()?;
        self.screen.print(&self.output.objects(&objects, as_list).map_err(Error::Misuse)?)
    }

    /// Each by itself, as a watch has them.
    fn each(&mut self, pods: &[Pod]) -> Result<(), Error> {
        if self.output.is_table() {
            return self.rows(pods);
        }
        for pod in pods {
            let text = self.output.objects(&[object(pod)?], false).map_err(Error::Misuse)?;
            let separator = if matches!(self.output, Output::Yaml) { "---\n" } else { "" };
            self.screen.print(&format!("{text}{separator}"))?;
        }
        Ok(())
    }

    fn rows(&mut self, pods: &[Pod]) -> Result<(), Error> {
        let now = OffsetDateTime::now_utc();
        let row = |pod: &Pod| Ok(self.columns.row(&object(pod)?, now));
        let rows = pods.iter().map(row).collect::<Result<Vec<_>, Error>>()?;
        self.screen.print(&self.table.rows(&rows))
    }
}

/// Describes pods or the node.
pub async fn describe(
    client: &mut Client,
    args: &DescribeArgs,
    screen: Screen,
) -> Result<(), Error> {
    let (kind, names) = resources(&args.words)?;
    let now = OffsetDateTime::now_utc();
    match kind {
        Kind::Pod => {}
        Kind::Node => return screen.print(&describe::node(&node::object(client).await?, now)),
        Kind::Event => return Err(Error::Misuse("events cannot be described".to_owned())),
    }
    args.selection.check(&names)?;
    let pods = if names.is_empty() {
        list(client, &args.selection, None).await?.0
    } else {
        let mut pods = Vec::new();
        for name in names {
            pods.extend(pod(client, &args.selection.namespace, &name).await?);
        }
        pods
    };
    if pods.is_empty() {
        screen.note(&nothing(client, &args.selection));
    }
    let mut pages = Vec::new();
    for pod in &pods {
        let happened = events::of_pod(client, &pod.namespace, &pod.name).await?;
        pages.push(describe::pod(&object(pod)?, &happened, now));
    }
    screen.print(&pages.join("\n\n"))
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
