//! Arguments shared by many commands: names of pods, namespaces, selectors.

use clap::Args;

use super::connect::Client;
use super::error::Error;
use crate::proto::podbay::v1::Selector;

/// The namespace of what is named.
#[derive(Debug, Clone, Default, Args)]
pub struct Namespace {
    /// Namespace [default: that of the context, or default]
    #[arg(short, long = "namespace", value_name = "NAME")]
    pub namespace: Option<String>,
}

impl Namespace {
    /// The namespace to use.
    pub fn of(&self, client: &Client) -> String {
        client.namespace(self.namespace.as_deref())
    }
}

/// Which pods, where none or several may be meant.
#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Select all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Label selector, e.g. app=web,tier in (a,b),!old
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Field selector, e.g. status.phase=Running
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
}

impl Selection {
    /// The selector for the request; of one pod if a name is given.
    pub fn wire(&self, client: &Client, name: Option<&str>) -> Selector {
        let namespace = (!self.all_namespaces).then(|| self.namespace.of(client));
        Selector {
            namespace: namespace.unwrap_or_default(),
            name: name.unwrap_or_default().to_owned(),
            labels: self.selector.clone().unwrap_or_default(),
            fields: self.field_selector.clone().unwrap_or_default(),
        }
    }

    /// Refuses selectors for the node, of which there is only one.
    pub fn of_pods_only(&self) -> Result<(), Error> {
        match self.selector.is_some() || self.field_selector.is_some() {
            true => Err(Error::Misuse("selectors are for pods, not for the node".to_owned())),
            false => Ok(()),
        }
    }

    /// Refuses options that cannot be combined with names.
    pub fn check(&self, names: &[String]) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let both = self.selector.is_some() || self.field_selector.is_some();
        if both || self.all_namespaces {
            let what = if both { "a selector" } else { "--all-namespaces" };
            return Err(Error::Misuse(format!("a name and {what} cannot be combined")));
        }
        Ok(())
    }
}

/// The name in `NAME` or `pod/NAME`.
pub fn pod_name(text: &str) -> Result<String, String> {
    let name = match text.split_once('/') {
        Some((kind, name)) => match Kind::parse(kind) {
            Some(Kind::Pod) => name,
            Some(_) => return Err(format!("{text:?} is not a pod")),
            None => return Err(unknown(kind)),
        },
        None => text,
    };
    if name.is_empty() { Err("a name is missing".to_owned()) } else { Ok(name.to_owned()) }
}

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pods.
    Pod,
    /// The node.
    Node,
    /// Events of pods.
    Event,
}

impl Kind {
    /// Parses the name of a kind as kubectl does; `all` means all workloads.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "pod" | "pods" | "po" | "all" => Some(Self::Pod),
            "node" | "nodes" | "no" => Some(Self::Node),
            "event" | "events" | "ev" => Some(Self::Event),
            _ => None,
        }
    }

    /// Its singular name, which is also the prefix of object names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Event => "event",
        }
    }
}

/// kubectl's message for an unknown kind.
fn unknown(kind: &str) -> String {
    format!("the server doesn't have a resource type {kind:?}: podbay has pods, node and events")
}

fn kind(text: &str) -> Result<Kind, Error> {
    Kind::parse(text).ok_or_else(|| Error::Misuse(unknown(text)))
}

/// Names of one kind; empty for all.
pub type Group = (Kind, Vec<String>);

/// Parses `pods`, `pod NAME...`, `pod/NAME ...`, `pods,node` as kubectl does.
pub fn groups(words: &[String]) -> Result<Vec<Group>, Error> {
    let first = words.first().map(String::as_str).unwrap_or_default();
    if !first.contains('/') {
        let names = &words[words.len().min(1)..];
        if let Some(word) = names.iter().find(|word| word.contains('/')) {
            return Err(Error::Misuse(format!("{word:?}: the kind is already {first}")));
        }
        return first.split(',').map(|text| Ok((kind(text)?, names.to_vec()))).collect();
    }
    let mut groups: Vec<Group> = Vec::new();
    for word in words {
        let Some((of, name)) = word.split_once('/') else {
            return Err(Error::Misuse(format!("{word:?}: must be KIND/NAME, like the others")));
        };
        let of = kind(of)?;
        if name.is_empty() {
            return Err(Error::Misuse(format!("{word:?}: a name is missing")));
        }
        match groups.iter_mut().find(|(kind, _)| *kind == of) {
            Some((_, names)) => names.push(name.to_owned()),
            None => groups.push((of, vec![name.to_owned()])),
        }
    }
    Ok(groups)
}

/// Like [`groups`], for a single kind.
pub fn resources(words: &[String]) -> Result<Group, Error> {
    let [one] = <[Group; 1]>::try_from(groups(words)?)
        .map_err(|_| Error::Misuse("all names must be of one kind".to_owned()))?;
    Ok(one)
}

/// Names of pods only.
pub fn pod_names(words: &[String]) -> Result<Vec<String>, Error> {
    match resources(words)? {
        (Kind::Pod, names) => Ok(names),
        (kind, _) => Err(Error::Misuse(format!("{}: only pods can be changed", kind.word()))),
    }
}

/// Parses a duration such as `90`, `90s`, `5m` or `1h30m`; a plain number is in seconds.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(std::time::Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// A duration for the wire; one that does not fit is unlimited.
pub fn wire_duration(duration: std::time::Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos() as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_names() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            resources(&words)
        };
        assert_eq!(read(&["pods"]).expect("pods"), (Kind::Pod, vec![]));
        let two = (Kind::Pod, vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(read(&["po", "a", "b"]).expect("two"), two);
        assert_eq!(read(&["pod/a", "pods/b"]).expect("two"), two);
        assert_eq!(read(&["node"]).expect("node").0, Kind::Node);
        for bad in [
            &["deploy"][..],
            &[],
            &["pod", "pod/a"],
            &["pod/"],
            &["pod/a", "node/b"],
            &["pod/a", "b"],
            &["pods,node"],
        ] {
            assert_eq!(read(bad).expect_err("bad").exit_code(), 2, "{bad:?}");
        }
        assert_eq!(read(&["all"]).expect("all").0, Kind::Pod);
        assert_eq!(read(&["Pods"]).expect("case").0, Kind::Pod);
        let unknown = read(&["deploy"]).expect_err("unknown").to_string();
        assert!(unknown.starts_with("the server doesn't have a resource type \"deploy\""));
        let words =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let both = groups(&words(&["po,no"])).expect("both");
        assert_eq!(both, [(Kind::Pod, vec![]), (Kind::Node, vec![])]);
        let mixed = groups(&words(&["pod/a", "node/n", "pod/b"])).expect("mixed");
        assert_eq!(mixed, [(Kind::Pod, words(&["a", "b"])), (Kind::Node, words(&["n"]))]);
        assert_eq!(pod_name("pod/a").as_deref(), Ok("a"));
        assert!(pod_name("pod/").is_err() && pod_name("").is_err() && pod_name("svc/a").is_err());
    }

    #[test]
    fn durations() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("1h30m"), Ok(5400));
        assert!(seconds("-1").is_err() && seconds("soon").is_err() && seconds("").is_err());
    }
}
