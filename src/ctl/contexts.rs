//! `contexts`, and kubectl's `config`: the agents known to the client.

use std::path::Path;

use clap::Args;
use serde_json::json;

use super::ConfigCommand;
use super::context::{ContextArgs, Contexts};
use super::error::Error;
use super::print::Output;
use super::print::table::{Cell, Table};
use super::screen::Screen;
use crate::config::Process;

/// What `contexts` takes.
#[derive(Debug, Clone, Args)]
pub struct ContextsArgs {
    /// Output format: json, yaml, jsonpath=... or custom-columns=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// Lists the contexts; the current one is marked with a star.
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

/// What `config set-context` takes.
#[derive(Debug, Clone, Args)]
pub struct SetArgs {
    /// Context to change
    #[arg(value_name = "NAME", required_unless_present = "current")]
    pub name: Option<String>,
    /// Change the current context
    #[arg(long, conflicts_with = "name")]
    pub current: bool,
    /// Namespace to use without -n
    #[arg(short, long, value_name = "NAME")]
    pub namespace: String,
}

/// Runs those `config` commands that concern contexts; `None` for others.
pub fn config(
    agent: &ContextArgs,
    command: &ConfigCommand,
    screen: Screen,
) -> Option<Result<(), Error>> {
    match command {
        ConfigCommand::Show(_) | ConfigCommand::Check { .. } => None,
        ConfigCommand::GetContexts(args) => Some(contexts(agent, args, screen)),
        ConfigCommand::CurrentContext => Some(current(agent, screen)),
        ConfigCommand::UseContext { name } => Some(use_context(agent, name, screen)),
        ConfigCommand::SetContext(args) => Some(set_context(agent, args, screen)),
    }
}

fn current(agent: &ContextArgs, screen: Screen) -> Result<(), Error> {
    match agent.load(&Process)?.1.current {
        Some(name) => screen.print(&format!("{name}\n")),
        None => Err(Error::Failed("current-context is not set".to_owned())),
    }
}

fn known(path: &Path, found: &Contexts, name: &str) -> Result<(), Error> {
    if found.contexts.contains_key(name) {
        return Ok(());
    }
    Err(Error::Misuse(format!("there is no context {name:?} in {}", path.display())))
}

fn use_context(agent: &ContextArgs, name: &str, screen: Screen) -> Result<(), Error> {
    let (path, mut found) = agent.load(&Process)?;
    known(&path, &found, name)?;
    found.current = Some(name.to_owned());
    change(&path, None, "current", name, &found)?;
    screen.print(&format!("Switched to context {name:?}.\n"))
}

fn set_context(agent: &ContextArgs, args: &SetArgs, screen: Screen) -> Result<(), Error> {
    let (path, mut found) = agent.load(&Process)?;
    let name = args.name.clone().or_else(|| found.current.clone());
    let name = name.ok_or_else(|| Error::Failed("current-context is not set".to_owned()))?;
    known(&path, &found, &name)?;
    if let Some(context) = found.contexts.get_mut(&name) {
        context.namespace = Some(args.namespace.clone());
    }
    change(&path, Some(&name), "namespace", &args.namespace, &found)?;
    screen.print(&format!("Context {name:?} modified.\n"))
}

/// Sets one key in the contexts file, keeping its comments and order.
fn change(
    path: &Path,
    context: Option<&str>,
    key: &str,
    value: &str,
    wanted: &Contexts,
) -> Result<(), Error> {
    let what = || format!("write {}", path.display());
    let text = std::fs::read_to_string(path).map_err(Error::local(what()))?;
    let text = with(&text, context, key, value);
    // The text is edited directly, so the result is parsed for verification.
    if toml::from_str::<Contexts>(&text).ok().as_ref() != Some(wanted) {
        let place = context.map(|name| format!(" in [contexts.{name}]")).unwrap_or_default();
        let why = "uses syntax that this command cannot change: set";
        return Err(Error::Failed(format!("{} {why} {key}{place} by hand", path.display())));
    }
    let part = path.with_extension("toml.part");
    std::fs::write(&part, text).map_err(Error::local(what()))?;
    std::fs::rename(&part, path).map_err(Error::local(what()))
}

/// The text with a key set at its start, or in the section of a context.
fn with(text: &str, context: Option<&str>, key: &str, value: &str) -> String {
    let line = format!("{key} = {}", toml::Value::String(value.to_owned()));
    let bare =
        |line: &str| line.split('#').next().unwrap_or_default().trim().replace(['"', '\''], "");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let section = context.map(|name| format!("[contexts.{name}]"));
    let from = match &section {
        None => 0,
        Some(section) => match lines.iter().position(|line| bare(line) == *section) {
            Some(at) => at + 1,
            None => return text.to_owned(),
        },
    };
    let end = lines[from..].iter().position(|line| line.trim_start().starts_with('['));
    let end = end.map_or(lines.len(), |length| from + length);
    let is_key = |line: &String| {
        line.split_once('=').is_some_and(|(name, _)| name.trim().trim_matches('"') == key)
    };
    match lines[from..end].iter().position(is_key) {
        Some(at) => lines[from + at] = line,
        None => lines.insert(from, line),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_and_the_rest_stays() {
        let text = "# mine\n[contexts.a]\naddress = \"/a\" # there\n\n[contexts.\"b c\"]\nnamespace = \"x\"\n";
        let current = with(text, None, "current", "a");
        assert_eq!(current, format!("current = \"a\"\n{text}"));
        assert_eq!(with(&current, None, "current", "b"), format!("current = \"b\"\n{text}"));
        let of_a = with(text, Some("a"), "namespace", "n");
        assert_eq!(of_a, text.replace("[contexts.a]\n", "[contexts.a]\nnamespace = \"n\"\n"));
        let of_b = with(text, Some("b c"), "namespace", "n");
        assert_eq!(of_b, text.replace("\"x\"", "\"n\""));
        assert_eq!(with(text, Some("none"), "namespace", "n"), text);
    }
}
