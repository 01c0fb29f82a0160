//! `label` and `annotate`, which change pods in place.

use clap::Args;
use serde_json::{Map, Value, json};

use super::amend::Amend;
use super::apply::object;
use super::connect::Client;
use super::error::Error;
use super::get;
use super::print::{pairs, plain};
use super::scope::{Namespace, Selection, pod_names};
use super::screen::Screen;
use crate::proto::podbay::v1::Change;

/// A map in the metadata, and the words for messages.
#[derive(Debug, Clone, Copy)]
pub struct Notes {
    map: &'static str,
    one: &'static str,
    done: &'static str,
}

/// `label`.
pub const LABELS: Notes = Notes { map: "labels", one: "label", done: "labeled" };
/// `annotate`.
pub const ANNOTATIONS: Notes = Notes { map: "annotations", one: "annotation", done: "annotated" };

/// What `label` and `annotate` take.
#[derive(Debug, Clone, Args)]
pub struct NotesArgs {
    /// pod NAME... or pod/NAME..., then KEY=VALUE to set and KEY- to remove
    #[arg(value_name = "WORD", required = true)]
    pub words: Vec<String>,
    /// Which, when none is named.
    #[command(flatten)]
    pub selection: Selection,
    /// Select all pods in the namespace
    #[arg(long)]
    pub all: bool,
    /// Allow changing existing values
    #[arg(long)]
    pub overwrite: bool,
    /// List the current values
    #[arg(long)]
    pub list: bool,
    /// Show what would happen without changing anything
    #[arg(long)]
    pub dry_run: bool,
}

/// Keys and their new values; `None` for a key to remove.
type Changes = Vec<(String, Option<String>)>;

/// Separates names of pods from changes. A name contains no `=` and does not end with `-`.
fn split(words: &[String]) -> Result<(&[String], Changes), Error> {
    let is_change = |word: &String| word.contains('=') || word.ends_with('-');
    let at = words.iter().position(is_change).unwrap_or(words.len());
    let (pods, changes) = words.split_at(at);
    let change = |word: &String| match (word.split_once('='), word.strip_suffix('-')) {
        (Some((key, value)), _) if !key.is_empty() => Ok((key.to_owned(), Some(value.to_owned()))),
        (None, Some(key)) if !key.is_empty() => Ok((key.to_owned(), None)),
        _ => Err(Error::Misuse(format!("{word:?}: must be KEY=VALUE or KEY-"))),
    };
    Ok((pods, changes.iter().map(change).collect::<Result<_, _>>()?))
}

/// Changes or lists them.
pub async fn change(
    client: &mut Client,
    args: &NotesArgs,
    notes: Notes,
    screen: Screen,
) -> Result<(), Error> {
    let (words, changes) = split(&args.words)?;
    if changes.is_empty() && !args.list {
        return Err(Error::Misuse(format!("at least one {} update is required", notes.one)));
    }
    for (namespace, name) in pods(client, args, words).await? {
        let namespace = Namespace { namespace: Some(namespace) };
        if args.list {
            let pod = get::pod(client, &namespace, &name).await?.unwrap_or_default();
            let lines = pairs(&object(&pod)?, &format!("/metadata/{}", notes.map), "=");
            screen.print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
            continue;
        }
        let pod = Amend { namespace: &namespace, name: &name, dry_run: args.dry_run };
        let edit = |object: &mut Value| edit(object, notes, &changes, args.overwrite);
        let (_, change) = pod.by(client, edit, screen).await?;
        let done = match change {
            Change::Unchanged => format!("not {}", notes.done),
            _ => notes.done.to_owned(),
        };
        let end = if args.dry_run { " (dry run)" } else { "" };
        screen.print(&format!("pod/{name} {done}{end}\n"))?;
    }
    Ok(())
}

async fn pods(
    client: &mut Client,
    args: &NotesArgs,
    words: &[String],
) -> Result<Vec<(String, String)>, Error> {
    let names = pod_names(words)?;
    args.selection.check(&names)?;
    let namespace = args.selection.namespace.of(client);
    let chosen = args.selection.selector.is_some() || args.selection.field_selector.is_some();
    match (names.is_empty(), args.all || chosen) {
        (true, false) => Err(Error::Misuse("specify pods, --all or a selector".to_owned())),
        (false, true) => Err(Error::Misuse("a name and --all cannot be combined".to_owned())),
        (false, false) => Ok(names.into_iter().map(|name| (namespace.clone(), name)).collect()),
        (true, true) => {
            let (pods, _) = get::list(client, &args.selection, None).await?;
            Ok(pods.into_iter().map(|pod| (pod.namespace, pod.name)).collect())
        }
    }
}

fn edit(
    object: &mut Value,
    notes: Notes,
    changes: &[(String, Option<String>)],
    overwrite: bool,
) -> Result<(), Error> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let map = metadata.map(|metadata| metadata.entry(notes.map).or_insert_with(|| json!({})));
    let Some(map) = map else {
        return Err(Error::Failed("the agent's object of the pod has no metadata".to_owned()));
    };
    if map.is_null() {
        *map = Value::Object(Map::new());
    }
    for (key, value) in changes {
        let there = map.get(key).map(plain);
        match value {
            None => drop(map.as_object_mut().and_then(|map| map.remove(key))),
            Some(value) => match there {
                Some(there) if there != *value && !overwrite => {
                    let why = format!("{key:?} already has a value ({there})");
                    return Err(Error::Failed(format!("{why}, and --overwrite is false")));
                }
                _ => map[key] = json!(value),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_set_and_removed() {
        let words = ["pod", "web", "a=1", "b-", "c="].map(str::to_owned);
        let (pods, changes) = split(&words).expect("split");
        assert_eq!(pods, ["pod", "web"]);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            changes,
            [("a".to_owned(), some("1")), ("b".to_owned(), None), ("c".to_owned(), some(""))]
        );
        let mut pod = json!({"metadata": {"labels": {"b": "2", "d": "4"}}});
        edit(&mut pod, LABELS, &changes, false).expect("edit");
        assert_eq!(pod["metadata"]["labels"], json!({"a": "1", "c": "", "d": "4"}));
        let other = vec![("d".to_owned(), some("5"))];
        let fault = edit(&mut pod, LABELS, &other, false).expect_err("there").to_string();
        assert_eq!(fault, "\"d\" already has a value (4), and --overwrite is false");
        edit(&mut pod, LABELS, &other, true).expect("overwrite");
        assert_eq!(pod["metadata"]["labels"]["d"], "5");
        edit(&mut pod, ANNOTATIONS, &other, false).expect("none there");
        assert!(split(&["pod".to_owned(), "=x".to_owned()]).is_err());
    }
}
