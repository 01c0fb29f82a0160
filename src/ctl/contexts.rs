//! `contexts`: the agents that the client knows.

use clap::Args;
use serde_json::json;

use super::context::ContextArgs;
use super::error::Error;
use super::print::Output;
use super::print::table::{Cell, Table};
use super::screen::Screen;
use crate::config::Process;

/// What `contexts` takes.
#[derive(Debug, Clone, Args)]
pub struct ContextsArgs {
    /// json, yaml, jsonpath=... or custom-columns=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// Lists the contexts; the current one has a star.
pub fn contexts(agent: &ContextArgs, args: &ContextsArgs, screen: Screen) -> Result<(), Error> {
    let (_, found) = agent.load(&Process)?;
    let current = |name: &str| found.current.as_deref() == Some(name);
    let output = args.output.clone().unwrap_or_default();
    if !output.is_table() {
        let object = |(name, context): (&String, &super::context::Context)| {
            json!({"kind": "Context", "metadata": {"name": name}, "current": current(name),
                "address": context.address, "namespace": context.namespace})
        };
        let objects: Vec<_> = found.contexts.iter().map(object).collect();
        return screen.print(&output.objects(&objects, true).map_err(Error::Misuse)?);
    }
    let rows = found.contexts.iter().map(|(name, context)| -> Vec<Cell> {
        let star = if current(name) { "*" } else { "" };
        let namespace = context.namespace.as_deref().unwrap_or("default");
        let address = context.address.as_deref().unwrap_or("<default>");
        vec![star.into(), name.into(), address.into(), namespace.into()]
    });
    let header = ["CURRENT", "NAME", "ADDRESS", "NAMESPACE"];
    let rows: Vec<_> = rows.collect();
    screen.print(&Table::new(header, screen.colours).rows(&rows))
}
