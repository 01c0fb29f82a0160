//! `top`: current resource usage of pods, containers and the node.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::connect::Client;
use super::error::Error;
use super::print::amount::{milli, percent};
use super::print::table::{Cell, Table};
use super::print::{Output, text};
use super::scope::{Selection, pod_name};
use super::screen::Screen;
use crate::proto::podbay::v1::{
    ContainerStats, NodeStats, PodStats, Selector, StatsRequest, Usage,
};

/// Whose usage.
#[derive(Debug, Clone, Subcommand)]
pub enum TopCommand {
    /// Show the usage of pods.
    #[command(visible_aliases = ["pods", "po"])]
    Pod(TopPodArgs),
    /// Show the usage of the node.
    #[command(visible_aliases = ["nodes", "no"])]
    Node(TopNodeArgs),
}

/// What `top node` takes.
#[derive(Debug, Clone, Args)]
pub struct TopNodeArgs {
    /// Node name; optional, as there is only one
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Show percentages of the node's capacity instead of what pods may use
    #[arg(long)]
    pub show_capacity: bool,
    /// Accepted for kubectl compatibility; there is only one node
    #[arg(long, value_name = "WHAT")]
    pub sort_by: Option<SortBy>,
    /// Do not print headers
    #[arg(long)]
    pub no_headers: bool,
    /// Output format: json, yaml, jsonpath=... or custom-columns=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// What `top pod` takes.
#[derive(Debug, Clone, Args)]
pub struct TopPodArgs {
    /// Only this pod: NAME or pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name)]
    pub pod: Option<String>,
    /// Which pods.
    #[command(flatten)]
    pub selection: Selection,
    /// Show a row per container
    #[arg(long)]
    pub containers: bool,
    /// Sort by usage, highest first
    #[arg(long, value_name = "WHAT")]
    pub sort_by: Option<SortBy>,
    /// Add a row with the total
    #[arg(long)]
    pub sum: bool,
    /// Do not print headers
    #[arg(long)]
    pub no_headers: bool,
    /// Output format: json, yaml, jsonpath=... or custom-columns=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// Highest CPU usage first.
    Cpu,
    /// Highest memory usage first.
    Memory,
}

/// Shows the usage.
pub async fn top(client: &mut Client, command: &TopCommand, screen: Screen) -> Result<(), Error> {
    match command {
        TopCommand::Node(args) => {
            // Every caller may see the node, but not the pods of every namespace: none of them is
            // requested.
            let namespace = client.namespace(None);
            let selector = Selector { namespace, name: NOBODY.to_owned(), ..Selector::default() };
            let request = StatsRequest { selector: Some(selector) };
            let stats = client.pods.stats(request).await?.into_inner();
            let node = stats.node.unwrap_or_default();
            if let Some(other) = args.name.as_ref().filter(|name| **name != node.name) {
                return Err(Error::NotFound(format!("node {other} is not found")));
            }
            let whole = if args.output.as_ref().is_none_or(Output::is_table) {
                super::node::object(client).await?
            } else {
                Value::Null
            };
            show_node(&node, &whole, args, screen)
        }
        TopCommand::Pod(args) => {
            args.selection.check(args.pod.as_slice())?;
            let selector = Some(args.selection.wire(client, args.pod.as_deref()));
            let stats = client.pods.stats(StatsRequest { selector }).await?.into_inner();
            if let (Some(pod), []) = (&args.pod, stats.pods.as_slice()) {
                return Err(Error::NotFound(format!("pod {pod} is not found")));
            }
            pods(stats.pods, args, screen)
        }
    }
}

/// No pod has this name.
const NOBODY: &str = "-";

fn show_node(
    stats: &NodeStats,
    node: &Value,
    args: &TopNodeArgs,
    screen: Screen,
) -> Result<(), Error> {
    let used = stats.usage.as_ref();
    let output = args.output.clone().unwrap_or_default().headers(!args.no_headers);
    if !output.is_table() {
        let object = json!({"kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": stats.name}, "usage": usage(used)});
        return screen.print(&output.objects(&[object], false).map_err(Error::Misuse)?);
    }
    let list = if args.show_capacity { "capacity" } else { "allocatable" };
    let has = |name: &str| milli(text(node, &format!("/status/{list}/{name}")));
    let percent = |part: Option<i128>, name: &str| match (part, has(name)) {
        (Some(part), whole) if whole > 0 => format!("{}%", percent(part, whole)),
        _ => "<unknown>".to_owned(),
    };
    let cores = used.and_then(|used| used.cpu_nano_cores);
    let cpu = percent(cores.map(|cores| i128::from(cores.div_ceil(1_000_000))), "cpu");
    let memory = used.map(|used| i128::from(used.memory_working_set_bytes) * 1000);
    let memory = percent(memory, "memory");
    let [of_cpu, of_memory] = cells(used);
    let row = vec![Cell::from(&stats.name), of_cpu, cpu.into(), of_memory, memory.into()];
    let header = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"];
    let header = header.into_iter().filter(|_| !args.no_headers);
    screen.print(&Table::new(header, screen.colours).rows(&[row]))
}

/// The last rows: the total, below a line.
fn sum(pods: &[PodStats], before: usize) -> [Vec<Cell>; 2] {
    let add =
        |of: fn(&Usage) -> u64| pods.iter().filter_map(|pod| pod.usage.as_ref()).map(of).sum();
    let cpu = millicores(add(|usage| usage.cpu_nano_cores.unwrap_or_default()));
    let memory = mebibytes(add(|usage| usage.memory_working_set_bytes));
    let row = |cells: [String; 2]| {
        let blanks = std::iter::repeat_n(Cell::from(""), before);
        blanks.chain(cells.map(Cell::from)).collect()
    };
    [row(["________", "________"].map(str::to_owned)), row([cpu, memory])]
}

fn pods(mut pods: Vec<PodStats>, args: &TopPodArgs, screen: Screen) -> Result<(), Error> {
    match args.sort_by {
        None => {}
        Some(by) => pods.sort_by_key(|pod| std::cmp::Reverse(weight(pod.usage.as_ref(), by))),
    }
    let output = args.output.clone().unwrap_or_default().headers(!args.no_headers);
    if !output.is_table() {
        let objects: Vec<_> = pods.iter().map(object).collect();
        return screen.print(&output.objects(&objects, args.pod.is_none()).map_err(Error::Misuse)?);
    }
    if pods.is_empty() {
        screen.note("No resources found");
        return Ok(());
    }
    let mut header = if args.selection.all_namespaces { vec!["NAMESPACE"] } else { vec![] };
    header.extend(if args.containers { vec!["POD", "NAME"] } else { vec!["NAME"] });
    header.extend(["CPU(cores)", "MEMORY(bytes)"]);
    let mut rows = Vec::new();
    for pod in &mut pods {
        let mut start: Vec<Cell> =
            if args.selection.all_namespaces { vec![(&pod.namespace).into()] } else { vec![] };
        start.push((&pod.name).into());
        if !args.containers {
            start.extend(cells(pod.usage.as_ref()));
            rows.push(start);
            continue;
        }
        if let Some(by) = args.sort_by {
            let of = |container: &ContainerStats| weight(container.usage.as_ref(), by);
            pod.containers.sort_by_key(|container| std::cmp::Reverse(of(container)));
        }
        for container in &pod.containers {
            let mut row = start.clone();
            row.push((&container.name).into());
            row.extend(cells(container.usage.as_ref()));
            rows.push(row);
        }
    }
    if args.sum {
        rows.extend(sum(&pods, header.len() - 2));
    }
    let header = if args.no_headers { Vec::new() } else { header };
    screen.print(&Table::new(header, screen.colours).rows(&rows))
}

fn weight(usage: Option<&Usage>, by: SortBy) -> u64 {
    let weight = usage.map(|usage| match by {
        SortBy::Cpu => usage.cpu_nano_cores.unwrap_or_default(),
        SortBy::Memory => usage.memory_working_set_bytes,
    });
    weight.unwrap_or_default()
}

/// Thousandths of a core and mebibytes, as in `kubectl top`.
fn cells(usage: Option<&Usage>) -> [Cell; 2] {
    let unknown = || "<unknown>".to_owned();
    let cpu = usage.and_then(|usage| usage.cpu_nano_cores).map(millicores);
    let memory = usage.map(|usage| mebibytes(usage.memory_working_set_bytes));
    [cpu.unwrap_or_else(unknown).into(), memory.unwrap_or_else(unknown).into()]
}

/// Rounded up, so that any usage is visible.
fn millicores(nano: u64) -> String {
    format!("{}m", nano.div_ceil(1_000_000))
}

fn mebibytes(bytes: u64) -> String {
    format!("{}Mi", bytes >> 20)
}

fn usage(usage: Option<&Usage>) -> Value {
    let Some(usage) = usage else { return json!({}) };
    let mut object = json!({"memory": format!("{}Ki", usage.memory_working_set_bytes >> 10)});
    if let Some(cores) = usage.cpu_nano_cores {
        object["cpu"] = json!(format!("{cores}n"));
    }
    object
}

/// The usage of a pod as in the metrics API.
fn object(pod: &PodStats) -> Value {
    let container = |container: &ContainerStats| json!({"name": container.name, "usage": usage(container.usage.as_ref())});
    json!({
        "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "usage": usage(pod.usage.as_ref()),
        "containers": pod.containers.iter().map(container).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_rounded_as_kubectl_does() {
        assert_eq!(millicores(1), "1m");
        assert_eq!(millicores(250_000_000), "250m");
        assert_eq!(mebibytes((3 << 20) + 5), "3Mi");
        assert_eq!(cells(None), ["<unknown>".into(), "<unknown>".into()]);
    }
}
