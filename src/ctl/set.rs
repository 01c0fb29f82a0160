//! `set`: changes one thing of a pod.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::amend::Amend;
use super::connect::Client;
use super::error::Error;
use super::print::text;
use super::scope::{Namespace, pod_names};
use super::screen::Screen;
use crate::proto::podbay::v1::Change;

/// What can be set.
#[derive(Debug, Clone, Subcommand)]
pub enum SetCommand {
    /// Set the images of containers
    Image(ImageArgs),
}

/// What `set image` takes.
#[derive(Debug, Clone, Args)]
pub struct ImageArgs {
    /// pod NAME... or pod/NAME..., then CONTAINER=IMAGE...; * stands for all containers
    #[arg(value_name = "WORD", required = true)]
    pub words: Vec<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Show what would happen without changing anything
    #[arg(long)]
    pub dry_run: bool,
}

/// Changes the pods.
pub async fn set(client: &mut Client, command: &SetCommand, screen: Screen) -> Result<(), Error> {
    let SetCommand::Image(args) = command;
    let at = args.words.iter().position(|word| word.contains('=')).unwrap_or(args.words.len());
    let (words, images) = args.words.split_at(at);
    let images = images.iter().map(|word| match word.split_once('=') {
        Some((name, image)) if !name.is_empty() && !image.is_empty() => Ok((name, image)),
        _ => Err(Error::Misuse(format!("{word:?}: must be CONTAINER=IMAGE"))),
    });
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let names = pod_names(words)?;
    if names.is_empty() || images.is_empty() {
        return Err(Error::Misuse("specify pods and CONTAINER=IMAGE".to_owned()));
    }
    for name in names {
        let pod = Amend { namespace: &args.namespace, name: &name, dry_run: args.dry_run };
        let (_, change) = pod.by(client, |object| set_images(object, &images), screen).await?;
        let same = if change == Change::Unchanged { " (no change)" } else { "" };
        let end = if args.dry_run { " (dry run)" } else { "" };
        screen.print(&format!("pod/{name} image updated{same}{end}\n"))?;
    }
    Ok(())
}

/// Sets the images of these containers, which may be init containers.
fn set_images(object: &mut Value, images: &[(&str, &str)]) -> Result<(), Error> {
    for (name, image) in images {
        let mut found = false;
        for list in ["/spec/initContainers", "/spec/containers"] {
            let containers = object.pointer_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                if *name == "*" || text(container, "/name") == *name {
                    container["image"] = (*image).into();
                    found = true;
                }
            }
        }
        if !found {
            return Err(Error::Failed(format!("unable to find container named {name:?}")));
        }
    }
    Ok(())
}
