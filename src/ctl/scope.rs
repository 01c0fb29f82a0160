//! Arguments that many commands share: names of pods, namespaces, selectors.

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
    /// The namespace that is meant.
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
    /// Of all namespaces
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
    /// The same for the wire, of one pod when a name is given.
    pub fn wire(&self, client: &Client, name: Option<&str>) -> Selector {
        let namespace = (!self.all_namespaces).then(|| self.namespace.of(client));
        Selector {
            namespace: namespace.unwrap_or_default(),
            name: name.unwrap_or_default().to_owned(),
            labels: self.selector.clone().unwrap_or_default(),
            fields: self.field_selector.clone().unwrap_or_default(),
        }
    }

    /// Refuses what makes no sense together with names.
    pub fn check(&self, names: &[String]) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let both = self.selector.is_some() || self.field_selector.is_some();
        if both || self.all_namespaces {
            let what = if both { "a selector" } else { "--all-namespaces" };
            return Err(Error::Misuse(format!("a name and {what} do not go together")));
        }
        Ok(())
    }
}

/// The name in `NAME` or `pod/NAME`.
pub fn pod_name(text: &str) -> Result<String, String> {
    let name = match text.split_once('/') {
        Some(("pod" | "pods" | "po", name)) => name,
        Some((kind, _)) => return Err(format!("{kind:?} is no kind that podbay knows: use pod")),
        None => text,
    };
    if name.is_empty() { Err("a name is missing".to_owned()) } else { Ok(name.to_owned()) }
}

/// A kind of thing and the names of some of it.
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
    /// A kind by its name, as kubectl has it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "pod" | "pods" | "po" => Some(Self::Pod),
            "node" | "nodes" | "no" => Some(Self::Node),
            "event" | "events" | "ev" => Some(Self::Event),
            _ => None,
        }
    }
}

/// Reads `pods`, `pod NAME...`, `pod/NAME ...` as kubectl does.
pub fn resources(words: &[String]) -> Result<(Kind, Vec<String>), Error> {
    let known = "pods, node, events";
    let first = words.first().map(String::as_str).unwrap_or_default();
    if !first.contains('/') {
        let kind = Kind::parse(first)
            .ok_or_else(|| Error::Misuse(format!("{first:?} is none of {known}")))?;
        let slashed = words.iter().find(|word| word.contains('/'));
        return match slashed {
            Some(word) => Err(Error::Misuse(format!("{word:?}: the kind is already {first}"))),
            None => Ok((kind, words[1..].to_vec())),
        };
    }
    let mut names = Vec::new();
    let mut kinds = Vec::new();
    for word in words {
        let (kind, name) = word.split_once('/').unwrap_or(("", word));
        let kind = Kind::parse(kind)
            .ok_or_else(|| Error::Misuse(format!("{word:?}: the kind is none of {known}")))?;
        if name.is_empty() || kinds.first().is_some_and(|first| *first != kind) {
            return Err(Error::Misuse(format!("{word:?}: names of one kind are wanted")));
        }
        kinds.push(kind);
        names.push(name.to_owned());
    }
    Ok((kinds[0], names))
}

/// A duration such as `90`, `90s`, `5m` or `1h30m`; a bare number is seconds.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(std::time::Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// A duration for the wire; those that it cannot hold are for ever.
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
        ] {
            assert_eq!(read(bad).expect_err("bad").exit_code(), 2, "{bad:?}");
        }
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
