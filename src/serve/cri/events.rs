//! The event stream: each listener has its own bounded queue, so a slow one blocks nobody.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::{Cri, convert};
use crate::model::Owner;
use crate::proto::runtime::v1;
use crate::sandbox::Events;

/// Maximum number of listeners; each costs a queue.
const MAX_LISTENERS: usize = 64;

/// The slots for listeners, and the token that ends their streams.
#[derive(Clone)]
pub(super) struct Listeners {
    places: Arc<Semaphore>,
    closing: CancellationToken,
}

impl Listeners {
    pub fn new(closing: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_LISTENERS)), closing }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full = |_| {
            Status::resource_exhausted(format!("{MAX_LISTENERS} clients are already listening"))
        };
        Arc::clone(&self.places).try_acquire_owned().map_err(full)
    }

    /// Ends normally when the agent stops, and with an error when events were lost.
    fn stream(
        &self,
        place: OwnedSemaphorePermit,
        mut queue: Events,
    ) -> BoxStream<v1::ContainerEventResponse> {
        let closing = self.closing.clone();
        Box::pin(async_stream::stream! {
            let _place = place;
            loop {
                // Cancel-safe: dropping `next` loses nothing.
                let next = tokio::select! {
                    () = closing.cancelled() => break,
                    next = queue.next() => next,
                };
                match next {
                    Some(event) if event.sandbox.owner == Owner::Cri => {
                        yield Ok(convert::event(&event));
                    }
                    // Events of podbay's own engine are hidden, as in lists.
                    Some(_) => {}
                    None => {
                        yield Err(Status::resource_exhausted(
                            "events were read too slowly and some are lost: list again",
                        ));
                        break;
                    }
                }
            }
        })
    }
}

impl Cri {
    pub(super) fn events(&self) -> Result<BoxStream<v1::ContainerEventResponse>, Status> {
        let place = self.listeners.place()?;
        Ok(self.listeners.stream(place, self.sandboxes.events()))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::sync::mpsc;
    use tonic::Code;

    use super::*;
    use crate::container::EventKind;
    use crate::ids::PodId;
    use crate::sandbox::{Event, Sandbox, SandboxState};

    fn event(owner: Owner) -> Event {
        let sandbox = Sandbox {
            id: PodId::random(),
            owner,
            config: Arc::default(),
            new_overhead: None,
            new_resources: None,
            handler: String::new(),
            created_at: 1,
            state: SandboxState::NotReady,
            network: None,
            netns: None,
        };
        let container = sandbox.id.to_string();
        let (sandbox, containers) = (Arc::new(sandbox), Vec::new());
        Event { kind: EventKind::Stopped, container, at: 2, sandbox, containers }
    }

    #[tokio::test]
    async fn own_engine_is_hidden_and_a_lost_queue_is_an_error() {
        let listeners = Listeners::new(CancellationToken::new());
        let (sender, queue) = mpsc::channel(4);
        let queue = Events::from_queue(queue);
        let shown = event(Owner::Cri);
        sender.try_send(event(Owner::Pod)).unwrap();
        sender.try_send(shown.clone()).unwrap();
        drop(sender);
        let stream = listeners.stream(listeners.place().unwrap(), queue);
        let got: Vec<_> = stream.collect().await;
        assert_eq!(got.len(), 2);
        let first = got[0].as_ref().unwrap();
        assert_eq!(first.container_id, shown.container);
        assert_eq!(first.container_event_type(), v1::ContainerEventType::ContainerStoppedEvent);
        assert!(first.pod_sandbox_status.as_ref().unwrap().metadata.is_some());
        assert_eq!(got[1].as_ref().unwrap_err().code(), Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn the_end_of_the_agent_ends_a_stream_cleanly_and_frees_its_place() {
        let closing = CancellationToken::new();
        let listeners = Listeners::new(closing.clone());
        let (_sender, queue) = mpsc::channel(4);
        let queue = Events::from_queue(queue);
        let stream = listeners.stream(listeners.place().unwrap(), queue);
        assert_eq!(listeners.places.available_permits(), MAX_LISTENERS - 1);
        closing.cancel();
        assert!(stream.collect::<Vec<_>>().await.is_empty());
        assert_eq!(listeners.places.available_permits(), MAX_LISTENERS);
    }

    #[test]
    fn there_are_only_so_many_places() {
        let listeners = Listeners::new(CancellationToken::new());
        let taken: Vec<_> = (0..MAX_LISTENERS).map(|_| listeners.place().unwrap()).collect();
        assert_eq!(listeners.place().unwrap_err().code(), Code::ResourceExhausted);
        drop(taken);
        assert!(listeners.place().is_ok());
    }
}
