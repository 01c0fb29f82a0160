//! `node`: the machine as controllers see it.

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;

use super::connect::Client;
use super::error::Error;
use super::print::pods::condition;
use super::print::table::{Cell, Mood, Table};
use super::print::{Output, age, items, text};
use super::screen::Screen;
use crate::proto::podbay::v1::GetNodeRequest;

/// What `node` takes.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// wide, json, yaml, name, jsonpath=... or custom-columns=...
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
    let mut header = vec!["NAME", "STATUS", "AGE", "VERSION"];
    if wide {
        header.extend(["INTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME"]);
    }
    let row = row(&node, wide, OffsetDateTime::now_utc());
    screen.print(&Table::new(header, screen.colours).rows(&[row]))
}

/// The node as a Kubernetes object.
pub async fn object(client: &mut Client) -> Result<Value, Error> {
    let node = client.pods.get_node(GetNodeRequest {}).await?.into_inner().node;
    let node =
        node.ok_or_else(|| Error::Failed("the agent says nothing of the node".to_owned()))?;
    serde_json::from_str(&node.object)
        .map_err(|error| Error::Failed(format!("the agent's node is no JSON: {error}")))
}

fn row(node: &Value, wide: bool, now: OffsetDateTime) -> Vec<Cell> {
    let ready = condition(node, "Ready");
    let mut status = if ready { "Ready" } else { "NotReady" }.to_owned();
    if node.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or_default() {
        status.push_str(",SchedulingDisabled");
    }
    let info = |key: &str| text(node, &format!("/status/nodeInfo/{key}")).to_owned();
    let mut row: Vec<Cell> = vec![
        text(node, "/metadata/name").into(),
        Cell::new(&status, if ready { Mood::Good } else { Mood::Bad }),
        age::since(node, "/metadata/creationTimestamp", now).into(),
        info("kubeletVersion").into(),
    ];
    if wide {
        let mut addresses = items(node, "/status/addresses").iter();
        let internal = addresses.find(|address| text(address, "/type") == "InternalIP");
        row.push(internal.map_or("<none>", |address| text(address, "/address")).into());
        row.extend(
            ["osImage", "kernelVersion", "containerRuntimeVersion"].map(|key| info(key).into()),
        );
    }
    row
}
