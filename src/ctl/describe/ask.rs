//! The command: fetches what is described.

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;
use tonic::Code;

use super::super::apply::object;
use super::super::connect::Client;
use super::super::error::Error;
use super::super::get::{list, nothing};
use super::super::print::text;
use super::super::scope::{Kind, Selection, groups};
use super::super::screen::Screen;
use super::super::{events, get, node};
use crate::proto::podbay::v1::Pod;

/// What `describe` takes.
#[derive(Debug, Clone, Args)]
pub struct DescribeArgs {
    /// pod NAME..., pod/NAME..., pods or node; a name prefix is enough
    #[arg(value_name = "WHAT", required = true)]
    pub words: Vec<String>,
    /// Of which pods.
    #[command(flatten)]
    pub selection: Selection,
}

/// Describes pods or the node.
pub async fn describe(
    client: &mut Client,
    args: &DescribeArgs,
    screen: Screen,
) -> Result<(), Error> {
    let now = OffsetDateTime::now_utc();
    let mut pages = Vec::new();
    for (kind, names) in groups(&args.words)? {
        match kind {
            Kind::Pod => {
                for pod in pods(client, args, &names).await? {
                    let happened = events::of_pod(client, &pod).await?;
                    pages.push(super::pod(&object(&pod)?, &happened, now));
                }
            }
            Kind::Node => {
                args.selection.of_pods_only()?;
                let node = node::object(client).await?;
                let own = text(&node, "/metadata/name");
                if let Some(other) = names.iter().find(|name| *name != own) {
                    return Err(Error::NotFound(format!("node {other} is not found")));
                }
                pages.push(super::node(&node, on_node(client).await?.as_deref(), now));
            }
            Kind::Event => return Err(Error::Misuse("events cannot be described".to_owned())),
        }
    }
    if pages.is_empty() {
        screen.note(&nothing(client, &args.selection));
    }
    screen.print(&pages.join("\n\n"))
}

async fn pods(
    client: &mut Client,
    args: &DescribeArgs,
    names: &[String],
) -> Result<Vec<Pod>, Error> {
    args.selection.check(names)?;
    if names.is_empty() {
        return Ok(list(client, &args.selection, None).await?.0);
    }
    let mut pods = Vec::new();
    for name in names {
        match get::pod(client, &args.selection.namespace, name).await {
            Ok(pod) => pods.extend(pod),
            Err(error) => {
                // As in kubectl, a prefix of names is enough.
                let (all, _) = list(client, &args.selection, None).await?;
                let before = pods.len();
                pods.extend(all.into_iter().filter(|pod| pod.name.starts_with(name)));
                if pods.len() == before {
                    return Err(error);
                }
            }
        }
    }
    Ok(pods)
}

/// All pods that have not ended; `None` for callers that may not see all of them.
async fn on_node(client: &mut Client) -> Result<Option<Vec<Value>>, Error> {
    let everywhere = Selection { all_namespaces: true, ..Selection::default() };
    match list(client, &everywhere, None).await {
        Ok((pods, _)) => {
            let pods = pods.iter().map(object).collect::<Result<Vec<_>, _>>()?;
            let ended = |pod: &Value| ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
            Ok(Some(pods.into_iter().filter(|pod| !ended(pod)).collect()))
        }
        Err(Error::Agent(status)) if status.code() == Code::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}
