//! The daemon's events, as a stream that reconnects automatically.
//!
//! The daemon answers a subscription only with its first event, so an idle subscription looks like
//! one that is not established. podbay therefore publishes a marker event: once it arrives, no
//! later event can be missed, and only then is `Connected` reported.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use containerd_client::events::{NamespaceUpdate, TaskExit, TaskOom};
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Status, Streaming};

use super::client::{Client, within};
use super::types::decode;
use super::{Shared, failure};
use crate::backend::{Result, RuntimeEvent};

/// Topic of the markers. They are `NamespaceUpdate`s, which every subscriber can decode.
const MARKER: &str = "/podbay/subscribed";
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// An endless stream of events.
pub(super) fn stream(shared: Arc<Shared>) -> BoxStream<'static, RuntimeEvent> {
    stream! {
        let client = &shared.client;
        let mut pause = FIRST_PAUSE;
        loop {
            match subscribe(client).await {
                Ok((early, mut envelopes)) => {
                    pause = FIRST_PAUSE;
                    yield RuntimeEvent::Connected;
                    for event in early {
                        yield event;
                    }
                    loop {
                        match envelopes.message().await {
                            Ok(Some(envelope)) => {
                                if let Some(event) = read(client.namespace(), &envelope) {
                                    yield event;
                                }
                            }
                            Ok(None) => break,
                            Err(status) => {
                                let error = failure::of("read events".to_owned(), status);
                                tracing::debug!(cause = ?error, "event stream ended");
                                break;
                            }
                        }
                    }
                    yield RuntimeEvent::Disconnected;
                }
                Err(error) => tracing::debug!(cause = ?error, "cannot subscribe to events"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
    .boxed()
}

/// Subscribes and waits until the subscription works; also returns the events received meanwhile.
async fn subscribe(client: &Client) -> Result<(Vec<RuntimeEvent>, Streaming<Envelope>)> {
    let marker = hex::encode(rand::random::<[u8; 16]>());
    let confirmed = async {
        // Cancel-safe: the loser is dropped for good.
        tokio::select! {
            biased; // the subscription goes out before the first marker
            opened = open(client, &marker) => opened,
            status = publish_for_ever(client, &marker) => Err(status),
        }
    };
    within(client.slow_limit(), || "subscribe to events".to_owned(), confirmed).await
}

async fn open(
    client: &Client,
    marker: &str,
) -> std::result::Result<(Vec<RuntimeEvent>, Streaming<Envelope>), Status> {
    let message = SubscribeRequest { filters: filters(client.namespace()) };
    let mut envelopes = client.events().subscribe(client.request(message)).await?.into_inner();
    let mut early = Vec::new();
    while let Some(envelope) = envelopes.message().await? {
        if is_marker(&envelope, marker) {
            return Ok((early, envelopes));
        }
        early.extend(read(client.namespace(), &envelope));
    }
    Err(Status::unavailable("the event stream ended"))
}

/// Publishes the marker repeatedly, since the first may be sent before the subscription exists.
async fn publish_for_ever(client: &Client, marker: &str) -> Status {
    let event = NamespaceUpdate { name: marker.to_owned(), ..NamespaceUpdate::default() };
    let message =
        PublishRequest { topic: MARKER.to_owned(), event: Some(containerd_client::to_any(&event)) };
    let mut pause = FIRST_PAUSE;
    loop {
        if let Err(status) = client.events().publish(client.request(message.clone())).await {
            return status;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// The events to receive. The daemon does not filter by the namespace of the call.
fn filters(namespace: &str) -> Vec<String> {
    let topic = |selector: &str| format!("namespace==\"{namespace}\",topic{selector}");
    vec![
        topic("==\"/tasks/exit\""),
        topic("==\"/tasks/oom\""),
        topic("~=\"^/images/\""),
        topic(&format!("==\"{MARKER}\"")),
    ]
}

fn is_marker(envelope: &Envelope, marker: &str) -> bool {
    envelope.topic == MARKER
        && envelope
            .event
            .as_ref()
            .and_then(decode)
            .is_some_and(|event: NamespaceUpdate| event.name == marker)
}

fn read(namespace: &str, envelope: &Envelope) -> Option<RuntimeEvent> {
    if envelope.namespace != namespace {
        return None;
    }
    let event = envelope.event.as_ref()?;
    match envelope.topic.as_str() {
        "/tasks/exit" => {
            let exit: TaskExit = decode(event)?;
            let exec = (exit.id != exit.container_id && !exit.id.is_empty()).then_some(exit.id);
            Some(RuntimeEvent::Exit { container: exit.container_id, exec })
        }
        "/tasks/oom" => {
            let oom: TaskOom = decode(event)?;
            Some(RuntimeEvent::Oom { container: oom.container_id })
        }
        topic if topic.starts_with("/images/") => Some(RuntimeEvent::ImagesChanged),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use containerd_client::to_any;

    use super::*;

    fn envelope(topic: &str, event: prost_types::Any) -> Envelope {
        Envelope {
            timestamp: None,
            namespace: "podbay".into(),
            topic: topic.into(),
            event: Some(event),
        }
    }

    fn exit(id: &str) -> Envelope {
        let event = TaskExit {
            container_id: "c".into(),
            id: id.into(),
            exit_status: 1,
            ..TaskExit::default()
        };
        envelope("/tasks/exit", to_any(&event))
    }

    #[test]
    fn exits_of_init_and_exec_are_told_apart() {
        let told = |exec: Option<&str>| {
            Some(RuntimeEvent::Exit { container: "c".into(), exec: exec.map(str::to_owned) })
        };
        assert_eq!(read("podbay", &exit("c")), told(None));
        assert_eq!(read("podbay", &exit("e1")), told(Some("e1")));
    }

    #[test]
    fn other_namespaces_and_topics_are_not_ours() {
        assert_eq!(read("k8s.io", &exit("c")), None);
        let start = envelope("/tasks/start", to_any(&TaskOom { container_id: "c".into() }));
        assert_eq!(read("podbay", &start), None);
    }

    #[test]
    fn an_event_of_the_wrong_type_is_no_event() {
        let wrong = envelope("/tasks/exit", to_any(&TaskOom { container_id: "c".into() }));
        assert_eq!(read("podbay", &wrong), None);
    }

    #[test]
    fn only_our_own_marker_confirms() {
        let event = |name: &str| {
            let event = NamespaceUpdate { name: name.into(), ..NamespaceUpdate::default() };
            envelope(MARKER, to_any(&event))
        };
        assert!(is_marker(&event("m1"), "m1"));
        assert!(!is_marker(&event("m2"), "m1"));
        assert_eq!(read("podbay", &event("m1")), None);
    }
}
