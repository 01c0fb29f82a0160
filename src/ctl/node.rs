//! `node`: the machine as a Kubernetes node.

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;

use super::connect::Client;
use super::error::Error;
use super::print::pods::{PodColumns, condition};
use super::print::table::{Cell, Mood, Table};
use super::print::{Output, age, items, text};
use super::screen::Screen;
use crate::proto::podbay::v1::GetNodeRequest;

/// What `node` takes.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Output format: wide, json, yaml, name, jsonpath=... or custom-columns=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// Shows the node.
pub async fn get(client: &mut Client, output: Output, screen: Screen) -> Result<(), Error> {
    let node = object(client).await?;
    if !output.is_table() {
        return screen.print(&output.objects(&[node], false).map_err(Error::Misuse)?);
    }
    let wide = matches!(output, Output::Wide);
    let columns = PodColumns { wide, ..PodColumns::default() };
    let row = row(&node, columns, OffsetDateTime::now_utc());
    screen.print(&Table::new(header(wide), screen.colours).rows(&[row]))
}

/// The header row.
pub fn header(wide: bool) -> Vec<&'static str> {
    let mut header = vec!["NAME", "STATUS", "ROLES", "AGE", "VERSION"];
    if wide {
        let more =
            ["INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME"];
        header.extend(more);
    }
    header
}

/// The node as a Kubernetes object.
pub async fn object(client: &mut Client) -> Result<Value, Error> {
    let node = client.pods.get_node(GetNodeRequest {}).await?.into_inner().node;
    let node = node.ok_or_else(|| Error::Failed("the agent did not return the node".to_owned()))?;
    serde_json::from_str(&node.object)
        .map_err(|error| Error::Failed(format!("the agent's node is not valid JSON: {error}")))
}

/// Roles of the node according to its labels; `<none>` without any.
pub fn roles(node: &Value) -> String {
    const ROLE: &str = "node-role.kubernetes.io/";
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles = labels.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix(ROLE));
    let roles: Vec<_> = roles.filter(|role| !role.is_empty()).collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

/// The row of the node.
pub fn row(node: &Value, columns: PodColumns, now: OffsetDateTime) -> Vec<Cell> {
    let ready = condition(node, "Ready");
    let mut status = if ready { "Ready" } else { "NotReady" }.to_owned();
    if node.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or_default() {
        status.push_str(",SchedulingDisabled");
    }
    let info = |key: &str| text(node, &format!("/status/nodeInfo/{key}")).to_owned();
    let kind = if columns.kind { "node/" } else { "" };
    let mut row: Vec<Cell> = vec![
        format!("{kind}{}", text(node, "/metadata/name")).into(),
        Cell::new(&status, if ready { Mood::Good } else { Mood::Bad }),
        roles(node).into(),
        age::since(node, "/metadata/creationTimestamp", now).into(),
        info("kubeletVersion").into(),
    ];
    if columns.wide {
        for kind in ["InternalIP", "ExternalIP"] {
            let mut addresses = items(node, "/status/addresses").iter();
            let found = addresses.find(|address| text(address, "/type") == kind);
            row.push(found.map_or("<none>", |address| text(address, "/address")).into());
        }
        row.extend(
            ["osImage", "kernelVersion", "containerRuntimeVersion"].map(|key| info(key).into()),
        );
    }
    row
}
