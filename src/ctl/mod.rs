//! The command line: what can be said, the commands that need no agent, and those that ask one.
//!
//! A command that asks an agent is a client of `podbay.v1` and nothing else: what it shows are the Kubernetes objects of the answers. [`run`] joins all of it.

pub mod agent;
pub mod apply;
pub mod archives;
pub mod certs;
pub mod config;
pub mod connect;
pub mod context;
pub mod contexts;
pub mod copy;
pub mod debug;
pub mod delete;
mod describe;
pub mod error;
pub mod events;
pub mod exec;
pub mod explain;
pub mod forward;
pub mod get;
pub mod habits;
pub mod images;
pub mod logs;
pub mod manifest;
pub mod node;
pub mod print;
pub mod pull;
pub mod scope;
pub mod screen;
pub mod shell;
mod terminal;
pub mod top;
mod wait;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use self::agent::AgentArgs;
use self::connect::Client;
use self::context::ContextArgs;
use self::error::{EXIT_CODES, Error};
use self::screen::Screen;
use crate::config::Process;
use crate::proto::podbay::v1::Manner;

/// A Kubernetes-style node agent: runs pods on containerd.
#[derive(Debug, Parser)]
#[command(name = "podbay", version, propagate_version = false, after_help = EXIT_CODES)]
pub struct Cli {
    /// Which agent to ask.
    #[command(flatten)]
    pub agent: ContextArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What podbay can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent.
    Agent(Box<AgentArgs>),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make certificates for the remote door.
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Create pods; refused when they are there.
    Create(apply::ApplyArgs),
    /// Create pods or change them in place.
    Apply(apply::ApplyArgs),
    /// Change pods, by a new one where it must be.
    Replace(apply::ReplaceArgs),
    /// Show pods, the node or events.
    Get(get::GetArgs),
    /// Show everything of a pod or the node.
    Describe(get::DescribeArgs),
    /// End pods.
    Delete(delete::DeleteArgs),
    /// Show what containers have written.
    Logs(logs::LogsArgs),
    /// Run a command in a container.
    Exec(exec::ExecArgs),
    /// Join the streams of a container.
    Attach(exec::AttachArgs),
    /// Add a container to a running pod, to look at it.
    Debug(debug::DebugArgs),
    /// Copy files into or out of a container.
    Cp(copy::CopyArgs),
    /// Lead ports of this machine into a pod.
    PortForward(forward::ForwardArgs),
    /// Show what pods or the node use.
    #[command(subcommand)]
    Top(top::TopCommand),
    /// Show what happened to pods.
    Events(events::EventsArgs),
    /// Say what a pod waits for.
    Explain(explain::ExplainArgs),
    /// Restart a container.
    Restart(explain::RestartArgs),
    /// Show images.
    Images(images::ImagesArgs),
    /// Pull images.
    Pull(pull::PullArgs),
    /// Take images from an archive.
    Load(archives::LoadArgs),
    /// Write images to an archive.
    Save(archives::SaveArgs),
    /// Remove images.
    Rmi(images::RemoveArgs),
    /// Show the node.
    Node(node::NodeArgs),
    /// Show the contexts of the client's configuration.
    Contexts(contexts::ContextsArgs),
    /// Print the version.
    Version,
    /// Print the completion script of a shell.
    Completion {
        /// The shell.
        shell: shell::Shell,
    },
    /// Write the manual pages.
    Man(shell::ManArgs),
}

/// Does what was told, for commands that are not the agent's own; the exit code.
///
/// # Errors
///
/// What went wrong; [`Error::report`] and [`Error::exit_code`] say how to tell it.
pub async fn run(agent: &ContextArgs, command: &Command) -> Result<u8, Error> {
    let screen = Screen::new();
    if let Some(done) = without_agent(agent, command, screen) {
        return done.map(|()| 0);
    }
    let client = &mut Client::connect(agent.resolve(&Process)?).await?;
    match command {
        Command::Create(args) => apply::apply(client, args, Manner::Create, None, screen).await,
        Command::Apply(args) => apply::apply(client, args, Manner::Apply, None, screen).await,
        Command::Replace(args) => {
            apply::apply(client, &args.apply, Manner::Replace, args.grace_period, screen).await
        }
        Command::Get(args) => get::get(client, args, screen).await,
        Command::Describe(args) => get::describe(client, args, screen).await,
        Command::Delete(args) => delete::delete(client, args, screen).await,
        Command::Logs(args) => logs::logs(client, args).await,
        Command::Exec(args) => return exec::exec(client, args, screen).await,
        Command::Attach(args) => exec::attach(client, args, screen).await,
        Command::Debug(args) => debug::debug(client, args, screen).await,
        Command::Cp(args) => copy::copy(client, args, screen).await,
        Command::PortForward(args) => forward::forward(client, args, screen).await,
        Command::Top(command) => top::top(client, command, screen).await,
        Command::Events(args) => events::events(client, args, screen).await,
        Command::Explain(args) => explain::explain(client, args, screen).await,
        Command::Restart(args) => explain::restart(client, args, screen).await,
        Command::Images(args) => images::images(client, args, screen).await,
        Command::Pull(args) => pull::pull(client, args, screen).await,
        Command::Load(args) => archives::load(client, args, screen).await,
        Command::Save(args) => archives::save(client, args, screen).await,
        Command::Rmi(args) => images::remove(client, args, screen).await,
        Command::Node(args) => {
            node::get(client, args.output.clone().unwrap_or_default(), screen).await
        }
        // Done above, or by the street door.
        Command::Agent(_)
        | Command::Config(_)
        | Command::Certs(_)
        | Command::Contexts(_)
        | Command::Version
        | Command::Completion { .. }
        | Command::Man(_) => Ok(()),
    }
    .map(|()| 0)
}

/// The commands that need nobody else; nothing for the others.
fn without_agent(
    agent: &ContextArgs,
    command: &Command,
    screen: Screen,
) -> Option<Result<(), Error>> {
    match command {
        Command::Version => Some(screen.print(&format!("{}\n", version()))),
        Command::Completion { shell } => Some(screen.print(&shell::completion(*shell))),
        Command::Man(args) => Some(shell::man(&args.folder)),
        Command::Contexts(args) => Some(contexts::contexts(agent, args, screen)),
        _ => None,
    }
}

/// What can be asked about the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective configuration, and where each value came from.
    Show(Box<AgentArgs>),
    /// Check a file and print everything that is wrong with it.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// The text of `podbay version`.
pub fn version() -> String {
    format!("podbay {}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
