//! `version`: versions of this program and of the agent.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::connect::Client;
use super::context::ContextArgs;
use super::error::Error;
use super::print::{self, text};
use super::screen::Screen;
use crate::config::Process;

/// What `version` takes.
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// Print only the client version, without asking the agent
    #[arg(long)]
    pub client: bool,
    /// Output format: json or yaml
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// What versions are told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// The text of this program's own version.
fn own() -> String {
    format!("podbay {}", env!("CARGO_PKG_VERSION"))
}

/// Shows both versions; if the agent does not answer that is noted and is not an error.
pub async fn show(agent: &ContextArgs, args: &VersionArgs, screen: Screen) -> Result<(), Error> {
    let server = if args.client { None } else { server(agent, screen).await };
    match args.output {
        Some(format) => {
            let version = |version: &str| json!({"gitVersion": version});
            let mut both = json!({"clientVersion": version(&own())});
            if let Some(node) = &server {
                both["serverVersion"] = version(info(node, "kubeletVersion"));
                both["serverVersion"]["platform"] =
                    format!("{}/{}", info(node, "operatingSystem"), info(node, "architecture"))
                        .into();
                both["serverVersion"]["containerRuntime"] =
                    info(node, "containerRuntimeVersion").into();
            }
            let shown =
                if format == Format::Json { print::json(&both) } else { print::yaml(&both) };
            screen.print(&shown)
        }
        None => {
            screen.print(&format!("Client Version: {}\n", own()))?;
            match &server {
                Some(node) => {
                    screen.print(&format!("Server Version: {}\n", info(node, "kubeletVersion")))
                }
                None => Ok(()),
            }
        }
    }
}

fn info<'a>(node: &'a Value, key: &str) -> &'a str {
    text(node, &format!("/status/nodeInfo/{key}"))
}

/// The agent's node, which contains its versions.
async fn server(agent: &ContextArgs, screen: Screen) -> Option<Value> {
    let asked = async {
        let mut client = Client::connect(agent.resolve(&Process)?).await?;
        super::node::object(&mut client).await
    };
    match asked.await {
        Ok(node) => Some(node),
        Err(error) => {
            let why = error.report();
            screen
                .note(&format!("no server version: {}", why.trim_start_matches("error: ").trim()));
            None
        }
    }
}
