//! Waits for pods: until they are ready, or gone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::connect::Client;
use super::error::Error;
use super::print::pods::status_word;
use super::screen::Screen;
use crate::proto::podbay::v1::{
    ConditionStatus, Phase, Pod, Selector, WatchEventType, WatchRequest,
};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Ready, or ended well.
    Ready,
    /// Not there any more.
    Gone,
}

/// A pod that is waited for.
type Key = (String, String);

/// Between two watches, where the first has ended before the wait.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits for pods (namespace, name → uid). An empty uid is that of a pod which follows one that is
/// being ended, and may not be there yet.
pub async fn wait(
    client: &mut Client,
    pods: BTreeMap<Key, String>,
    until: Until,
    timeout: Option<Duration>,
    screen: Screen,
) -> Result<(), Error> {
    let mut waiting = Waiting { pods, until };
    let progress = screen.spinner(&waiting.text());
    let watched = async {
        while !waiting.pods.is_empty() {
            waiting.watch(client, |text| progress.say(text)).await?;
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
        let what = if self.until == Until::Gone { "to be gone" } else { "to be ready" };
        format!("waiting for {} {what}", names.join(", "))
    }

    /// Watches until all is well or the stream has to be begun anew.
    async fn watch(&mut self, client: &mut Client, say: impl Fn(&str)) -> Result<(), Error> {
        let selector = self.selector();
        let request = WatchRequest { selector: Some(selector), after: None };
        let mut news = client.pods.watch(request).await?.into_inner();
        let mut seen = Vec::new();
        let mut at_start = true;
        while !self.pods.is_empty() {
            let event = match news.message().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                // Too slow: the state is asked for again.
                Err(status) if status.code() == tonic::Code::ResourceExhausted => return Ok(()),
                Err(status) => return Err(status.into()),
            };
            let kind = event.r#type();
            if let Some(pod) = event.pod {
                let key = (pod.namespace.clone(), pod.name.clone());
                seen.push(key.clone());
                self.look(&key, &pod, kind)?;
            }
            if kind == WatchEventType::Bookmark && std::mem::take(&mut at_start) {
                self.missing(&seen)?;
            }
            say(&self.text());
        }
        Ok(())
    }

    /// As narrow as it can be for all that is waited for.
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

    /// After the state at the start: what was not in it is not there.
    fn missing(&mut self, seen: &[Key]) -> Result<(), Error> {
        if self.until == Until::Gone {
            self.pods.retain(|key, _| seen.contains(key));
            return Ok(());
        }
        let gone = self.pods.iter().find(|(key, uid)| !uid.is_empty() && !seen.contains(key));
        match gone {
            Some(((namespace, name), _)) => {
                Err(Error::NotFound(format!("pod {namespace}/{name} is gone")))
            }
            None => Ok(()),
        }
    }

    fn look(&mut self, key: &Key, pod: &Pod, kind: WatchEventType) -> Result<(), Error> {
        let Some(uid) = self.pods.get(key) else { return Ok(()) };
        let other = !uid.is_empty() && *uid != pod.uid;
        let deleted = kind == WatchEventType::Deleted;
        let followed = uid.is_empty() && (deleted || pod.deletion_deadline.is_some());
        let name = format!("pod {}/{}", key.0, key.1);
        match self.until {
            Until::Gone if deleted || other => {}
            Until::Gone => return Ok(()),
            // The old one of a pod that is replaced.
            Until::Ready if other || followed => return Ok(()),
            Until::Ready if deleted => return Err(Error::NotFound(format!("{name} is gone"))),
            Until::Ready => match pod.phase() {
                Phase::Failed => {
                    let object: Value = serde_json::from_str(&pod.object).unwrap_or_default();
                    let mut why = status_word(&object);
                    if !pod.message.is_empty() {
                        why = format!("{why}: {}", pod.message);
                    }
                    return Err(Error::Failed(format!("{name} has failed: {why}")));
                }
                Phase::Succeeded => {}
                _ if is_ready(pod) => {}
                _ => return Ok(()),
            },
        }
        self.pods.remove(key);
        Ok(())
    }
}

fn is_ready(pod: &Pod) -> bool {
    let holds = |status| status == ConditionStatus::True;
    pod.deletion_deadline.is_none()
        && pod.conditions.iter().any(|found| found.r#type == "Ready" && holds(found.status()))
}
