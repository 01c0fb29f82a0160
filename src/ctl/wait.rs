//! Waits until pods are ready or gone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::connect::Client;
use super::error::Error;
use super::print::pods::status_word;
use super::print::{items, plain, text};
use super::screen::Screen;
use crate::proto::podbay::v1::{
    ConditionStatus, Phase, Pod, Selector, WatchEventType, WatchRequest,
};

/// The awaited state.
#[derive(Debug, Clone)]
pub enum Until {
    /// Ready or succeeded; a pod that fails ends the wait.
    Ready,
    /// Removed.
    Gone,
    /// Existing.
    There,
    /// The condition with this name has this status.
    Condition(String, String),
    /// A path in the object has this text, or any value if there is none.
    Path(JsonPath, Option<String>),
}

/// An awaited pod: namespace and name.
pub type Key = (String, String);

/// Delay between two watches, if the first ended before the wait was over.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits for pods (namespace, name → uid). An empty uid means a pod that replaces one being ended,
/// and may not exist yet.
pub async fn wait(
    client: &mut Client,
    pods: BTreeMap<Key, String>,
    until: Until,
    timeout: Option<Duration>,
    screen: Screen,
) -> Result<(), Error> {
    wait_for_each(client, pods, until, timeout, screen, |_| Ok(())).await
}

/// Like [`wait`]; each pod is reported as soon as it is in the state.
pub async fn wait_for_each(
    client: &mut Client,
    pods: BTreeMap<Key, String>,
    until: Until,
    timeout: Option<Duration>,
    screen: Screen,
    mut met: impl FnMut(&Key) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut waiting = Waiting { pods, until };
    let progress = screen.spinner(&waiting.text());
    let watched = async {
        while !waiting.pods.is_empty() {
            waiting.watch(client, |text| progress.say(text), &mut met).await?;
            if !waiting.pods.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    };
    match timeout {
        None => watched.await,
        Some(limit) => match tokio::time::timeout(limit, watched).await {
            Ok(done) => done,
            Err(_) => {
                let text = waiting.text();
                Err(Error::Timeout(format!("after {}: {text}", humantime::format_duration(limit))))
            }
        },
    }
}

struct Waiting {
    pods: BTreeMap<Key, String>,
    until: Until,
}

impl Waiting {
    fn text(&self) -> String {
        let names: Vec<_> = self.pods.keys().map(|(_, name)| name.as_str()).collect();
        let what = match &self.until {
            Until::Ready => "to be ready".to_owned(),
            Until::Gone => "to be gone".to_owned(),
            Until::There => "to exist".to_owned(),
            Until::Condition(kind, status) => format!("to have condition {kind}={status}"),
            Until::Path(..) => "to meet the condition".to_owned(),
        };
        format!("waiting for {} {what}", names.join(", "))
    }

    /// Watches until all are in the state or the stream has to be restarted.
    async fn watch(
        &mut self,
        client: &mut Client,
        say: impl Fn(&str),
        met: &mut impl FnMut(&Key) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let selector = self.selector();
        let request = WatchRequest { selector: Some(selector), after: None };
        let mut news = client.pods.watch(request).await?.into_inner();
        let mut seen = Vec::new();
        let mut at_start = true;
        while !self.pods.is_empty() {
            let event = match news.message().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                // The watch was too slow: get the state again.
                Err(status) if status.code() == tonic::Code::ResourceExhausted => return Ok(()),
                Err(status) => return Err(status.into()),
            };
            let kind = event.r#type();
            if let Some(pod) = event.pod {
                let key = (pod.namespace.clone(), pod.name.clone());
                seen.push(key.clone());
                if self.look(&key, &pod, kind)? {
                    self.pods.remove(&key);
                    met(&key)?;
                }
            }
            if kind == WatchEventType::Bookmark && std::mem::take(&mut at_start) {
                self.missing(&seen)?.iter().try_for_each(&mut *met)?;
            }
            say(&self.text());
        }
        Ok(())
    }

    /// The narrowest selector that covers all awaited pods.
    fn selector(&self) -> Selector {
        let mut selector = Selector::default();
        let mut keys = self.pods.keys();
        if let Some((namespace, name)) = keys.next() {
            if keys.clone().all(|(other, _)| other == namespace) {
                selector.namespace = namespace.clone();
            }
            if keys.next().is_none() {
                selector.name = name.clone();
            }
        }
        selector
    }

    /// After the initial state: pods not contained in it do not exist. Returns those that were
    /// awaited to be gone.
    fn missing(&mut self, seen: &[Key]) -> Result<Vec<Key>, Error> {
        if matches!(self.until, Until::Gone) {
            let gone = self.pods.extract_if(.., |key, _| !seen.contains(key));
            return Ok(gone.map(|(key, _)| key).collect());
        }
        let gone = self.pods.iter().find(|(key, uid)| !uid.is_empty() && !seen.contains(key));
        match gone {
            Some(((namespace, name), _)) => {
                Err(Error::NotFound(format!("pod {namespace}/{name} is gone")))
            }
            None => Ok(Vec::new()),
        }
    }

    /// Whether an awaited pod is in the state.
    fn look(&self, key: &Key, pod: &Pod, kind: WatchEventType) -> Result<bool, Error> {
        let Some(uid) = self.pods.get(key) else { return Ok(false) };
        let other = !uid.is_empty() && *uid != pod.uid;
        let deleted = kind == WatchEventType::Deleted;
        let followed = uid.is_empty() && (deleted || pod.deletion_deadline.is_some());
        let name = format!("pod {}/{}", key.0, key.1);
        let gone = || Err(Error::NotFound(format!("{name} is gone")));
        match &self.until {
            Until::Gone => Ok(deleted || other),
            Until::There => Ok(!deleted),
            // The old pod, which is being replaced.
            Until::Ready if other || followed => Ok(false),
            _ if deleted || other => gone(),
            Until::Ready => match pod.phase() {
                Phase::Failed => {
                    let mut why = status_word(&parsed(pod));
                    if !pod.message.is_empty() {
                        why = format!("{why}: {}", pod.message);
                    }
                    Err(Error::Failed(format!("{name} has failed: {why}")))
                }
                Phase::Succeeded => Ok(true),
                _ => Ok(is_ready(pod)),
            },
            Until::Condition(kind, status) => {
                let object = parsed(pod);
                let same = |found: &&Value| text(found, "/type").eq_ignore_ascii_case(kind);
                let found = items(&object, "/status/conditions").iter().find(same);
                Ok(found.is_some_and(|found| text(found, "/status").eq_ignore_ascii_case(status)))
            }
            Until::Path(path, value) => {
                let object = parsed(pod);
                let found = path.query(&object).all();
                Ok(match value {
                    Some(value) => found.iter().any(|found| plain(found) == *value),
                    None => !found.is_empty(),
                })
            }
        }
    }
}

fn parsed(pod: &Pod) -> Value {
    serde_json::from_str(&pod.object).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let holds = |status| status == ConditionStatus::True;
    pod.deletion_deadline.is_none()
        && pod.conditions.iter().any(|found| found.r#type == "Ready" && holds(found.status()))
}
