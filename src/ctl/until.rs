//! `wait`: waits until pods reach a state.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::connect::Client;
use super::error::Error;
use super::get;
use super::manifest::Files;
use super::print::path;
use super::scope::{Namespace, Selection, duration, pod_names};
use super::screen::Screen;
use super::wait::{Key, Until, wait_for_each};

/// What `wait` takes.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// pod NAME..., pod/NAME..., or pods with --all or a selector
    #[arg(value_name = "POD", required_unless_present = "files")]
    pub words: Vec<String>,
    /// Pods in these manifests: file, directory, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',')]
    #[arg(conflicts_with = "words")]
    pub files: Vec<PathBuf>,
    /// Process directories recursively
    #[arg(short = 'R', long, requires = "files")]
    pub recursive: bool,
    /// Condition: condition=NAME[=STATUS], delete, create, jsonpath={PATH}[=VALUE] or phase=PHASE
    #[arg(long = "for", value_name = "WHAT")]
    pub until: For,
    /// Which, when none is named.
    #[command(flatten)]
    pub selection: Selection,
    /// Select all pods in the namespace
    #[arg(long)]
    pub all: bool,
    /// Maximum time to wait, e.g. 90s or 5m; 0 checks once, -1s for no limit
    #[arg(
        long, value_name = "DURATION", default_value = "30s", value_parser = limit,
        allow_hyphen_values = true
    )]
    pub timeout: Duration,
}

/// The value of `--for`.
#[derive(Debug, Clone)]
pub struct For(Until);

impl FromStr for For {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, rest) = text.split_once('=').unwrap_or((text, ""));
        let until = match (what.to_ascii_lowercase().as_str(), rest) {
            ("delete", "") => Until::Gone,
            ("create", "") => Until::There,
            ("condition", rest) if !rest.is_empty() => {
                let (name, status) = rest.split_once('=').unwrap_or((rest, "True"));
                Until::Condition(name.to_owned(), status.to_owned())
            }
            ("phase", phase) if !phase.is_empty() => {
                Until::Path(path::single(".status.phase")?, Some(phase.to_owned()))
            }
            ("jsonpath", rest) if !rest.is_empty() => of_path(rest)?,
            _ => {
                let known = "condition=NAME[=STATUS], delete, create, jsonpath={PATH}[=VALUE]";
                return Err(format!("{text:?} is none of {known}, phase=PHASE"));
            }
        };
        Ok(Self(until))
    }
}

/// `{PATH}=VALUE`, `{PATH}` or `PATH=VALUE`; quotes around the path come from scripts.
fn of_path(text: &str) -> Result<Until, String> {
    let text = text.replacen(['\'', '"'], "", usize::from(text.starts_with(['\'', '"'])));
    let (path, value) = match (text.rfind('}'), text.split_once('=')) {
        (Some(end), _) => {
            let rest = text[end + 1..].trim_start_matches(['\'', '"']);
            match (rest, rest.strip_prefix('=')) {
                ("", _) => (&text[..=end], None),
                (_, Some(value)) => (&text[..=end], Some(value)),
                (_, None) => return Err(format!("jsonpath: {text}: =VALUE is wanted after }}")),
            }
        }
        (None, Some((path, value))) => (path, Some(value)),
        (None, None) => (text.as_str(), None),
    };
    Ok(Until::Path(path::single(path)?, value.map(str::to_owned)))
}

/// A time limit; a negative one is effectively unlimited.
fn limit(text: &str) -> Result<Duration, String> {
    const LONG: Duration = Duration::from_secs(7 * 24 * 3600);
    match text.strip_prefix('-') {
        Some(_) => Ok(LONG),
        // Long enough for a single check.
        None => duration(text).map(|limit| limit.max(Duration::from_secs(1))),
    }
}

/// Waits, and reports each pod as soon as it is in the state.
pub async fn wait(client: &mut Client, args: &WaitArgs, screen: Screen) -> Result<(), Error> {
    let For(until) = &args.until;
    let pods = pods(client, args, until).await?;
    let mut left: Vec<Key> = pods.keys().cloned().collect();
    let met = |key: &Key| {
        left.retain(|other| other != key);
        screen.print(&format!("pod/{} condition met\n", key.1))
    };
    let done = wait_for_each(client, pods, until.clone(), Some(args.timeout), screen, met).await;
    let Err(Error::Timeout(_)) = done else { return done };
    let told = |(_, name): &Key| format!("timed out waiting for the condition on pods/{name}");
    let mut told: Vec<_> = left.iter().map(told).collect();
    let last = told.pop().unwrap_or_default();
    told.iter().for_each(|line| screen.note(&format!("error: {line}")));
    Err(Error::Timeout(last))
}

/// The awaited pods, with their uids.
async fn pods(
    client: &mut Client,
    args: &WaitArgs,
    until: &Until,
) -> Result<BTreeMap<Key, String>, Error> {
    let namespace = args.selection.namespace.of(client);
    let names: Vec<Key> = if args.files.is_empty() {
        let names = pod_names(&args.words)?;
        args.selection.check(&names)?;
        names.into_iter().map(|name| (namespace.clone(), name)).collect()
    } else {
        Files::new(&args.files, args.recursive).pods(&namespace).await?
    };
    let chosen = args.selection.selector.is_some() || args.selection.field_selector.is_some();
    match (names.is_empty(), args.all || chosen) {
        (true, false) => {
            return Err(Error::Misuse("specify pods, --all or a selector".to_owned()));
        }
        (false, true) => {
            return Err(Error::Misuse("a name and --all cannot be combined".to_owned()));
        }
        (true, true) => {
            let (pods, _) = get::list(client, &args.selection, None).await?;
            if pods.is_empty() && !matches!(until, Until::Gone) {
                return Err(Error::NotFound("no matching resources found".to_owned()));
            }
            return Ok(pods.into_iter().map(|pod| ((pod.namespace, pod.name), pod.uid)).collect());
        }
        (false, false) => {}
    }
    let mut pods = BTreeMap::new();
    for (namespace, name) in names {
        let place = Namespace { namespace: Some(namespace.clone()) };
        let uid = match get::pod(client, &place, &name).await {
            Ok(pod) => pod.unwrap_or_default().uid,
            Err(error) if error.exit_code() == 3 => match until {
                Until::Gone => continue,
                Until::There => String::new(),
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        pods.insert((namespace, name), uid);
    }
    Ok(pods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_read() {
        let read = |text: &str| {
            let For(until) = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            format!("{until:?}")
        };
        assert_eq!(read("delete"), "Gone");
        assert_eq!(read("create"), "There");
        assert_eq!(read("condition=Ready"), "Condition(\"Ready\", \"True\")");
        assert_eq!(read("condition=Ready=false"), "Condition(\"Ready\", \"false\")");
        for text in [
            "jsonpath={.status.phase}=Running",
            "jsonpath='{.status.phase}'=Running",
            "jsonpath=.status.phase=Running",
            "phase=Running",
        ] {
            let shown = read(text);
            assert!(shown.starts_with("Path(") && shown.contains("Some(\"Running\")"), "{shown}");
        }
        assert!(read("jsonpath={.status.podIP}").ends_with("None)"));
        for bad in
            ["", "ready", "condition", "delete=1", "jsonpath=", "jsonpath={.a", "jsonpath={.a}x"]
        {
            assert!(bad.parse::<For>().is_err(), "{bad}");
        }
        assert_eq!(limit("0"), Ok(Duration::from_secs(1)));
        assert_eq!(limit("-1s"), Ok(Duration::from_secs(604_800)));
        assert_eq!(limit("2m"), Ok(Duration::from_secs(120)));
    }
}
