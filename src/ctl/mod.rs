//! The command line: its syntax, the local commands, and those that query an agent.
//!
//! A command that queries an agent is only a client of `podbay.v1`: it shows the Kubernetes objects
//! in the answers. [`run()`] dispatches all commands.

mod agent;
mod amend;
mod apply;
mod archives;
pub mod certs;
pub mod config;
pub mod connect;
mod container;
pub mod context;
mod contexts;
mod copy;
mod debug;
mod delete;
mod describe;
mod edit;
pub mod error;
mod events;
mod exec;
mod explain;
mod fetch;
mod forward;
mod get;
pub mod habits;
mod images;
mod join;
mod logs;
mod manifest;
mod node;
mod notes;
mod patch;
mod print;
mod pull;
pub mod run;
mod scope;
mod screen;
mod set;
mod shell;
mod terminal;
mod top;
mod until;
mod version;
mod wait;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use self::agent::AgentArgs;
use self::apply::Old;
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
    /// Show and check the configuration, manage contexts.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Create certificates for remote access.
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Create pods; fail if they exist.
    Create(apply::ApplyArgs),
    /// Create pods or update them in place.
    Apply(apply::ChangeArgs),
    /// Replace existing pods.
    Replace(apply::ChangeArgs),
    /// Create a pod from an image.
    Run(run::RunArgs),
    /// Set or remove labels of pods.
    Label(notes::NotesArgs),
    /// Set or remove annotations of pods.
    Annotate(notes::NotesArgs),
    /// Edit a pod in an editor.
    Edit(edit::EditArgs),
    /// Change fields of pods.
    Patch(patch::PatchArgs),
    /// Set the images of pods.
    #[command(subcommand)]
    Set(set::SetCommand),
    /// Show pods, the node or events.
    Get(get::GetArgs),
    /// Show details of pods or the node.
    Describe(describe::DescribeArgs),
    /// Delete pods.
    Delete(delete::DeleteArgs),
    /// Wait until pods meet a condition.
    Wait(until::WaitArgs),
    /// Print the logs of containers.
    Logs(logs::LogsArgs),
    /// Run a command in a container.
    Exec(exec::ExecArgs),
    /// Attach to a running container.
    Attach(exec::AttachArgs),
    /// Add an ephemeral container to a running pod for debugging.
    Debug(debug::DebugArgs),
    /// Copy files to or from a container.
    Cp(copy::CopyArgs),
    /// Forward local ports to a pod.
    PortForward(forward::ForwardArgs),
    /// Show CPU and memory usage of pods or the node.
    #[command(subcommand)]
    Top(top::TopCommand),
    /// Show events.
    Events(events::EventsArgs),
    /// Explain what a pod is waiting for.
    Explain(explain::ExplainArgs),
    /// Restart a container.
    Restart(explain::RestartArgs),
    /// List images.
    Images(images::ImagesArgs),
    /// Pull images.
    Pull(pull::PullArgs),
    /// Load images from an archive.
    Load(archives::LoadArgs),
    /// Write images to an archive.
    Save(archives::SaveArgs),
    /// Remove images.
    Rmi(images::RemoveArgs),
    /// Show the node.
    Node(node::NodeArgs),
    /// List the contexts of the client configuration.
    Contexts(contexts::ContextsArgs),
    /// Print the client and agent versions.
    Version(version::VersionArgs),
    /// List the available resource kinds.
    ApiResources,
    /// Print a shell completion script.
    Completion {
        /// Shell.
        shell: shell::Shell,
    },
    /// Write manual pages.
    Man(shell::ManArgs),
}

/// Runs any command other than the agent itself; returns the exit code.
///
/// # Errors
///
/// The error; [`Error::report`] and [`Error::exit_code`] say how to report it.
pub async fn run(agent: &ContextArgs, command: &Command) -> Result<u8, Error> {
    let screen = Screen::new();
    if let Some(done) = without_agent(agent, command, screen) {
        return done.map(|()| 0);
    }
    if let Command::Version(args) = command {
        return version::show(agent, args, screen).await.map(|()| 0);
    }
    let client = &mut Client::connect(agent.resolve(&Process)?).await?;
    match command {
        Command::Create(args) => {
            apply::apply(client, args, Manner::Create, &Old::default(), screen).await
        }
        Command::Apply(args) => apply::change(client, args, Manner::Apply, screen).await,
        Command::Replace(args) => apply::change(client, args, Manner::Replace, screen).await,
        Command::Run(args) => return run::run(client, args, screen).await,
        Command::Label(args) => notes::change(client, args, notes::LABELS, screen).await,
        Command::Annotate(args) => notes::change(client, args, notes::ANNOTATIONS, screen).await,
        Command::Edit(args) => edit::edit(client, args, screen).await,
        Command::Patch(args) => patch::patch(client, args, screen).await,
        Command::Set(command) => set::set(client, command, screen).await,
        Command::Get(args) => get::get(client, args, screen).await,
        Command::Describe(args) => describe::describe(client, args, screen).await,
        Command::Delete(args) => delete::delete(client, args, screen).await,
        Command::Wait(args) => until::wait(client, args, screen).await,
        Command::Logs(args) => logs::logs(client, args, screen).await,
        Command::Exec(args) => return exec::exec(client, args, screen).await,
        Command::Attach(args) => exec::attach(client, args, screen).await.map(drop),
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
        // Handled above, or in `main`.
        Command::Agent(_)
        | Command::Config(_)
        | Command::Certs(_)
        | Command::Contexts(_)
        | Command::Version(_)
        | Command::ApiResources
        | Command::Completion { .. }
        | Command::Man(_) => Ok(()),
    }
    .map(|()| 0)
}

/// Runs local commands; `None` for others.
fn without_agent(
    agent: &ContextArgs,
    command: &Command,
    screen: Screen,
) -> Option<Result<(), Error>> {
    match command {
        Command::Config(command) => contexts::config(agent, command, screen),
        Command::Run(args) if args.dry_run == Some(run::DryRun::Client) => {
            Some(run::show(agent, args, screen))
        }
        Command::ApiResources => Some(screen.print(API_RESOURCES)),
        Command::Completion { shell } => Some(screen.print(&shell::completion(*shell))),
        Command::Man(args) => Some(shell::man(&args.folder)),
        Command::Contexts(args) => Some(contexts::contexts(agent, args, screen)),
        _ => None,
    }
}

/// What can be asked about the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective configuration and the source of each value.
    Show(Box<AgentArgs>),
    /// Check a configuration file and print all errors.
    Check {
        /// Configuration file.
        file: PathBuf,
    },
    /// List the contexts, as `podbay contexts` does.
    GetContexts(contexts::ContextsArgs),
    /// Print the name of the current context.
    CurrentContext,
    /// Set the current context.
    UseContext {
        /// Context name.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Set the namespace of a context.
    SetContext(contexts::SetArgs),
}

/// The available resources, as kubectl lists them.
const API_RESOURCES: &str = "\
NAME         SHORTNAMES   APIVERSION               NAMESPACED   KIND
events       ev           v1                       true         Event
nodes        no           v1                       false        Node
pods         po           v1                       true         Pod
nodes                     metrics.k8s.io/v1beta1   false        NodeMetrics
pods                      metrics.k8s.io/v1beta1   true         PodMetrics
";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
